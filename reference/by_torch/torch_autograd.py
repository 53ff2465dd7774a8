"""Reverse mode by torch.

`torch.autograd.grad` of the equations, and `torch.func.jacrev` of their steps.

Everything runs eagerly, on the CPU unless another device is chosen (reference.devices); nothing of
the process's or the caller's state (default dtype, gradient mode, threads) is changed, not even
meanwhile (reference.by_torch.locally).

`RandomRounding` is stochastic arithmetic: within it the result of every floating-point operation,
of the forward and of torch's own backward, is moved at random by up to one unit roundoff. How far a
gradient moves then is how far rounding may move it (the idea of the CESTAC method: Vignes 1993, "A
stochastic arithmetic for reliable scientific computation").
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .. import devices, roundoff
from ..arrays import Array, Arrays, Named
from ..equations.parts import ScalarFunction, Step
from ..equations.unrolling import SequenceLoss
from .locally import DefaultDtype, in_default_dtype, on_one_thread

# Operations that choose, move or make numbers and never round: perturbed, a maximum would no longer
# be one of its arguments.
EXACT_OPERATIONS = frozenset(
    "abs amax amin arange argmax argmin cat clamp clamp_max clamp_min clone constant_pad_nd "
    "copy cummax cummin diag_embed embedding empty empty_like empty_strided eye eye_like flip "
    "full full_like gather index index_put index_select masked_fill max maximum median min "
    "minimum neg new_empty new_empty_strided new_full new_ones new_zeros one_hot ones ones_like "
    "relu repeat roll scalar_tensor scatter select_backward select_scatter sgn sign "
    "slice_backward slice_scatter sort stack take threshold_backward topk tril triu where zeros "
    "zeros_like _to_copy".split()
)

# In-place operations that put given numbers into a tensor.
OVERWRITING = frozenset(
    "copy_ detach_ fill_ requires_grad_ resize_ set_ squeeze_ t_ transpose_ "
    "unsqueeze_ zero_".split()
)


class RandomRounding(TorchDispatchMode):
    """Context in which every floating-point result r becomes r (1 + ε u), |u| ≤ 1 at random.

    Every one that is computed, not just moved. ε is that of its dtype, or reference.roundoff's
    where that is larger.
    """

    pool_size = 1 << 16
    # So many stretches of the pool, at most, are taken together for results of one shape.
    at_once = 64

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch._dynamo alone.

        Nothing is compiled within this context, and importing it costs a second.
        """
        return False

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.place = random.Random(seed).random
        self.pools: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}
        self.drawn: dict[tuple[torch.Size, torch.dtype, torch.device], list[torch.Tensor]] = {}
        self.wanted: dict[tuple[torch.Size, torch.dtype, torch.device], int] = {}
        self.computes: dict[Any, tuple[bool, bool]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation's result, moved, in place where it was computed in place.

        Views and copies are passed on as they are.
        """
        result = func(*args, **kwargs) if kwargs else func(*args)
        known = self.computes.get(func)
        if known is None:
            known = self.computes[func] = (computes(func), func._schema.is_mutable)
        if (
            not (known[0] and isinstance(result, torch.Tensor) and result.dtype.is_floating_point)
            or result.is_meta
        ):
            return result
        return result.mul_(self.draw(result)) if known[1] else result.mul(self.draw(result))

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        """1 + ε u of this shape: a stretch of a pool of random numbers, from a random place on."""
        kind = like.shape, like.dtype, like.device
        ready = self.drawn.get(kind)
        if not ready:
            count = self.wanted[kind] = min(2 * self.wanted.get(kind, 1), self.at_once)
            ready = self.drawn[kind] = self.stretches(like, count)
        return ready.pop()

    def stretches(self, like: torch.Tensor, count: int) -> list[torch.Tensor]:
        """So many such stretches."""
        size = like.numel()
        pool = self.pools.get((like.dtype, like.device))
        if pool is None or len(pool) - size < self.pool_size // 2:
            eps = max(torch.finfo(like.dtype).eps, roundoff.chosen())
            u = torch.rand(
                size + self.pool_size, generator=self.generator, dtype=like.dtype, device="cpu"
            )
            pool = self.pools[like.dtype, like.device] = (
                u.mul_(2).sub_(1).mul_(eps).add_(1).to(like.device)
            )
        room = len(pool) - size
        strides = torch.empty(like.shape, device="meta").stride()
        return [
            pool.as_strided(like.shape, strides, int(self.place() * room)) for _ in range(count)
        ]


def computes(func: Any) -> bool:
    """Whether an operation makes new numbers, in place or not.

    Others choose, move or overwrite numbers.
    """
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    if (
        name in EXACT_OPERATIONS
        or name.removesuffix("_") in EXACT_OPERATIONS
        or name in OVERWRITING
    ):
        return False
    return schema.is_mutable or not any(
        returned.alias_info is not None for returned in schema.returns
    )


class NoEscape(DefaultDtype):
    """Context in which taking a number out of differentiation is an error.

    float(tensor) would silently cut the gradient. One context for both: each costs time at every
    operation.
    """

    EXITS = (
        torch.Tensor.item,
        torch.Tensor.__float__,
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.__array__,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result.

        Raises TypeError where a differentiable tensor becomes a plain number.
        """
        if func in self.EXITS and args[0].requires_grad:
            what = f"{func.__name__} takes a number out of differentiation"
            raise TypeError(f"{what}, and cuts its gradient: stay with xp")
        return super().__torch_function__(func, types, args, kwargs)


def on_device() -> AbstractContextManager[Any]:
    """The chosen device as default.

    Entered only where it is not yet: the context costs time at every operation.
    """
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


def widest_dtype(variables: Named) -> torch.dtype:
    """That of the variables, the thread's default meanwhile: `xp.zeros(…)` is as precise as in
    NumPy.
    """
    widest = np.result_type(*(value.dtype for value in variables.values()))
    return getattr(torch, widest.name)


def arithmetic(dtype: torch.dtype, watched: bool) -> AbstractContextManager[Any]:
    """The context of a forward pass in this dtype, `watched` by NoEscape."""
    return NoEscape(dtype) if watched else in_default_dtype(dtype)


def tensor(array: Array) -> torch.Tensor:
    """A copy as a tensor: the caller's array may be read-only, and stays untouched.

    NumPy's bfloat16 becomes torch's.
    """
    place = devices.chosen()
    if array.dtype.name == "bfloat16":
        return torch.tensor(np.array(array, dtype=np.float32, order="C"), device=place).to(
            torch.bfloat16
        )
    return torch.tensor(np.array(array, order="C"), device=place)


def array_of(given: torch.Tensor) -> Array:
    """The numbers as an array.

    Those of bfloat16, of which NumPy itself knows nothing, in float32.
    """
    return (given.float() if given.dtype == torch.bfloat16 else given).detach().cpu().numpy()


def scan(body: Any, state: Named, per_step: Named) -> dict[str, Any]:
    """The time loop: `body` at every step in turn; states stacked over steps."""
    states = []
    for t in range(per_step["x"].shape[0]):
        state = body(state, {name: value[t] for name, value in per_step.items()})
        states.append(state)
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def scan_apart(body: Any, state: Named, per_step: Named) -> dict[str, Any]:
    """The same from inputs taken apart at once.

    The gradient of an index is an array of all steps at every one, O(T²) in all.

    Equal bit by bit, since what the index adds is zeros.
    """
    apart = {name: value.unbind(0) for name, value in per_step.items()}
    states = []
    for t in range(per_step["x"].shape[0]):
        state = body(state, {name: rows[t] for name, rows in apart.items()})
        states.append(state)
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def scan_under(rounding_seed: int | None) -> Any:
    """The time loop for ordinary arithmetic, or for stochastic.

    A chosen roundoff stands for what another precision does, where to add a zero is exact.
    """
    if rounding_seed is None or roundoff.chosen():
        return scan_apart
    return scan_rounding(rounding_seed)


def scan_rounding(seed: int) -> Any:
    """`scan` under RandomRounding, from inputs taken apart at once.

    On indices, every share of a step rounds in each of the sums over all steps that come after it
    on the way back; that is what the limits were set on. Here the share is moved by as many random
    amounts, drawn together.
    """
    rng = np.random.default_rng([seed, 1])

    def loop(body: Any, state: Named, per_step: Named) -> dict[str, Any]:
        return scan_apart(
            body, state, {name: rounding_as_summed(value, rng) for name, value in per_step.items()}
        )

    return loop


def rounding_as_summed(value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same numbers (T, …).

    Under RandomRounding the gradient of step t becomes g_t (1 + ε (u_1 + … + u_t)).

    The last step has one amount less, and of them all one is that of the product itself.
    """
    if not value.requires_grad or len(value) < 2:
        return value

    def move(gradient: torch.Tensor) -> torch.Tensor:
        u = rng.uniform(-1, 1, size=tuple(gradient.shape))
        u[0] = u[-1] = 0
        moved = 1 + torch.finfo(gradient.dtype).eps * np.cumsum(u, axis=0, out=u)
        return gradient * torch.from_numpy(moved).to(gradient)

    same = value.view_as(value)
    same.register_hook(move)
    return same


# Numbers in all variables; below, handing an operation to several threads costs more than it saves.
SMALL = 1 << 22


def one_thread_if_small(variables: Named) -> AbstractContextManager[None]:
    """torch on one thread where the problem is small, as many as before afterwards."""
    return on_one_thread(sum(value.size for value in variables.values()) < SMALL)


def gradients(
    function: ScalarFunction, variables: Named, constants: Named, rounding_seed: int | None = None
) -> tuple[float, Arrays, Arrays]:
    """(value, outputs, gradient for every variable) of function(xp, scan, variables, constants).

    A variable that the value does not depend on has the gradient zero. With a rounding_seed, under
    RandomRounding.
    """
    loop = scan_under(rounding_seed)
    with one_thread_if_small(variables), rounding(rounding_seed):
        watched = rounding_seed is None
        return differentiate(partial(function, xp, loop), variables, constants, watched)


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients are recorded whatever the caller does, on the chosen device."""
    with torch.inference_mode(False), torch.enable_grad(), on_device():
        yield


def differentiate(
    forward: Any, variables: Named, constants: Named, watched: bool = False
) -> tuple[float, Arrays, Arrays]:
    """(value, outputs, gradients) of forward(variables, constants) -> (value, outputs).

    forward is on tensors, `watched` by NoEscape.
    """
    dtype = widest_dtype(variables)
    with differentiable():
        leaves = {name: tensor(value).requires_grad_() for name, value in variables.items()}
        fixed = {name: tensor(value) for name, value in constants.items()}
        with arithmetic(dtype, watched):
            value, outputs = forward(leaves, fixed)
            value = torch.as_tensor(value)
        if not value.requires_grad:
            value = value + 0 * sum(leaf.sum() for leaf in leaves.values())
        found = torch.autograd.grad(
            value, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    arrays = {name: array_of(output) for name, output in outputs.items()}
    gradients = {name: array_of(d) for name, d in zip(leaves, found, strict=True)}
    return float(value.detach()), arrays, gradients


def gradients_of_several(
    function: SequenceLoss,
    variables: Named,
    constants: Sequence[Named],
    rounding_seed: int | None = None,
) -> list[tuple[float, Arrays, Arrays]]:
    """What `gradients` tells for each of several constants.

    One forward, and their ways back side by side.

    They may differ in what the readout alone reads, and the readout reads no variable.
    """
    loop = scan_under(rounding_seed)
    dtype = widest_dtype(variables)
    with one_thread_if_small(variables), rounding(rounding_seed), differentiable():
        leaves = {name: tensor(value).requires_grad_() for name, value in variables.items()}
        fixed = [{name: tensor(value) for name, value in each.items()} for each in constants]
        with arithmetic(dtype, watched=rounding_seed is None):
            states = function.run(xp, loop, leaves, fixed[0])
        with in_default_dtype(dtype):
            values, arriving = read_apart(function, leaves, states, fixed)
        found = pull_back(states, arriving, list(leaves.values()))
    outputs = {name: array_of(state) for name, state in states.items()}
    answers: list[tuple[float, Arrays, Arrays]] = []
    for k, value in enumerate(values):
        own = {name: array_of(d[k]) for name, d in zip(leaves, found, strict=True)}
        answers.append((value, outputs, own))
    return answers


def read_apart(
    function: SequenceLoss, leaves: Named, states: Named, fixed: Sequence[Named]
) -> tuple[list[float], Named]:
    """(the values, their derivatives by the states) of the readout for each of K constants.

    The derivatives are by name, (K, its shape).
    """
    heads = {name: state.detach().requires_grad_() for name, state in states.items()}
    by = list(heads.values())
    values = [function.readout(xp, leaves, heads, each) for each in fixed]
    zeros_too: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    found = [torch.autograd.grad(value, by, **zeros_too) for value in values]
    by_state = zip(heads, zip(*found, strict=True), strict=True)
    arriving = {name: torch.stack(each) for name, each in by_state}
    return [float(value.detach()) for value in values], arriving


def pull_back(states: Named, arriving: Named, leaves: list[torch.Tensor]) -> list[Any]:
    """The derivatives by each leaf, (K, its shape), for K derivatives by the states.

    In turn, where torch cannot side by side.
    """
    outputs = {name: state for name, state in states.items() if state.requires_grad}
    cotangents = [arriving[name] for name in outputs]
    if not outputs:
        count = len(next(iter(arriving.values())))
        return [torch.zeros((count, *leaf.shape), dtype=leaf.dtype) for leaf in leaves]
    start = root(list(outputs.values()))
    try:
        return list(torch.vmap(lambda *given: start(given, leaves))(*cotangents))
    except Exception:
        # Code from outside has a backward of its own, which knows nothing of a further axis.
        each = [start(given, leaves) for given in zip(*cotangents, strict=True)]
        return [torch.stack(found) for found in zip(*each, strict=True)]


def root(outputs: list[torch.Tensor]) -> Any:
    """pull(given, leaves): the derivatives by the leaves, given those by the outputs.

    Hooks put what is given in its place: to check its shape, as an argument of torch.autograd.grad,
    torch would import sympy.
    """
    now: list[torch.Tensor] = []
    for place, output in enumerate(outputs):
        output.register_hook(lambda _, place=place: now[place])
    total = torch.stack([output.sum() for output in outputs]).sum()

    def pull(given: Sequence[torch.Tensor], leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        now[:] = given
        return torch.autograd.grad(
            total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    return pull


def jacobians(
    step: Step,
    params: Named,
    state_sizes: Mapping[str, int],
    initial: Array,
    x: Array,
    rounding_seed: int | None = None,
) -> Arrays:
    """∂s_t/∂s_{t−1} and ∂s_T/∂s_k, k = 0..T−1, both (T, B, S, S).

    Their names are "state_jacobian" and "jacobian_product_to_end".

    `initial` (B, S) is s_0 flattened in the order of `state_sizes`. The first is jacrev of one step
    at each state of the trajectory; the second is jacrev of the unrolled map, s_T by an offset at
    every earlier state: no product is formed.
    """
    fixed = {name: tensor(value) for name, value in params.items()}

    def one_step(s: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        parts = dict(
            zip(state_sizes, torch.split(s[None], list(state_sizes.values()), dim=-1), strict=True)
        )
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
        unrolled = torch.vmap(torch.func.jacrev(last_state), in_dims=(None, 0, 1))(
            zeros, tensor(initial), xs
        )
    return {
        "state_jacobian": array_of(local),
        "jacobian_product_to_end": array_of(unrolled.permute(2, 0, 1, 3)),
    }
