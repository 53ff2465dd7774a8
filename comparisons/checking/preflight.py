"""What must hold before a gradient is worth comparing; each finding has an error class and words of its own."""

from collections.abc import Mapping

import numpy as np

from ..errors import AtKink, ForwardMismatch, LayoutMatters, NotFinite, NotRepeatable, Vacuous
from ..judging.overflow import forward_error, kind_of, steps_beyond
from ..problems.answer import Answer
from ..problems.arrays import Array, is_real
from ..witnesses.tolerance import AnyProblem, greatest
from .case_report import CaseReport

LARGEST = greatest(np.float64)


def finite_inputs(named: Mapping[str, Array]) -> None:
    """Raises NotFinite, naming the array, where a weight or an input is NaN or infinite."""
    for name, value in named.items():
        if is_real(value.dtype) and not np.isfinite(value).all():
            first = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise NotFinite(f"{name}{list(first) if first else ''} is {value[first]}: nothing can be said of a gradient there")


def finite_forward(answer: Answer, dtype: str = "float64") -> None:
    """Raises Overflow, or NotFinite for NaN, where the loss or a state is not finite, naming the first step at which it is."""
    for name, value in answer.states.items():
        bad = steps_beyond(value, LARGEST)
        if bad.size:
            first, kind = int(bad[0]) + 1, kind_of(value, LARGEST)
            raise forward_error(f"the state {name} is {kind} from step {first} of {len(value)} on", dtype=dtype)
    if not np.isfinite(answer.loss):
        raise forward_error(f"the loss is {answer.loss}", dtype=dtype)


def repeatable(first: Answer, second: Answer) -> None:
    """Raises NotRepeatable where the same question was answered differently the second time."""
    what = _not_repeated(first, second)
    if what is not None:
        raise NotRepeatable(
            f"asked twice, the code under test gives two answers for {what}".rstrip()
            + ": it keeps something between calls, or draws random numbers; reset it in setup="
        )


def is_repeated(first: Answer, second: Answer) -> bool:
    """Whether the same question was answered the same."""
    return _not_repeated(first, second) is None


def _not_repeated(first: Answer, second: Answer) -> str | None:
    """What was answered differently the second time."""
    for what, one, other in (
        ("the loss", {"": np.asarray(first.loss)}, {"": np.asarray(second.loss)}),
        ("the state", first.states, second.states),
        ("the gradient", first.gradients, second.gradients),
        ("the share of the steps in", first.steps, second.steps),
    ):
        for name, value in one.items():
            again = other.get(name)
            if again is None or value.shape != again.shape or not np.allclose(value, again, rtol=1e-6, atol=0, equal_nan=True):
                return f"{what} {name}"
    return None


def same_in_any_layout(first: Answer, turned: Answer, roundoff: float) -> None:
    """Raises LayoutMatters where the same numbers in another memory order got another gradient, by more than rounding."""
    share = max(1e-6, roundoff**0.4)  # another order of summation, amplified: far more than one unit roundoff
    for what, one, other in (
        ("the gradient", first.gradients, turned.gradients),
        ("the share of the steps in", first.steps, turned.steps),
    ):
        for name, value in one.items():
            again = other.get(name)
            if not np.isfinite(value).all():
                continue  # whether it overflows in the references too is seen when they are asked
            least = share * float(np.max(np.abs(value), initial=0.0))
            if again is None or value.shape != again.shape or not np.allclose(value, again, rtol=0, atol=least, equal_nan=True):
                raise LayoutMatters(
                    f"for the same numbers in another memory order (Fortran's) the code under test gives another answer for "
                    f"{what} {name}: it reads memory as if arrays were C-contiguous, which cotangents need not be"
                )


def same_forward(case: CaseReport) -> None:
    """Raises ForwardMismatch where NumPy and a reference do not compute the same loss or states."""
    failed = [row for row in case.forward if not row.passed]
    if failed:
        lines = "\n".join(f"  {row.sentence()}" for row in failed)
        raise ForwardMismatch(f"{case.name}: the forward pass in NumPy is not the one that the references run:\n{lines}")


def finite_references(case: CaseReport) -> None:
    """Raises NotFinite where a gradient is not finite in any reference, though the forward pass is."""
    bad = {row.gradient for row in case.rows if row.reason == "not finite in the reference"}
    lost = sorted(bad - {row.gradient for row in case.rows if row.reason != "not finite in the reference"})
    if lost:
        raise NotFinite(
            f"{case.name}: every reference finds a gradient that is not finite for {', '.join(lost)}, though the forward pass is "
            "finite: an overflow inside (exp of a large number?), or a branch of where() that is not taken"
        )


def not_vacuous(case: CaseReport, unread: set[str]) -> None:
    """Raises Vacuous where the true gradient is nothing but rounding; not for `unread`, which a function need not depend on."""
    watched = [name for name in case.vacuous if name not in case.not_given and name not in unread]
    if watched:
        raise Vacuous(
            f"{case.name}: VACUOUS for {', '.join(watched)}: the true gradient is zero to rounding, so that no mistake in it "
            "could be seen. Choose inputs that matter to the loss: non-zero initial states, more steps, random cotangents "
            "(not all ones), another seed"
        )


def beside(problem: AnyProblem) -> AnyProblem:
    """The problem with every variable moved a little, away from a kink that it stands at."""
    rng = np.random.default_rng([problem.seed, 5])
    moved = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in problem.variables.items()}
    return problem.with_variables({name: value.astype(problem.variables[name].dtype) for name, value in moved.items()})


def outside_kink(case: CaseReport) -> bool:
    """Whether differences saw the kink, and what was given is beyond both one-sided derivatives: no convention chooses that."""
    seen = any(note.startswith("the function has a kink in") for note in case.notes)
    return seen and any(row.reference == "differences" and not row.passed for row in case.rows)


def not_at_kink(case: CaseReport, explained: bool, ties: list[str]) -> None:
    """Raises AtKink where gradients disagree at a point without derivative, if beside it they agree, or there is no beside."""
    if explained:
        raise AtKink(
            f"{case.name}: gradients disagree, but the problem stands at a kink, where each framework may choose its own "
            f"derivative: {'; '.join(ties[:3])}. Move the inputs: another seed, weights that are not zero"
        )
