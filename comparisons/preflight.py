"""What must hold before a gradient is worth comparing; each finding has an error class and words of its own."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from comparisons.errors import AtKink, ForwardMismatch, LayoutMatters, NotFinite, NotRepeatable, Vacuous
from comparisons.overflow import forward_error, kind_of, steps_beyond
from comparisons.problem import Answer, Array, is_real
from comparisons.tolerance import AnyProblem, greatest
from comparisons.user_code import is_within
from comparisons.verdict import CaseReport

LARGEST = greatest(np.float64)
TIE = 16  # units in the last place within which two numbers are tied


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


class Watched(np.ndarray[Any, Any]):
    """An array that notices when a comparison, max, min or abs is asked of numbers that are tied; results are watched too."""

    ties: list[str]

    def __array_finalize__(self, obj: Any) -> None:
        self.ties = getattr(obj, "ties", [])

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """The plain result, watched; ties noted."""
        plain = [_plain(value) for value in inputs]
        if kwargs.get("out"):
            kwargs["out"] = tuple(_plain(value) for value in kwargs["out"])
        if method == "__call__" and ufunc.__name__ in KINKS:
            self._note(ufunc.__name__, plain)
        if method == "reduce" and ufunc.__name__ in ("maximum", "minimum"):
            self._note_reduction(ufunc.__name__, np.asarray(plain[0]), kwargs.get("axis"))
        return watch(getattr(ufunc, method)(*plain, **kwargs), self.ties)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """The plain result, watched; ties noted for the functions that ask for them in NumPy's own code."""
        del types
        if func in REDUCTIONS:
            self._note_reduction(
                REDUCTIONS[func], np.asarray(_plain(args[0])), kwargs.get("axis", args[1] if len(args) > 1 else None)
            )
        if func is np.clip:
            named = [kwargs[name] for name in ("a_min", "a_max", "min", "max") if name in kwargs]
            for bound in (*args[1:3], *named):
                if bound is not None:
                    self._note("maximum", [_plain(args[0]), _plain(bound)])
        return watch(func(*_plain(args), **_plain(kwargs)), self.ties)

    def _note(self, name: str, values: list[Any]) -> None:
        one = np.asarray(values[0])
        other = np.asarray(values[1]) if len(values) > 1 else np.zeros(())
        if one.dtype.kind != "f":
            return
        scale = np.maximum(np.abs(one), np.abs(other))
        if bool(np.any(np.abs(one - other) <= TIE * np.finfo(one.dtype).eps * scale)):
            tie = f"{KINKS[name]}{_line_of_user()}"
            if tie not in self.ties:
                self.ties.append(tie)

    def _note_reduction(self, name: str, value: Array, axis: Any) -> None:
        """Note a maximum or minimum that two entries share."""
        if value.dtype.kind != "f" or value.size < 2 or isinstance(axis, tuple):
            return
        ordered = np.sort(value.reshape(-1) if axis is None else value, axis=-1 if axis is None else axis)
        ends = np.take(ordered, [-1, -2] if name == "maximum" else [0, 1], axis=-1 if axis is None else axis)
        one, other = np.split(ends, 2, axis=-1 if axis is None else axis)
        self._note(name, [one, other])


REDUCTIONS: dict[Any, str] = {np.max: "maximum", np.amax: "maximum", np.min: "minimum", np.amin: "minimum"}

KINKS = {
    "maximum": "a tie of maximum",
    "minimum": "a tie of minimum",
    "fmax": "a tie of fmax",
    "fmin": "a tie of fmin",
    "absolute": "abs of zero",
    "sign": "sign of zero",
    "greater": "a tie in a comparison (a relu at zero?)",
    "greater_equal": "a tie in a comparison (a relu at zero?)",
    "less": "a tie in a comparison (a relu at zero?)",
    "less_equal": "a tie in a comparison (a relu at zero?)",
}


def watch(value: Any, ties: list[str]) -> Any:
    """The value watched, if it is an array of numbers; containers from inside out."""
    if isinstance(value, tuple):
        return tuple(watch(item, ties) for item in value)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, np.ndarray | np.floating):
        return value
    watched = np.asarray(value).view(Watched)  # pyright: ignore[reportUnknownArgumentType]
    watched.ties = ties
    return watched


def _plain(value: Any) -> Any:
    if isinstance(value, Watched):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(_plain(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


def _line_of_user() -> str:
    own = Path(__file__).resolve().parent.parent
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and not is_within(path, own):
            return f" at {path.name}:{frame.lineno}: {frame.line}"
    return ""


def ties_in(run: Callable[[Callable[[Array], Any]], Any]) -> list[str]:
    """The ties met while `run(watched)` evaluates the function; `watched` turns an array into one that notices.

    A function that cannot be run on watched arrays has nothing noted.
    """
    ties: list[str] = []
    try:
        run(lambda value: watch(np.array(value), ties))
    except Exception:
        return []
    return ties
