"""The entry points: check_cell, check_gradients, check_vjp. docs/your-derivation.md explains the contracts and every message."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from .. import user_code
from ..candidates.built_in_cells import CellCandidate, FunctionCandidate, OneForward
from ..candidates.draw import cell_problem
from ..candidates.user_cell import UserCell, as_array
from ..candidates.user_function import Given, Question
from ..diagnosis.of_one_step import with_local_check
from ..errors import BadOption, MissingFramework, QuestionError
from ..problems.answer import Answer
from ..problems.arrays import Array, frozen
from ..problems.convention import Convention, convention_of
from ..problems.named_arrays import flatten, is_differentiable, rebuild
from ..problems.problem import AnyProblem, FunctionProblem, Problem
from ..witnesses.ask import Witnesses, available, testify
from ..witnesses.batched import put_together
from ..witnesses.engines import NUMERIC, Engine, computing_on
from ..witnesses.tolerance import epsilon
from . import preflight
from .case_report import CaseReport
from .crosscheck import Candidate, check_problem
from .environment import report_of
from .report_data import Report
from .ties import ties_in

COMPUTED_IN = ("float16", "float32", "float64")
References = Sequence[str] | str | None
ConventionLike = Convention | Mapping[str, Any] | None


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

    `cell` has parameter_shapes, state_shapes, step(xp, …) and step_backward. It is tried under random cotangents on every
    state at every step, on each state alone, and on the final states alone, from a random initial state, against torch and
    jax (or the `references` named) differentiating its own step, on the `device`. Errors are judged by measured rounding noise,
    or by rtol and atol where they are given. `dtype` is what the cell is run in: "float64", or "float32" or "float16", in which
    it may err by a small multiple of what the frameworks err by in it. The true gradient is always that in float64.

    Raises GradientMismatch where a gradient is wrong and a QuestionError where none can be judged, unless raise_exception is
    False: then the report says so.
    """
    sizes = {"steps": steps, "batch": batch, "input_size": input_size, "hidden_size": hidden_size}

    def cases() -> Iterator[CaseReport]:
        _must_be_integers(seed, sizes)
        _must_be_a_dtype(dtype)
        declared = convention_of(None, rtol, atol)
        mine = UserCell(cell, input_size, hidden_size)
        engines, missing = _engines(references)
        base = cell_problem(mine.name, (mine.parameters, mine.states), sizes, seed, mine)
        base = replace(base, step=mine.differentiable_step).in_precision(dtype)
        trials = list(_cotangent_trials(base))
        engines, candidate = put_together(engines, trials), CellCandidate(mine)
        three = OneForward(candidate), OneForward(candidate), OneForward(CellCandidate(mine.in_fortran_order()))
        ties_here = cache(lambda: _ties_of_cell(mine, base))

        def ties(problem: Problem) -> list[str]:
            return ties_here() if problem.variables is base.variables else _ties_of_cell(mine, problem)

        for number, problem in enumerate(trials):

            def local(case: CaseReport, witnesses: Witnesses, problem: Problem = problem) -> CaseReport:
                return with_local_check(case, mine, problem, witnesses)

            case = _one_case(problem, candidate, engines, declared, ties, local, first_of_all=number == 0, three=three)
            yield replace(case, left_out={**missing, **case.left_out})
        _all_that_were_named(references)

    return _report(cases, seed, raise_exception, (device, references), dtype)


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

    loss(xp, params, inputs) -> scalar, in array-API operations, is differentiated by torch and jax; loss(params, inputs), any
    NumPy code, by complex step where it follows, and by differences. gradients returns a dict whose keys name params, or inputs
    it also differentiates; or a tuple or list in the order of params; nests as params does. What it does not return is listed
    as not given. `setup` runs before every evaluation. `convention` declares what the code means to return (see
    comparisons.convention).

    Raises as check_cell does.
    """

    def cases() -> Iterator[CaseReport]:
        _must_be_integers(seed)
        question = Question("loss", loss, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)

        def given(named: Mapping[str, Array]) -> dict[str, Array]:
            return question.call("gradients", gradients, named, [])

        rounding = getattr(gradients, "rounding", None)
        extra: Mapping[str, float] = {} if rounding is None else rounding(params)
        yield _function_case("gradients", question, question.objective(declared), given, references, declared, True, extra)
        _all_that_were_named(references)

    return _report(cases, seed, raise_exception, (device, references))


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
    """Whether vjp(params, inputs, cotangents) is the vector-Jacobian product of function(xp, params, inputs).

    The function returns an array, or a dict of arrays; cotangents come in the same form: random on all outputs together, then on
    each output alone with zeros on the others. Everything else is as in check_gradients.
    """

    def cases() -> Iterator[CaseReport]:
        _must_be_integers(seed)
        question = Question("function", function, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)
        question.must_not_be_truncated(declared)
        outputs = question.outputs()
        for number, (name, cotangents) in enumerate(_output_trials(outputs, seed)):
            in_form = rebuild(outputs, cotangents, "output")

            def given(named: Mapping[str, Array], in_form: Any = in_form) -> dict[str, Array]:
                return question.call("vjp", vjp, named, [in_form])

            objective = question.inner_product(cotangents)
            yield _function_case(f"vjp, {name}", question, objective, given, references, declared, number == 0)
        _all_that_were_named(references)

    return _report(cases, seed, raise_exception, (device, references))


def _output_trials(outputs: Any, seed: int) -> Iterator[tuple[str, dict[str, Array]]]:
    """Random cotangents on all outputs together, then on each alone."""
    rng = np.random.default_rng([seed, 4])
    random = {path: rng.normal(size=value.shape) for path, value in flatten(outputs, "output").items()}
    yield "all outputs", random
    for alone in random if len(random) > 1 else ():
        yield f"{alone} alone", {path: value if path == alone else np.zeros_like(value) for path, value in random.items()}


def _must_be_integers(seed: Any, sizes: Mapping[str, Any] | None = None) -> None:
    """Raises BadOption for a seed below 0, a size below 1, or what is no integer."""
    for least, (name, value) in [(0, ("seed", seed)), *((1, item) for item in (sizes or {}).items())]:
        if not isinstance(value, int | np.integer) or value < least:
            raise BadOption(f"{name} is an integer of at least {least}, not {value!r}")


def _must_be_a_dtype(dtype: Any) -> None:
    """Raises BadOption for what NumPy cannot compute in; bfloat16 among it, in which its matrix products leave for float32."""
    if dtype not in COMPUTED_IN:
        raise BadOption(f"dtype is one of {', '.join(COMPUTED_IN)}, not {dtype!r}")


def _engines(references: References, numpy_only: bool = False) -> tuple[tuple[Engine, ...], dict[str, str]]:
    """(the engines to ask, {those that are missing: how to install them}). Raises MissingFramework where none is left."""
    named = references.split(",") if isinstance(references, str) else references
    return available(NUMERIC if references is None and numpy_only else named)


def _all_that_were_named(references: References) -> None:
    """Raises MissingFramework, after the others were asked, where a reference was named that is not installed."""
    missing = {} if references is None else _engines(references)[1]
    if missing:
        raise MissingFramework(f"{'; '.join(missing.values())}; the other references were asked: raise_exception=False tells")


def _function_case(
    name: str,
    question: Question,
    scalar: Callable[[Any, Mapping[str, Any]], Any],
    given: Callable[[Mapping[str, Array]], dict[str, Array]],
    references: References,
    convention: Convention,
    first_of_all: bool,
    extra_noise: Mapping[str, float] | None = None,
) -> CaseReport:
    leaves = question.leaves()
    preflight.finite_inputs(leaves)
    variables = {path: value for path, value in leaves.items() if is_differentiable(value)}
    engines, missing = _engines(references, question.numpy_only)
    if all(engine.numeric for engine in engines):
        if convention.truncation is not None:
            raise BadOption(
                "convention: truncation is no derivative of the loss; numeric references cannot tell it, torch and jax can"
            )
        asked = given(leaves)
        variables = {path: value for path, value in variables.items() if path in asked}
    learned = [leaves[path].dtype for path in flatten(question.params) if is_differentiable(leaves[path])]
    lowest = min(learned, key=lambda dtype: dtype.itemsize)
    problem = FunctionProblem(
        name=name,
        function=scalar,
        variables=frozen({path: value.astype(np.float64) for path, value in variables.items()}),
        constants=frozen({path: value for path, value in leaves.items() if path not in variables}),
        seed=question.seed,
        numpy_only=question.numpy_only,
        precision=convention.precision or (None if lowest == np.float64 else lowest.name),
        extra_noise=extra_noise or {},
        timed=tuple(path for path in flatten(question.inputs) if path in variables),
        loss_label=question.role,
    )

    def value(named: Mapping[str, Array]) -> Any:
        copies = {path: np.array(array) for path, array in named.items()}
        result = user_code.call(question.role, scalar, np, copies)
        user_code.unchanged(question.role, copies, named)
        return as_array(f"{question.role}: the scalar", result, None)

    def ties(problem: FunctionProblem) -> list[str]:
        def run(watched: Callable[[Array], Any]) -> Any:
            return scalar(np, {**problem.constants, **{path: watched(array) for path, array in problem.variables.items()}})

        return ties_in(run)

    case = _one_case(
        problem, FunctionCandidate(value, given, problem.time_inputs), engines, convention, ties, None, True, first_of_all
    )
    judged = {row.gradient for row in case.rows}
    learned = [path for path in flatten(question.params) if is_differentiable(leaves[path])]
    return replace(case, not_given=[path for path in learned if path not in judged], left_out={**missing, **case.left_out})


@dataclass(frozen=True)
class _Asked:
    """A candidate that was asked this very problem before, and has shown that it answers the same again."""

    candidate: Candidate
    problem: AnyProblem
    told: Answer

    def answer(self, problem: AnyProblem) -> Answer:
        """What it said; what it says to any other problem."""
        return self.told if problem is self.problem else self.candidate.answer(problem)


def _one_case(
    problem: AnyProblem,
    candidate: Candidate,
    engines: tuple[Engine, ...],
    convention: Convention,
    ties_of: Callable[[Any], list[str]],
    local: Callable[[CaseReport, Witnesses], CaseReport] | None = None,
    partial: bool = False,
    first_of_all: bool = True,
    three: tuple[Candidate, Candidate, Candidate] | None = None,
) -> CaseReport:
    """Preflight, comparison, and what else can be said of a failure.

    `three` are the candidate as it is asked at first, as it is asked again, and as it is asked in another memory order. Unless
    it is the `first_of_all` trials of one code, the last is enough where it is as near to the first as the second had to be.
    """
    once, again, turned = three or (candidate, candidate, candidate)
    first = once.answer(problem)
    preflight.finite_forward(first, problem.rounding_dtype.name)
    in_another_order = turned.answer(problem.in_fortran_order())
    if first_of_all or not preflight.is_repeated(first, in_another_order):
        preflight.repeatable(first, again.answer(problem))
    preflight.same_in_any_layout(first, in_another_order, epsilon(problem.rounding_dtype))
    ties = ties_of(problem)
    for engine in engines:
        if engine.reason_not(problem) is None:
            with contextlib.suppress(Exception):  # who cannot will say so when it is asked
                engine.begin(problem)
    case = check_problem(problem, _Asked(candidate, problem, first), engines, convention, partial)
    preflight.same_forward(case)
    preflight.finite_references(case)
    if ties and not case.passed and not preflight.outside_kink(case):
        moved = preflight.beside(problem)
        explained = bool(ties_of(moved)) or check_problem(moved, candidate, engines, convention, partial).passed
        preflight.not_at_kink(case, explained, ties)
    if not case.passed and local is not None:
        case = local(case, testify(problem, engines, convention, set(first.gradients)))
    if case.passed and first_of_all:
        preflight.not_vacuous(case, initial_states(problem))
    if all(engine.numeric for engine in engines):
        case = replace(case, notes=[*case.notes, NUMERIC_ONLY])
    return replace(case, notes=[*case.notes, *(f"at a kink: {tie}" for tie in ties)])


def initial_states(problem: AnyProblem) -> set[str]:
    """The names of the initial states: a step need not read all of them."""
    return {f"{name}_0" for name in problem.state_sizes} if isinstance(problem, Problem) else set()


NUMERIC_ONLY = (
    "the loss is NumPy code, so that only numeric references could be asked: an error below their uncertainty, and in large "
    "arrays which entry is wrong, are not seen; write it as loss(xp, params, inputs) to have torch and jax differentiate it"
)


def _report(
    cases: Callable[[], Iterator[CaseReport]],
    seed: int,
    raise_exception: bool,
    place: tuple[str, References],
    dtype: str = "float64",
) -> Report:
    """Run the cases; raise, or put into the report, what is wrong with a gradient or with the question.

    place: the device, and the references that are to compute there.
    """
    done: list[CaseReport] = []
    errors: list[QuestionError] = []
    try:
        asked = _engines(place[1])[0] if place[0] != "cpu" else ()
        with contextlib.redirect_stdout(sys.stderr), np.errstate(all="ignore"), computing_on(place[0], asked):
            done.extend(cases())
    except QuestionError as error:
        errors.append(error)
    report = replace(report_of(done, seed, dtype), errors=errors)
    if raise_exception:
        report.raise_for_failure()
    return report


def _cotangent_trials(base: Problem) -> Iterator[Problem]:
    """The problem under cotangents on all states at every step, on each state alone, and on the final states alone.

    The last are a thousand times larger: step_backward is linear in them, and a clip inside it shows.
    """
    cotangents = {name: value for name, value in base.constants.items() if name.startswith("cotangent_")}

    def trial(what: str, kept: Mapping[str, Array]) -> Problem:
        zeroed = {name: kept.get(name, np.zeros_like(value)) for name, value in cotangents.items()}
        return replace(base, name=f"{base.cell}, cotangents on {what}", constants=frozen({**base.constants, **zeroed}))

    yield trial("all states", cotangents)
    if len(cotangents) > 1:
        for name, value in cotangents.items():
            yield trial(f"{name.removeprefix('cotangent_')} alone", {name: value})
    if base.steps > 0:
        at_end = {name: np.concatenate([np.zeros_like(value[:-1]), 1000 * value[-1:]]) for name, value in cotangents.items()}
        yield trial("the final states", at_end)


def _ties_of_cell(cell: UserCell, problem: Problem) -> list[str]:
    """Ties met on the forward pass."""

    def run(watched: Callable[[Array], Any]) -> None:
        params = {name: watched(problem.variables[name]) for name in problem.parameter_names}
        state = {name: watched(problem.variables[f"{name}_0"]) for name in problem.state_sizes}
        for x in problem.x:
            state = {
                name: watched(np.asarray(value))
                for name, value in cell.differentiable_step(np, params, state, watched(x)).items()
            }

    return ties_in(run)
