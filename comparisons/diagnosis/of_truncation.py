"""Whether wrong gradients are exactly those of a truncated run back: each window is tried.

Of a loss that is given by its step the gradient that goes back at most K steps can be had from a
reference, for every K: where one K reproduces all that was given, and the whole gradient does not,
the run back was cut there.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..judging.findings import Finding, Mistake
from ..problems.answer import Answer
from ..problems.problem import AnyProblem, FunctionProblem
from ..witnesses.ask import Witnesses
from ..witnesses.engines import Engine
from .pairs import same

MOST = 64  # windows that are tried


def truncation(
    problem: AnyProblem, answer: Answer, witnesses: Witnesses, wrong: Sequence[str]
) -> list[Finding]:
    """The window that reproduces the gradients, if one does, and no other; else nothing."""
    engine = witnesses.first
    if not isinstance(problem, FunctionProblem) or problem.windowed is None or engine.numeric:
        return []
    steps = problem.steps or 0
    fitting: list[int] = []
    for window in range(min(steps - 1, MOST)):
        if _reproduces(problem, answer, witnesses, engine, window, wrong):
            fitting.append(window)
    if len(fitting) != 1:
        return []
    (window,) = fitting
    text = (
        f"exact for truncation {window}: each loss goes back at most {window} steps; where that is "
        f'meant, declare {{"truncation": {window}}}'
    )
    return [Finding(Mistake.TRUNCATION, "every gradient", None, 1.0, text)]


def _reproduces(
    problem: FunctionProblem,
    answer: Answer,
    witnesses: Witnesses,
    engine: Engine,
    window: int,
    wrong: Sequence[str],
) -> bool:
    """Whether every gradient that was given is that of this window, to rounding."""
    assert problem.windowed is not None
    function = problem.windowed(window)
    cut = replace(problem, function=function, copied=None, truncated=True, windowed=None)
    told = engine.answer(cut).gradients
    noise = witnesses.noise
    return all(
        same(answer.gradients[name], told[name], noise.limit * noise.total[name])
        for name in answer.gradients
        if name in told
    ) and bool(set(wrong) & set(told))
