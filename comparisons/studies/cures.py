"""The cures for vanishing and exploding gradients at work: one measurement, ‖∂s_T/∂s_k‖₂ over k, for cell after cell.

Every variant is checked against a reference and dumped; every number is computed from its dump, as comparisons.dump.load gives it
back (comparisons.cure_variants, comparisons.cure_rows).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..candidates.built_in_cells import built_in
from ..checking.environment import environment
from ..errors import BadTarget, MissingFramework
from ..judging.verdict import Verdict
from ..problems.problem import Problem
from ..reporting import dump
from ..reporting.files import complete_or_absent, prepare_file
from ..witnesses.engines import Engine
from .cure_measurements import (
    CLIPPED,
    CLIPPINGS,
    TRUNCATED,
    ClipRow,
    Row,
    WindowRow,
    clip_row,
    finding,
    row_of,
    window_row,
)
from .cure_variants import PLAIN, VARIANTS, Variant, agreement, case_for, draw, problem_for

if TYPE_CHECKING:
    import xarray

SCHEMA = 1


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
        return {
            ("variants" if key == "rows" else key): _spelt(value) for key, value in told.items()
        }

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


def examine(
    folder: Path,
    engine: Engine,
    seed: int,
    sizes: Mapping[str, int],
    variants: Sequence[Variant] = VARIANTS,
) -> Cures:
    """Write a dump for every variant, read it back, and say what it shows; hold each variant to the reference.

    sizes are steps, batch, input_size, hidden_size. Raises BadOption for sizes that are too large, BadTarget for a folder that
    cannot be written.
    """
    cases = [case_for(variant, sizes) for variant in variants]
    shared = draw(seed, **sizes)
    problems = {
        v.name: problem_for(case, v, shared, seed) for case, v in zip(cases, variants, strict=True)
    }
    labels = {variant.name: variant.label for variant in variants}
    data = {name: _dumped(folder, problem) for name, problem in problems.items()}
    rows = {name: row_of(labels[name], each) for name, each in data.items()}
    judged = {name: agreement(problem, engine) for name, problem in problems.items()}
    plain = rows.get(PLAIN)
    window = sizes["steps"] // 5
    truncated = [variant for variant in variants if variant.name in TRUNCATED]
    cut = {
        v.name: _dumped(folder, problem_for(case_for(v, sizes, window), v, shared, seed))
        for v in truncated
    }
    return Cures(
        environment(seed, "float64"),
        dict(sizes),
        [
            _judged(replace(row, finding=finding(row, plain or row)), judged[name])
            for name, row in rows.items()
        ],
        [
            clip_row(clipping, labels[name], data[name])
            for name in CLIPPED
            if name in data
            for clipping in CLIPPINGS
        ],
        [
            window_row(labels[name], window, data[name], cut[name])
            for name in TRUNCATED
            if name in cut
        ],
        [
            f"{name}: {row.sentence()}"
            for name, verdicts in judged.items()
            for row in verdicts
            if not row.passed
        ],
    )


def _dumped(folder: Path, problem: Problem) -> "xarray.Dataset":
    return dump.load(dump.write(folder, problem, built_in(problem.cell, problem.options), []))


def _judged(row: Row, verdicts: Iterable[Verdict]) -> Row:
    told = list(verdicts)
    worst = max(verdict.worst_over_noise for verdict in told)
    return replace(
        row,
        agrees=all(verdict.passed for verdict in told),
        error_over_noise=worst,
        reference=told[0].reference,
    )


def must_be_drawable(path: Path) -> None:
    """Raises MissingFramework without matplotlib, BadTarget for an ending that is no format of it, or a file that cannot be."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise MissingFramework(
            f"a plot needs matplotlib: pip install matplotlib ({error})"
        ) from error
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
        axes.semilogy(
            norms, label=row.label, color=f"C{number % 10}", linestyle=("-", "--")[number // 10 % 2]
        )
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("lag T − k")
    axes.set_ylabel("‖∂s_T/∂s_k‖₂")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-16))
    figure.legend(loc="outside right center", fontsize="small")
    with complete_or_absent(path) as stream:
        figure.savefig(stream, format=path.suffix.removeprefix(".").lower(), dpi=150)
