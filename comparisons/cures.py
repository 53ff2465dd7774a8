"""The cures for vanishing and exploding gradients at work: one measurement, ‖∂s_T/∂s_k‖₂ over k, for cell after cell.

What all variants share is drawn once, from the seed (`draw`): the inputs x, the input weights V_i (deviation 1/√I), orthogonal
matrices Q_i for the recurrent weights, and the cotangent C of the one loss, L = ⟨C, h_T⟩, at the last step alone (of the LRU,
Re s_T). States start at zero, and biases are zero where VARIANTS says nothing else. Adding a variant is adding a line.

Every number is computed from a dump, as comparisons.dump.load gives it back. With n(d) = the largest ‖∂s_T/∂s_{T−d}‖₂ among the
rows of the batch, which is the norm for the batch as a whole,

    factor per step     e^slope of the line fitted by least squares to log n(d) over the lags d = 1..T with n(d) > 0    (1)
    largest growth      e^λ₁ with λ₁ the largest Lyapunov exponent, from s_0 forwards, of the row that has the largest   (2)

Clipping acts on the gradients of all weights and of x together, as if x were learned embeddings: ∂L/∂x_k is the gradient by step,
and its decay over the lag, fitted as in (1), says whether anything was done against vanishing.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comparisons import dump, tolerance
from comparisons.candidates import built_in, must_fit, problem_of
from comparisons.cases import AFTER, POSITIVE, PROJECTION, RELU, TANH, Case
from comparisons.crosscheck import environment, judge
from comparisons.engines import Engine
from comparisons.errors import BadTarget, MissingFramework
from comparisons.files import complete_or_absent, prepare_file
from comparisons.problem import Answer, Array, Problem, frozen
from comparisons.updates import CLIPS
from comparisons.verdict import Verdict

if TYPE_CHECKING:
    import xarray

SCHEMA = 1
THOUSANDTH, ROUNDED_TO_ONE, HUNDREDFOLD = 1e-3, 1.005, 100
LIMIT = 5.0  # of every clip: entries beyond ±5, or a norm above 5
PLAIN, EXPLODING, HOLDING = "tanh-Q", "tanh-3Q", "lstm-forget-3"


@dataclass(frozen=True)
class Shared:
    """What all variants have in common: x (T,B,I), Q_1..Q_4 (H,H), V_1..V_4 (H,I), C (B,H), and H uniform numbers twice."""

    x: Array
    orthogonal: tuple[Array, ...]
    input_weights: tuple[Array, ...]
    cotangent: Array
    uniform: Array
    angles: Array

    def stacked(self, *order: int) -> dict[str, Array]:
        """W_xh and W_hh of a cell whose gates, as it stacks them, take these of the matrices; the candidate's are the first."""
        matrices = {"W_xh": self.input_weights, "W_hh": self.orthogonal}
        return {name: np.concatenate([drawn[number] for number in order]) for name, drawn in matrices.items()}


