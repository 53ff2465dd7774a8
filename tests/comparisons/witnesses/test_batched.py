"""Trials that are worked out together are answered as they would be alone, and never with what
belongs to other numbers.
"""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck import check_cell
from bptt_crosscheck.comparisons.candidates.built_in_cells import CellCandidate, SharedForward
from bptt_crosscheck.comparisons.candidates.draw import cell_problem
from bptt_crosscheck.comparisons.candidates.user_cell import UserCell
from bptt_crosscheck.comparisons.checking import cell_cases
from bptt_crosscheck.comparisons.errors import LayoutMatters, NotRepeatable
from bptt_crosscheck.comparisons.problems.names import Role, marked
from bptt_crosscheck.comparisons.witnesses import batched
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES
from bptt_crosscheck.comparisons.witnesses.tolerance import perturb

from tests.comparisons.small import SIZES, TORCH, Elman, spoiled

ENGINE = {engine.name: engine for engine in ENGINES}
W, U = (marked(Role.PARAMETER, name) for name in "WU")
H = marked(Role.STATE, "h")


class Counting(Elman):
    """An Elman cell that counts its steps forward."""

    def __init__(self):
        self.steps = 0

    def step(self, xp, params, state, x):
        self.steps += xp is np
        return super().step(xp, params, state, x)


def trials_of(cell, dtype="float64"):
    mine = UserCell(cell, SIZES["input_size"], SIZES["hidden_size"])
    base = cell_problem(mine.name, (mine.parameters, mine.states), SIZES, 0, mine)
    return mine, list(
        cell_cases.cotangent_trials(
            replace(base, step=mine.differentiable_step).in_precision(dtype)
        )
    )


def asked(engine, trials):
    (found,) = batched.batched([engine], trials)
    return found


def same(one, other):
    assert one.loss == pytest.approx(other.loss, rel=1e-14)
    for mine, its in (
        (one.gradients, other.gradients),
        (one.steps, other.steps),
        (one.states, other.states),
    ):
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            np.testing.assert_allclose(value, its[name], rtol=1e-13, atol=1e-13, err_msg=name)


@pytest.fixture
def forwards(monkeypatch):
    """How often torch was asked, for one trial or for several at once."""
    module, counted = ENGINE["torch"].load(), []
    for name in ("gradients", "gradients_of_several"):
        inner = getattr(module, name)

        def counting(*arguments, inner=inner, name=name, **keywords):
            counted.append(name)
            return inner(*arguments, **keywords)

        monkeypatch.setattr(module, name, counting)
    return counted


@pytest.mark.parametrize("lowered", [False, True])
def test_each_trial_is_answered_as_alone(forwards, lowered):
    trials = trials_of(Elman(), "float32" if lowered else "float64")[1]
    trials = [trial.lowered() for trial in trials] if lowered else trials
    engine = asked(ENGINE["torch"], trials)
    found = [engine.answer(trial) for trial in trials]
    assert forwards == ["gradients_of_several"]
    if not lowered:
        for trial, answer in zip(trials, found, strict=True):
            same(answer, ENGINE["torch"].answer(trial))


def test_moved_trials_are_worked_out_together_by_their_seed(forwards):
    trials = trials_of(Elman())[1]
    engine = asked(ENGINE["torch"], trials)
    moved = [perturb(trial, np.random.default_rng(3)) for trial in trials]
    found = [engine.answer(trial, 7) for trial in moved]
    assert forwards == ["gradients_of_several"]
    for trial, answer in zip(moved, found, strict=True):
        np.testing.assert_allclose(
            answer.gradients[U], ENGINE["torch"].answer(trial).gradients[U], rtol=1e-12
        )
    engine.answer(moved[0], 8)
    assert engine.answer(moved[1], 7) is not found[1]


@pytest.mark.parametrize("what", ["variables", "constants", "step", "seed"])
def test_nothing_is_handed_out_for_other_numbers(what):
    first, second = trials_of(Elman())[1]
    engine = asked(ENGINE["torch"], [first, second])
    engine.answer(first)
    nudged = lambda arrays, name: {**arrays, name: np.nextafter(arrays[name], 9)}  # noqa: E731
    other = {
        "variables": lambda: second.with_variables(nudged(second.variables, U)),
        "constants": lambda: replace(second, constants=nudged(second.constants, f"cotangent_{H}")),
        "step": lambda: replace(
            second, step=lambda xp, p, s, x: {H: xp.sin(x @ p[W].T + s[H] @ p[U].T)}
        ),
        "seed": lambda: second,
    }[what]()
    ready = next(iter(engine.waiting.values())).answer
    answer = engine.answer(other, 5 if what == "seed" else None)
    assert answer is not ready
    if what != "seed":
        same(answer, ENGINE["torch"].answer(other))


def test_an_answer_is_handed_out_once():
    first, second = trials_of(Elman())[1]
    engine = asked(ENGINE["torch"], [first, second])
    engine.answer(first)
    told = engine.answer(second)
    assert not engine.waiting
    assert engine.answer(second) is not told


def test_large_trials_are_asked_one_by_one(monkeypatch):
    trials = trials_of(Elman())[1]
    monkeypatch.setattr(batched, "LARGEST", 10)
    assert asked(ENGINE["torch"], trials) is ENGINE["torch"]


def test_an_engine_that_takes_one_at_a_time_stays_what_it_is():
    trials = trials_of(Elman())[1]
    assert asked(ENGINE["differences"], trials) is ENGINE["differences"]


def test_one_forward_serves_all_cotangents_and_no_other_weights():
    cell = Counting()
    mine, (first, second) = trials_of(cell)
    candidate = SharedForward(CellCandidate(mine))
    for trial in (first, second):
        same(candidate.answer(trial), CellCandidate(mine).answer(trial))
    cell.steps = 0
    candidate.answer(first)
    assert cell.steps == SIZES["steps"]  # each is run again before its backward; none more
    for other in (first.with_variables({U: 2 * first.variables[U]}), first.in_fortran_order()):
        cell.steps = 0
        same(candidate.answer(other), CellCandidate(mine).answer(other))
        assert cell.steps >= 2 * SIZES["steps"]


def test_a_later_trial_that_is_answered_at_random_is_not_repeatable():
    rng = np.random.default_rng(0)

    def backward(params, cache, d_state):
        found = Elman().step_backward(params, cache, d_state)
        noisy = (
            np.abs(d_state["h"]).max() > 100
        )  # the cotangents on the final states are a thousand times larger
        return (
            {name: value * (1 + noisy * rng.normal()) for name, value in found[0].items()},
            *found[1:],
        )

    with pytest.raises(NotRepeatable):
        check_cell(spoiled(step_backward=backward), **SIZES, **TORCH)


def test_a_later_trial_in_which_the_memory_order_matters_is_refused():
    def backward(params, cache, d_state):
        found = Elman().step_backward(params, cache, d_state)
        large = np.abs(d_state["h"]).max() > 100
        W = found[0]["W"] if not large else found[0]["W"] * (1 + params["U"].flags["F_CONTIGUOUS"])
        return ({**found[0], "W": W}, *found[1:])

    with pytest.raises(LayoutMatters):
        check_cell(spoiled(step_backward=backward), **SIZES, **TORCH)
