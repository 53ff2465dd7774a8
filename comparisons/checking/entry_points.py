"""The entry points: check_cell, check_gradients, check_vjp. docs/your-derivation.md explains the
contracts and every message.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from .. import output, user_code
from ..candidates.built_in_cells import CellCandidate, FunctionCandidate, SharedForward
from ..candidates.draw import cell_problem
from ..candidates.user_cell import UserCell, as_array
from ..candidates.user_function import Given, UserFunction
from ..errors import BadOption, CandidateFailed, MissingFramework, NotDecidable, QuestionError
from ..problems.arrays import Array, Arrays, frozen
from ..problems.axes import Layout, LayoutLike, declared_layout
from ..problems.convention import Convention, Precision, convention_of
from ..problems.named_arrays import flatten, is_differentiable, rebuild
from ..problems.problem import FunctionProblem, Problem
from ..witnesses.ask import available
from ..witnesses.batched import batched
from ..witnesses.engines import FOR_NUMPY_CODE, Engine, computing_on, names_in
from ..witnesses.left_out import LeftOut
from ..witnesses.tolerance import epsilon
from . import lower_inside, preflight
from .case_report import CaseReport
from .crosscheck import Manner, check_problem, examine
from .environment import report_of
from .noted_arrays import Watch
from .own_loss import OwnLoss, with_unreached
from .report_data import Report
from .ties import ties_in
from .time_axes import layout_of
from .users_names import in_users_names

LARGEST = 10**100  # of the integers that are options
COMPUTED_IN = ("float16", "float32", "float64")
# How much larger cotangents on the final states are: a clip inside step_backward shows.
AT_THE_END = 1000.0
# Seconds that a time limit may be at most, a year: what the clocks of all systems can count.
LONGEST = 31_536_000
OF_A_CELL = "TBI"  # the axes of x in a check of a cell

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
    timeout: float | None = None,
    layout: LayoutLike = None,
    raise_exception: bool = True,
) -> Report:
    """Whether step_backward is the derivative of step: over a sequence, and at every step alone.

    `cell` has parameter_shapes, state_shapes, step(xp, …) and step_backward. It is tried under
    random cotangents on every state at every step, on each state alone, and on the final states
    alone, from a random initial state, against torch and jax (or the `references` named)
    differentiating its own step, on the `device`. Errors are judged by measured rounding noise, or
    by rtol and atol where they are given. `dtype` is what the cell is run in: "float64", or
    "float32" or "float16", in which it may err by a small multiple of what the frameworks err by
    in it. The true gradient is always that in float64. `timeout`: seconds after which a call of the
    cell that has not returned is ended (comparisons/time_limit.py); no limit unless given.

    Raises GradientMismatch where a gradient is wrong and a QuestionError where none can be judged,
    unless raise_exception is False: then the report says so.
    """
    sizes = {"steps": steps, "batch": batch, "input_size": input_size, "hidden_size": hidden_size}
    setting = Setting(seed, references, device, dtype, timeout)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid(sizes)
        _must_be_of_a_cell(layout)
        declared = convention_of(None, rtol, atol)
        whole = {name: int(size) for name, size in sizes.items()}  # NumPy's integers overflow
        mine = UserCell(cell, whole["input_size"], whole["hidden_size"])
        return in_users_names(_cell_cases(mine, whole, setting, declared))

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
    own_loss: Callable[..., Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    timeout: float | None = None,
    layout: LayoutLike = None,
    raise_exception: bool = True,
) -> Report:
    """Whether gradients(params, inputs) is the derivative of the loss.

    loss(xp, params, inputs) -> scalar, in array-API operations, is differentiated by torch and
    jax; loss(params, inputs), any NumPy code, by torch as well, where the code can be run on it
    as it stands, by complex step where it follows, and by differences. gradients returns a dict
    whose keys name params, or inputs it also differentiates; or a tuple or list in the order of
    params; nests as params does. What it does not return is listed as not given. `setup` runs
    before every evaluation. `convention` declares what the code means to return (see
    comparisons/problems/convention.py). own_loss(params, inputs), or own_loss() after the gradients
    were asked for, is the loss that the code under test itself computes: it must have the value of
    the loss, as must a loss given to from_torch or from_jax. `timeout` is as in check_cell. `layout` declares the axes of x, a
    letter each, "TBI", "BTI" or "BTHD", or those of any array by name; undeclared, the axis that
    is time is found by moving slices (see comparisons/checking/time_axes.py).

    Raises as check_cell does.
    """
    setting = Setting(seed, references, device, timeout=timeout)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid()
        function = UserFunction("loss", loss, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)
        own = OwnLoss(function, declared, gradients, own_loss)

        def given_of(user: UserFunction, derivation: Any) -> Derivation:
            return lambda named: user.call("gradients", derivation, named, [])

        def scalar_of(user: UserFunction) -> Scalar:
            return user.objective(declared)

        axes = _axes_of(function, layout)
        rounding = getattr(gradients, "rounding", None)
        noise: Mapping[str, float] = {}
        if rounding is not None:
            noise = rounding(params)
        derivation = own.watched
        trial = FunctionTrial("gradients", function, scalar_of, derivation, given_of, axes)
        trial = replace(trial, extra_noise=noise, own=own)
        yield _function_case(trial, setting, declared)

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
    timeout: float | None = None,
    layout: LayoutLike = None,
    raise_exception: bool = True,
) -> Report:
    """Whether vjp(params, inputs, cotangents) is function(xp, params, inputs)'s.

    That is, its vector-Jacobian product.

    The function returns an array, or a dict of arrays; cotangents come in the same form: random on
    all outputs together, then on each output alone with zeros on the others. Everything else is as
    in check_gradients.
    """
    setting = Setting(seed, references, device, timeout=timeout)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid()
        user = UserFunction("function", function, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)
        user.must_not_be_truncated(declared)
        axes = _axes_of(user, layout)
        _must_apply(declared, user, axes)
        setting.engines(user.numpy_only)
        outputs = user.outputs()
        undecided: list[NotDecidable] = []
        by_path = flatten(outputs, "output")
        inside = lower_inside.note_of_outputs(user.role, by_path, user.leaves())
        arrays_in = declared.computes_in.arrays if declared.computes_in else "float64"
        for number, (name, cotangents) in enumerate(_output_trials(outputs, seed, arrays_in)):
            in_form = rebuild(outputs, cotangents, "output")

            def given_of(user: UserFunction, derivation: Any, in_form: Any = in_form) -> Derivation:
                return lambda named: user.call("vjp", derivation, named, [in_form])

            def scalar_of(
                user: UserFunction, cotangents: Mapping[str, Array] = cotangents
            ) -> Scalar:
                return user.inner_product(cotangents)

            what, is_first = f"vjp, {name}", number == 0
            trial = FunctionTrial(what, user, scalar_of, vjp, given_of, axes, is_first)
            try:
                case = _function_case(trial, setting, declared)
            except NotDecidable as error:
                undecided.append(error)
                continue
            yield replace(case, notes=[*case.notes, *(inside if number == 0 else ())])
        if undecided:
            raise undecided[0]

    return _report(cases, setting, raise_exception)


@dataclass(frozen=True)
class Setting:
    """Under what a check runs.

    The seed, whom to ask, where they compute, in what the candidate computes, how many seconds one
    call of it may take.
    """

    seed: int
    references: References
    device: str = "cpu"
    dtype: str = "float64"
    timeout: float | None = None

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

    def time_limit(self) -> float | None:
        """The seconds. Raises BadOption for what is no number above 0."""
        seconds = self.timeout
        if seconds is None:
            return None
        is_number = isinstance(seconds, int | float | np.integer | np.floating)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_number or isinstance(seconds, bool) or not 0 < seconds <= LONGEST:
            raise BadOption(
                f"timeout is a number of seconds above 0, {LONGEST:,} at most, not {seconds!r}"
            )
        return float(seconds)

    def must_name_a_device(self) -> None:
        """Raises BadOption for what is no text."""
        if not isinstance(self.device, str) or not self.device:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadOption(f'device is a text such as "cpu" or "cuda", not {self.device!r:.60}')

    def engines(self, numpy_only: bool = False) -> tuple[tuple[Engine, ...], dict[str, LeftOut]]:
        """(the engines to ask, {those that are missing: how to install them}).

        Raises MissingFramework where none is left.
        """
        named = names_in(self.references)
        return available(FOR_NUMPY_CODE if named is None and numpy_only else named)

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
    if isinstance(value, int) and abs(value) > LARGEST:
        raise BadOption(f"{name} is an integer of at least {least}, of a hundred digits at most")
    if not isinstance(value, int | np.integer) or value < least:
        raise BadOption(f"{name} is an integer of at least {least}, not {value!r}")


def _report(
    cases: Callable[[], Iterator[CaseReport]], setting: Setting, raise_exception: bool
) -> Report:
    """Run the cases; raise, or tell in the report, what is wrong with a gradient or question."""
    done: list[CaseReport] = []
    errors: list[QuestionError] = []
    try:
        setting.must_name_a_device()
        asked = setting.engines()[0] if setting.device != "cpu" else ()
        with (
            output.kept(),
            np.errstate(all="ignore"),
            computing_on(setting.device, asked),
        ):
            user_code.limited(setting.time_limit(), lambda: done.extend(cases()))
            setting.all_that_were_named()
    except QuestionError as error:
        error.args = tuple(user_code.printable(str(each)) for each in error.args)
        errors.append(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        errors.append(_failed_later(error))
    report = replace(
        report_of(done, _as_told(setting.seed), _as_told(setting.dtype)), errors=errors
    )
    if raise_exception:
        report.raise_for_failure()
    return report


def _as_told(option: Any) -> Any:
    """The option as a report may hold it: a text or an integer, or what it looks like."""
    value: Any = option
    is_whole = isinstance(option, int | np.integer)
    if is_whole and abs(int(value)) <= LARGEST:
        return int(value)
    return value if isinstance(value, str) else user_code.spelled(value)


def _failed_later(error: BaseException) -> CandidateFailed:
    """The error for code that failed when a reference asked it once more.

    Raises the error itself where it does not come out of the user's code.
    """
    for each in (error, error.__cause__):
        if each is not None and user_code.comes_from_outside(each):
            where = user_code.at_line(each.__traceback__)
            what = user_code.describe(each)
            return CandidateFailed(f"asked again, the code under test raised {what}{where}")
    raise error


# Cells.


def _cell_cases(
    cell: UserCell, sizes: Mapping[str, int], setting: Setting, declared: Convention
) -> Iterator[CaseReport]:
    """A user's cell under every choice of cotangents."""
    engines, missing = setting.engines()
    base = cell_problem(cell.name, (cell.parameters, cell.states), sizes, setting.seed, cell)
    base = replace(base, step=cell.differentiable_step).in_precision(setting.dtype)
    trials = list(cotangent_trials(base))
    engines = batched(engines, trials)
    candidate = CellCandidate(cell)

    # The trials differ in their cotangents alone: whoever is asked runs forward for the first of
    # them.
    once, again = SharedForward(candidate), SharedForward(candidate)
    turned = SharedForward(CellCandidate(cell.in_fortran_order()))
    ties_here = cache(lambda: _ties_of_cell(cell, base))

    def ties(problem: Problem) -> list[str]:
        return ties_here() if problem.variables is base.variables else _ties_of_cell(cell, problem)

    initial_states = frozenset(f"{name}_0" for name in base.state_sizes)
    undecided: list[NotDecidable] = []
    for number, problem in enumerate(trials):
        manner = Manner(
            from_outside=True,
            first_of_all=number == 0,
            once=once,
            again=again,
            turned=turned,
            ties=ties,
            unread=initial_states,
        )
        try:
            case = check_problem(problem, candidate, engines, declared, manner)
        except NotDecidable as error:
            undecided.append(error)
            continue
        yield replace(case, left_out={**missing, **case.left_out})
    if undecided:
        raise undecided[0]


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