def draw(seed: int, steps: int, batch: int, input_size: int, hidden_size: int) -> Shared:
    """The shared data of this seed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, batch, input_size))
    gaussian = rng.normal(size=(4, hidden_size, hidden_size))
    inputs = rng.normal(scale=input_size**-0.5, size=(4, hidden_size, input_size))
    orthogonal = tuple(np.linalg.qr(matrix)[0] for matrix in gaussian)
    cotangent, angles = rng.normal(size=(batch, hidden_size)), rng.uniform(0, 2 * np.pi, hidden_size)
    return Shared(x, orthogonal, tuple(inputs), cotangent, rng.uniform(size=hidden_size), angles)


Start = Callable[[Shared], dict[str, Array]]


def gain(factor: float) -> Start:
    """W_hh = factor · Q_1."""
    return lambda shared: {"W_xh": shared.input_weights[0], "W_hh": factor * shared.orthogonal[0]}


def identity(shared: Shared) -> dict[str, Array]:
    """W_hh = I (Le, Jaitly and Hinton 2015)."""
    return gain(1)(shared) | {"W_hh": np.eye(shared.cotangent.shape[-1])}


def forget_bias(value: float) -> Start:
    """An LSTM, the gates i, f, g, o, with this bias of f."""
    return lambda shared: shared.stacked(1, 2, 0, 3) | {"b_h": _bias(shared, 0, value, 0, 0)}


def update_bias(value: float) -> Start:
    """A GRU, the gates r, z, n, with this bias of z: z = 1 keeps the old state."""
    return lambda shared: shared.stacked(1, 2, 0) | {"b_x": _bias(shared, 0, value, 0)}


def minimal(value: float) -> Start:
    """A minGRU, z and its candidate, with this bias of z: z = 0 keeps the old state."""
    return lambda shared: {"W_xh": shared.stacked(1, 0)["W_xh"], "b_h": _bias(shared, value, 0)}


def ring(low: float, high: float) -> Start:
    """An LRU with λ uniform in the ring low ≤ |λ| ≤ high (Orvieto et al. 2023, appendix A)."""

    def start(shared: Shared) -> dict[str, Array]:
        radius = np.sqrt(low**2 + (high**2 - low**2) * shared.uniform)
        angle = np.maximum(shared.angles, 1e-3)  # its logarithm is the parameter
        rates = {"nu": np.log(-np.log(radius)), "theta": np.log(angle), "gamma": np.log(1 - radius**2) / 2}
        return rates | {"W_xh": shared.stacked(0, 1)["W_xh"]}

    return start


def _bias(shared: Shared, *values: float) -> Array:
    return np.repeat(np.array(values, dtype=np.float64), shared.cotangent.shape[-1])


@dataclass(frozen=True)
class Variant:
    """A cell and how it starts; `name` names its dump, `label` says in the table what it is."""

    name: str
    label: str
    cell: str
    options: Mapping[str, Any]
    start: Start


VARIANTS: tuple[Variant, ...] = (
    Variant("tanh-0.9Q", "tanh RNN, W_hh = 0.9 Q", "rnn", TANH, gain(0.9)),
    Variant(PLAIN, "tanh RNN, W_hh = Q", "rnn", TANH, gain(1)),
    Variant(EXPLODING, "tanh RNN, W_hh = 3 Q", "rnn", TANH, gain(3)),
    Variant("relu-Q", "relu RNN, W_hh = Q", "rnn", RELU, gain(1)),
    Variant("irnn", "IRNN: relu, W_hh = I", "irnn", {}, identity),
    Variant("residual-0.1", "residual RNN, α = 0.1", "residual", {"alpha": 0.1, "activation": "tanh"}, gain(1)),
    Variant("residual-1", "residual RNN, α = 1", "residual", {"alpha": 1.0, "activation": "tanh"}, gain(1)),
    Variant("lstm-forget-0", "LSTM, b_f = 0", "lstm", {}, forget_bias(0)),
    Variant("lstm-forget-1", "LSTM, b_f = 1", "lstm", {}, forget_bias(1)),
    Variant(HOLDING, "LSTM, b_f = 3", "lstm", {}, forget_bias(3)),
    Variant("gru-update-0", "GRU, b_z = 0", "gru", AFTER, update_bias(0)),
    Variant("gru-update-3", "GRU, b_z = 3", "gru", AFTER, update_bias(3)),
    Variant("min-gru-update-0", "minGRU, b_z = 0", "min-gru", POSITIVE, minimal(0)),
    Variant("min-gru-update-minus-4", "minGRU, b_z = −4", "min-gru", POSITIVE, minimal(-4)),
    Variant("lru-0.5-0.99", "LRU, 0.5 ≤ |λ| ≤ 0.99", "lru", {}, ring(0.5, 0.99)),
    Variant("lru-0.99-0.999", "LRU, 0.99 ≤ |λ| ≤ 0.999", "lru", {}, ring(0.99, 0.999)),
)


def case_for(variant: Variant, sizes: Mapping[str, int], window: int | None = None) -> Case:
    """The variant without numbers, its gradient cut after `window` steps if there is one. Raises BadOption where too large."""
    name = variant.name if window is None else f"{variant.name}-window-{window}"
    given: dict[str, Any] = {"window": window, **sizes}
    case = Case(name, variant.cell, dict(variant.options), PROJECTION, initial_state="zero", jacobians=True, **given)
    must_fit(case)
    return case


def problem_for(case: Case, variant: Variant, shared: Shared, seed: int = 0) -> Problem:
    """The variant's case on the shared data."""
    drawn = problem_of(case, seed)
    zero = {name: np.zeros_like(drawn.variables[name]) for name in drawn.parameter_names}
    constants = {name: np.zeros_like(value) for name, value in drawn.constants.items()}
    constants[f"cotangent_{drawn.output_names[0]}"][-1] = shared.cotangent
    moved = drawn.with_variables({**zero, **variant.start(shared), "x": shared.x})
    return replace(moved, constants=frozen(constants), loss_label="⟨C, h_T⟩")


