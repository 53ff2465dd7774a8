"""Whether the true gradient is a number at all: where references find infinity or NaN nothing is
judged, and the step is told.

"Infinite" is what exceeds the largest number of the precision that the candidate works in. Near
that edge one order of summation overflows and another does not: where some reference overflows,
another counts for finite only below the root of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import NotFinite, Overflow
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Differentiable
from ..witnesses.tolerance import Noise, greatest

INFINITE, NAN = "infinite", "NaN"


@dataclass(frozen=True, order=True)
class Place:
    """Where numbers stop being numbers.

    order     how many steps the walk took to get there
    kind      INFINITE or NAN
    sentence  in words: 'the state h is infinite from step 88 of 500 on'
    """

    order: int
    sentence: str
    kind: str


def must_be_finite(
    problem: Differentiable, answers: Mapping[str, Answer], given: Answer, noise: Noise
) -> None:
    """Raises Overflow where no reference tells a finite state, loss or gradient.

    NotFinite for NaN without an overflow.

    answers are the references' own by name; given is the candidate's, of which only the gradients
    that it gives are watched.
    """
    limit = greatest(problem.rounding_dtype)
    told = list(answers.values())
    _finite_forward(problem, told, limit)
    lost = [name for name in given.gradients if _is_lost(name, told, limit, noise)]
    if not lost:
        return
    places = [walked_back(problem, answer, limit) for answer in told]
    where = next((f"; {place.sentence}" for place in places if place), "")
    if any(_overflows(answer, limit) for answer in told):
        raise _overflow(problem, lost, where, given)
    raise NotFinite(
        f"{problem.name}: every reference finds a gradient that is not finite for "
        f"{', '.join(lost)}, though "
        f"the forward pass is finite{where}: a branch of where() that is not taken, or an "
        "overflow inside "
        "(exp of a large number?)"
    )


def _overflow(problem: Differentiable, lost: Sequence[str], where: str, given: Answer) -> Overflow:
    """The error with the gradients, the place, and what the candidate has there."""
    finite = all(bool(np.isfinite(given.gradients[name]).all()) for name in lost)
    mine = "not finite either"
    if finite:
        mine = "finite there, which cannot be judged (it clips, or leaves a path out?)"
    return Overflow(
        f"{problem.name}: the true gradient overflows {problem.rounding_dtype.name} in "
        f"{', '.join(lost)}{where}; "
        f"the code under test is {mine}. Nothing was judged: fewer steps, smaller weights, or a "
        "gain below 1"
    )


def _finite_forward(problem: Differentiable, told: Sequence[Answer], limit: float) -> None:
    """Raises Overflow or NotFinite where a state or the loss is not finite in any reference."""
    places = [_walked_forward(problem, answer, limit) for answer in told]
    for answer, place in zip(told, places, strict=True):
        if place is None and not beyond(np.asarray(answer.loss), limit):
            return
    dtype = problem.rounding_dtype.name
    place = next((place for place in places if place), None)
    if place is not None:
        raise forward_error(place, problem.name, dtype)
    loss = told[0].loss
    raise forward_error(loss_at(loss, f"{loss:.3g}"), problem.name, dtype)


def loss_at(loss: float, written: str) -> Place:
    """The loss as the place where the forward pass stops being a number."""
    return Place(0, f"the loss is {written}", NAN if np.isnan(loss) else INFINITE)


def forward_error(place: Place, name: str = "", dtype: str = "float64") -> NotFinite:
    """The error for a forward pass that stops being a number at this place."""
    start = f"{name}: " if name else ""
    error, exceeds = NotFinite, ""
    if place.kind == INFINITE:
        error, exceeds = Overflow, f": it exceeds the largest {dtype}"
    return error(
        f"{start}{place.sentence}, in the forward pass{exceeds}; nothing can be said of a "
        "gradient there. "
        "Fewer steps, or smaller weights"
    )


def beyond(value: Array, limit: float) -> bool:
    """Whether some entry is NaN, or larger than the limit."""
    return not bool(np.all(np.abs(value) <= limit))


def steps_beyond(value: Array, limit: float) -> Array:
    """The indices of the first axis at which some entry is NaN or larger than the limit."""
    within = np.abs(value) <= limit
    return np.flatnonzero(~within.reshape(len(value), -1).all(axis=1))


def kind_of(value: Array, limit: float) -> str:
    """'infinite', or 'NaN' where nothing came near the limit: behind an overflow NaN is a
    difference of infinities.
    """
    return INFINITE if bool(np.any(np.abs(value) > limit**0.5)) else NAN


def state_lost(name: str, value: Array, limit: float, reverse: bool = False) -> Place | None:
    """Where a trajectory stops being finite.

    'the state h is infinite from step 88 of 500 on'; None where it never does.
    """
    at = steps_beyond(value, limit)
    if not at.size:
        return None
    first = int(at[-1 if reverse else 0])
    kind = kind_of(value, limit)
    sentence = f"the state {name} is {kind} from step {first + 1} of {len(value)} on"
    return Place(len(value) - first if reverse else first, sentence, kind)


def _walked_forward(problem: Differentiable, answer: Answer, limit: float) -> Place | None:
    """Where the state that is first to be lost is; None where all are finite."""
    found: list[Place] = []
    for name, value in answer.states.items():
        place = state_lost(name, value, limit, problem.runs_backwards(f"{name}_0"))
        if place is not None:
            found.append(place)
    return min(found, default=None)


def walked_back(problem: Differentiable, answer: Answer, limit: float) -> Place | None:
    """'walking back from step 500, ∂L/∂h_t is infinite from step 213 on', of what is first; None
    where none can be told.
    """
    found: list[Place] = []
    for name, full in _told_by_steps(problem, answer):
        value = answer.steps[full]
        at = steps_beyond(value, limit)
        if not at.size:
            continue
        first, reverse = problem.first_step(full), problem.runs_backwards(full)
        index = int(at[0 if reverse else -1])
        start = first if reverse else len(value) - 1 + first
        kind = kind_of(value, limit)
        lost = f"∂L/∂{name}_t is {kind} from step {index + first} on"
        sentence = f"walking back from step {start}, {lost}"
        found.append(Place(index if reverse else len(value) - index, sentence, kind))
    return min(found, default=None)


def _told_by_steps(problem: Differentiable, answer: Answer) -> list[tuple[str, str]]:
    """(what is said to be lost, under which name its steps are told).

    ∂L/∂s_t, or all gradients where it is not told.
    """
    states = getattr(problem, "state_sizes", {})
    totals = [(name, f"{name}_0") for name in states if f"{name}_0" in answer.steps]
    if totals:
        return totals
    timed = [name for name in answer.steps if name in answer.gradients and problem.in_time(name)]
    return [(name, name) for name in timed]


def _told(name: str, answer: Answer) -> Iterator[Array]:
    """The gradient and its shares of the steps, as far as they are told."""
    for arrays in (answer.gradients, answer.steps):
        if name in arrays:
            yield arrays[name]


def _any_beyond(name: str, answer: Answer, limit: float) -> bool:
    return any(beyond(value, limit) for value in _told(name, answer))


def _is_lost(name: str, answers: Sequence[Answer], limit: float, noise: Noise) -> bool:
    """Whether some reference is not finite in this gradient, and none is far from overflow.

    What rounding makes of a reference counts too.
    """
    telling = [answer for answer in answers if name in answer.gradients]
    if not telling:
        return False
    noisy = (noise.total.get(name, 0.0), noise.steps.get(name, np.zeros(0)))
    shaken = not all(bool(np.isfinite(value).all()) for value in noisy)
    if not (shaken or any(_any_beyond(name, answer, limit) for answer in telling)):
        return False
    return all(_any_beyond(name, answer, limit**0.5) for answer in telling)


def _overflows(answer: Answer, limit: float) -> bool:
    """Whether something that is told exceeds the root of the largest number: NaN is then the
    difference of infinities.
    """
    told = [*answer.gradients.values(), *answer.steps.values()]
    return any(bool(np.any(np.abs(value) > limit**0.5)) for value in told)