def _ties_of_cell(cell: UserCell, problem: Problem) -> list[str]:
    """Ties met on the forward pass."""

    def run(watched: Callable[[Array], Any]) -> None:
        params = {name: watched(problem.variables[name]) for name in problem.parameter_names}
        state = {name: watched(problem.variables[f"{name}_0"]) for name in problem.state_sizes}
        for x in problem.x:
            new_state = cell.differentiable_step(np, params, state, watched(x))
            state = {name: watched(np.asarray(value)) for name, value in new_state.items()}

    return ties_in(run)


# Functions.


def _must_be_of_a_cell(layout: LayoutLike) -> None:
    """Raises BadOption for any layout but the one in which a cell is run."""
    if layout is None or layout == OF_A_CELL:
        return
    raise BadOption(
        f"layout: a cell is run over x of axes {OF_A_CELL!r}, its step sees (B, I); {layout!r} can "
        "be said of functions alone"
    )


def _axes_of(user: UserFunction, layout: LayoutLike) -> Callable[[], Layout]:
    """What the axes of the user's arrays stand for; what is not declared is found out when it is
    first asked for.

    Raises BadOption for a layout that is none of theirs.
    """
    inputs = flatten(user.inputs)
    declared = declared_layout(layout, flatten(user.params), inputs)
    named = {path: _in_double(value) for path, value in user.leaves().items()}
    in_steps = [path for path in user.sequence if path in inputs]

    def outputs(moved: Mapping[str, Array]) -> Mapping[str, Any]:
        return user.copied().numpy_outputs(moved)

    watch = Watch(user.role, outputs, named)
    return cache(lambda: layout_of(watch, [*inputs], declared, in_steps))


