"""What the dumps of the variants say: how far a gradient reaches back, clipped and cut.

With n(d) = the largest ‖∂s_T/∂s_{T−d}‖₂ among the rows of the batch, which is the norm for the
batch as a whole,

    factor per step     e^slope of the line fitted by least squares to log n(d) over the lags    (1)
                        d = 1..T with n(d) > 0
    largest growth      e^λ₁ with λ₁ the largest Lyapunov exponent, from s_0 forwards, of the    (2)
                        row that has the largest

Clipping acts on the gradients of all weights and of x together, as if x were learned embeddings:
∂L/∂x_k is the gradient by step, and its decay over the lag, fitted as in (1), says whether anything
was done against vanishing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..problems.arrays import Array
from .cure_variants import EXPLODING, HOLDING, PLAIN
from .optimisers import CLIPS

if TYPE_CHECKING:
    import xarray

THOUSANDTH, ROUNDED_TO_ONE, HUNDREDFOLD = 1e-3, 1.005, 100
LIMIT = 5.0  # of every clip: entries beyond ±5, or a norm above 5


@dataclass(frozen=True)
class CureMeasurement:
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


def measurement_of(label: str, data: "xarray.Dataset") -> CureMeasurement:
    """The numbers of a variant from its dump."""
    by_row: Array = data["product_norm"].isel(t=-1).transpose("k", "batch").values[::-1]
    norms = by_row.max(axis=1)
    below = np.flatnonzero(norms < THOUSANDTH)
    weights = weight_gradients(data)
    return CureMeasurement(
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
    found: dict[str, Array] = {}
    for variable in map(str, data.data_vars):
        name = variable.removeprefix("gradient/")
        of_a_parameter = name != "x" and not name.endswith("_0")
        if variable.startswith("gradient/") and of_a_parameter:
            found[name] = data[variable].values
    return found


def norm(gradients: Mapping[str, Array]) -> float:
    """The Euclidean norm of all entries together."""
    return math.sqrt(sum(float(np.sum(np.square(value))) for value in gradients.values()))


def finding(row: CureMeasurement, plain: CureMeasurement) -> str:
    """What the numbers of a row say; "tanh" is the plain RNN with W_hh = Q."""
    parts = [_in_words(row, plain)]
    if row.zero_rows and row.norm_at_start > 0:
        parts.append(f"exactly 0 in {row.zero_rows} of {row.batch} rows")
    return "; ".join(parts)


def _in_words(row: CureMeasurement, plain: CureMeasurement) -> str:
    left = row.norm_at_start
    if left == 0:
        # Every path is cut, by a relu or a zero of J: the norm jumps there, and does not decay.
        end = row.norms.index(0)
        return f"{row.norms[end - 1]:.2g} at lag {end - 1}, then exactly 0 in every row"
    if left > ROUNDED_TO_ONE:
        word = "explodes" if left > HUNDREDFOLD else "grows"
        fold = f"{left:.2g}" if left < 100 else f"{left:,.0f}"
        return f"{word}, {fold}-fold"
    if left >= THOUSANDTH:
        percent = 100 * left
        digits = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
        return f"{digits} % is left"
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
class ClippingMeasurement:
    """One way of clipping one variant's gradients, those of all weights and of x.

    norm_before, norm_after   of all entries together
    changed, enlarged         share of the entries that are not what they were; that have grown
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


def clipping_of(clipping: str, label: str, data: "xarray.Dataset") -> ClippingMeasurement:
    """The numbers of one way of clipping from the dump of a variant."""
    before: dict[str, Array] = {**weight_gradients(data), "x": data["gradient/x"].values}
    after: Mapping[str, Array] = CLIPPINGS[clipping](before)
    old = np.concatenate([np.ravel(before[name]) for name in before])
    new = np.concatenate([np.ravel(after[name]) for name in before])
    return ClippingMeasurement(
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
class TruncationMeasurement:
    """A variant's gradient with every loss going back at most `window` steps, next to the whole.

    beyond          largest |∂L/∂s_k| for k < T − window, cut
    beyond_whole    the same of the whole gradient
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


def truncation_of(
    label: str, window: int, whole: "xarray.Dataset", cut: "xarray.Dataset"
) -> TruncationMeasurement:
    """The numbers of a truncation from the dumps of a variant with and without it."""
    first = int(whole.attrs["steps"]) - window
    d, d_cut = whole["d_state"].values, cut["d_state"].values
    weights, weights_cut = weight_gradients(whole), weight_gradients(cut)
    difference = {name: weights[name] - weights_cut[name] for name in weights}
    return TruncationMeasurement(
        name=whole.attrs["case"],
        label=label,
        window=window,
        beyond=float(np.abs(d_cut[:first]).max(initial=0.0)),
        beyond_whole=float(np.abs(d[:first]).max(initial=0.0)),
        difference=float(np.abs(d_cut[first:] - d[first:]).max()),
        norm_whole=norm(weights),
        norm_cut=norm(weights_cut),
        lost=norm(difference) / norm(weights),
    )
