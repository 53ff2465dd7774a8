"""The loss that the code under test has of its own, held against the loss that it is judged by.

from_torch and from_jax differentiate a loss, and own_loss= tells one: where its value is not that
of the loss given beside it, the gradients are those of two functions, and nothing is said of them.

The two may be computed in different orders, by different kernels, so that far more than the
measured noise is taken for rounding; what is another function is off by more than that. A loss
that computes in a lower precision inside is known by what it makes on the way.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from ..candidates.adapters import Handed
from ..candidates.user_function import UserFunction
from ..diagnosis.of_gradients import closeness, factor_of_all, known_sizes
from ..diagnosis.of_losses import TwoLosses, named_factor, reordered
from ..errors import BadContract, ForwardMismatch
from ..judging.verdict import Verdict
from ..problems.arrays import Array, Arrays
from ..problems.convention import Convention
from ..witnesses import tolerance
from ..witnesses.ask import Witnesses
from .case_report import CaseReport
from .crosscheck import Compared

# Times what rounding explains: a larger difference is that of another function. In float64, where
# kernels may lose digits, and below it, where that is much already.
ANOTHER, ANOTHER_IN_LOW = 1e3, 8.0
LETTERS = ("1/T", "1/B", "1/(T·B)", "T", "B")
SAMPLES = 4  # of how far the loss moves where its variables move by one unit roundoff

Value = Callable[[Arrays], Any]


def _in_double() -> str:
    return "float64"


@dataclass(frozen=True)
class Told:
    """A loss of the code under test: what it is called, its value, and the lowest precision that
    it is computed in, which is found out where it matters.
    """

    what: str
    value: float
    lowest: Callable[[], str] = _in_double

    @property
    def roundoff(self) -> float:
        """ε of that precision."""
        return tolerance.epsilon(np.dtype(self.lowest()))

    def is_near(self, values: tuple[float, ...], within: float) -> bool:
        """Whether it is one of these values, to within an error."""
        return any(abs(self.value - value) <= within for value in values)


@dataclass(frozen=True)
class OwnLoss:
    """What the code under test says of its own loss, and beside its gradients.

    gradients   the code under test
    own_loss    (params, inputs) -> value, or () -> value, which is called after the gradients were
    handed      what an adapter handed out, call by call
    told        what own_loss() said, call by call
    """

    user: UserFunction
    declared: Convention
    gradients: Callable[[Any, Any], Any]
    own_loss: Callable[..., Any] | None
    handed: list[Handed] = field(default_factory=list[Handed])
    told: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        if self.own_loss is None:
            return
        if not callable(self.own_loss) or self._needs() not in (0, 2):
            raise BadContract("own_loss is a function (params, inputs) -> value, or () -> value")

    def _needs(self) -> int:
        """How many arguments own_loss wants: those without a default; 0 where that is unknown."""
        try:
            known = inspect.signature(cast(Any, self.own_loss)).parameters.values()
        except (TypeError, ValueError):
            return 0
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = [one for one in known if one.default is one.empty and one.kind in positional]
        return len(needed)

    def watched(self, params: Any, inputs: Any) -> Any:
        """What the code under test returns; what it says beside is kept."""
        returned = self.gradients(params, inputs)
        if isinstance(returned, Handed):
            self.handed.append(returned)
        if self.own_loss is not None and not self._needs():
            self.told.append(self.user.as_number("own_loss", self.own_loss()))
        return returned

    @property
    def unreached(self) -> tuple[str, ...]:
        """The variables for which autograd gave None."""
        return self.handed[0].unreached if self.handed else ()

    def must_be_the_same(self, value: Value, compared: Compared) -> None:
        """Raises ForwardMismatch where a loss of the code's own is not the one it is judged by.

        value(named) -> scalar is the latter.
        """
        if self.handed:
            first = self.handed[0]
            told = Told("the adapted loss", first.loss, first.lowest)
            self._compare(told, value, compared)
        if self.own_loss is None:
            return
        own = self.told[0] if self.told else self._own_at(compared)
        self._compare(Told("own_loss", own), value, compared)

    def _own_at(self, compared: Compared) -> float:
        assert self.own_loss is not None
        named = {**compared.problem.constants, **compared.problem.variables}
        return self.user.value_of("own_loss", self.own_loss, named)

    def _compare(self, told: Told, value: Value, compared: Compared) -> None:
        problem, expected = compared.problem, compared.answer.loss
        factor = self.declared.factor(problem.steps, problem.batch)
        meant = (expected, factor * expected)
        rounding = _rounding_of(told, value, compared, meant)
        if rounding is None:
            return
        losses = TwoLosses(told.value, expected, rounding)
        explained = self._explained(losses, value, compared)
        raise ForwardMismatch(
            f"{problem.name}: {told.what} is {told.value:.17g}, where loss gives {expected:.17g} "
            f"for the same parameters and inputs: they are not the same function{explained}"
        )

    def _explained(self, losses: TwoLosses, value: Value, compared: Compared) -> str:
        """What would make the two the same, as far as it is certain; in words."""
        sizes = known_sizes(compared.problem)
        factor = losses.factor(sizes)
        if factor is not None:
            times = named_factor(factor, sizes)
            return f". It is {times} that of loss{_of_gradients(factor, compared)}"
        problem = compared.problem
        learned = _learned(self.user, problem.variables)

        def at(changed: Mapping[str, Array]) -> float:
            return float(value({**problem.constants, **problem.variables, **changed}))

        found = reordered(losses, at, learned)
        return "" if found is None else f". {found[0].upper()}{found[1:]}, loss gives that value"


def _rounding_of(
    told: Told, value: Value, compared: Compared, meant: tuple[float, float]
) -> float | None:
    """The error that rounding explains of a loss that is none of those meant; None for one of them.

    In float64 it is the measured noise. Below it, and of what is computed in less inside, it is
    read off how the loss moves: a bound by √n terms would hide a mean for a sum.
    """
    problem, noise = compared.problem, compared.witnesses.noise
    roundoff = tolerance.epsilon(problem.rounding_dtype)
    is_double = roundoff <= tolerance.epsilon(np.float64)
    rounding = noise.limit * noise.total[tolerance.LOSS]
    if is_double and told.is_near(meant, ANOTHER * rounding):
        return None
    moved = max(_response(value, compared), roundoff * abs(compared.answer.loss))
    coarser = max(1.0, told.roundoff / roundoff)
    if is_double and coarser == 1:
        times, rounding = ANOTHER, max(rounding, noise.limit * moved)
    else:
        times, rounding = ANOTHER_IN_LOW, tolerance.LOW_LIMIT * moved * coarser
    return None if told.is_near(meant, times * rounding) else rounding


def _learned(user: UserFunction, variables: Arrays) -> dict[str, Array]:
    """The parameters among the variables."""
    params = user.parameter_paths()
    return {path: value for path, value in variables.items() if path in params}


def _response(value: Value, compared: Compared) -> float:
    """How far the loss moves where every variable moves by up to one unit roundoff."""
    problem = compared.problem
    rng = np.random.default_rng([problem.seed, 6])
    moves: list[float] = []
    for _ in range(SAMPLES):
        moved = tolerance.perturb(problem, rng, every_step=False)
        found = float(value({**moved.constants, **moved.variables}))
        moves.append(abs(found - compared.answer.loss))
    return max(moves)


def _of_gradients(factor: float, compared: Compared) -> str:
    """What the gradients have to do with a factor between the losses."""
    if compared.passed:
        return "; the gradients given agree with loss as it is"
    witnesses = compared.witnesses
    truth = witnesses.plain[witnesses.first]
    off_by = factor_of_all(compared.answer, truth, witnesses.noise)
    near = closeness(compared.problem)
    if off_by is None or not abs(off_by - factor) <= near * abs(factor):
        return ""
    declared = _as_convention(factor, compared)
    return (
        "; the gradients are off by the same factor: make the losses the same, or declare "
        f"convention={declared}"
    )


def _as_convention(factor: float, compared: Compared) -> str:
    """The convention that is this factor, by letters where T or B tell it."""
    if factor == -1:
        return '{"sign": -1}'
    steps, batch = compared.problem.steps, compared.problem.batch
    for scale in LETTERS:
        convention = Convention(scale=scale)
        is_known = (steps or "T" not in scale) and (batch or "B" not in scale)
        if is_known and convention.factor(steps, batch) == factor:
            return f'{{"scale": "{scale}"}}'
    return f'{{"scale": {factor!r}}}'


def with_unreached(case: CaseReport, unreached: Sequence[str], witnesses: Witnesses) -> CaseReport:
    """The case, saying for which variables autograd gave None.

    The gradient of a parameter is zero then: where that is wrong, the row says why.
    """
    if not unreached:
        return case
    rows: list[Verdict] = []
    for row in case.rows:
        because = row.gradient in unreached and not row.passed
        detail = f": autograd gave None for {row.gradient}" if because else row.detail
        rows.append(replace(row, detail=detail))
    said = {row.gradient for row in rows if not row.passed}
    truth = witnesses.plain[witnesses.first].gradients
    notes = [_none_for(name, truth, witnesses) for name in unreached if name not in said]
    return replace(case, rows=rows, notes=[*case.notes, *notes])


def _none_for(name: str, truth: Mapping[str, Array], witnesses: Witnesses) -> str:
    """A note on a variable for which autograd gave None, with what its true gradient is."""
    text = f"autograd gave None for {name}"
    if name not in truth:
        return text
    largest = float(np.max(np.abs(truth[name]), initial=0.0))
    if largest <= witnesses.noise.limit * witnesses.noise.total[name]:
        return f"{text}, and its true gradient is zero"
    return (
        f"{text}, and its true gradient is not zero (up to {largest:.3g}): a backward that returns "
        "None for it, or a detach"
    )