def agreement(problem: Problem, engine: Engine) -> list[Verdict]:
    """The verdicts on loss, states, gradients, ∂s_t/∂s_{t−1} and ∂s_T/∂s_k against a reference's, by step where it tells.

    The noise is the floor of comparisons.tolerance; where that is not enough, the answer to moved weights as well.
    """

    def ask(asked: Problem, rounding_seed: int = 0) -> Answer:
        del rounding_seed
        return engine.answer(asked, shares=False)

    mine, reference = built_in(problem.cell, problem.options).answer(problem), ask(problem)

    def judged(samples: int) -> list[Verdict]:
        noise = tolerance.measure(problem, ask, reference, samples)
        return [judge(problem, mine, reference, engine.name, name, noise) for name in tolerance.quantities(reference)]

    at_the_floor = judged(0)
    return at_the_floor if all(verdict.passed for verdict in at_the_floor) else judged(tolerance.SAMPLES)


# What the dumps say.


@dataclass(frozen=True)
class Row:
    """A variant's numbers.

    norms               n(d) for the lags d = 0..T
    factor_per_step     by (1); null where fewer than two lags have a norm above zero
    norm_at_start       n(T) = ‖∂s_T/∂s_0‖
    lag_below           the first lag with n(d) < 0.001; null where there is none
    zero_rows           in how many rows of the batch ‖∂s_T/∂s_0‖ is exactly zero
    largest_growth      by (2)
    gradient_norm       of all weights together; recurrent_norm: of W_hh, null where there is none
    finding             what that says, in words
    """

    name: str
    label: str
    norms: list[float]
    factor_per_step: float | None
    norm_at_start: float
    lag_below: int | None
    zero_rows: int
    batch: int
    largest_growth: float
    gradient_norm: float
    recurrent_norm: float | None
    finding: str = ""
    agrees: bool | None = None
    error_over_noise: float | None = None
    reference: str | None = None


def factor_per_step(norms: Array) -> float | None:
    """By (1), from n(d) at d = 1, 2, …; None where fewer than two are above zero."""
    lags = np.arange(1, len(norms) + 1)[norms > 0]
    if len(lags) < 2:
        return None
    slope = np.polynomial.polynomial.polyfit(lags, np.log(norms[norms > 0]), 1)[1]
    return float(np.exp(slope))


def row_of(label: str, data: "xarray.Dataset") -> Row:
    """The numbers of a variant from its dump."""
    by_row: Array = data["product_norm"].isel(t=-1).transpose("k", "batch").values[::-1]
    norms = by_row.max(axis=1)
    below = np.flatnonzero(norms < THOUSANDTH)
    weights = weight_gradients(data)
    return Row(
        name=data.attrs["case"],
        label=label,
        norms=[float(value) for value in norms],
        factor_per_step=factor_per_step(norms[1:]),
        norm_at_start=float(norms[-1]),
        lag_below=int(below[0]) if len(below) else None,
        zero_rows=int(np.sum(by_row[-1] == 0)),
        batch=by_row.shape[1],
        largest_growth=float(np.exp(data["growth_rates"].isel(rank=0).max())),
        gradient_norm=norm(weights),
        recurrent_norm=norm({"W_hh": weights["W_hh"]}) if "W_hh" in weights else None,
    )


def weight_gradients(data: "xarray.Dataset") -> dict[str, Array]:
    """name → ∂L/∂W of every parameter in the dump."""
    found = {str(name): data[name].values for name in data.data_vars if str(name).startswith("gradient/")}
    named = {name.removeprefix("gradient/"): value for name, value in found.items()}
    return {name: value for name, value in named.items() if name != "x" and not name.endswith("_0")}


def norm(gradients: Mapping[str, Array]) -> float:
    """The Euclidean norm of all entries together."""
    return math.sqrt(sum(float(np.sum(np.square(value))) for value in gradients.values()))


def finding(row: Row, plain: Row) -> str:
    """What the numbers of a row say; "tanh" is the plain RNN with W_hh = Q."""
    parts = [_in_words(row, plain)]
    if row.zero_rows and row.norm_at_start > 0:
        parts.append(f"exactly 0 in {row.zero_rows} of {row.batch} rows")
    return "; ".join(parts)


