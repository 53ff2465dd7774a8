"""What must hold before a gradient is worth comparing; each finding has an error class and words
of its own.
"""

from collections.abc import Container, Mapping, Sequence

import numpy as np

from ..errors import AtKink, ForwardMismatch, LayoutMatters, NotFinite, NotRepeatable, Vacuous
from ..judging.not_seen import sentences
from ..judging.overflow import forward_error, loss_at, state_lost
from ..judging.verdict import Reason
from ..problems.answer import Answer
from ..problems.arrays import BFLOAT16, Array, has_digits_of, is_real
from ..witnesses.tolerance import AnyProblem, Noise, epsilon, greatest
from .case_report import CaseReport

LARGEST = greatest(np.float64)
EPSILON = epsilon(np.float64)
REPEATED = 1e-6  # relative difference, entry by entry, up to which an answer is the same as before
ROUNDINGS = 1000  # roundoffs of the largest entry by which sums in another order may differ


def finite_inputs(named: Mapping[str, Array]) -> None:
    """Raises NotFinite, naming the array, where a weight or an input is NaN or infinite."""
    for name, value in named.items():
        if not is_real(value.dtype) or np.isfinite(value).all():
            continue
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        at = list(first) if first else ""
        raise NotFinite(f"{name}{at} is {value[first]}: nothing can be said of a gradient there")


def finite_forward(answer: Answer, dtype: str = "float64") -> None:
    """Raises Overflow, or NotFinite for NaN, where the loss or a state is not finite.

    The first step at which it is not is named.
    """
    for name, value in answer.states.items():
        place = state_lost(name, value, LARGEST)
        if place is not None:
            raise forward_error(place, dtype=dtype)
    if not np.isfinite(answer.loss):
        raise forward_error(loss_at(answer.loss, str(answer.loss)), dtype=dtype)


def repeatable(first: Answer, second: Answer, roundoff: float = EPSILON) -> None:
    """Raises NotRepeatable where the same question was answered differently the second time.

    Differently by more than sums in another order do, in the precision of this roundoff.
    """
    what = _not_repeated(first, second, roundoff)
    if what is not None:
        raise NotRepeatable(
            f"asked twice, the code under test gives two answers for {what}".rstrip()
            + ": it keeps something between calls, or draws random numbers; reset it in setup="
        )


def is_repeated(first: Answer, second: Answer, roundoff: float) -> bool:
    """Whether the same question was answered the same."""
    return _not_repeated(first, second, roundoff) is None


def _not_repeated(first: Answer, second: Answer, roundoff: float) -> str | None:
    """What was answered differently the second time."""
    if _is_single(first) and _is_single(second):
        roundoff = max(roundoff, epsilon(np.float32))
    share = _share(roundoff)
    for what, one, other in (
        ("the loss", {"": np.asarray(first.loss)}, {"": np.asarray(second.loss)}),
        ("the state", first.states, second.states),
        ("the gradient", first.gradients, second.gradients),
        ("the share of the steps in", first.steps, second.steps),
    ):
        for name, value in one.items():
            again = other.get(name)
            if again is None or value.shape != again.shape:
                return f"{what} {name}"
            if not _is_same(_wide(value), _wide(again), share, roundoff):
                return f"{what} {name}"
    return None


def _is_same(value: Array, again: Array, share: float, roundoff: float) -> bool:
    """Whether each entry is the same to a share of itself, or to roundings of the largest entry.

    The latter is what sums that cancel leave: never far below one roundoff of their terms. What is
    smaller has vanished, and is held to a share of itself.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        both = np.maximum(np.abs(value), np.abs(again))
        largest = float(np.max(both, initial=0.0, where=np.isfinite(both)))
        least = min(ROUNDINGS * roundoff, share) * largest
        left = np.where(both >= roundoff * largest / ROUNDINGS, least, 0.0)
        near = np.abs(value - again) <= np.maximum(share * np.abs(again), left)
        same = (value == again) | (np.isnan(value) & np.isnan(again))
    return bool(np.all(near & np.isfinite(both) | same))


def _is_single(answer: Answer) -> bool:
    """Whether its gradients are float32's numbers, in whatever arrays, and use their digits."""
    told = list(answer.gradients.values())
    if not all(has_digits_of(value, np.float32) for value in told):
        return False
    return not all(has_digits_of(value, BFLOAT16) for value in told)


def _wide(value: Array) -> Array:
    """In float64: NumPy tells closeness in no shorter precision than its own."""
    return value.astype(np.float64, copy=False)


def _share(roundoff: float) -> float:
    """The part of an entry by which another order of summation may change it.

    Amplified by the recurrence it is far more than one unit roundoff.
    """
    return max(REPEATED, roundoff**0.4)


