"""The cures for vanishing and exploding gradients at work: ‖∂s_T/∂s_k‖₂ over k, cell after cell.

Every variant is checked against a reference and dumped; every number is computed from its dump, as
comparisons.reporting.dump.load gives it back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..candidates.built_in_cells import built_in
from ..candidates.draw import LARGEST, jacobian_numbers
from ..checking.environment import environment
from ..errors import BadOption, BadTarget, MissingFramework
from ..judging.verdict import Verdict
from ..plain_data import json_text, plain, spelled
from ..problems.cases import Case
from ..problems.problem import Problem
from ..reporting import dump
from ..reporting.files import complete_or_absent, prepare_file, prepare_folder
from ..witnesses.engines import Engine
from .cure_measurements import (
    CLIPPED,
    CLIPPINGS,
    TRUNCATED,
    ClippingMeasurement,
    CureMeasurement,
    TruncationMeasurement,
    clipping_of,
    finding,
    measurement_of,
    truncation_of,
)
from .cure_variants import PLAIN, VARIANTS, Variant, agreement, case_for, draw, problem_for

if TYPE_CHECKING:
    import xarray

SCHEMA = 1


@dataclass(frozen=True)
class Cures:
    """What was measured: sizes, then a record per variant, per clipping, per truncation.

    failures    what disagrees with the reference, in words
    """

    environment: dict[str, Any]
    sizes: dict[str, int]
    variants: list[CureMeasurement]
    clipping: list[ClippingMeasurement]
    truncation: list[TruncationMeasurement]
    failures: list[str] = field(default_factory=list[str])

    @property
    def passed(self) -> bool:
        """Whether there are variants, and the derivation agrees with the reference in each."""
        return bool(self.variants) and all(each.agrees for each in self.variants)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as docs/cures.md describes it; NaN and infinities as text."""
        told = {each.name: plain(getattr(self, each.name)) for each in fields(self)}
        return spelled({"schema": SCHEMA, "passed": self.passed, **told})

    def to_json(self) -> str:
        """The text of to_dict()."""
        return json_text(self)


def examine(
    folder: Path,
    engine: Engine,
    seed: int,
    sizes: Mapping[str, int],
    variants: Sequence[Variant] = VARIANTS,
) -> Cures:
    """Write a dump for every variant, read it back, say what it shows; hold each to the reference.

    sizes are steps, batch, input_size, hidden_size. Raises BadOption for sizes that are too large,
    BadTarget for a folder or a file in it that cannot be written.
    """
    cases = [case_for(variant, sizes) for variant in variants]
    _must_fit_together(cases)
    prepare_folder(folder)
    for case in cases:
        prepare_file(dump.path_of(folder, case.name))
    shared = draw(seed, **sizes)
    problems: dict[str, Problem] = {}
    for case, variant in zip(cases, variants, strict=True):
        problems[variant.name] = problem_for(case, variant, shared, seed)
    dumped = {name: _dumped(folder, problem) for name, problem in problems.items()}
    judged = {name: agreement(problem, engine) for name, problem in problems.items()}

    window = sizes["steps"] // 5
    cut: dict[str, xarray.Dataset] = {}
    for variant in variants:
        if variant.name in TRUNCATED:
            case = case_for(variant, sizes, window)
            cut[variant.name] = _dumped(folder, problem_for(case, variant, shared, seed))

    labels = {variant.name: variant.label for variant in variants}
    return Cures(
        environment=environment(seed, "float64"),
        sizes=dict(sizes),
        variants=_measured(labels, dumped, judged),
        clipping=_clipped(labels, dumped),
        truncation=[
            truncation_of(labels[name], window, dumped[name], cut[name])
            for name in TRUNCATED
            if name in cut
        ],
        failures=_failures(judged),
    )


def _must_fit_together(cases: Sequence[Case]) -> None:
    """Raises BadOption where all dumps, which are held side by side, are too large for memory."""
    numbers = sum(jacobian_numbers(case, dumped=True) for case in cases)
    if numbers > LARGEST:
        raise BadOption(
            f"the Jacobians of {len(cases)} variants have {numbers:,} numbers, at most "
            f"{LARGEST:,}: take fewer steps or rows, or a smaller hidden size"
        )


def _dumped(folder: Path, problem: Problem) -> "xarray.Dataset":
    written = dump.write(folder, problem, built_in(problem.cell, problem.options), [])
    return dump.load(written)


def _measured(
    labels: Mapping[str, str],
    dumped: "Mapping[str, xarray.Dataset]",
    judged: Mapping[str, Sequence[Verdict]],
) -> list[CureMeasurement]:
    """A record for each variant, with what it shows beside the plain RNN, and whether it agrees."""
    alone = {name: measurement_of(labels[name], data) for name, data in dumped.items()}
    found: list[CureMeasurement] = []
    for name, measured in alone.items():
        verdicts = judged[name]
        agreed = replace(
            measured,
            finding=finding(measured, alone.get(PLAIN, measured)),
            agrees=all(verdict.passed for verdict in verdicts),
            error_over_noise=max(verdict.worst_over_noise for verdict in verdicts),
            reference=verdicts[0].reference,
        )
        found.append(agreed)
    return found


def _clipped(
    labels: Mapping[str, str], dumped: "Mapping[str, xarray.Dataset]"
) -> list[ClippingMeasurement]:
    found: list[ClippingMeasurement] = []
    for name in CLIPPED:
        if name in dumped:
            found += [clipping_of(how, labels[name], dumped[name]) for how in CLIPPINGS]
    return found


def _failures(judged: Mapping[str, Sequence[Verdict]]) -> list[str]:
    found: list[str] = []
    for name, verdicts in judged.items():
        found += [f"{name}: {row.sentence()}" for row in verdicts if not row.passed]
    return found


def must_be_drawable(path: Path) -> None:
    """Raises MissingFramework without matplotlib.

    Raises BadTarget for an ending that is no format of it, or a file that cannot be written.
    """
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
    for number, row in enumerate(cures.variants):
        norms = [value if value > 0 else math.nan for value in row.norms]
        linestyle = ("-", "--")[number // 10 % 2]  # there are ten colours
        axes.semilogy(norms, label=row.label, color=f"C{number % 10}", linestyle=linestyle)
    axes.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("lag T − k")
    axes.set_ylabel("‖∂s_T/∂s_k‖₂")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-16))
    figure.legend(loc="outside right center", fontsize="small")
    with complete_or_absent(path) as stream:
        figure.savefig(stream, format=path.suffix.removeprefix(".").lower(), dpi=150)