def _in_double(value: Array) -> Array:
    return value.astype(np.float64) if is_differentiable(value) else value


@dataclass(frozen=True)
class FunctionTrial:
    """A scalar function of a user's, and the gradients that were derived for it.

    scalar_of(user)                  scalar(xp, named) -> scalar: the loss, or the outputs under
                                     cotangents
    derivation                       the user's code that gives the gradients
    given_of(user, derivation)       given(named) -> {path: array}: the derivation
    layout() -> Layout               what the axes stand for
    first_of_all                     whether nothing of this code has been asked before
    extra_noise                      absolute error by variable that the way of reading out the
                                     gradient adds
    own                              what the code says of its own loss, where it has one
    """

    name: str
    user: UserFunction
    scalar_of: Callable[[UserFunction], Scalar]
    derivation: Any
    given_of: Callable[[UserFunction, Any], Derivation]
    layout: Callable[[], Layout]
    first_of_all: bool = True
    extra_noise: Mapping[str, float] = field(default_factory=dict[str, float])
    own: OwnLoss | None = None

    def problem(self, variables: Arrays, declared: Precision | None) -> FunctionProblem:
        """The function of these variables, all other arrays being constants.

        A declared precision rounds every number to that of the arrays. Without one, the candidate
        works in those of its arrays.
        """
        leaves = self.user.leaves()
        constants = {path: value for path, value in leaves.items() if path not in variables}
        in_double = {path: value.astype(np.float64) for path, value in variables.items()}
        worked_in = declared or Precision(self._finest())
        problem = FunctionProblem(
            name=self.name,
            function=self.scalar,
            copied=lambda world: self.scalar_of(self.user.copied(world)),
            variables=frozen(in_double),
            constants=frozen(constants),
            seed=self.user.seed,
            numpy_only=self.user.numpy_only,
            precision=None if worked_in.arrays == "float64" else worked_in.arrays,
            accumulate=worked_in.accumulate,
            levels={} if declared else self._levels(variables),
            extra_noise=self.extra_noise,
            layout=self.layout,
            sliced=tuple(path for path in flatten(self.user.inputs) if path in variables),
            loss_label=self.user.role,
        )
        return problem if declared is None else problem.rounded_to(worked_in.arrays)

    def _finest(self) -> str:
        """The finest precision of a parameter: inputs in float64 do not make code of float32
        weights exact.
        """
        names = [self.user.leaves()[path].dtype.name for path in self.learned()]
        return _shorter("float64", max(names, key=_digits))

    def _levels(self, variables: Arrays) -> dict[str, str]:
        """Variable → the precision of its array, where that is shorter than the finest."""
        finest = self._finest()
        leaves = self.user.leaves()
        own = {path: _shorter(finest, leaves[path].dtype.name) for path in variables}
        return {path: name for path, name in own.items() if name != finest}

    @cached_property
    def scalar(self) -> Scalar:
        """The scalar by (xp, named), of the user's own objects."""
        return self.scalar_of(self.user)

    @cached_property
    def given(self) -> Derivation:
        """The gradients by their names, of the user's own objects."""
        return self.given_of(self.user, self.derivation)

    def candidate(self) -> FunctionCandidate:
        """The user's code as the one that is judged; in another precision than its own, a copy
        of it.
        """

        def copied() -> FunctionCandidate:
            user, derivation = self.user.aside(self.derivation)
            aside = replace(self, user=user, derivation=derivation)
            return FunctionCandidate(aside.value, aside.given)

        return FunctionCandidate(self.value, self.given, copied)

    def learned(self) -> list[str]:
        """The paths of the params that have a gradient."""
        return self.user.parameter_paths()

    def value(self, named: Arrays) -> Any:
        """The scalar in NumPy, on copies."""
        copies = {path: np.array(array) for path, array in named.items()}
        result = user_code.call(self.user.role, self.scalar, np, copies)
        user_code.unchanged(self.user.role, copies, named)
        return as_array(f"{self.user.role}: the scalar", result, None)

    def ties(self, problem: FunctionProblem) -> list[str]:
        """Ties met where the function is evaluated."""

        def run(watched: Callable[[Array], Any]) -> Any:
            variables = {path: watched(array) for path, array in problem.variables.items()}
            scalar = self.scalar_of(self.user.copied())
            return scalar(np, {**problem.constants, **variables})

        return ties_in(run)