def _in_words(row: Row, plain: Row) -> str:
    if row.norm_at_start == 0:
        end = row.norms.index(0)
        return f"{row.norms[end - 1]:.2g} at lag {end - 1}, then exactly 0 in every row"
    if row.norm_at_start > ROUNDED_TO_ONE:
        word = "explodes" if row.norm_at_start > HUNDREDFOLD else "grows"
        return f"{word}, {row.norm_at_start:.2g}-fold" if row.norm_at_start < 100 else f"{word}, {row.norm_at_start:,.0f}-fold"
    if row.norm_at_start >= THOUSANDTH:
        percent = 100 * row.norm_at_start
        return f"{percent:.0f} % is left" if percent >= 10 else f"{percent:.2g} % is left"
    if row.name == plain.name or row.lag_below is None or plain.lag_below is None:
        return "vanishes"
    return f"vanishes, at {row.lag_below / plain.lag_below:.1f} × tanh's lag"


# Clipping.


def one_sided(gradients: Mapping[str, Array], limit: float) -> dict[str, Array]:
    """What tutorials call clipping, "if grad > threshold: grad = threshold": lets −100 pass."""
    return {name: np.where(g > limit, limit, g) for name, g in gradients.items()}


CLIPPINGS: dict[str, Callable[[Mapping[str, Array]], Mapping[str, Array]]] = {
    "norm": lambda gradients: CLIPS["norm"](gradients, {"limit": LIMIT}, 0.0),
    "value": lambda gradients: CLIPS["value"](gradients, {"limit": LIMIT}, 0.0),
    "one-sided": lambda gradients: one_sided(gradients, LIMIT),
}
CLIPPED = (EXPLODING, PLAIN)


@dataclass(frozen=True)
class ClipRow:
    """One way of clipping one variant's gradients, those of all weights and of x.

    norm_before, norm_after   of all entries together
    changed, enlarged         share of the entries that are not what they were; share whose magnitude has grown
    cosine                    between the gradients before and after
    smallest, largest         entry after clipping
    decay_before, decay_after factor per step of ‖∂L/∂x_k‖ over the lag T − k, fitted as in (1)
    """

    clipping: str
    name: str
    label: str
    norm_before: float
    norm_after: float
    changed: float
    enlarged: float
    cosine: float
    smallest: float
    largest: float
    decay_before: float | None
    decay_after: float | None


def clip_row(clipping: str, label: str, data: "xarray.Dataset") -> ClipRow:
    """The numbers of one way of clipping from the dump of a variant."""
    before: dict[str, Array] = {**weight_gradients(data), "x": data["gradient/x"].values}
    after: Mapping[str, Array] = CLIPPINGS[clipping](before)
    old, new = (np.concatenate([np.ravel(each[name]) for name in before]) for each in (before, after))
    return ClipRow(
        clipping=clipping,
        name=data.attrs["case"],
        label=label,
        norm_before=norm(before),
        norm_after=norm(after),
        changed=int(np.count_nonzero(old != new)) / old.size,
        enlarged=int(np.count_nonzero(np.abs(new) > np.abs(old))) / old.size,
        cosine=cosine(old, new),
        smallest=float(new.min()),
        largest=float(new.max()),
        decay_before=factor_per_step(_by_lag(before["x"])),
        decay_after=factor_per_step(_by_lag(after["x"])),
    )


