"""The entry points: check_cell, check_gradients, check_vjp. docs/your-derivation.md explains the
contracts and every message.
"""

import contextlib
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np

from .. import user_code
from ..candidates.built_in_cells import CellCandidate, FunctionCandidate, SharedForward
from ..candidates.draw import cell_problem
from ..candidates.user_cell import UserCell, as_array
from ..candidates.user_function import Given, UserFunction
from ..errors import BadOption, MissingFramework, QuestionError
from ..problems.arrays import Array, Arrays, frozen
from ..problems.convention import Convention, convention_of
from ..problems.named_arrays import flatten, is_differentiable, rebuild
from ..problems.problem import FunctionProblem, Problem
from ..witnesses.ask import available
from ..witnesses.batched import batched
from ..witnesses.engines import NUMERIC, Engine, computing_on, names_in
from ..witnesses.left_out import LeftOut
from . import preflight
from .case_report import CaseReport
from .crosscheck import Examined, Manner, check_problem, examine
from .elsewhere import Question, cheapest
from .environment import report_of
from .further import FirstAsked, FunctionTrials, of_a_cell, of_a_function_case
from .rebinding import Rebinding
from .report_data import Report
from .sizes import CellTrials
from .ties import Log, Watch, watched_in

COMPUTED_IN = ("float16", "float32", "float64")
# How much larger cotangents on the final states are: a clip inside step_backward shows.
AT_THE_END = 1000.0

References: TypeAlias = Sequence[str] | str | None
ConventionLike: TypeAlias = Convention | Mapping[str, Any] | None
Scalar: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]
Derivation: TypeAlias = Callable[[Arrays], dict[str, Array]]


def check_cell(
    cell: Any,
    *,
    steps: int = 12,
    batch: int = 3,
    input_size: int = 4,
    hidden_size: int = 5,
    seed: int = 0,
    dtype: str = "float64",
    references: References = None,
    device: str = "cpu",
    rtol: float | None = None,
    atol: float | None = None,
    raise_exception: bool = True,
) -> Report:
    """Whether step_backward is the derivative of step: over a sequence, and at every step alone.

    `cell` has parameter_shapes, state_shapes, step(xp, …) and step_backward. It is tried under
    random cotangents on every state at every step, on each state alone, and on the final states
    alone, from a random initial state, against torch and jax (or the `references` named)
    differentiating its own step, on the `device`. Errors are judged by measured rounding noise, or
    by rtol and atol where they are given. `dtype` is what the cell is run in: "float64", or
    "float32" or "float16", in which it may err by a small multiple of what the frameworks err by
    in it. The true gradient is always that in float64.

    Raises GradientMismatch where a gradient is wrong and a QuestionError where none can be judged,
    unless raise_exception is False: then the report says so.
    """
    sizes = {"steps": steps, "batch": batch, "input_size": input_size, "hidden_size": hidden_size}
    setting = Setting(seed, references, device, dtype)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid(sizes)
        declared = convention_of(None, rtol, atol)
        return _cell_cases(UserCell(cell, input_size, hidden_size), sizes, setting, declared)

    return _report(cases, setting, raise_exception)


