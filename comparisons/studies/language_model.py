"""The text case: a character-level language model of a file, cross-checked at initialisation and
while it trains.

The vocabulary is the set of the file's characters. The text is cut into B streams of equal length,
each stream into consecutive windows of T characters; the target of a character is the next one.
The state at the end of a window is the initial state of the next (a number, not differentiated);
at the end of the text it starts again from zero.

Manual, and each reference that tells its states, then train from identical weights, each with its
own gradients, its own updates (manual/training.py, torch.optim, optax) and its own carried state.
They must stay together: the parameters after N updates are compared, in units of what rounding
explains, measured by training a reference once more, by the same updates, with its weights moved
by a unit roundoff before every one and its gradients by that of their terms. TRAININGS says which
cell is trained how.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..candidates.built_in_cells import CellCandidate, built_in
from ..candidates.draw import problem_of
from ..checking.case_report import CaseReport
from ..checking.crosscheck import check_problem
from ..checking.training_row import ParameterRow, TrainingRow
from ..errors import BadText
from ..judging.comparator import Side, Yardstick, compare
from ..judging.verdict import Verdict
from ..places import ROOT
from ..problems.answer import Answer
from ..problems.arrays import Array, frozen
from ..problems.cases import Case
from ..problems.problem import Problem
from ..witnesses import tolerance
from ..witnesses.engines import Engine
from .optimisers import Rule, Settings, by_framework, by_hand

Window: TypeAlias = tuple[Array, Array]
Move: TypeAlias = Callable[[Problem], Problem]

EVALUATED_WINDOWS = 32


@dataclass(frozen=True)
class Recipe:
    """A cell, and how it is trained: settings as in comparisons.studies.optimisers.

    At how many of the updates gradients are checked.
    """

    cell: str
    settings: Settings
    checks: int = 3


# At these rates the loss falls and rounding grows slowly enough to compare; the norm is clipped at
# some updates, the value of
# some entries, not all. Adam's customary ε of 1e-8 would enlarge the rounding of gradients that
# have all but vanished (rare
# characters) to the length of whole steps in float32.
TRAININGS: tuple[Recipe, ...] = (
    Recipe("rnn", {"optimiser": "sgd", "learning_rate": 0.7, "clip": "norm", "limit": 0.6}),
    Recipe(
        "lstm",
        {
            "optimiser": "adam",
            "learning_rate": 0.01,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-4,
            "clip": None,
        },
        2,
    ),
    Recipe(
        "gru",
        {
            "optimiser": "momentum",
            "learning_rate": 0.2,
            "momentum": 0.9,
            "clip": "value",
            "limit": 0.05,
        },
        2,
    ),
)


def recipes(cell: str | None) -> list[Recipe]:
    """Those of one cell, which any cell has: the first one's where the table says nothing.

    The whole table for None.
    """
    chosen = [recipe for recipe in TRAININGS if cell in (None, recipe.cell)]
    return chosen or [replace(TRAININGS[0], cell=cell or "")]


@dataclass(frozen=True)
class Corpus:
    """A text as tokens: the name it goes by, its distinct characters in order, and the index of
    each character (length,).
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
    """The file as a corpus. Raises BadText when it cannot be read as UTF-8 text or is empty."""
    try:
        return corpus_of(path.name, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadText(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadText(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error


def default_corpus() -> Corpus:
    """README.md: the file beside this folder, or, installed without it, the copy in the
    distribution's metadata.
    """
    beside = ROOT / "README.md"
    if beside.is_file():
        return read_corpus(beside)
    return corpus_of("README.md", str(metadata.metadata("bptt-crosscheck").json["description"]))


def windows(corpus: Corpus, steps: int, batch: int) -> list[Window]:
    """[(x, target)], each (T, B).

    Consecutive windows of up to `batch` streams, fewer where the text is short.

    Raises BadText when the text has not even one window: T characters and the one that follows.
    """
    length = len(corpus.tokens)
    if length < steps + 1:
        raise BadText(
            f"{corpus.name} has {length} characters; a window of {steps} steps needs {steps + 1}"
        )
    streams = min(batch, (length - 1) // steps)
    count = (length - 1) // (streams * steps)
    used = streams * count * steps
    x, target = (
        corpus.tokens[start : start + used].reshape(streams, count * steps).T for start in (0, 1)
    )
    return [(x[k : k + steps], target[k : k + steps]) for k in range(0, count * steps, steps)]


@dataclass(frozen=True)
class Training:
    """One training, of all side by side.

    checks   the cross-checks made on the way
    row      what came of it, with the parameters at the end against every reference
    notes    remarks
    """

    checks: list[CaseReport]
    row: TrainingRow
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Course:
    """What is trained, and for how long: a recipe on a corpus, from the weights of a seed."""

    corpus: Corpus
    case: Case
    recipe: Recipe
    updates: int
    seed: int = 0
    dtype: str = "float64"

    @property
    def windows(self) -> list[Window]:
        """The text, cut."""
        return windows(self.corpus, self.case.steps, self.case.batch)

    def checked_at(self) -> set[int]:
        """The updates before which gradients are cross-checked.

        The first, the last, and between.
        """
        intervals = self.recipe.checks - 1
        return {self.updates * k // intervals for k in range(self.recipe.checks)}


def text_case(corpus: Corpus, like: Case, steps: int, batch: int, hidden_size: int) -> Case:
    """The corpus as a case, with the cell of `like`.

    Tokens in, an output per character, mean cross-entropy at every step.
    """
    size = len(corpus.vocabulary)
    streams = windows(corpus, steps, batch)[0][0].shape[1]
    return Case(
        f"text {corpus.name}"
        if like.cell == TRAININGS[0].cell
        else f"{like.cell} text {corpus.name}",
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


def train_side_by_side(course: Course, engines: Sequence[Engine]) -> Training:
    """Cross-check at the first and last update and between; then the trained parameters of all."""
    cut, recipe, case = course.windows, course.recipe, course.case
    candidate = built_in(case.cell, case.options)
    start = _at_window(problem_of(case, course.seed, course.dtype), cut[0], None)
    askable = [engine for engine in engines if engine.reason_not(start) is None]
    ruled = {engine: by_framework(engine.package, recipe.settings) for engine in askable}
    rules = {engine: rule for engine, (rule, _) in ruled.items()}

    # By hand once for each ε of the references' clipping: what is to stay together is clipped
    # alike.
    trained: dict[float, list[Problem]] = {}
    for epsilon in dict.fromkeys(rule.clip_epsilon for rule in rules.values()) or (0.0,):
        rule = by_hand(recipe.settings, epsilon)
        trained[epsilon] = _train(start, cut, course.updates, candidate.answer, rule)
    on_the_way = next(iter(trained.values()))

    lost = _first_lost(on_the_way)
    checks: list[CaseReport] = []
    for number in sorted(course.checked_at() & set(range(lost))):
        at = on_the_way[number].in_precision(course.dtype)
        problem = replace(at, name=f"{case.name}, update {number}")
        checks.append(check_problem(problem, candidate, engines))

    others: dict[Engine, Problem] = {}
    for engine, rule in rules.items():
        others[engine] = _train(start, cut, course.updates, _without_shares(engine), rule)[-1]
    noise = _noise(start, cut, course.updates, others, rules)
    rows: list[ParameterRow] = []
    for engine, other in others.items():
        mine = trained[rules[engine].clip_epsilon][-1]
        verdicts = _parameters(mine, engine.name, other, noise)
        rows.append(_row_of(verdicts, rules[engine].by))
    row = TrainingRow(
        text=course.corpus.name,
        characters=len(course.corpus.tokens),
        vocabulary=len(course.corpus.vocabulary),
        updates=course.updates,
        cell=case.cell,
        settings=dict(recipe.settings),
        loss_before=_mean_loss(candidate, on_the_way[0], cut),
        loss_after=_mean_loss(candidate, on_the_way[course.updates], cut),
        rows=rows,
    )
    remarks = [note for _, note in ruled.values() if note is not None]
    if lost < len(on_the_way):
        remarks.append(
            f"{case.name}: from update {lost} on, the weights trained by hand are not finite"
        )
    return Training(checks, row, remarks)


def _first_lost(on_the_way: Sequence[Problem]) -> int:
    """Before which update the weights or the state are first not finite.

    One past the last where never.
    """
    for number, problem in enumerate(on_the_way):
        if not _is_finite(problem):
            return number
    return len(on_the_way)


def _at_window(problem: Problem, window: Window, states: Mapping[str, Array] | None) -> Problem:
    """The problem on this window, from the states given, or from zero."""
    x, target = window
    zero = {
        name: np.zeros((problem.batch, size), dtype=problem.dtype)
        for name, size in problem.state_sizes.items()
    }
    initial = {f"{name}_0": value for name, value in (states or zero).items()}
    moved = problem.with_variables(initial)
    return replace(moved, constants=frozen({**moved.constants, "x": x, "target": target}))


def _without_shares(engine: Engine) -> Callable[[Problem], Answer]:
    return lambda problem: engine.answer(problem, shares=False)


def _stay(problem: Problem) -> Problem:
    return problem


def _train(
    problem: Problem,
    cut: list[Window],
    updates: int,
    ask: Callable[[Problem], Answer],
    rule: Rule,
    move: Move = _stay,
) -> list[Problem]:
    """The problem before each update, and after the last.

    Window after window, the state carried across.

    `move` is applied before every update.
    """
    passed_through: list[Problem] = []
    states: Mapping[str, Array] | None = None
    memory = rule.start(_weights(problem))
    for number, window in islice(enumerate(cycle(cut)), updates):
        problem = move(_at_window(problem, window, states))
        passed_through.append(problem)
        answer = ask(problem)
        states = (
            None
            if (number + 1) % len(cut) == 0
            else {name: value[-1] for name, value in answer.states.items()}
        )
        weights, memory = rule.update(_weights(problem), answer.gradients, memory)
        problem = problem.with_variables(weights)
    return [*passed_through, _at_window(problem, cut[updates % len(cut)], states)]


def _is_finite(problem: Problem) -> bool:
    """Whether the weights, and the state that is carried, are numbers at which a gradient can be
    checked.
    """
    return all(bool(np.isfinite(value).all()) for value in problem.variables.values())


def _weights(problem: Problem) -> dict[str, Array]:
    return {name: problem.variables[name] for name in problem.weight_names}


def _noise(
    start: Problem,
    cut: list[Window],
    updates: int,
    others: Mapping[Engine, Problem],
    rules: Mapping[Engine, Rule],
) -> dict[str, float]:
    """What rounding explains of a difference between trained parameters, from one reference.

    By name.

    What other references say has no part in it: updates that contradict each other would explain
    any mistake.
    """
    witness = min(others, key=lambda engine: (not engine.tells_steps, engine.rounds_at_random))
    rng = np.random.default_rng([start.seed, 2])

    def move(problem: Problem) -> Problem:
        return tolerance.perturb(problem, rng, every_step=False)

    def ask(problem: Problem) -> Answer:
        answer = witness.answer(problem)
        return replace(
            answer, gradients={name: _rounded(answer, name, rng) for name in problem.weight_names}
        )

    rounded = _train(start, cut, updates, ask, rules[witness], move)[-1]
    noise: dict[str, float] = {}
    for weight, expected in _weights(others[witness]).items():
        response = float(np.max(np.abs(rounded.variables[weight] - expected)))
        noise[weight] = max(
            response, tolerance.unit(start, updates) * float(np.max(np.abs(expected)))
        )
    return noise


def _rounded(answer: Answer, name: str, rng: np.random.Generator) -> Array:
    """A gradient moved by up to ε Σ_t |share of step t|, entry by entry.

    Terms that cancel do not hide.
    """
    gradient = answer.gradients[name]
    size = np.abs(answer.steps[name]).sum(axis=0) if name in answer.steps else np.abs(gradient)
    return gradient + np.finfo(gradient.dtype).eps * size * rng.uniform(
        -1, 1, gradient.shape
    ).astype(gradient.dtype)


def _parameters(
    mine: Problem, name: str, other: Problem, noise: Mapping[str, float]
) -> list[Verdict]:
    """The trained parameters by hand against those of a reference."""
    limit = tolerance.limit_of(mine)
    verdicts: list[Verdict] = []
    for weight, level in noise.items():
        values = Side(mine.variables[weight]), Side(other.variables[weight])
        verdicts.append(compare(weight, name, *values, Yardstick(level, None, limit)))
    return verdicts


def _row_of(verdicts: Sequence[Verdict], updated_by: str) -> ParameterRow:
    """The worst parameter, and whether all are within the limit."""
    worst = max(verdicts, key=lambda verdict: verdict.worst_over_noise)
    return ParameterRow(
        reference=worst.reference,
        parameter=worst.gradient,
        max_rel_error=worst.max_rel_error,
        error_over_noise=worst.error_over_noise,
        passed=all(verdict.passed for verdict in verdicts),
        updated_by=updated_by,
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
