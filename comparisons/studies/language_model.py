"""The text case: a character-level language model of a file, cross-checked while it trains.

The vocabulary is the set of the file's characters. The text is cut into B streams of equal length,
each stream into consecutive windows of T characters; the target of a character is the next one. The
state at the end of a window is the initial state of the next (a number, not differentiated); at the
end of the text it starts again from zero.

Manual, and each reference that tells its states, then train from identical weights, each with its
own gradients, its own updates (manual/training.py, torch.optim, optax) and its own carried state.
They must stay together: the parameters after N updates are compared, in units of what rounding
explains, measured by training a reference once more, by the same updates, with its weights moved by
a unit roundoff before every one and its gradients by that of their terms. TRAININGS says which cell
is trained how.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..candidates.built_in_cells import CellCandidate, built_in
from ..candidates.draw import problem_of
from ..checking.case_report import CaseReport
from ..checking.crosscheck import check_problem
from ..checking.training_row import ParameterVerdict, TrainingRow
from ..errors import BadText
from ..judging.comparator import Side, Yardstick, compare
from ..judging.verdict import Verdict
from ..places import ROOT
from ..problems.answer import Answer
from ..problems.arrays import Array, frozen
from ..problems.cases import Case
from ..problems.problem import Problem
from ..reporting.files import contents
from ..witnesses import tolerance
from ..witnesses.engines import Engine
from .optimisers import Rule, Settings, by_framework, by_hand

Window: TypeAlias = tuple[Array, Array]
Move: TypeAlias = Callable[[Problem], Problem]

EVALUATED_WINDOWS = 32
LONGEST = 1 << 24  # bytes of a text


@dataclass(frozen=True)
class Recipe:
    """A cell, and how it is trained.

    settings    as comparisons.studies.optimisers takes them
    checks      at how many of the updates gradients are checked
    """

    cell: str
    settings: Settings
    checks: int = 3


# At these rates the loss falls and rounding grows slowly enough to compare; the norm is clipped at
# some updates, the value of some entries, not all. Adam's customary ε of 1e-8 would enlarge the
# rounding of gradients that have all but vanished (rare characters) to the length of whole steps in
# float32.
BY_NORM: Settings = {"optimiser": "sgd", "learning_rate": 0.7, "clip": "norm", "limit": 0.6}
ADAM: Settings = {
    "optimiser": "adam",
    "learning_rate": 0.01,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-4,
    "clip": None,
}
BY_VALUE: Settings = {
    "optimiser": "momentum",
    "learning_rate": 0.2,
    "momentum": 0.9,
    "clip": "value",
    "limit": 0.05,
}
TRAININGS: tuple[Recipe, ...] = (
    Recipe("rnn", BY_NORM),
    Recipe("lstm", ADAM, checks=2),
    Recipe("gru", BY_VALUE, checks=2),
)


def recipes(cell: str | None) -> list[Recipe]:
    """Those of one cell, or the whole table for None.

    Any cell has one: the table's first where the table says nothing.
    """
    chosen = [recipe for recipe in TRAININGS if cell in (None, recipe.cell)]
    return chosen or [replace(TRAININGS[0], cell=cell or "")]


@dataclass(frozen=True)
class Corpus:
    """A text under the name it goes by.

    vocabulary    its distinct characters, in order
    tokens        the index of each of its characters (length,)
    """

    name: str
    vocabulary: str
    tokens: Array


def corpus_of(name: str, text: str) -> Corpus:
    """The text's tokens. Raises BadText when there is none."""
    if not text:
        raise BadText(f"{name} is empty")
    vocabulary = "".join(sorted(set(text)))
    index = {character: number for number, character in enumerate(vocabulary)}
    return Corpus(name, vocabulary, np.array([index[character] for character in text]))


