"""The references: one line each in ENGINES, name → how to ask it.

An engine answers a Problem from `reference/` alone. It is imported when first asked, so that a
missing framework costs nothing but its own rows.
"""

import importlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np

from ... import reference
from ...reference import devices, equations
from ...reference.worlds import World
from ..errors import BadOption, CannotFollow, MissingDevice, MissingFramework, UnknownName
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.axes import shares_along
from ..problems.problem import (
    OFFSET,
    PRODUCT_TO_END,
    STATE_JACOBIAN,
    AnyProblem,
    FunctionProblem,
    Problem,
)
from ..user_code import at_line
from .torch_modules import no_torch_module


@dataclass(frozen=True)
class Engine:
    """name in reports; module, below `reference`, that does the work; package to install.

    reason_not(problem) says why the engine does not apply, or None. ask answers the problem's
    gradients, offsets included. keywords(problem, rounding_seed) are what the module's functions
    want to know besides. rounds_at_random: whether it can answer under stochastic arithmetic;
    tells_steps: whether it knows the share of each step; numeric: whether it only evaluates the
    function, in NumPy; by_name: whether it is asked only where it is named; for_numpy_code:
    whether it differentiates NumPy code as it stands.
    """

    name: str
    module: str
    package: str
    reason_not: Callable[[AnyProblem], str | None]
    ask: Callable[..., Answer]
    keywords: Callable[[AnyProblem, int | None], dict[str, Any]]
    rounds_at_random: bool = False
    tells_steps: bool = True
    numeric: bool = False
    by_name: bool = False
    for_numpy_code: bool = False

    def load(self) -> Any:
        """The module. Raises MissingFramework, saying how to install what is missing."""
        try:
            return importlib.import_module(f"{reference.__name__}.{self.module}")
        except ImportError as error:
            raise MissingFramework(
                f"reference {self.name!r} needs {self.package}, which cannot be imported: "
                f"pip install {self.package} ({error})"
            ) from error

    def answer(
        self, problem: AnyProblem, rounding_seed: int | None = None, shares: bool = True
    ) -> Answer:
        """Loss, states, gradients; the shares of every step where they are wanted; under
        stochastic arithmetic with a seed.
        """
        module, keywords = self.load(), self.keywords(problem, rounding_seed)
        if shares and isinstance(problem, Problem) and self.tells_steps:
            problem = problem.with_variables(with_offsets(problem))
        return self._complete(problem, self.ask(module, problem, **keywords), keywords)

    def begin(self, problem: AnyProblem) -> None:
        """What the answer waits for, begun on another thread, where the engine can do so."""
        module = self.load()
        if isinstance(problem, Problem) and hasattr(module, "begin"):
            first = problem.with_variables(with_offsets(problem))
            told = dict(first.variables), dict(first.constants)
            module.begin(_network_function(first), *told, **self.keywords(first, None))

    def answers(
        self, problems: Sequence[Problem], rounding_seed: int | None = None
    ) -> list[Answer]:
        """The same of problems of one sequence that differ in their cotangents alone, with the
        shares of every step.
        """
        first = problems[0].with_variables(with_offsets(problems[0]))
        keywords = self.keywords(first, rounding_seed)
        constants = [dict(problem.constants) for problem in problems]
        asked = self.load().gradients_of_several(
            _network_function(first), dict(first.variables), constants, **keywords
        )
        return [self._complete(first, _answer(told), keywords) for told in asked]

    @property
    def takes_several(self) -> bool:
        """Whether `answers` can be asked."""
        return hasattr(self.load(), "gradients_of_several")

    def _complete(self, problem: AnyProblem, answer: Answer, keywords: Mapping[str, Any]) -> Answer:
        """The answer with its Jacobians and the shares of the steps in their place."""
        offsets = _offsets_of(problem)
        gradients: dict[str, Array] = {}
        for name, value in answer.gradients.items():
            if name not in offsets:
                gradients[name] = value
        if isinstance(problem, Problem):
            gradients |= self._jacobians(problem, keywords)
            steps = _steps(problem, self._whole(gradients, answer), answer.gradients)
        else:
            whole = self._whole(gradients, answer)
            steps = shares_along(whole, problem.slice_axes) if whole else {}
        return replace(answer, gradients=gradients, steps=steps)

    def _whole(self, gradients: Mapping[str, Array], answer: Answer) -> dict[str, Array]:
        """The gradients of which single steps can be read off: exact, and not along directions."""
        if self.numeric:
            return {}
        return {name: value for name, value in gradients.items() if name not in answer.directions}

    def _jacobians(self, problem: Problem, keywords: Mapping[str, Any]) -> dict[str, Array]:
        """∂s_t/∂s_{t−1} and ∂s_T/∂s_k, where they are asked for and the engine tells them."""
        module = self.load()
        if not problem.jacobians or not hasattr(module, "jacobians"):
            return {}
        params = {name: problem.variables[name] for name in problem.parameter_names}
        told = (params, problem.state_sizes, problem.initial_state, problem.x)
        return module.jacobians(step_of(problem), *told, **keywords)