def order_of_sums(first: Answer, second: Answer) -> list[str]:
    """A note where the same question got the same answer to rounding, and not bit by bit."""
    differ: dict[str, float] = {}
    for name, value in first.gradients.items():
        again = second.gradients.get(name)
        if again is None or value.shape != again.shape or not value.any():
            continue
        with np.errstate(invalid="ignore"):
            change = _size(_wide(value) - _wide(again)) / _size(value)
        if change > 0:
            differ[name] = change
    if not differ:
        return []
    told = ", ".join(
        f"{name} ({change:.0e} of its largest entry)" for name, change in differ.items()
    )
    return [f"asked twice, the code gives answers that differ by rounding: {told}"]


def same_in_any_layout(
    first: Answer, turned: Answer, roundoff: float, noise: Noise | None = None
) -> None:
    """Raises LayoutMatters where another memory order of the same numbers got another gradient.

    Another by more than rounding: by more than a share of its largest entry, and by more than the
    noise, where it has been measured.
    """
    share = _share(roundoff)
    for what, one, other in (
        ("the gradient", first.gradients, turned.gradients),
        ("the share of the steps in", first.steps, turned.steps),
    ):
        for name, value in one.items():
            if not np.isfinite(value).all():
                continue  # whether it overflows in the references too is seen when they are asked
            least = max(share * _size(value), _explained(noise, name))
            if not _is_near(value, other.get(name), least):
                raise LayoutMatters(
                    "for the same numbers in another memory order (Fortran's) the code under test "
                    f"gives another answer for {what} {name}: it reads memory as if arrays were "
                    "C-contiguous, which cotangents need not be"
                )


def _size(value: Array) -> float:
    return float(np.max(np.abs(value), initial=0.0))


def _explained(noise: Noise | None, name: str) -> float:
    """The difference that rounding explains of a gradient or one of its shares; 0 if unknown."""
    if noise is None:
        return 0.0
    shares = noise.steps.get(name)
    largest = max(noise.total.get(name, 0.0), 0.0 if shares is None else _size(shares))
    return noise.limit * largest


def _is_near(value: Array, other: Array | None, least: float) -> bool:
    """Whether no entry of the other differs by more."""
    if other is None or value.shape != other.shape:
        return False
    return np.allclose(_wide(value), _wide(other), rtol=0, atol=least, equal_nan=True)


def same_forward(case: CaseReport) -> None:
    """Raises ForwardMismatch where NumPy and a reference do not compute the same loss or states."""
    failed = [row for row in case.forward if not row.passed]
    if failed:
        lines = "\n".join(f"  {row.sentence()}" for row in failed)
        raise ForwardMismatch(
            f"{case.name}: the forward pass in NumPy is not the one that the references "
            f"run:\n{lines}"
        )


def finite_references(case: CaseReport) -> None:
    """Raises NotFinite where a gradient is finite in no reference, though the forward pass is."""
    bad: dict[str, bool] = {}  # gradient → whether no reference has told it
    for row in case.rows:
        lost = row.kind is Reason.NOT_FINITE_IN_REFERENCE
        bad[row.gradient] = bad.get(row.gradient, True) and lost
    names = sorted(name for name, lost in bad.items() if lost)
    if names:
        raise NotFinite(
            f"{case.name}: every reference finds a gradient that is not finite for "
            f"{', '.join(names)}, though the "
            "forward pass is finite: an overflow inside (exp of a large number?), or a branch of "
            "where() that is "
            "not taken"
        )


def not_vacuous(case: CaseReport, unread: Container[str]) -> None:
    """Raises Vacuous where nothing was seen of any gradient; those of `unread`, on which a function
    need not depend, do not count.
    """
    seen = {row.gradient for row in case.seen_rows()}
    if not any(name not in unread for name in seen):
        told = "; ".join(sentences(case.not_seen))
        raise Vacuous(f"{case.name}: VACUOUS, nothing could be seen. {told}")


def beside(problem: AnyProblem) -> AnyProblem:
    """The problem with every variable moved a little, away from a kink that it stands at."""
    rng = np.random.default_rng([problem.seed, 5])
    moved: dict[str, Array] = {}
    for name, value in problem.variables.items():
        away = value + 0.1 * rng.normal(size=value.shape)
        moved[name] = away.astype(value.dtype)
    return problem.with_variables(moved)


def not_at_kink(case: CaseReport, explained: bool, ties: Sequence[str]) -> None:
    """Raises AtKink where gradients disagree at a kink, and that explains it.

    It does where they agree beside it, or there is no beside.
    """
    if explained:
        raise AtKink(
            f"{case.name}: gradients disagree, but the problem stands at a kink, where each "
            "framework may choose "
            f"its own derivative: {'; '.join(ties[:3])}. Move the inputs: another seed, weights "
            "that are not zero"
        )
