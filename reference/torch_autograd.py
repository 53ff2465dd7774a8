"""Reverse mode by torch: `torch.autograd.grad` of the equations, and `torch.func.jacrev` of their steps.

Everything runs eagerly, on the CPU unless another device is chosen (reference.devices); nothing of the caller's global state
(default dtype, gradient mode, threads) is changed.

`RandomRounding` is stochastic arithmetic: within it the result of every floating-point operation, of the forward and of torch's
own backward, is moved at random by up to one unit roundoff. How far a gradient moves then is how far rounding may move it
(the idea of the CESTAC method: Vignes 1993, "A stochastic arithmetic for reliable scientific computation").
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from reference import devices
from reference.equations import ScalarFunction, Step

Arrays = dict[str, npt.NDArray[Any]]


Named = Mapping[str, Any]

# Operations that choose, move or make numbers and never round: perturbed, a maximum would no longer be one of its arguments.
EXACT_OPERATIONS = frozenset(
    "abs amax amin arange argmax argmin cat clamp clamp_max clamp_min clone constant_pad_nd copy cummax cummin diag_embed "
    "embedding empty empty_like empty_strided eye eye_like flip full full_like gather index index_put index_select masked_fill "
    "max maximum median min minimum neg new_empty new_empty_strided new_full new_ones new_zeros one_hot ones ones_like "
    "relu repeat roll scalar_tensor scatter select_backward select_scatter sgn sign slice_backward slice_scatter sort stack take "
    "threshold_backward topk tril triu where zeros zeros_like _to_copy".split()
)

# In-place operations that put given numbers into a tensor.
OVERWRITING = frozenset("copy_ detach_ fill_ requires_grad_ resize_ set_ squeeze_ t_ transpose_ unsqueeze_ zero_".split())


class RandomRounding(TorchDispatchMode):
    """Context in which every floating-point result r that is computed, not just moved, becomes r (1 + ε u), |u| ≤ 1 at random."""

    pool_size = 1 << 16

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch._dynamo alone: nothing is compiled within this context, and importing it costs a second."""
        return False

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.place = random.Random(seed).random
        self.pools: dict[tuple[torch.dtype, torch.device], tuple[torch.Tensor, int]] = {}
        self.computes: dict[Any, tuple[bool, bool]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation's result, moved, in place where it was computed in place; views and copies are passed on as they are."""
        result = func(*args, **kwargs) if kwargs else func(*args)
        known = self.computes.get(func)
        if known is None:
            known = self.computes[func] = (computes(func), func._schema.is_mutable)
        if not (known[0] and isinstance(result, torch.Tensor) and result.is_floating_point()) or result.is_meta:
            return result
        moved = self.draw(result)
        return result.mul_(moved) if known[1] else result.mul(moved)

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        """1 + ε u of this shape: a stretch of a pool of random numbers, from a random place on."""
        size = like.numel()
        pool, length = self.pools.get((like.dtype, like.device), (None, 0))
        if pool is None or 2 * size > length:
            length = max(self.pool_size, 4 * size)
            u = torch.rand(length, generator=self.generator, dtype=like.dtype, device="cpu").to(like.device)
            pool = 1 + torch.finfo(like.dtype).eps * (2 * u - 1)
            self.pools[like.dtype, like.device] = pool, length
        return pool.narrow(0, int(self.place() * (length - size)), size).view(like.shape)


def computes(func: Any) -> bool:
    """Whether an operation makes new numbers, in place or not, rather than choosing, moving or overwriting numbers."""
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    if name in EXACT_OPERATIONS or name.removesuffix("_") in EXACT_OPERATIONS or name in OVERWRITING:
        return False
    return schema.is_mutable or not any(returned.alias_info is not None for returned in schema.returns)


class NoEscape(TorchFunctionMode):
    """Context in which taking a number out of differentiation is an error: float(tensor) would silently cut the gradient."""

    EXITS = (torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result. Raises TypeError where a differentiable tensor becomes a plain number."""
        if func in self.EXITS and args[0].requires_grad:
            raise TypeError(f"{func.__name__} takes a number out of differentiation, and cuts its gradient: stay with xp")
        return func(*args, **(kwargs or {}))


def on_device() -> AbstractContextManager[Any]:
    """The chosen device as default. Entered only where it is not yet: the context costs time at every operation."""
    wanted = torch.device(devices.chosen())
    return nullcontext() if torch.get_default_device() == wanted else wanted


def why_not_on(device: str) -> str | None:
    """Why torch cannot compute there, or None."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return None


def rounding(seed: int | None) -> AbstractContextManager[Any]:
    """RandomRounding(seed), or ordinary arithmetic for None."""
    return nullcontext() if seed is None else RandomRounding(seed)


@contextmanager
def default_dtype(variables: Named) -> Iterator[None]:
    """torch's default dtype as that of the variables, so that `xp.zeros(…)` is as precise as in NumPy; restored afterwards."""
    before = torch.get_default_dtype()
    widest = np.result_type(*(value.dtype for value in variables.values()))
    torch.set_default_dtype(getattr(torch, widest.name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A copy as a tensor: the caller's array may be read-only, and stays untouched. NumPy's bfloat16 becomes torch's."""
    place = devices.chosen()
    if array.dtype.name == "bfloat16":
        return torch.tensor(np.array(array, dtype=np.float32, order="C"), device=place).to(torch.bfloat16)
    return torch.tensor(np.array(array, order="C"), device=place)


def array_of(given: torch.Tensor) -> npt.NDArray[Any]:
    """The numbers as an array; those of bfloat16, of which NumPy itself knows nothing, in float32."""
    return (given.float() if given.dtype == torch.bfloat16 else given).detach().cpu().numpy()


def scan(body: Any, state: Mapping[str, Any], per_step: Mapping[str, Any]) -> dict[str, Any]:
    """The time loop: `body` at every step in turn; states stacked over steps."""
    states = []
    for t in range(per_step["x"].shape[0]):
        state = body(state, {name: value[t] for name, value in per_step.items()})
        states.append(state)
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def scan_apart(body: Any, state: Mapping[str, Any], per_step: Mapping[str, Any]) -> dict[str, Any]:
    """The same from inputs taken apart at once: the gradient of an index is an array of all steps at every one, O(T²) in all.

    Equal bit by bit, since what the index adds is zeros. Under RandomRounding it is `scan` on which the limits were set: there
    each such sum rounds.
    """
    apart = {name: value.unbind(0) for name, value in per_step.items()}
    states = []
    for t in range(per_step["x"].shape[0]):
        state = body(state, {name: rows[t] for name, rows in apart.items()})
        states.append(state)
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


SMALL = 1 << 22  # numbers in all variables; below, handing an operation to several threads costs more than it saves


@contextmanager
def one_thread_if_small(variables: Named) -> Iterator[None]:
    """torch on one thread where the problem is small, as many as before afterwards."""
    before = torch.get_num_threads()
    small = before > 1 and sum(value.size for value in variables.values()) < SMALL
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if small:
            torch.set_num_threads(before)


def gradients(
    function: ScalarFunction, variables: Mapping[str, Any], constants: Mapping[str, Any], rounding_seed: int | None = None
) -> tuple[float, Arrays, Arrays]:
    """(value, outputs, gradient for every variable) of function(xp, scan, variables, constants).

    A variable that the value does not depend on has the gradient zero. With a rounding_seed, under RandomRounding.
    """
    loop = scan_apart if rounding_seed is None else scan
    with one_thread_if_small(variables), rounding(rounding_seed):
        return differentiate(lambda leaves, fixed: function(xp, loop, leaves, fixed), variables, constants, rounding_seed is None)


def differentiate(
    forward: Any, variables: Mapping[str, Any], constants: Mapping[str, Any], watched: bool = False
) -> tuple[float, Arrays, Arrays]:
    """(value, outputs, gradients) of forward(variables, constants) -> (value, outputs), on tensors; `watched` by NoEscape."""
    with torch.inference_mode(False), torch.enable_grad(), on_device(), default_dtype(variables):
        leaves = {name: tensor(value).requires_grad_() for name, value in variables.items()}
        fixed = {name: tensor(value) for name, value in constants.items()}
        with NoEscape() if watched else nullcontext():
            value, outputs = forward(leaves, fixed)
        value = torch.as_tensor(value)
        if not value.requires_grad:
            value = value + 0 * sum(leaf.sum() for leaf in leaves.values())
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    arrays = {name: array_of(output) for name, output in outputs.items()}
    return float(value.detach()), arrays, {name: array_of(d) for name, d in zip(leaves, found, strict=True)}


def jacobians(
    step: Step,
    params: Mapping[str, Any],
    state_sizes: Mapping[str, int],
    initial: npt.NDArray[Any],
    x: npt.NDArray[Any],
    rounding_seed: int | None = None,
) -> Arrays:
    """{"state_jacobian": ∂s_t/∂s_{t−1}, "jacobian_product_to_end": ∂s_T/∂s_{k}, k = 0..T−1}, both (T, B, S, S).

    `initial` (B, S) is s_0 flattened in the order of `state_sizes`. The first is jacrev of one step at each state of the
    trajectory; the second is jacrev of the unrolled map, s_T by an offset at every earlier state: no product is formed.
    """
    fixed = {name: tensor(value) for name, value in params.items()}

    def one_step(s: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(state_sizes, torch.split(s[None], list(state_sizes.values()), dim=-1), strict=True))
        new = step(xp, fixed, parts, x_t[None])
        return torch.cat([new[name] for name in state_sizes], dim=-1)[0]

    def last_state(offsets: torch.Tensor, s: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        for t in range(len(xs)):
            s = one_step(s + offsets[t], xs[t])
        return s

    xs, s = tensor(x), tensor(initial)
    zeros = torch.zeros((len(xs), s.shape[-1]), dtype=s.dtype, device=s.device)
    before = []
    with rounding(rounding_seed):
        for x_t in xs:
            before.append(s)
            s = torch.vmap(one_step)(s, x_t)
        local = torch.vmap(torch.vmap(torch.func.jacrev(one_step)))(torch.stack(before), xs)
        unrolled = torch.vmap(torch.func.jacrev(last_state), in_dims=(None, 0, 1))(zeros, tensor(initial), xs)
    return {"state_jacobian": array_of(local), "jacobian_product_to_end": array_of(unrolled.permute(2, 0, 1, 3))}