def _steps(
    problem: Problem, gradients: dict[str, Array], found: dict[str, Array]
) -> dict[str, Array]:
    """The shares of the steps: the gradients of the offsets, and all that has a time axis of its
    own.
    """
    timed = ("x", STATE_JACOBIAN, PRODUCT_TO_END)
    steps = {name: value for name, value in gradients.items() if name in timed}
    for name in problem.parameter_names:
        if name + OFFSET in found:
            steps[name] = found[name + OFFSET]
    for name in problem.state_sizes:
        if name + OFFSET not in found:
            continue
        initial = f"{name}_0"
        parts = (found[initial][None], found[name + OFFSET])
        # the initial state of a reverse direction is that of the step after the last
        in_time = parts if problem.first_step(initial) == 0 else parts[::-1]
        steps[initial] = np.concatenate(in_time)
    return steps


def step_of(problem: Problem) -> equations.Step:
    """The step that the engines differentiate: the problem's own, or the one in
    reference.equations.
    """
    if problem.step is not None:
        return problem.step
    return _bound_step(problem.cell, tuple(problem.options.items()))


@lru_cache(maxsize=256)
def _bound_step(cell: str, options: tuple[tuple[str, Any], ...]) -> equations.Step:
    return equations.bound_step(cell, dict(options))


@lru_cache(maxsize=256)
def _bound_readout(readout: str, options: tuple[tuple[str, Any], ...]) -> equations.Readout:
    return equations.bound_readout(readout, dict(options))


@lru_cache(maxsize=256)
def _sequence_loss(
    step: equations.Step,
    readout: equations.Readout,
    parameters: tuple[str, ...],
    states: tuple[str, ...],
    arrangement: equations.Arrangement,
) -> equations.SequenceLoss:
    return equations.SequenceLoss(step, readout, parameters, states, OFFSET, arrangement)


def arrangement_of(problem: Problem) -> equations.Arrangement:
    """The problem's layers, directions and truncation, as reference.equations has them."""
    return equations.Arrangement(
        problem.layers, problem.bidirectional, problem.window, problem.chunk, problem.output_names
    )


def readout_of(problem: Problem) -> equations.Readout:
    """The readout from reference.equations.

    The same problem gives the same object, so that nothing is compiled twice.
    """
    return _bound_readout(problem.readout, tuple(problem.readout_options.items()))


def with_offsets(problem: Problem) -> dict[str, Array]:
    """The variables, and a zero offset for every parameter and state at every step (where a
    perturbation has not put one).
    """
    shapes = {name: problem.variables[name].shape for name in problem.parameter_names}
    shapes |= {name: problem.variables[f"{name}_0"].shape for name in problem.state_sizes}
    offsets: dict[str, Array] = {}
    for name, shape in shapes.items():
        offsets[name + OFFSET] = np.zeros((problem.steps, *shape), dtype=problem.dtype)
    return {**offsets, **problem.variables}


def _offsets_of(problem: AnyProblem) -> set[str]:
    """The names of a problem's offsets; a function has none."""
    if not isinstance(problem, Problem):
        return set()
    return {name + OFFSET for name in (*problem.parameter_names, *problem.state_sizes)}


def _ask_autodiff(module: Any, problem: AnyProblem, **keywords: Any) -> Answer:
    differentiate = module.gradients
    if isinstance(problem, FunctionProblem):
        # with loops and branches of its own, and asked once: not worth compiling
        differentiate = getattr(module, "gradients_uncompiled", differentiate)
    told = dict(problem.variables), dict(problem.constants)
    return _answer(differentiate(_function_of(problem), *told, **keywords))


def _function_of(problem: AnyProblem) -> Any:
    """What is differentiated: (xp, scan, variables, constants) -> (scalar, states)."""
    if isinstance(problem, FunctionProblem):
        return _as_scalar_function(problem)
    return _network_function(problem)


def _network_function(problem: Problem) -> equations.SequenceLoss:
    names = problem.of_one_run(problem.parameter_names), problem.of_one_run(problem.state_sizes)
    return _sequence_loss(step_of(problem), readout_of(problem), *names, arrangement_of(problem))


def _afresh(problem: FunctionProblem) -> Any:
    """The function on copies of the user's objects, as they are now."""
    return problem.function if problem.copied is None else problem.copied(World())