def check_gradients(
    gradients: Callable[[Any, Any], Any],
    loss: Callable[..., Any],
    params: Given,
    inputs: Given,
    *,
    references: References = None,
    device: str = "cpu",
    seed: int = 0,
    convention: ConventionLike = None,
    setup: Callable[[], Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    raise_exception: bool = True,
) -> Report:
    """Whether gradients(params, inputs) is the derivative of the loss.

    loss(xp, params, inputs) -> scalar, in array-API operations, is differentiated by torch and
    jax; loss(params, inputs), any NumPy code, by complex step where it follows, and by
    differences. gradients returns a dict whose keys name params, or inputs it also differentiates;
    or a tuple or list in the order of params; nests as params does. What it does not return is
    listed as not given. `setup` runs before every evaluation. `convention` declares what the code
    means to return (see comparisons/problems/convention.py).

    Raises as check_cell does.
    """
    setting = Setting(seed, references, device)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid()
        function = UserFunction("loss", loss, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)

        def given(named: Arrays) -> dict[str, Array]:
            return function.call("gradients", gradients, named, [])

        def scalar_of(user: UserFunction) -> Scalar:
            return user.objective(declared)

        rounding = getattr(gradients, "rounding", None)
        noise: Mapping[str, float] = {}
        if rounding is not None:
            noise = rounding(params)
        trial = FunctionTrial("gradients", function, scalar_of, given, extra_noise=noise)
        yield from _function_cases(trial, setting, declared)

    return _report(cases, setting, raise_exception)


def check_vjp(
    vjp: Callable[[Any, Any, Any], Any],
    function: Callable[..., Any],
    params: Given,
    inputs: Given,
    *,
    references: References = None,
    device: str = "cpu",
    seed: int = 0,
    convention: ConventionLike = None,
    setup: Callable[[], Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    raise_exception: bool = True,
) -> Report:
    """Whether vjp(params, inputs, cotangents) is function(xp, params, inputs)'s.

    That is, its vector-Jacobian product.

    The function returns an array, or a dict of arrays; cotangents come in the same form: random on
    all outputs together, then on each output alone with zeros on the others. Everything else is as
    in check_gradients.
    """
    setting = Setting(seed, references, device)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid()
        user = UserFunction("function", function, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)
        user.must_not_be_truncated(declared)
        outputs = user.outputs()
        for number, (name, cotangents) in enumerate(_output_trials(outputs, seed)):
            in_form = rebuild(outputs, cotangents, "output")

            def given(named: Arrays, in_form: Any = in_form) -> dict[str, Array]:
                return user.call("vjp", vjp, named, [in_form])

            def scalar_of(asked: UserFunction, cotangents: Arrays = cotangents) -> Scalar:
                return asked.inner_product(cotangents)

            first = number == 0
            trial = FunctionTrial(f"vjp, {name}", user, scalar_of, given, first_of_all=first)
            yield from _function_cases(trial, setting, declared)

    return _report(cases, setting, raise_exception)


@dataclass(frozen=True)
class Setting:
    """Under what a check runs.

    The seed, whom to ask, where they compute, in what the candidate computes.
    """

    seed: int
    references: References
    device: str = "cpu"
    dtype: str = "float64"

    def must_be_valid(self, sizes: Mapping[str, Any] | None = None) -> None:
        """Raises BadOption for a seed below 0, a size below 1, or what is no integer.

        So too for a dtype that NumPy cannot compute in; bfloat16 is one, whose matrix products
        are float32.
        """
        _must_be_at_least(0, "seed", self.seed)
        for name, size in (sizes or {}).items():
            _must_be_at_least(1, name, size)
        if self.dtype not in COMPUTED_IN:
            raise BadOption(f"dtype is one of {', '.join(COMPUTED_IN)}, not {self.dtype!r}")

    def engines(self, numpy_only: bool = False) -> tuple[tuple[Engine, ...], dict[str, LeftOut]]:
        """(the engines to ask, {those that are missing: how to install them}).

        Raises MissingFramework where none is left.
        """
        named = names_in(self.references)
        return available(NUMERIC if named is None and numpy_only else named)

    def all_that_were_named(self) -> None:
        """Raises MissingFramework where a reference was named that is not installed.

        That is said after the others were asked.
        """
        missing = {} if self.references is None else self.engines()[1]
        if missing:
            advice = "; ".join(str(left) for left in missing.values())
            raise MissingFramework(
                f"{advice}; the other references were asked: raise_exception=False tells"
            )


def _must_be_at_least(least: int, name: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or value < least:
        raise BadOption(f"{name} is an integer of at least {least}, not {value!r}")


def _report(
    cases: Callable[[], Iterator[CaseReport]], setting: Setting, raise_exception: bool
) -> Report:
    """Run the cases; raise, or tell in the report, what is wrong with a gradient or question."""
    done: list[CaseReport] = []
    errors: list[QuestionError] = []
    try:
        asked = setting.engines()[0] if setting.device != "cpu" else ()
        with (
            contextlib.redirect_stdout(sys.stderr),
            np.errstate(all="ignore"),
            computing_on(setting.device, asked),
        ):
            done.extend(cases())
            setting.all_that_were_named()
    except QuestionError as error:
        errors.append(error)
    report = replace(report_of(done, setting.seed, setting.dtype), errors=errors)
    if raise_exception:
        report.raise_for_failure()
    return report


# Cells.


def _cell_cases(
    cell: UserCell, sizes: Mapping[str, int], setting: Setting, declared: Convention
) -> Iterator[CaseReport]:
    """A user's cell under every choice of cotangents; where it is right there, at other sizes too,
    and where other branches are taken.
    """
    engines, missing = setting.engines()
    base = cell_problem(cell.name, (cell.parameters, cell.states), sizes, setting.seed, cell)
    base = replace(base, step=cell.differentiable_step).in_precision(setting.dtype)
    trials = list(cotangent_trials(base))
    several = batched(engines, trials)
    candidate = CellCandidate(cell)

    # The trials differ in their cotangents alone: whoever is asked runs forward for the first of
    # them.
    once, again = SharedForward(candidate), SharedForward(candidate)
    turned = SharedForward(CellCandidate(cell.in_fortran_order()))
    watched_here = cache(lambda: _watched_cell(cell, base))

    def watched(problem: Problem) -> Log:
        is_base = problem.variables is base.variables
        return watched_here() if is_base else _watched_cell(cell, problem)

    manner = Manner(
        from_outside=True,
        once=once,
        again=again,
        turned=turned,
        ties=lambda problem: watched(problem).ties,
        unread=frozenset(f"{name}_0" for name in base.state_sizes),
        loss=lambda problem: float(candidate.forward(problem).loss),
    )
    done: list[Examined] = []
    for number, problem in enumerate(trials):
        asked = replace(manner, first_of_all=number == 0)
        done.append(examine(problem, candidate, several, declared, asked))
        if number < len(trials) - 1:
            yield _with_missing(done[-1].case, missing)
    last = [done[-1].case]
    if all(each.case.passed for each in done):
        place = CellTrials(
            cell, sizes, setting.seed, setting.dtype, cheapest(engines), declared, manner
        )
        last = of_a_cell(place, FirstAsked(trials[0], done[0]), watched, last[0])
    for case in last:
        yield _with_missing(case, missing)


def _with_missing(case: CaseReport, missing: Mapping[str, LeftOut]) -> CaseReport:
    return replace(case, left_out={**missing, **case.left_out})


def cotangent_trials(base: Problem) -> Iterator[Problem]:
    """The problem under cotangents on all states at every step, on each alone, at the end alone.

    The last are a thousand times larger: step_backward is linear in them, and a clip inside it
    shows.
    """
    cotangents = {
        name: value for name, value in base.constants.items() if name.startswith("cotangent_")
    }

    def trial(what: str, kept: Arrays) -> Problem:
        constants = dict(base.constants)
        for name, value in cotangents.items():
            constants[name] = kept.get(name, np.zeros_like(value))
        return replace(base, name=f"{base.cell}, cotangents on {what}", constants=frozen(constants))

    yield trial("all states", cotangents)
    if len(cotangents) > 1:
        for name, value in cotangents.items():
            yield trial(f"{name.removeprefix('cotangent_')} alone", {name: value})
    if base.steps > 0:
        at_end: dict[str, Array] = {}
        for name, value in cotangents.items():
            at_end[name] = np.concatenate([np.zeros_like(value[:-1]), AT_THE_END * value[-1:]])
        yield trial("the final states", at_end)


def _watched_cell(cell: UserCell, problem: Problem) -> Log:
    """What is met on the forward pass: ties, and branches."""

    def run(watched: Watch, _: Log) -> None:
        params = {name: watched(problem.variables[name]) for name in problem.parameter_names}
        state = {name: watched(problem.variables[f"{name}_0"]) for name in problem.state_sizes}
        for x in problem.x:
            new_state = cell.differentiable_step(np, params, state, watched(x))
            state = {name: watched(np.asarray(value)) for name, value in new_state.items()}

    return watched_in(run)


# Functions.


@dataclass(frozen=True)
class FunctionTrial:
    """A scalar function of a user's, and the gradients that were derived for it.

    scalar_of(user)                  the loss, or the outputs under cotangents: scalar(xp, named)
    given(named) -> {path: array}    the derivation
    first_of_all                     whether nothing of this code has been asked before
    extra_noise                      absolute error by variable that the way of reading out the
                                     gradient adds
    """

    name: str
    user: UserFunction
    scalar_of: Callable[[UserFunction], Scalar]
    given: Derivation
    first_of_all: bool = True
    extra_noise: Mapping[str, float] = field(default_factory=dict[str, float])

    @cached_property
    def scalar(self) -> Scalar:
        """The scalar function of named arrays."""
        return self.scalar_of(self.user)

    def problem(self, variables: Arrays, precision: str | None) -> FunctionProblem:
        """The function of these variables, all other arrays being constants.

        Without a declared precision the candidate works in the lowest of its parameters.
        """
        leaves = self.user.leaves()
        dtypes = [leaves[path].dtype for path in self.learned()]
        lowest = min(dtypes, key=lambda dtype: dtype.itemsize)
        constants = {path: value for path, value in leaves.items() if path not in variables}
        in_double = {path: value.astype(np.float64) for path, value in variables.items()}
        return FunctionProblem(
            name=self.name,
            function=self.scalar,
            variables=frozen(in_double),
            constants=frozen(constants),
            seed=self.user.seed,
            numpy_only=self.user.numpy_only,
            precision=precision or (None if lowest == np.float64 else lowest.name),
            extra_noise=self.extra_noise,
            timed=tuple(path for path in flatten(self.user.inputs) if path in variables),
            loss_label=self.user.role,
        )

    def learned(self) -> list[str]:
        """The paths of the params that have a gradient."""
        params = flatten(self.user.params)
        return [path for path, value in params.items() if is_differentiable(value)]

    def value(self, named: Arrays) -> Any:
        """The scalar in NumPy, on copies."""
        copies = {path: np.array(array) for path, array in named.items()}
        result = user_code.call(self.user.role, self.scalar, np, copies)
        user_code.unchanged(self.user.role, copies, named)
        return as_array(f"{self.user.role}: the scalar", result, None)

    def loss(self, problem: FunctionProblem) -> float:
        """The scalar of the problem as a number."""
        return float(self.value({**problem.constants, **problem.variables}))

    def ties(self, problem: FunctionProblem) -> list[str]:
        """Ties met where the function is evaluated."""
        return watched_in(lambda watched, _: self._watched(self.scalar, problem, watched)).ties

    def branches(self, names: Container[str]) -> Callable[[FunctionProblem], Log]:
        """What is met where the function is evaluated, done to what depends on these variables.

        In NumPy code that makes buffers of its own too, where it can be run with another NumPy.
        """

        def evaluated(problem: FunctionProblem) -> Log:
            def plainly(watched: Watch, _: Log) -> Any:
                return self._watched(self.scalar, problem, watched, names)

            def rebound(watched: Watch, log: Log) -> Any:
                anew = Rebinding(log).anew
                own = anew(self.user.function), anew(self.user.setup)
                user = replace(self.user, function=own[0], setup=own[1])
                return self._watched(self.scalar_of(user), problem, watched, names)

            found = watched_in(rebound) if self.user.numpy_only else Log()
            return found if found.taken else watched_in(plainly)

        return evaluated

    def _watched(
        self,
        scalar: Scalar,
        problem: FunctionProblem,
        watched: Watch,
        names: Container[str] | None = None,
    ) -> Any:
        """The scalar, these of the variables (all for None) being watched."""
        named = {**problem.constants, **problem.variables}
        for path in problem.variables:
            if names is None or path in names:
                named[path] = watched(named[path])
        return scalar(np, named)


def _function_cases(
    trial: FunctionTrial, setting: Setting, declared: Convention
) -> Iterator[CaseReport]:
    leaves = trial.user.leaves()
    preflight.finite_inputs(leaves)
    variables = {path: value for path, value in leaves.items() if is_differentiable(value)}
    engines, missing = setting.engines(trial.user.numpy_only)
    if all(engine.numeric for engine in engines):
        if declared.truncation is not None:
            raise BadOption(
                "convention: truncation is no derivative of the loss; numeric references cannot "
                "tell it, torch and jax can"
            )
        # every variable costs evaluations: only those of which a gradient is given
        asked = trial.given(leaves)
        variables = {path: value for path, value in variables.items() if path in asked}
    problem = trial.problem(variables, declared.precision)
    candidate = FunctionCandidate(trial.value, trial.given, problem.time_inputs)
    manner = Manner(
        partial=True,
        from_outside=True,
        first_of_all=trial.first_of_all,
        ties=trial.ties,
        beside=trial.first_of_all,
        loss=trial.loss,
    )
    case = check_problem(problem, candidate, engines, declared, manner)
    judged = {row.gradient for row in case.rows}
    not_given = [path for path in trial.learned() if path not in judged]
    case = replace(case, not_given=not_given)
    cases = [case]
    if case.passed and trial.first_of_all:
        fewer = cheapest(engines)

        def ask(there: FunctionProblem) -> Question:
            return Question(there, candidate, fewer, declared, manner)

        given = [path for path in trial.learned() if path in judged]
        further = FunctionTrials(problem, given, fewer, trial.branches(judged), ask)
        cases = of_a_function_case(further, case)
    for each in cases:
        yield _with_missing(each, missing)


def _output_trials(outputs: Any, seed: int) -> Iterator[tuple[str, dict[str, Array]]]:
    """Random cotangents on all outputs together, then on each alone."""
    rng = np.random.default_rng([seed, 4])
    random: dict[str, Array] = {}
    for path, value in flatten(outputs, "output").items():
        random[path] = rng.normal(size=value.shape)
    yield "all outputs", random
    for alone in random if len(random) > 1 else ():
        kept = {path: np.zeros_like(value) for path, value in random.items()}
        yield f"{alone} alone", {**kept, alone: random[alone]}
