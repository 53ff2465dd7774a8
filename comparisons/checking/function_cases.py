"""A user's loss, or function under cotangents, and the gradients that were derived for it."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from .. import user_code
from ..candidates.built_in_cells import FunctionCandidate
from ..candidates.user_cell import as_array
from ..candidates.user_function import UserFunction
from ..errors import BadOption
from ..problems.arrays import Array, Arrays, frozen
from ..problems.axes import Layout, LayoutLike, declared_layout
from ..problems.convention import Convention, Precision
from ..problems.named_arrays import flatten, is_differentiable
from ..problems.problem import FunctionProblem
from ..witnesses.tolerance import epsilon
from . import lower_inside, preflight
from .case_report import CaseReport
from .crosscheck import Manner, examine
from .elsewhere import Question, cheapest
from .further import FunctionTrials, of_a_function_case
from .noted_arrays import Watch as Noting
from .own_loss import OwnLoss, with_unreached
from .rebinding import watching_world
from .setting import Setting
from .ties import Log, Watch, watched_in
from .time_axes import layout_of

Scalar: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]
Derivation: TypeAlias = Callable[[Arrays], dict[str, Array]]


def axes_of(user: UserFunction, layout: LayoutLike) -> Callable[[], Layout]:
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

    watch = Noting(user.role, outputs, named)
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

    def _windowed(self, window: int) -> Scalar:
        """The function whose gradient goes back at most so many steps."""
        return self.user.copied().objective(Convention(truncation=window))

    @cached_property
    def scalar(self) -> Scalar:
        """The scalar function of named arrays."""
        return self.scalar_of(self.user)

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
            windowed=self._windowed if self.user.sequence else None,
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

    def loss(self, problem: FunctionProblem) -> float:
        """The scalar of the problem as a number."""
        return float(self.value({**problem.constants, **problem.variables}))

    def ties(self, problem: FunctionProblem) -> list[str]:
        """Ties met where the function is evaluated."""
        scalar = self.scalar_of(self.user.copied())
        return watched_in(lambda watched, _: self._watched(scalar, problem, watched)).ties

    def branches(self, names: Container[str]) -> Callable[[FunctionProblem], Log]:
        """What is met where the function is evaluated, done to what depends on these variables.

        In NumPy code that makes buffers of its own too, where it can be run with another NumPy.
        """

        def evaluated(problem: FunctionProblem) -> Log:
            def plainly(watched: Watch, _: Log) -> Any:
                scalar = self.scalar_of(self.user.copied())
                return self._watched(scalar, problem, watched, names)

            def rebound(watched: Watch, log: Log) -> Any:
                user = self.user.copied(watching_world(log))
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


def _digits(precision: str) -> float:
    """A number that is larger for the finer precision."""
    return -epsilon(precision)


def _shorter(one: str, other: str) -> str:
    """The one with fewer digits; the first of two alike."""
    return min(one, other, key=_digits)


def function_cases(
    trial: FunctionTrial, setting: Setting, declared: Convention
) -> Iterator[CaseReport]:
    """What the references say of a user's gradients; and, where these are right, at weights at
    which other branches are taken.
    """
    leaves = trial.user.leaves()
    preflight.finite_inputs(leaves)
    differentiable = {path: value for path, value in leaves.items() if is_differentiable(value)}
    variables = differentiable
    engines, missing = setting.engines(trial.user.numpy_only)
    must_apply(declared, trial.user, trial.layout)
    _ = trial.scalar  # raises where a truncation cannot apply
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
        partial=True,
        from_outside=True,
        first_of_all=trial.first_of_all,
        ties=trial.ties,
        beside=trial.first_of_all,
        loss=trial.loss,
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
    case = replace(case, not_given=not_given, notes=notes)
    if own is not None:
        case = with_unreached(case, own.unreached, examined.witnesses)
    cases = [case]
    if case.passed and trial.first_of_all:
        fewer = cheapest(engines)

        def ask(there: FunctionProblem) -> Question:
            return Question(there, candidate, fewer, declared, manner)

        given = [path for path in trial.learned() if path in judged]
        further = FunctionTrials(problem, given, fewer, trial.branches(judged), ask)
        cases = of_a_function_case(further, case)
    for each in cases:
        yield replace(each, left_out={**missing, **each.left_out})


def must_apply(declared: Convention, user: UserFunction, axes: Callable[[], Layout]) -> None:
    """Raises BadOption where the convention needs what the arrays do not tell, before anything is
    compared.
    """
    unasked: Any = None  # who would be asked: nobody is
    trial = FunctionTrial(user.role, user, lambda user: user.function, unasked, unasked, axes)
    variables = {path: user.leaves()[path] for path in user.parameter_paths()}
    problem = trial.problem(variables, declared.computes_in)
    declared.factor(problem.steps, problem.batch)


def output_trials(
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