def _as_scalar_function(problem: FunctionProblem) -> equations.ScalarFunction:
    return lambda xp, scan, variables, constants: (
        _afresh(problem)(xp, {**constants, **variables}),
        {},
    )


def _ask_torch_nn(module: Any, problem: Problem, **keywords: Any) -> Answer:
    asked = (problem.cell, problem.options, readout_of(problem))
    told = (problem.variables, problem.constants)
    return _answer(module.gradients(*asked, *told, arrangement_of(problem), **keywords))


def _answer(told: tuple[float, dict[str, Array], dict[str, Array]]) -> Answer:
    loss, states, gradients = told
    return Answer(loss, gradients, states)


def scalar_in_numpy(problem: AnyProblem, xp: Any = np) -> Callable[[Mapping[str, Array]], Any]:
    """value(variables): what the problem's gradients are the derivatives of."""

    def value(variables: Mapping[str, Array]) -> Any:
        if isinstance(problem, FunctionProblem):
            return _afresh(problem)(xp, {**problem.constants, **variables})
        return _network_function(problem)(xp, equations.numpy_scan, variables, problem.constants)[0]

    return value


def _ask_numeric(module: Any, problem: AnyProblem) -> Answer:
    value = scalar_in_numpy(problem, getattr(module, "NAMESPACE", np))
    try:
        loss, gradients, directions, *doubt = module.gradients(
            value, problem.variables, problem.seed
        )
    except getattr(module, "DoesNotFollow", ()) as error:
        trace = error.__cause__.__traceback__ if error.__cause__ else None
        raise CannotFollow(f"{error}{at_line(trace)}") from error
    if not doubt:
        return Answer(loss, gradients, directions=directions)
    uncertainty, kinks, kinked = doubt
    answer = Answer(loss, gradients, directions=directions, uncertainty=uncertainty, kinks=kinks)
    return replace(answer, kinked=kinked)


def _ask_numpy_code(module: Any, problem: FunctionProblem, **keywords: Any) -> Answer:
    told = dict(problem.variables), dict(problem.constants)

    def copied(world: World) -> Any:
        return problem.function if problem.copied is None else problem.copied(world)

    try:
        loss, states, gradients, narrowed = module.gradients(copied, *told, **keywords)
    except module.DoesNotFollow as error:
        trace = error.__cause__.__traceback__ if error.__cause__ else None
        raise CannotFollow(f"{error}{at_line(trace)}") from error
    what = problem.loss_label or "function"
    remarks = tuple(
        f"the {what} computes in {name} at {place}: numbers are rounded to it there"
        for name, place in narrowed.items()
    )
    lowest = min(narrowed, key=lambda name: np.dtype(name).itemsize, default=None)
    return Answer(loss, gradients, states, narrowed=lowest, remarks=remarks)


def _ask_forward(module: Any, problem: AnyProblem, **keywords: Any) -> Answer:
    told = (problem.variables, problem.constants, problem.seed)
    function = _function_of(problem)
    loss, gradients, directions = module.gradients(function, *told, **keywords)
    return Answer(loss, gradients, directions=directions)


def _ask_for_proof(module: Any, problem: AnyProblem) -> Answer:
    function = _function_of(problem)
    try:
        loss, told = module.enclosures(function, problem.variables, problem.constants, problem.seed)
    except module.NotEnclosed as error:
        raise CannotFollow(f"{error}{at_line(error.__traceback__)}") from error
    gradients: dict[str, Array] = {}
    directions: dict[str, Array] = {}
    for name, enclosure in told.items():
        gradients[name] = enclosure.middle()
        if enclosure.directions is not None:
            directions[name] = enclosure.directions
    return Answer(loss, gradients, directions=directions, proof=told)


def _torch_keywords(problem: AnyProblem, rounding_seed: int | None) -> dict[str, Any]:
    del problem
    return {"rounding_seed": rounding_seed}


def _jax_keywords(problem: AnyProblem, rounding_seed: int | None) -> dict[str, Any]:
    del rounding_seed
    return {"compile_fast": problem.step is None} if isinstance(problem, Problem) else {}


def _no_keywords(problem: AnyProblem, rounding_seed: int | None) -> dict[str, Any]:
    del problem, rounding_seed
    return {}


def _needs_namespace(problem: AnyProblem) -> str | None:
    if isinstance(problem, FunctionProblem) and problem.numpy_only:
        return "the loss is NumPy code: its first parameter is not called xp"
    return None


def _needs_numpy_code(problem: AnyProblem) -> str | None:
    if isinstance(problem, FunctionProblem) and problem.numpy_only:
        return None
    return "it runs NumPy code; torch itself runs what is written for a namespace"


