"""Where the problem itself leaves no digits to judge by: recurrence that amplifies rounding.

In a chaotic recurrence two right programs part: rounding grows from step to step until their states
have nothing in common, and with them their gradients. Noise is then as large as what is judged, one
sample of it says little of another (products of Jacobians on unlike trajectories are log-normal),
and no multiple of it tells right from wrong. Nothing is decided

    (1)  where limit · noise ≥ LEFT · |gradient|, of the whole or of one step's share in it,

provided that the forward pass shows the amplification, too:

    (2)  noise of the loss, or of a state at some step, ≥ AMPLIFIED of its own size.

A gradient that is zero in truth satisfies (1) and not (2): it is `vacuous`, not undecidable. What
(1) leaves is judged as everywhere: steps near the end may have all their digits where the whole
gradient has none. The largest error over noise of right code was 1.8 below (1) with LEFT = 10, and
128 above it (docs/tolerance.md).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import NotDecidable
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.convention import Convention
from ..problems.problem import AnyProblem, Differentiable
from ..witnesses import tolerance
from ..witnesses.ask import Witnesses

LEFT = 1e-2  # of a gradient: errors below it are not seen, two digits
AMPLIFIED = 1e6  # times the unit roundoff
SURE = 1e-4  # of LEFT: where a run may be cut so that its gradients have digits throughout
UNLIMITED = float(np.finfo(np.float64).max) / 1e6  # noise that explains everything, times a limit


@dataclass(frozen=True)
class Undecided:
    """What has no digits left.

    gradients   those that have none as a whole
    noise       the noise that explains everything there, and elsewhere what was measured
    first_step  the step from which on a state has none, walking forward; None where all have some,
                or where states are not told
    back_to     (input or state, step): walking back, the step from which on its gradient has none
    sure        how many steps from the first on have digits to spare
    rest        whether some gradient, or the share of some step, is decided
    """

    gradients: tuple[str, ...]
    noise: tolerance.Noise
    first_step: int | None
    back_to: tuple[str, int] | None
    sure: int
    rest: bool


@dataclass(frozen=True)
class _Scale:
    """The answer of the reference on which noise was measured, and how its gradients are scaled."""

    answer: Answer
    factor: float

    def size(self, name: str) -> float:
        """The largest entry of a gradient."""
        return self.factor * float(np.max(np.abs(self.answer.gradients[name]), initial=0.0))

    def step_sizes(self, name: str) -> Array:
        """The largest entry of every step's share."""
        shares = self.answer.steps[name]
        return self.factor * np.abs(shares).reshape(len(shares), -1).max(axis=1, initial=0.0)


def undecided(
    problem: AnyProblem, witnesses: Witnesses, convention: Convention, asked: Collection[str]
) -> Undecided | None:
    """What of a problem cannot be decided, among the gradients asked; None where everything can.

    None as well where rtol and atol were asked for, or where no reference is exact.
    """
    noise = witnesses.noise
    told = witnesses.plain[witnesses.first]
    if noise.allowed is not None or told.uncertainty or not amplifies(problem, told, noise):
        return None
    factor = abs(convention.factor(problem.steps, problem.batch))
    scale = _Scale(told, factor)
    names = [name for name in sorted(asked) if name in told.gradients]
    lost = [name for name in names if _is_lost(problem, scale, noise, name)]
    steps = _lost_steps(problem, scale, noise)
    if not lost and not any(mask.any() for mask in steps.values()):
        return None
    first, sure = _forward(problem, told, noise)
    explained = _explaining(noise, lost, steps, _lost_states(problem, told, noise))
    decided = [not mask.all() for name, mask in steps.items() if name in asked]
    rest = any(decided) or len(lost) < len(names)
    return Undecided(tuple(lost), explained, first, _backward(problem, steps), sure, rest)


def least(problem: AnyProblem) -> float:
    """LEFT; in lower precision, where noise is never so small, up to 1."""
    roundoff = tolerance.epsilon(problem.rounding_dtype)
    return min(1.0, max(LEFT, 256 * tolerance.limit_of(problem) * roundoff))


def amplifies(problem: AnyProblem, told: Answer, noise: tolerance.Noise) -> bool:
    """Whether the forward pass makes much of rounding: (2)."""
    much = _much(problem)
    return any(bool(np.any(ratio >= much)) for ratio in _forward_noise(told, noise).values())


def _much(problem: AnyProblem) -> float:
    """AMPLIFIED roundoffs; less in lower precision."""
    roundoff = tolerance.epsilon(problem.rounding_dtype)
    return min(AMPLIFIED * roundoff, least(problem) / 10)


