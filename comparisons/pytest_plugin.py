"""pytest plugin: the fixture `gradient_oracle`, a summary of all checks, and a JSON file of them.

    def test_my_cell(gradient_oracle):
        gradient_oracle.check_cell(MyCell())

Options: --oracle-seed N (else every test has its own seed, made from its name, and says it when it
fails), --oracle-references torch,jax, --oracle-timeout SECONDS, and --oracle-report DIR, which gets
`oracle.json`. Works under pytest-xdist. Neither torch nor jax is imported before a check runs.
"""

import json
import zlib
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .checking import entry_points
from .checking.report_data import Report
from .errors import BadTarget
from .plain_data import json_text
from .reporting.files import prepare_file, prepare_folder, write_text
from .reporting.terminal import visible
from .witnesses.engines import names_in

CHECKS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this plugin."""
    group = parser.getgroup("gradient oracle", "hand-derived gradients against references")
    group.addoption(
        "--oracle-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of every check (default: by test)",
    )
    group.addoption(
        "--oracle-references",
        default=None,
        metavar="NAMES",
        help="references to ask, by comma (default: all)",
    )
    group.addoption(
        "--oracle-timeout",
        type=float,
        default=None,
        metavar="SECONDS",
        help="for one call of the code under test (default: no limit)",
    )
    group.addoption(
        "--oracle-report",
        default=None,
        metavar="DIR",
        help="write oracle.json, every check of the session, to DIR",
    )


@dataclass
class GradientOracle:
    """check_cell, check_gradients, check_vjp, by the test's seed and the session's references."""

    seed: int
    references: list[str] | None
    timeout: float | None = None
    reports: list[Report] = field(default_factory=list[Report], repr=False)

    def check_cell(self, cell: Any, **options: Any) -> Report:
        """As bptt_crosscheck.check_cell."""
        __tracebackhide__ = True
        return self._check(entry_points.check_cell, cell, **options)

    def check_gradients(
        self, gradients: Any, loss: Any, params: Any, inputs: Any, **options: Any
    ) -> Report:
        """As bptt_crosscheck.check_gradients."""
        __tracebackhide__ = True
        check = entry_points.check_gradients
        return self._check(check, gradients, loss, params, inputs, **options)

    def check_vjp(
        self, vjp: Any, function: Any, params: Any, inputs: Any, **options: Any
    ) -> Report:
        """As bptt_crosscheck.check_vjp."""
        __tracebackhide__ = True
        return self._check(entry_points.check_vjp, vjp, function, params, inputs, **options)

    def _check(
        self, check: Any, *arguments: Any, raise_exception: bool = True, **options: Any
    ) -> Report:
        __tracebackhide__ = True
        session = {"seed": self.seed, "references": self.references, "timeout": self.timeout}
        asked = {**session, **options}
        report = check(*arguments, raise_exception=False, **asked)
        self.reports.append(report)
        if raise_exception:
            report.raise_for_failure()
        return report


@pytest.fixture
def gradient_oracle(request: pytest.FixtureRequest) -> Generator[GradientOracle]:
    """The oracle, seeded for this test."""
    given = request.config.getoption("--oracle-seed")
    seed = zlib.crc32(request.node.nodeid.encode()) if given is None else int(given)
    names = request.config.getoption("--oracle-references")
    asked = names_in(names)
    oracle = GradientOracle(seed, asked, request.config.getoption("--oracle-timeout"))
    request.node.stash[CHECKS] = []
    repeat = f"seed {seed}; repeat with --oracle-seed {seed}"
    request.node.add_report_section("call", "gradient oracle", repeat)
    yield oracle
    for report in oracle.reports:
        made = {"seed": report.environment["seed"], "report": report.to_json()}
        request.node.stash[CHECKS].append(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: Any
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hang the checks of a test on its last report: plain text comes home from another process."""
    report = yield
    if call.when == "teardown":
        none: list[dict[str, Any]] = []
        made = item.stash.get(CHECKS, none)
        vars(report)["oracle_checks"] = [{"test": item.nodeid, **check} for check in made]
    return report


class OracleSummary:
    """Gathers the checks of all tests where the session is reported."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.checks: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what a test's report carries."""
        for check in getattr(report, "oracle_checks", []):
            self.checks.append({**check, "report": json.loads(check["report"])})

    def pytest_sessionfinish(self) -> None:
        """Write oracle.json, if asked."""
        folder = self.config.getoption("--oracle-report")
        if folder is not None:
            path = Path(str(folder))
            checks = sorted(self.checks, key=lambda check: str(check["test"]))
            write_text(path / "oracle.json", json_text({"schema": 1, "checks": checks}) + "\n")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One section: how many checks, and which failed."""
        if not self.checks:
            return
        failed = [check for check in self.checks if not check["report"]["passed"]]
        comparisons = 0
        for check in self.checks:
            comparisons += sum(len(case["rows"]) for case in check["report"]["cases"])
        counts = (
            f"{len(self.checks)} checks, {comparisons} comparisons, {len(failed)} checks failed"
        )
        terminalreporter.section("gradient oracle")
        terminalreporter.write_line(counts)
        for check in failed:
            which = f"{check['test']} (seed {check['seed']})"
            terminalreporter.write_line(visible(f"  {which}: {_why(check['report'])}"))


def _why(report: dict[str, Any]) -> str:
    if report["errors"]:
        return str(report["errors"][0]["error"])
    wrong: dict[str, None] = {}
    for case in report["cases"]:
        wrong |= dict.fromkeys(row["gradient"] for row in case["rows"] if not row["passed"])
    return f"wrong: {', '.join(wrong)}"


def pytest_configure(config: pytest.Config) -> None:
    """Summarise where the session is reported: not in the workers of pytest-xdist.

    Raises UsageError where the file that is asked for could not be written at the end.
    """
    if hasattr(config, "workerinput"):
        return
    folder = config.getoption("--oracle-report")
    if folder is not None:
        try:
            prepare_folder(Path(str(folder)))
            prepare_file(Path(str(folder)) / "oracle.json")
        except BadTarget as error:
            raise pytest.UsageError(f"--oracle-report: {error}") from error
    config.pluginmanager.register(OracleSummary(config), "gradient-oracle-summary")


__all__ = ["GradientOracle", "gradient_oracle"]