def _needs_whole_gradient(problem: AnyProblem) -> str | None:
    is_function = isinstance(problem, FunctionProblem)
    if is_function and not problem.truncated:
        return None
    if not is_function and problem.window is None and problem.chunk is None:
        return None
    return "a truncated gradient is the derivative of no number that could be evaluated"


ENGINES: tuple[Engine, ...] = (
    Engine(
        name="torch",
        module="by_torch.torch_autograd",
        package="torch",
        reason_not=_needs_namespace,
        ask=_ask_autodiff,
        keywords=_torch_keywords,
        rounds_at_random=True,
    ),
    Engine(
        name="jax",
        module="by_jax.jax_grad",
        package="jax",
        reason_not=_needs_namespace,
        ask=_ask_autodiff,
        keywords=_jax_keywords,
    ),
    Engine(
        name="torch.nn",
        module="by_torch.torch_nn",
        package="torch",
        reason_not=no_torch_module,
        ask=_ask_torch_nn,
        keywords=_torch_keywords,
        rounds_at_random=True,
        tells_steps=False,
    ),
    Engine(
        name="torch (NumPy code)",
        module="by_torch.numpy_code",
        package="torch",
        reason_not=_needs_numpy_code,
        ask=_ask_numpy_code,
        keywords=_torch_keywords,
        rounds_at_random=True,
        by_name=True,
        for_numpy_code=True,
    ),
    Engine(
        name="complex step",
        module="numeric.complex_step",
        package="scipy",
        reason_not=_needs_whole_gradient,
        ask=_ask_numeric,
        keywords=_no_keywords,
        tells_steps=False,
        numeric=True,
    ),
    Engine(
        name="differences",
        module="numeric.finite_difference",
        package="scipy",
        reason_not=_needs_whole_gradient,
        ask=_ask_numeric,
        keywords=_no_keywords,
        tells_steps=False,
        numeric=True,
    ),
    Engine(
        name="forward",
        module="by_jax.forward_mode",
        package="jax",
        reason_not=_needs_namespace,
        ask=_ask_forward,
        keywords=_jax_keywords,
        tells_steps=False,
        by_name=True,
    ),
    Engine(
        name="proof",
        module="numeric.interval",
        package="python-flint",
        reason_not=_needs_namespace,
        ask=_ask_for_proof,
        keywords=_no_keywords,
        tells_steps=False,
        by_name=True,
    ),
)

DIFFERENCES: Engine = next(engine for engine in ENGINES if engine.name == "differences")
TRACED: Engine = next(engine for engine in ENGINES if engine.for_numpy_code)
AUTODIFF: tuple[str, ...] = tuple(
    engine.name for engine in ENGINES if not (engine.numeric or engine.by_name)
)
NUMERIC: tuple[str, ...] = tuple(engine.name for engine in ENGINES if engine.numeric)
FOR_NUMPY_CODE: tuple[str, ...] = tuple(
    engine.name for engine in ENGINES if engine.numeric or engine.for_numpy_code
)


@contextmanager
def computing_on(device: str, engines: Iterable[Engine]) -> Generator[None]:
    """Within it torch and jax compute on this device.

    Raises MissingDevice where one of these engines does not have it.
    """
    for engine in engines if device != "cpu" else ():
        module = engine.load()
        why = module.why_not_on(device) if hasattr(module, "why_not_on") else None
        if why is not None:
            raise MissingDevice(
                f"{engine.name} cannot compute on {device!r} here: {why}; name other references, "
                "or the device cpu"
            )
    with devices.on(device):
        yield


def names_in(references: Sequence[str] | str | None) -> list[str] | None:
    """The names of references, from a list of them or a text with commas; None for all.

    Raises UnknownName for an empty one, BadOption for what is no list of texts.
    """
    if references is None:
        return None
    given: Any = references.split(",") if isinstance(references, str) else references
    if not isinstance(given, list | tuple) or not all(
        isinstance(name, str) for name in cast(list[Any], given)
    ):
        raise BadOption(
            "references are the names of some, in a list or in a text with commas, not "
            f"{references!r:.60}"
        )
    names = [name.strip() for name in cast(list[str], given)]
    if "" in names:
        known = ", ".join(engine.name for engine in ENGINES)
        raise UnknownName(f"a reference without a name; there are {known}")
    return names


def select(names: tuple[str, ...] | None) -> tuple[Engine, ...]:
    """The engines of these names, in the table's order; all that differentiate by themselves for
    None. Raises UnknownName.
    """
    known = [engine.name for engine in ENGINES]
    for name in names or ():
        if name not in known:
            raise UnknownName(f"no reference is called {name!r}; there are {', '.join(known)}")
    return tuple(engine for engine in ENGINES if engine.name in (names or AUTODIFF))