def _forward_noise(told: Answer, noise: tolerance.Noise) -> dict[str, Array]:
    """Noise over size: of every state at every step, or of the loss where no state is told."""
    found: dict[str, Array] = {}
    for name, value in told.states.items():
        sizes = np.abs(value).reshape(len(value), -1).max(axis=1, initial=0.0)
        found[name] = _over(noise.steps[tolerance.of_state(name)], sizes)
    if not found:
        found["loss"] = _over(
            np.asarray([noise.total[tolerance.LOSS]]), np.abs(np.asarray([told.loss]))
        )
    return found


def _over(noise: Array, sizes: Array) -> Array:
    """Noise over size, 0 where there is nothing."""
    with np.errstate(all="ignore"):
        ratio = noise / sizes
    return np.where((sizes > 0) & ~np.isnan(ratio), ratio, 0.0)


def _is_lost(problem: AnyProblem, scale: _Scale, noise: tolerance.Noise, name: str) -> bool:
    """Whether a whole gradient satisfies (1), by more than the rounding of the others explains."""
    size = scale.size(name)
    largest = max(scale.size(other) for other in scale.answer.gradients)
    more = noise.total[name] >= _much(problem) * largest
    return size > 0 and more and noise.limit * noise.total[name] >= least(problem) * size


def _lost_steps(problem: AnyProblem, scale: _Scale, noise: tolerance.Noise) -> dict[str, Array]:
    """gradient → which steps satisfy (1)."""
    found: dict[str, Array] = {}
    for name in scale.answer.steps:
        if name in noise.steps:
            over = _over(noise.limit * noise.steps[name], scale.step_sizes(name))
            found[name] = over >= least(problem)
    return found


def _lost_states(problem: AnyProblem, told: Answer, noise: tolerance.Noise) -> dict[str, Array]:
    """state → at which steps it has no digits, under the name that noise has for it."""
    found: dict[str, Array] = {}
    for name, ratios in _forward_noise(told, noise).items():
        if name in told.states:
            found[tolerance.of_state(name)] = noise.limit * ratios >= least(problem)
    return found


def _explaining(
    noise: tolerance.Noise,
    lost: list[str],
    steps: Mapping[str, Array],
    states: Mapping[str, Array],
) -> tolerance.Noise:
    """The noise, unlimited where nothing is decided; nor is a loss that reads lost states."""
    told, total = dict(noise.steps), noise.total | dict.fromkeys(lost, UNLIMITED)
    for name, mask in (*steps.items(), *states.items()):
        told[name] = np.where(mask, UNLIMITED, told[name])
    for name, mask in states.items():
        if mask.any():
            total |= {name: UNLIMITED, tolerance.LOSS: UNLIMITED}
    return replace(noise, total=total, steps=told)


def _forward(problem: AnyProblem, told: Answer, noise: tolerance.Noise) -> tuple[int | None, int]:
    """(the first step at which a state has no digits, how many have digits to spare)."""
    if not told.states:
        return None, 0
    roundoff = tolerance.epsilon(problem.rounding_dtype)
    spare = max(SURE * least(problem), 64 * noise.limit * roundoff)
    ratios = np.max([noise.limit * each for each in _forward_noise(told, noise).values()], axis=0)
    lost, doubtful = np.flatnonzero(ratios >= least(problem)), np.flatnonzero(ratios >= spare)
    first = int(lost[0]) + 1 if lost.size else None
    return first, int(doubtful[0]) if doubtful.size else len(ratios)


def _backward(problem: AnyProblem, steps: Mapping[str, Array]) -> tuple[str, int] | None:
    """Where the walk back first meets a step without digits, in an input or a state."""
    found: list[tuple[int, str]] = []
    for name, mask in steps.items():
        if mask.any() and name not in problem.per_step_names:
            found.append((int(np.flatnonzero(mask)[-1]) + problem.first_step(name), name))
    if not found:
        return None
    step, name = max(found)
    return name, step


def remark(lost: Undecided) -> str:
    """What has no digits, and from where on, in a sentence."""
    where: list[str] = []
    if lost.first_step is not None:
        where.append(f"the states have none from step {lost.first_step} on")
    if lost.back_to is not None:
        name, step = lost.back_to
        where.append(
            f"walking back, the shares of the steps in {name} have none from step {step} on"
        )
    what = f"the gradient of {', '.join(lost.gradients)}" if lost.gradients else "some steps"
    told = f": {'; '.join(where)}" if where else ""
    return (
        f"the problem amplifies rounding until {what} has no digits that any two programs "
        f"share{told}"
    )


def not_decidable(problem: Differentiable, lost: Undecided, agreed: int) -> NotDecidable:
    """The error, with what was judged all the same."""
    judged = "What has digits agrees" if lost.rest else "Nothing was judged"
    if agreed:
        judged = f"The first {agreed} of {problem.steps} steps by themselves agree"
    return NotDecidable(
        f"{problem.name}: {remark(lost)}. {judged}. Take fewer steps, or smaller recurrent weights"
    )
