"""From the ways in which code hands out its gradients to the `gradients(params, inputs)` that
check_gradients wants.

    from_torch(loss)                    a torch loss, whose custom autograd.Function is on trial
    from_jax(loss)                      a jax loss, whose custom_vjp is on trial
    from_attributes(run, model, …)      gradients that lie on an object or a module after a call
    from_update(update, learning_rate)  code that only updates its parameters in place

The loss given to check_gradients beside an adapter is the same mathematics in plain operations, or
NumPy code.
"""

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadContract, MissingDevice, MissingFramework
from ..problems.arrays import BFLOAT16, Array, finfo
from ..problems.named_arrays import flatten, is_differentiable, rebuild
from ..user_code import describe

Gradients = Callable[[Any, Any], dict[str, Any]]


def _framework(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingFramework(
            f"{name} cannot be imported: pip install {name} ({error})"
        ) from error


def _must_have(torch: Any, device: str) -> None:
    """Raises MissingDevice where torch cannot put a tensor there, saying why."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MissingDevice(
            f"torch has no device {device!r} here: {describe(error)}; device='cpu' is everywhere"
        ) from error


def from_torch(loss: Callable[[Any, Any], Any], device: str = "cpu") -> Gradients:
    """gradients(params, inputs) by torch's backward through loss(params, inputs), a scalar tensor.

    params and inputs come to the loss as tensors on the device, in the nest they were given in,
    with requires_grad on every floating-point one; gradients come back as arrays. A parameter that
    no gradient reaches has the gradient zero; an input that none reaches is not given. Raises
    MissingDevice, when first called, for a device that torch does not have here.
    """

    def gradients(params: Any, inputs: Any) -> dict[str, Any]:
        torch = _framework("torch")
        leaves = {**flatten(params), **flatten(inputs)}
        _must_have(torch, device)
        tensors = {path: _tensor(torch, value, device) for path, value in leaves.items()}
        for tensor in tensors.values():
            tensor.requires_grad_(tensor.is_floating_point())
        with torch.enable_grad():
            loss(rebuild(params, tensors), rebuild(inputs, tensors)).backward()
        learned, found = flatten(params), dict[str, Array]()
        for path, tensor in tensors.items():
            if not tensor.requires_grad:
                continue
            gradient = tensor.grad
            if gradient is None and path in learned:
                # a parameter on which the loss does not depend
                gradient = torch.zeros_like(tensor)
            if gradient is not None:
                found[path] = _array(torch, gradient)
        return found

    return gradients


def _tensor(torch: Any, value: Array, device: str) -> Any:
    """A copy as a tensor of the same dtype; NumPy's bfloat16, by way of its bits, torch's."""
    if value.dtype != BFLOAT16:
        return torch.tensor(value, device=device)
    bits = np.array(value, order="C").view(np.int16)
    return torch.tensor(bits, device=device).view(torch.bfloat16)


def _array(torch: Any, tensor: Any) -> Array:
    """The numbers as an array of the same dtype, bfloat16 too."""
    on_host = tensor.detach().cpu().contiguous()
    if on_host.dtype != torch.bfloat16:
        return on_host.numpy()
    return on_host.view(torch.int16).numpy().view(BFLOAT16)


def from_jax(loss: Callable[[Any, Any], Any]) -> Gradients:
    """gradients(params, inputs) by jax.grad of loss(params, inputs), in 64-bit mode, for params
    and floating-point inputs.
    """

    def gradients(params: Any, inputs: Any) -> dict[str, Any]:
        jax = _framework("jax")
        leaves = {**flatten(params), **flatten(inputs)}
        with jax.enable_x64(True):
            arrays = {path: jax.numpy.asarray(value) for path, value in leaves.items()}
            variables = {
                path: value
                for path, value in arrays.items()
                if is_differentiable(np.asarray(value))
            }
            fixed = {path: value for path, value in arrays.items() if path not in variables}

            def scalar(named: Mapping[str, Any]) -> Any:
                return loss(
                    rebuild(params, {**fixed, **named}), rebuild(inputs, {**fixed, **named})
                ).reshape(())

            return {path: np.asarray(value) for path, value in jax.grad(scalar)(variables).items()}

    return gradients


def set_attributes(
    target: Any, params: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> None:
    """Put every parameter on the target, an object or a module, under its own name or the one that
    `names` gives for it.
    """
    for name, value in params.items():
        setattr(target, (names or {}).get(name, name), copy.deepcopy(value))


def from_attributes(
    run: Callable[[Any], Any],
    target: Any,
    gradients: Mapping[str, str],
    names: Mapping[str, str] | None = None,
) -> Gradients:
    """Sets the parameters on `target`, calls run(inputs), and reads the gradients from its
    attributes.

    gradients: parameter or input → attribute that holds its gradient afterwards, {"W": "dW"}.
    names: parameter → attribute, where it is not the parameter's own name.
    """

    def gradients_of(params: Any, inputs: Any) -> dict[str, Any]:
        set_attributes(target, params, names)
        run(inputs)
        return {name: getattr(target, attribute) for name, attribute in gradients.items()}

    return gradients_of


def from_list(function: Callable[[Any, Any], Sequence[Any]], names: Sequence[str]) -> Gradients:
    """Names for a list of gradients: names[i] is the parameter or input of the i-th."""

    def gradients(params: Any, inputs: Any) -> dict[str, Any]:
        return dict(zip(names, function(params, inputs), strict=True))

    return gradients


def from_update(update: Callable[[Any, Any], Any], learning_rate: float) -> "UpdateGradients":
    """gradients(params, inputs) = (before − after) / learning_rate.

    update(params, inputs) changes params in place, or returns new ones. The subtraction rounds, by
    up to ε |W| / learning_rate in the gradient; the check knows of it and allows for it, and sees
    more with a learning rate of 1 or above.
    """
    return UpdateGradients(update, learning_rate)


@dataclass(frozen=True)
class UpdateGradients:
    """The gradients that an update in place betrays."""

    update: Callable[[Any, Any], Any]
    learning_rate: float

    def __call__(self, params: Any, inputs: Any) -> dict[str, Any]:
        """(before − after) / learning_rate of every parameter."""
        mine = copy.deepcopy(params)
        returned = self.update(mine, inputs)
        if returned is not None and not isinstance(returned, Mapping):
            kind = type(returned).__name__
            raise BadContract(
                "update changes params in place and returns None, or returns the new params, not "
                f"a {kind}"
            )
        before, after = flatten(params), flatten(mine if returned is None else returned)
        return {
            path: (value - after[path]) / self.learning_rate
            for path, value in before.items()
            if is_differentiable(value)
        }

    def rounding(self, params: Any) -> dict[str, float]:
        """ε max|W| / learning_rate for every parameter."""
        sizes = {path: value for path, value in flatten(params).items() if is_differentiable(value)}
        epsilon = {path: float(finfo(value.dtype).eps) for path, value in sizes.items()}
        return {
            path: epsilon[path] * float(np.max(np.abs(v), initial=0.0)) / self.learning_rate
            for path, v in sizes.items()
        }