def _digits(precision: str) -> float:
    """A number that is larger for the finer precision."""
    return -epsilon(precision)


def _shorter(one: str, other: str) -> str:
    """The one with fewer digits; the first of two alike."""
    return min(one, other, key=_digits)


def _function_case(trial: FunctionTrial, setting: Setting, declared: Convention) -> CaseReport:
    leaves = trial.user.leaves()
    preflight.finite_inputs(leaves)
    differentiable = {path: value for path, value in leaves.items() if is_differentiable(value)}
    variables = differentiable
    engines, missing = setting.engines(trial.user.numpy_only)
    _must_apply(declared, trial.user, trial.layout)
    if declared.truncation is not None and all(engine.numeric for engine in engines):
        raise BadOption(
            "convention: truncation is no derivative of the loss; numeric references cannot "
            "tell it, torch and jax can"
        )
    if any(engine.numeric for engine in engines):
        # every variable costs evaluations: only those of which a gradient is given
        asked = trial.given(leaves)
        variables = {path: value for path, value in variables.items() if path in asked}
    problem = trial.problem(variables, declared.computes_in)
    problem = replace(problem, truncated=declared.truncation is not None)
    candidate = trial.candidate()
    manner = Manner(
        partial=True, from_outside=True, first_of_all=trial.first_of_all, ties=trial.ties
    )
    own = trial.own
    if own is not None:
        check = partial(own.must_be_the_same, trial.value)
        manner = replace(manner, own_loss=check)
    examined = examine(problem, candidate, engines, declared, manner)
    case = examined.case
    judged = {row.gradient for row in case.rows}
    not_given = [path for path in differentiable if path not in judged]
    notes = [*case.notes, *lower_inside.note_of(problem, trial.value)]
    left_out = {**missing, **case.left_out}
    case = replace(case, not_given=not_given, left_out=left_out, notes=notes)
    return case if own is None else with_unreached(case, own.unreached, examined.witnesses)


def _must_apply(declared: Convention, user: UserFunction, axes: Callable[[], Layout]) -> None:
    """Raises BadOption where the convention needs what the arrays do not tell, before anything is
    compared.
    """
    unasked: Any = None  # who would be asked: nobody is
    trial = FunctionTrial(user.role, user, lambda user: user.function, unasked, unasked, axes)
    variables = {path: user.leaves()[path] for path in user.parameter_paths()}
    problem = trial.problem(variables, declared.computes_in)
    declared.factor(problem.steps, problem.batch)


def _output_trials(
    outputs: Any, seed: int, arrays_in: str
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Random cotangents on all outputs together, then on each alone: numbers of this precision."""
    rng = np.random.default_rng([seed, 4])
    random: dict[str, Array] = {}
    for path, value in flatten(outputs, "output").items():
        drawn = rng.normal(size=value.shape)
        random[path] = drawn.astype(arrays_in).astype(np.float64)
    yield "all outputs", random
    for alone in random if len(random) > 1 else ():
        kept = {path: np.zeros_like(value) for path, value in random.items()}
        yield f"{alone} alone", {**kept, alone: random[alone]}