def read_corpus(path: Path) -> Corpus:
    """The file as a corpus.

    Raises BadText when it cannot be read as UTF-8 text, is empty, or has no end within LONGEST.
    """
    stored = contents(path, LONGEST, BadText)
    try:
        with TextIOWrapper(BytesIO(stored), encoding="utf-8") as stream:  # line ends are \n
            return corpus_of(path.name, stream.read())
    except UnicodeDecodeError as error:
        raise BadText(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error


def default_corpus() -> Corpus:
    """README.md: the file in the package, or else the copy in the distribution's metadata."""
    beside = ROOT / "README.md"
    if beside.is_file():
        return read_corpus(beside)
    return corpus_of("README.md", str(metadata.metadata("bptt-crosscheck").json["description"]))


def windows(corpus: Corpus, steps: int, batch: int) -> list[Window]:
    """[(x, target)], each (T, B): consecutive windows of up to `batch` streams.

    Fewer streams where the text is short.

    Raises BadText when the text has not even one window: T characters and the one that follows.
    """
    length = len(corpus.tokens)
    if length < steps + 1:
        known = f"{corpus.name} has {length} characters"
        raise BadText(f"{known}; a window of {steps} steps needs {steps + 1}")
    streams = min(batch, (length - 1) // steps)
    count = (length - 1) // (streams * steps)
    used = streams * count * steps
    x = corpus.tokens[:used].reshape(streams, count * steps).T
    target = corpus.tokens[1 : 1 + used].reshape(streams, count * steps).T
    return [(x[k : k + steps], target[k : k + steps]) for k in range(0, count * steps, steps)]


@dataclass(frozen=True)
class Training:
    """One training run: the checks on the way, what is told of it at the end, remarks."""

    checks: list[CaseReport]
    row: TrainingRow
    notes: list[str] = field(default_factory=list[str])


def text_case(corpus: Corpus, like: Case, steps: int, batch: int, hidden_size: int) -> Case:
    """The corpus as a case, with the cell of `like`.

    Tokens in, an output per character, mean cross-entropy at every step.
    """
    size = len(corpus.vocabulary)
    streams = windows(corpus, steps, batch)[0][0].shape[1]
    plain_name = f"text {corpus.name}"
    return Case(
        plain_name if like.cell == TRAININGS[0].cell else f"{like.cell} {plain_name}",
        like.cell,
        like.options,
        inputs="tokens",
        reduction="mean",
        steps=steps,
        batch=streams,
        input_size=size,
        hidden_size=hidden_size,
        output_size=size,
    )


@dataclass(frozen=True)
class Course:
    """What all go through: the problem at the start, the windows in order, how many updates."""

    start: Problem
    windows: list[Window]
    updates: int

    def window(self, update: int) -> Window:
        """The window of this update; after the last of the text comes the first again."""
        return self.windows[update % len(self.windows)]


@dataclass(frozen=True)
class Reference:
    """A reference that trains: who gives its gradients, and the rule that moves its weights."""

    engine: Engine
    rule: Rule
    note: str | None


def train_side_by_side(
    corpus: Corpus,
    case: Case,
    recipe: Recipe,
    engines: Sequence[Engine],
    updates: int,
    seed: int,
    dtype: str,
) -> Training:
    """Cross-check at the first and last update and between; compare the trained parameters."""
    cut = windows(corpus, case.steps, case.batch)
    start = _at_window(problem_of(case, seed, dtype), cut[0], None)
    course = Course(start, cut, updates)
    candidate = built_in(case.cell, case.options)
    references = _references(start, recipe, engines)
    epsilons = dict.fromkeys(each.rule.clip_epsilon for each in references) or (0.0,)
    # torch.optim and optax add another ε to the norm that they clip by: one run by hand for each.
    trained: dict[float, list[Problem]] = {}
    for epsilon in epsilons:
        trained[epsilon] = _train(course, candidate.answer, by_hand(recipe.settings, epsilon))

    on_the_way = next(iter(trained.values()))
    lost = _first_not_finite(on_the_way)
    checks: list[CaseReport] = []
    for update in _checked_updates(recipe, updates, lost):
        problem = _as_a_case(on_the_way[update], dtype, f"{case.name}, update {update}")
        checks.append(check_problem(problem, candidate, engines))

    told = TrainingRow(
        text=corpus.name,
        characters=len(corpus.tokens),
        vocabulary=len(corpus.vocabulary),
        updates=updates,
        cell=case.cell,
        settings=recipe.settings,
        rows=_compared(course, trained, references),
        loss_before=_mean_loss(candidate, on_the_way[0], cut),
        loss_after=_mean_loss(candidate, on_the_way[updates], cut),
    )
    notes = [each.note for each in references if each.note is not None]
    if lost is not None:
        said = "the weights trained by hand are not finite"
        notes.append(f"{case.name}: from update {lost} on, {said}")
    return Training(checks, told, notes)


def _as_a_case(problem: Problem, dtype: str, name: str) -> Problem:
    return replace(problem.in_precision(dtype), name=name)


def _references(start: Problem, recipe: Recipe, engines: Sequence[Engine]) -> list[Reference]:
    """Those that can follow the problem, each with the updates of its own framework."""
    found: list[Reference] = []
    for engine in engines:
        if engine.reason_not(start) is None:
            rule, note = by_framework(engine.package, recipe.settings)
            found.append(Reference(engine, rule, note))
    return found


def _first_not_finite(on_the_way: Sequence[Problem]) -> int | None:
    """The first update before which weights or carried state are not finite, if there is one."""
    for update, problem in enumerate(on_the_way):
        if not all(bool(np.isfinite(value).all()) for value in problem.variables.values()):
            return update
    return None


def _checked_updates(recipe: Recipe, updates: int, lost: int | None) -> list[int]:
    """The updates at which gradients are checked, evenly from the first to after the last."""
    evenly = {updates * k // (recipe.checks - 1) for k in range(recipe.checks)}
    return sorted(update for update in evenly if lost is None or update < lost)


def _compared(
    course: Course, trained: Mapping[float, list[Problem]], references: Sequence[Reference]
) -> list[ParameterVerdict]:
    """For each reference the worst parameter, beside that by hand with its ε of clipping."""
    others: dict[str, Problem] = {}
    for each in references:
        others[each.engine.name] = _train(course, _without_shares(each.engine), each.rule)[-1]
    noise = _noise(course, others, references)
    rows: list[ParameterVerdict] = []
    for each in references:
        mine = trained[each.rule.clip_epsilon][-1]
        rows.append(_worst_parameter(mine, others[each.engine.name], each, noise))
    return rows


def _at_window(problem: Problem, window: Window, states: Mapping[str, Array] | None) -> Problem:
    """The problem on this window, from the states given, or from zero."""
    x, target = window
    initial: dict[str, Array] = {}
    for name, size in problem.state_sizes.items():
        zero = np.zeros((problem.batch, size), dtype=problem.dtype)
        initial[f"{name}_0"] = zero if states is None else states[name]
    moved = problem.with_variables(initial)
    return replace(moved, constants=frozen({**moved.constants, "x": x, "target": target}))


def _without_shares(engine: Engine) -> Callable[[Problem], Answer]:
    return lambda problem: engine.answer(problem, shares=False)


def _stay(problem: Problem) -> Problem:
    return problem


def _train(
    course: Course, ask: Callable[[Problem], Answer], rule: Rule, move: Move = _stay
) -> list[Problem]:
    """The problem before each update, and after the last.

    Window after window, the state is carried across; `move` is applied before every update.
    """
    passed_through: list[Problem] = []
    states: Mapping[str, Array] | None = None
    problem = course.start
    memory = rule.start(_weights(problem))
    for update in range(course.updates):
        problem = move(_at_window(problem, course.window(update), states))
        passed_through.append(problem)
        answer = ask(problem)
        at_the_end = (update + 1) % len(course.windows) == 0
        states = None if at_the_end else {name: s[-1] for name, s in answer.states.items()}
        weights, memory = rule.update(_weights(problem), answer.gradients, memory)
        problem = problem.with_variables(weights)
    return [*passed_through, _at_window(problem, course.window(course.updates), states)]


def _weights(problem: Problem) -> dict[str, Array]:
    return {name: problem.variables[name] for name in problem.weight_names}


def _noise(
    course: Course, others: Mapping[str, Problem], references: Sequence[Reference]
) -> dict[str, float]:
    """What rounding explains of a difference of trained parameters, from one reference; by name.

    What other references say has no part in it: updates that contradict each other would explain
    any mistake.
    """
    witness = min(references, key=_preference)
    rng = np.random.default_rng([course.start.seed, 2])

    def move(problem: Problem) -> Problem:
        return tolerance.perturb(problem, rng, every_step=False)

    def ask(problem: Problem) -> Answer:
        answer = witness.engine.answer(problem)
        rounded = {name: _rounded(answer, name, rng) for name in problem.weight_names}
        return replace(answer, gradients=rounded)

    again = _train(course, ask, witness.rule, move)[-1]
    unit = tolerance.unit(course.start, course.updates)
    noise: dict[str, float] = {}
    for weight, expected in _weights(others[witness.engine.name]).items():
        response = float(np.max(np.abs(again.variables[weight] - expected)))
        noise[weight] = max(response, unit * float(np.max(np.abs(expected))))
    return noise


def _preference(reference: Reference) -> tuple[bool, bool]:
    """Least for who is asked for the noise: one that tells steps, and rounds the same way twice."""
    return not reference.engine.tells_steps, reference.engine.rounds_at_random


def _rounded(answer: Answer, name: str, rng: np.random.Generator) -> Array:
    """A gradient moved by up to ε Σ_t |share of step t| in each entry: terms that cancel count."""
    gradient = answer.gradients[name]
    size = np.abs(answer.steps[name]).sum(axis=0) if name in answer.steps else np.abs(gradient)
    direction = rng.uniform(-1, 1, gradient.shape).astype(gradient.dtype)
    return gradient + np.finfo(gradient.dtype).eps * size * direction


def _worst_parameter(
    mine: Problem, other: Problem, reference: Reference, noise: Mapping[str, float]
) -> ParameterVerdict:
    name = reference.engine.name
    verdicts: list[Verdict] = []
    for weight, level in noise.items():
        both = Side(mine.variables[weight]), Side(other.variables[weight])
        yardstick = Yardstick(level, None, tolerance.limit_of(mine))
        verdicts.append(compare(weight, name, *both, yardstick))
    worst = max(verdicts, key=lambda verdict: verdict.worst_over_noise)
    return ParameterVerdict(
        reference=name,
        parameter=worst.gradient,
        max_rel_error=worst.max_rel_error,
        error_over_noise=worst.error_over_noise,
        passed=all(verdict.passed for verdict in verdicts),
        updated_by=reference.rule.by,
    )


def _mean_loss(candidate: CellCandidate, weights: Problem, cut: list[Window]) -> float:
    """Mean loss per character over the first windows of the text, the state carried across."""
    return float(np.mean(list(islice(_losses(candidate, weights, cut), EVALUATED_WINDOWS))))


def _losses(candidate: CellCandidate, weights: Problem, cut: list[Window]) -> Iterator[float]:
    states: Mapping[str, Array] | None = None
    for window in cut:
        done = candidate.forward(_at_window(weights, window, states))
        states = {name: trajectory[-1] for name, trajectory in done.tape.states.items()}
        yield done.loss
