"""A user's cell under every choice of cotangents, and then at other sizes and branches."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from ..candidates.built_in_cells import CellCandidate, SharedForward
from ..candidates.draw import cell_problem
from ..candidates.user_cell import UserCell
from ..errors import NotDecidable
from ..problems.arrays import Array, Arrays, frozen
from ..problems.convention import Convention
from ..problems.problem import Problem
from ..witnesses.batched import batched
from ..witnesses.left_out import LeftOut
from .case_report import CaseReport
from .crosscheck import Examined, Manner, examine
from .elsewhere import cheapest
from .further import FirstAsked, of_a_cell
from .setting import Setting
from .sizes import CellTrials
from .ties import Log, Watch, watched_in

NO_D_X = "step_backward gives None for d_x: the gradient of x is not checked"
# How much larger cotangents on the final states are: a clip inside step_backward shows.
AT_THE_END = 1000.0


def cell_cases(
    cell: UserCell, sizes: Mapping[str, int], setting: Setting, declared: Convention
) -> Iterator[CaseReport]:
    """A user's cell under every choice of cotangents; where it is right there, at other sizes too,
    and where other branches are taken.
    """
    engines, missing = setting.engines()
    base = cell_problem(cell.name, (cell.parameters, cell.states), sizes, setting.seed, cell)
    base = replace(base, step=cell.aside().differentiable_step).in_precision(setting.dtype)
    trials = list(cotangent_trials(base))
    several = batched(engines, trials)
    candidate = CellCandidate(cell)

    # The trials differ in their cotangents alone: whoever is asked runs forward for the first of
    # them.
    once, again = SharedForward(candidate), SharedForward(candidate)
    turned = SharedForward(CellCandidate(cell.in_fortran_order()))
    watched_here = cache(lambda: _watched_cell(cell.aside(), base))

    def watched(problem: Problem) -> Log:
        is_base = problem.variables is base.variables
        return watched_here() if is_base else _watched_cell(cell.aside(), problem)

    manner = Manner(
        partial=True,  # d_x may be None
        from_outside=True,
        once=once,
        again=again,
        turned=turned,
        ties=lambda problem: watched(problem).ties,
        unread=frozenset(f"{name}_0" for name in base.state_sizes),
        loss=lambda problem: float(candidate.forward(problem).loss),
    )
    done: list[Examined] = []
    undecided: list[NotDecidable] = []
    last: list[CaseReport] = []
    for number, problem in enumerate(trials):
        asked = replace(manner, first_of_all=number == 0)
        yield from last
        try:
            done.append(examine(problem, candidate, several, declared, asked))
        except NotDecidable as error:
            undecided.append(error)
            last = []
            continue
        last = [_with_missing(done[-1].case, missing)]
    if undecided:
        yield from last
        raise undecided[0]
    if all(each.case.passed for each in done):
        fewer = cheapest(engines)
        place = CellTrials(cell, sizes, setting.seed, setting.dtype, fewer, declared, manner)
        further = of_a_cell(place, FirstAsked(trials[0], done[0]), watched, done[-1].case)
        last = [_with_missing(case, missing) for case in further]
    yield from last


def _with_missing(case: CaseReport, missing: Mapping[str, LeftOut]) -> CaseReport:
    notes = [*case.notes, *(NO_D_X for name in case.not_given if name == "x")]
    return replace(case, left_out={**missing, **case.left_out}, notes=notes)


def cotangent_trials(base: Problem) -> Iterator[Problem]:
    """The problem under cotangents on all states at every step, on each alone, at the end alone.

    The last are a thousand times larger: step_backward is linear in them, and a clip inside it
    shows.
    """
    cotangents = {
        name: value for name, value in base.constants.items() if name.startswith("cotangent_")
    }

    def trial(what: str, kept: Arrays) -> Problem:
        constants = dict(base.constants)
        for name, value in cotangents.items():
            constants[name] = kept.get(name, np.zeros_like(value))
        return replace(base, name=f"{base.cell}, cotangents on {what}", constants=frozen(constants))

    yield trial("all states", cotangents)
    if len(cotangents) > 1:
        for name, value in cotangents.items():
            yield trial(f"{name.removeprefix('cotangent_')} alone", {name: value})
    if base.steps > 0:
        at_end: dict[str, Array] = {}
        for name, value in cotangents.items():
            at_end[name] = np.concatenate([np.zeros_like(value[:-1]), AT_THE_END * value[-1:]])
        yield trial("the final states", at_end)


def _watched_cell(cell: UserCell, problem: Problem) -> Log:
    """What is met on the forward pass: ties, and branches."""

    def run(watched: Watch, _: Log) -> None:
        params = {name: watched(problem.variables[name]) for name in problem.parameter_names}
        state = {name: watched(problem.variables[f"{name}_0"]) for name in problem.state_sizes}
        for x in problem.x:
            new_state = cell.differentiable_step(np, params, state, watched(x))
            state = {name: watched(np.asarray(value)) for name, value in new_state.items()}

    return watched_in(run)
