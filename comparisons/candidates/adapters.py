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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from ..errors import BadContract, BadOption, MissingDevice, MissingFramework
from ..problems.arrays import BFLOAT16, PRECISIONS, Array, finfo
from ..problems.named_arrays import flatten, is_differentiable, rebuild
from ..user_code import describe

Gradients = Callable[[Any, Any], dict[str, Any]]


class Handed(dict[str, Any]):
    """Gradients by path, as a framework's backward hands them out, and what it says beside them.

    loss        the value of the adapted loss
    unreached   the variables for which autograd gave None: a parameter has the gradient zero then,
                and an input none
    lowest      () -> the lowest floating-point precision that the loss computes in on the way
    """

    def __init__(
        self,
        gradients: Mapping[str, Any],
        loss: float,
        unreached: Sequence[str],
        lowest: Callable[[], str],
    ) -> None:
        super().__init__(gradients)
        self.loss = loss
        self.unreached = tuple(unreached)
        self.lowest = lowest


def _lowest_of(names: Iterable[str]) -> str:
    """The one of the fewest bits: "float32" of "torch.float32", "float64"."""
    last = {name.rpartition(".")[2] for name in names}
    known = [name for name in PRECISIONS if name in last]
    return min(known, key=lambda name: np.dtype(name).itemsize, default="float64")


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
    no gradient reaches has the gradient zero; an input that none reaches is not given; the report
    says of both that autograd gave None for them. Raises MissingDevice, when first called, for a
    device that torch does not have here.
    """

    def tensors_of(params: Any, inputs: Any) -> dict[str, Any]:
        torch = _framework("torch")
        leaves = {**flatten(params), **flatten(inputs)}
        _must_have(torch, device)
        tensors = {path: _tensor(torch, value, device) for path, value in leaves.items()}
        for tensor in tensors.values():
            tensor.requires_grad_(tensor.is_floating_point())
        return tensors

    def gradients(params: Any, inputs: Any) -> dict[str, Any]:
        torch, tensors = _framework("torch"), tensors_of(params, inputs)
        with torch.enable_grad():
            value = loss(rebuild(params, tensors), rebuild(inputs, tensors))
            value.backward()
        learned, found, unreached = flatten(params), dict[str, Array](), list[str]()
        for path, tensor in tensors.items():
            if not tensor.requires_grad:
                continue
            gradient = tensor.grad
            if gradient is None:
                unreached.append(path)
                if path not in learned:
                    continue
                # a parameter on which the loss does not depend
                gradient = torch.zeros_like(tensor)
            found[path] = _array(torch, gradient)
        return Handed(found, float(value.detach()), unreached, partial(lowest, params, inputs))

    def lowest(params: Any, inputs: Any) -> str:
        tensors = tensors_of(params, inputs)
        with _framework("torch").enable_grad():
            return _lowest_in_torch(
                lambda: loss(rebuild(params, tensors), rebuild(inputs, tensors))
            )

    return gradients


def _lowest_in_torch(run: Callable[[], Any]) -> str:
    """The lowest floating-point precision of any tensor that is made while it runs."""
    torch = _framework("torch")
    modes = _framework("torch.utils._python_dispatch")
    seen: set[str] = set()

    def watch(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                seen.add(str(value.dtype))
        elif isinstance(value, list | tuple):
            for item in cast(Sequence[Any], value):
                watch(item)

    class Watching(modes.TorchDispatchMode):
        """Sees what every operation returns."""

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            made = function(*args, **(kwargs or {}))
            watch(made)
            return made

    with Watching():
        run()
    return _lowest_of(seen)


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

    Where the gradient of a variable is a zero that depends on nothing, as where a backward returns
    None, that of a parameter is zero and that of an input is not given, as by from_torch.
    """

    def gradients(params: Any, inputs: Any) -> dict[str, Any]:
        jax = _framework("jax")
        with jax.enable_x64(True):
            scalar, variables = scalar_of(params, inputs)
            value, told = jax.value_and_grad(scalar)(variables)
            found = {path: np.asarray(gradient) for path, gradient in told.items()}
            zero = [path for path, gradient in found.items() if not gradient.any()]
            unreached = _without_source(jax, jax.grad(scalar), variables, zero)
        learned = flatten(params)
        for path in unreached:
            if path not in learned:
                del found[path]
        return Handed(found, float(value), unreached, partial(lowest, params, inputs))

    def scalar_of(params: Any, inputs: Any) -> tuple[Callable[[Any], Any], dict[str, Any]]:
        jax = _framework("jax")
        leaves = {**flatten(params), **flatten(inputs)}
        arrays = {path: jax.numpy.asarray(value) for path, value in leaves.items()}
        variables = {
            path: value for path, value in arrays.items() if is_differentiable(np.asarray(value))
        }
        fixed = {path: value for path, value in arrays.items() if path not in variables}

        def scalar(named: Mapping[str, Any]) -> Any:
            return loss(
                rebuild(params, {**fixed, **named}), rebuild(inputs, {**fixed, **named})
            ).reshape(())

        return scalar, variables

    def lowest(params: Any, inputs: Any) -> str:
        jax = _framework("jax")
        with jax.enable_x64(True):
            scalar, variables = scalar_of(params, inputs)
            return _lowest_of(_floats_in(jax.make_jaxpr(scalar)(variables).jaxpr))

    return gradients