def cosine(a: Array, b: Array) -> float:
    """Of the angle between two vectors; 0 where one of them is zero."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a, b)) / lengths if lengths else 0.0


def _by_lag(d_x: Array) -> Array:
    """‖∂L/∂x_k‖ of the row that has the largest, for k = T, T−1, …, 1."""
    return np.linalg.norm(d_x, axis=-1).max(axis=-1)[::-1]


# Truncation.

TRUNCATED = (PLAIN, EXPLODING, HOLDING)


@dataclass(frozen=True)
class WindowRow:
    """A variant's gradient with every loss going back at most `window` steps, next to the whole.

    beyond          largest |∂L/∂s_k| for k < T − window, cut; beyond_whole: the same of the whole gradient
    difference      largest difference between the cut ∂L/∂s_k and the whole's for k ≥ T − window
    norm_whole, norm_cut   ‖∂L/∂W‖ of all weights together
    lost            ‖whole − cut‖ / ‖whole‖
    """

    name: str
    label: str
    window: int
    beyond: float
    beyond_whole: float
    difference: float
    norm_whole: float
    norm_cut: float
    lost: float


def window_row(label: str, window: int, whole: "xarray.Dataset", cut: "xarray.Dataset") -> WindowRow:
    """The numbers of a truncation from the dumps of a variant with and without it."""
    first = int(whole.attrs["steps"]) - window
    d, d_cut = whole["d_state"].values, cut["d_state"].values
    weights, weights_cut = weight_gradients(whole), weight_gradients(cut)
    lost = norm({name: weights[name] - weights_cut[name] for name in weights})
    return WindowRow(
        name=whole.attrs["case"],
        label=label,
        window=window,
        beyond=float(np.abs(d_cut[:first]).max(initial=0.0)),
        beyond_whole=float(np.abs(d[:first]).max(initial=0.0)),
        difference=float(np.abs(d_cut[first:] - d[first:]).max()),
        norm_whole=norm(weights),
        norm_cut=norm(weights_cut),
        lost=lost / norm(weights),
    )


# All of it.


@dataclass(frozen=True)
class Cures:
    """What was measured: sizes, a row per variant, per clipping, per truncation; rows of verdicts by variant."""

    environment: dict[str, Any]
    sizes: dict[str, int]
    rows: list[Row]
    clipping: list[ClipRow]
    truncation: list[WindowRow]
    failures: list[str] = field(default_factory=list[str])

    @property
    def passed(self) -> bool:
        """Whether there are variants, and the derivation agrees with the reference in each."""
        return bool(self.rows) and all(row.agrees for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as docs/cures.md describes it; numbers that JSON cannot hold are strings, as in a report."""
        told = {"schema": SCHEMA, "passed": self.passed, **asdict(self)}
        return {("variants" if key == "rows" else key): _spelt(value) for key, value in told.items()}

    def to_json(self) -> str:
        """The text of to_dict()."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def _spelt(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): _spelt(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_spelt(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def examine(folder: Path, engine: Engine, seed: int, sizes: Mapping[str, int], variants: Sequence[Variant] = VARIANTS) -> Cures:
    """Write a dump for every variant, read it back, and say what it shows; hold each variant to the reference.

    sizes are steps, batch, input_size, hidden_size. Raises BadOption for sizes that are too large, BadTarget for a folder that
    cannot be written.
    """
    cases = [case_for(variant, sizes) for variant in variants]
    shared = draw(seed, **sizes)
    problems = {v.name: problem_for(case, v, shared, seed) for case, v in zip(cases, variants, strict=True)}
    labels = {variant.name: variant.label for variant in variants}
    data = {name: _dumped(folder, problem) for name, problem in problems.items()}
    rows = {name: row_of(labels[name], each) for name, each in data.items()}
    judged = {name: agreement(problem, engine) for name, problem in problems.items()}
    plain = rows.get(PLAIN)
    window = sizes["steps"] // 5
    truncated = [variant for variant in variants if variant.name in TRUNCATED]
    cut = {v.name: _dumped(folder, problem_for(case_for(v, sizes, window), v, shared, seed)) for v in truncated}
    return Cures(
        environment(seed, "float64"),
        dict(sizes),
        [_judged(replace(row, finding=finding(row, plain or row)), judged[name]) for name, row in rows.items()],
        [clip_row(clipping, labels[name], data[name]) for name in CLIPPED if name in data for clipping in CLIPPINGS],
        [window_row(labels[name], window, data[name], cut[name]) for name in TRUNCATED if name in cut],
        [f"{name}: {row.sentence()}" for name, verdicts in judged.items() for row in verdicts if not row.passed],
    )


def _dumped(folder: Path, problem: Problem) -> "xarray.Dataset":
    return dump.load(dump.write(folder, problem, built_in(problem.cell, problem.options), []))


def _judged(row: Row, verdicts: Iterable[Verdict]) -> Row:
    told = list(verdicts)
    worst = max(verdict.worst_over_noise for verdict in told)
    return replace(row, agrees=all(verdict.passed for verdict in told), error_over_noise=worst, reference=told[0].reference)


def must_be_drawable(path: Path) -> None:
    """Raises MissingFramework without matplotlib, BadTarget for an ending that is no format of it, or a file that cannot be."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise MissingFramework(f"a plot needs matplotlib: pip install matplotlib ({error})") from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in known:
        raise BadTarget(f"{path} does not end in a format of pictures: {', '.join(known)}")
    prepare_file(path)


def draw_figure(cures: Cures, path: Path) -> None:
    """n(d) over the lag d to a file, log scale, a line per variant; an exact zero ends its line."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(cures.rows):
        norms = [value if value > 0 else math.nan for value in row.norms]
        axes.semilogy(norms, label=row.label, color=f"C{number % 10}", linestyle=("-", "--")[number // 10 % 2])
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("lag T − k")
    axes.set_ylabel("‖∂s_T/∂s_k‖₂")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-16))
    figure.legend(loc="outside right center", fontsize="small")
    with complete_or_absent(path) as stream:
        figure.savefig(stream, format=path.suffix.removeprefix(".").lower(), dpi=150)
