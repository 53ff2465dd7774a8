"""Whether the true gradient is a number at all: where references find infinity or NaN nothing is judged, and the step is told.

"Infinite" is what exceeds the largest number of the precision that the candidate works in. Near that edge one order of
summation overflows and another does not: where some reference overflows, another counts for finite only below the root of it.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ..errors import NotFinite, Overflow
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Differentiable
from ..witnesses.tolerance import Noise, greatest


def must_be_finite(problem: Differentiable, answers: Mapping[str, Answer], given: Answer, noise: Noise) -> None:
    """Raises Overflow, or NotFinite for NaN without an overflow, where no reference tells a finite state, loss or gradient.

    answers are the references' own by name; given is the candidate's, of which only the gradients that it gives are watched.
    """
    limit = greatest(problem.rounding_dtype)
    _finite_forward(problem, answers, limit)
    lost = [name for name in given.gradients if _is_lost(name, list(answers.values()), limit, noise)]
    if lost:
        found = [(walked_back(problem, answer, limit), answer) for answer in answers.values()]
        place = next((place for place, _ in found if place), None)
        overflows = any(_overflows(answer, limit) for _, answer in found)
        raise _error(problem, lost, place, overflows, _finite(given, lost))


def _finite_forward(problem: Differentiable, answers: Mapping[str, Answer], limit: float) -> None:
    """Raises Overflow or NotFinite where a state or the loss is not finite in any reference."""
    told = list(answers.values())
    if not all(beyond(np.asarray(answer.loss), limit) or _walked_forward(problem, answer, limit) for answer in told):
        return
    place = next((place for place in (_walked_forward(problem, answer, limit) for answer in told) if place), None)
    raise forward_error(place or f"the loss is {told[0].loss:.3g}", problem.name, problem.rounding_dtype.name)


def forward_error(said: str, name: str = "", dtype: str = "float64") -> NotFinite:
    """The error for a forward pass of which `said` is where it stops being a number."""
    kind = NotFinite if "nan" in said.lower() else Overflow
    exceeds = "" if kind is NotFinite else f": it exceeds the largest {dtype}"
    start = f"{name}: " if name else ""
    return kind(
        f"{start}{said}, in the forward pass{exceeds}; nothing can be said of a gradient there. Fewer steps, or smaller weights"
    )


def beyond(value: Array, limit: float) -> bool:
    """Whether some entry is NaN, or larger than the limit."""
    return not bool(np.all(np.abs(value) <= limit))


def steps_beyond(value: Array, limit: float) -> Array:
    """The indices of the first axis at which some entry is NaN or larger than the limit."""
    return np.flatnonzero(~(np.abs(value) <= limit).reshape(len(value), -1).all(axis=1))


def kind_of(value: Array, limit: float) -> str:
    """'infinite', or 'NaN' where nothing came near the limit: behind an overflow NaN is a difference of infinities."""
    return "infinite" if bool(np.any(np.abs(value) > limit**0.5)) else "NaN"


def _walked_forward(problem: Differentiable, answer: Answer, limit: float) -> str | None:
    """'the state h is infinite from step 88 of 500 on', of the state that is first to be; None where all are finite."""
    found: list[tuple[int, str]] = []
    for name, value in answer.states.items():
        at, reverse = steps_beyond(value, limit), problem.runs_backwards(f"{name}_0")
        if at.size:
            first = int(at[-1 if reverse else 0])
            order, count = len(value) - first if reverse else first, f"{first + 1} of {len(value)}"
            found.append((order, f"the state {name} is {kind_of(value, limit)} from step {count} on"))
    return min(found)[1] if found else None


def walked_back(problem: Differentiable, answer: Answer, limit: float) -> str | None:
    """'walking back from step 500, ∂L/∂h_t is infinite from step 213 on', of what is first; None where none can be told."""
    states = [name for name in getattr(problem, "state_sizes", {}) if f"{name}_0" in answer.steps]
    totals = {name: answer.steps[f"{name}_0"] for name in states}
    named = totals or {name: value for name, value in answer.steps.items() if name in answer.gradients}
    found: list[tuple[int, str]] = []
    for name, value in named.items():
        full = f"{name}_0" if name in totals else name
        at, reverse, first = steps_beyond(value, limit), problem.runs_backwards(full), problem.first_step(full)
        if at.size:
            index = int(at[0 if reverse else -1])
            start = first if reverse else len(value) - 1 + first
            kind = kind_of(value, limit)
            order = index if reverse else len(value) - index
            found.append((order, f"walking back from step {start}, ∂L/∂{name}_t is {kind} from step {index + first} on"))
    return min(found)[1] if found else None


def _told(name: str, answer: Answer) -> Iterator[Array]:
    """The gradient and its shares of the steps, as far as they are told."""
    yield from (arrays[name] for arrays in (answer.gradients, answer.steps) if name in arrays)


def _is_lost(name: str, answers: list[Answer], limit: float, noise: Noise) -> bool:
    """Whether some reference, or what rounding makes of it, is not finite in this gradient, and none is far from overflow."""
    telling = [answer for answer in answers if name in answer.gradients]
    noisy = (noise.total.get(name, 0.0), noise.steps.get(name, np.zeros(0)))
    shaken = not all(bool(np.isfinite(value).all()) for value in noisy)
    if not telling or not (shaken or any(beyond(value, limit) for answer in telling for value in _told(name, answer))):
        return False
    return all(any(beyond(value, limit**0.5) for value in _told(name, answer)) for answer in telling)


def _overflows(answer: Answer, limit: float) -> bool:
    """Whether something that is told exceeds the root of the largest number: NaN is then the difference of infinities."""
    told = [*answer.gradients.values(), *answer.steps.values()]
    return any(bool(np.any(np.abs(value) > limit**0.5)) for value in told)


def _finite(given: Answer, names: list[str]) -> bool:
    return all(bool(np.isfinite(given.gradients[name]).all()) for name in names)


def _error(problem: Differentiable, lost: list[str], place: str | None, overflows: bool, finite: bool) -> NotFinite:
    """Overflow, or NotFinite for NaN alone, with the gradients, the place and what the candidate has there."""
    what, where = ", ".join(lost), f"; {place}" if place else ""
    mine = "finite there, which cannot be judged (it clips, or leaves a path out?)" if finite else "not finite either"
    if not overflows:
        return NotFinite(
            f"{problem.name}: every reference finds a gradient that is not finite for {what}, though the forward pass is finite"
            f"{where}: a branch of where() that is not taken, or an overflow inside (exp of a large number?)"
        )
    return Overflow(
        f"{problem.name}: the true gradient overflows {problem.rounding_dtype.name} in {what}{where}; the code under test is "
        f"{mine}. Nothing was judged: fewer steps, smaller weights, or a gain below 1"
    )