def _floats_in(program: Any) -> Iterator[str]:
    """The floating-point precisions of all that a traced program computes."""
    for equation in program.eqns:
        for variable in equation.outvars:
            name = str(getattr(variable.aval, "dtype", ""))
            if name in PRECISIONS:
                yield name
        for inner in equation.params.values():
            told = cast(Sequence[Any], inner) if isinstance(inner, list | tuple) else [inner]
            for part in told:
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from _floats_in(part)


def _without_source(
    jax: Any, differentiated: Callable[[Any], Any], variables: Any, zero: Sequence[str]
) -> list[str]:
    """Which of these gradients, all zero, depend on nothing: None came back for them, or nothing.

    The others are zero at these numbers alone.
    """
    if not zero:
        return []
    program = jax.make_jaxpr(differentiated)(variables).jaxpr
    names = sorted(variables)  # the order in which jax flattens a dict
    sources = _have_sources(program, [True] * len(program.invars))
    without = {name for name, has in zip(names, sources, strict=True) if not has}
    return [name for name in zero if name in without]


def _have_sources(program: Any, given: Sequence[bool]) -> list[bool]:
    """Of every output of a traced program, whether it may depend on one of the inputs `given`.

    jit and scan are looked into; all else depends on whatever it is handed.
    """
    known = dict.fromkeys(program.constvars, True)
    known |= dict(zip(program.invars, given, strict=True))

    def has(atom: Any) -> bool:
        return not hasattr(atom, "val") and known.get(atom, True)

    for equation in program.eqns:
        handed = [has(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if equation.primitive.name in ("jit", "pjit"):
            made = _have_sources(inner, handed)
        elif equation.primitive.name == "scan":
            made = _have_sources_in_scan(equation.params, inner, handed)
        else:
            made = [any(handed)] * len(equation.outvars)
        known |= dict(zip(equation.outvars, made, strict=True))
    return [has(atom) for atom in program.outvars]


def _have_sources_in_scan(params: Any, inner: Any, handed: list[bool]) -> list[bool]:
    """The same of a loop: what is carried depends on whatever it may have met on any round."""
    first, carried = params["num_consts"], params["num_carry"]
    while True:
        made = _have_sources(inner, handed)
        grown = [*handed]
        for at in range(carried):
            grown[first + at] = handed[first + at] or made[at]
        if grown == handed:
            return made
        handed = grown


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
    more with a learning rate of 1 or above. Raises BadOption for a rate that is no positive number.
    """
    rate: Any = learning_rate
    if not isinstance(rate, int | float | np.number) or not 0 < float(cast(Any, rate)) < np.inf:
        raise BadOption(f"from_update: learning_rate is a positive number, not {rate!r:.60}")
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
