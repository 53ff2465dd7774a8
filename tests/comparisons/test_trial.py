"""The trial in a short form, and its twins: an oracle that has gone blind, or cries wolf, must be found out."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from comparisons import crosscheck, tolerance
from comparisons.cases import TANH, Case
from comparisons.mutants import KINDS
from comparisons.report import main
from comparisons.side_by_side import MISTAKE, OURS, RIGHT, compare_checkers
from comparisons.trial import (
    CELLS,
    EQUIVALENT,
    KILLED,
    OF_GRADIENT,
    OF_STEP,
    QUICK,
    REGIMES,
    ROUNDING,
    SURVIVED,
    Alarms,
    Found,
    Outcome,
    Plan,
    Sensitivity,
    alarms_in,
    apart,
    derivations,
    hold,
    least_caught,
    outcomes,
    random_problem,
    sensitivities,
    spread,
    trial_of,
    witnesses_used,
)

REGIME = {regime.name: regime for regime in REGIMES}
CELL = {case.name: case for case in CELLS}


@pytest.fixture(scope="module")
def trials():
    """trials(cell, regime): asked of the references once."""
    kept = {}

    def of(cell, regime):
        if (cell, regime) not in kept:
            kept[cell, regime] = trial_of(CELL[cell], REGIME[regime], witnesses_used(), 0)
        return kept[cell, regime]

    return of


def of_kinds(*names):
    return tuple(kind for kind in KINDS if kind.name in names)


SOME = [("rnn tanh", "initial"), ("lstm", "one step"), ("gru before", "saturated"), ("lru", "tokens"), ("slstm", "last")]


@pytest.mark.parametrize(("cell", "regime"), [*SOME, ("rnn relu", "unequal")])
def test_every_mistake_is_caught(trials, cell, regime):
    found = list(outcomes(trials(cell, regime), every=9))
    assert [each for each in found if each.verdict in (ROUNDING, SURVIVED)] == []
    assert sum(each.verdict == KILLED for each in found) > 30


def test_what_is_accepted_is_the_true_gradient(trials):
    found = [
        each for each in outcomes(trials("lstm", "one step"), kinds=of_kinds("truncated", "a sign")) if each.verdict == EQUIVALENT
    ]
    assert {each.what for each in found} >= {"chunks of 1 steps", "a window of 0 steps"}
    assert max(each.error_over_noise for each in found) <= 1


def test_a_truncation_that_loses_less_than_rounding_is_said_to(trials):
    trial = trials("rnn relu", "vanishing")
    verdicts = {each.what: each.verdict for each in outcomes(trial, kinds=of_kinds("truncated")) if each.level == "both"}
    assert verdicts["a window of 1 steps"] == KILLED
    assert set(verdicts.values()) <= {KILLED, ROUNDING, EQUIVALENT}


@pytest.mark.parametrize("limit", [math.inf, 1e9])
def test_a_blind_limit_is_found_out(trials, monkeypatch, limit):
    monkeypatch.setattr(tolerance, "LIMIT", limit)
    survived = [e for e in outcomes(trials("rnn tanh", "initial"), kinds=of_kinds("one entry off")) if e.verdict == SURVIVED]
    assert {each.what for each in survived} >= {"W_hh", "x", "h_0"}
    assert not Found(missed=survived).goals()[0].holds


def test_an_oracle_that_does_not_look_at_steps_is_found_out(trials, monkeypatch):
    monkeypatch.setattr(crosscheck.tolerance, "step_quantities", lambda answer: {})
    found = list(outcomes(trials("rnn tanh", "initial"), kinds=of_kinds("carry dropped", "one step off")))
    assert {each.level for each in found if each.verdict == SURVIVED} == {"steps"}


def test_an_oracle_that_forgets_a_gradient_is_found_out(trials, monkeypatch):
    kept = crosscheck.judge
    monkeypatch.setattr(
        crosscheck, "judge",
        lambda p, a, r, e, name, n: kept(p, r if name == "b_h" else a, r, e, name, n),
    )  # fmt: skip
    found = [
        each
        for each in outcomes(trials("rnn tanh", "initial"), kinds=of_kinds("one gradient doubled"))
        if each.verdict == SURVIVED
    ]
    assert {each.what for each in found} == {"b_h"}


def test_a_certificate_decides_what_is_no_mistake(trials, monkeypatch):
    monkeypatch.setattr(tolerance, "LIMIT", math.inf)
    asked = []
    certify = lambda problem, gradients: asked.append(set(gradients)) or False  # noqa: E731
    found = list(outcomes(trials("rnn tanh", "initial"), certify, of_kinds("one entry off")))
    assert {each.verdict for each in found if each.how == ""} == {SURVIVED}
    assert asked[0] >= {"W_hh", "b_h", "x"}


def test_what_raises_counts_as_caught_and_says_so(trials):
    found = list(outcomes(trials("lstm", "initial"), kinds=of_kinds("changed in place", "kept between calls")))
    assert {each.how for each in found} >= {"raised ValueError", "another answer the second time"}
    assert {each.verdict for each in found} == {KILLED}


def test_distance_is_measured_without_the_comparator(trials):
    trial = trials("rnn tanh", "initial")
    gradients = {**trial.truth.gradients, "b_h": trial.truth.gradients["b_h"] * 1.5}
    assert apart(trial, trial.truth.gradients, trial.truth.steps) == (0, 0)
    assert apart(trial, gradients, {})[1] == pytest.approx(0.5)
    assert apart(trial, {**gradients, "b_h": gradients["b_h"] * np.nan}, {})[0] == math.inf
    assert apart(trial, {}, {})[0] == math.inf


@pytest.mark.parametrize(("cell", "regime"), [("lstm", "initial"), ("gru before", "saturated"), ("rnn tanh", "unequal")])
def test_small_errors_are_caught(trials, cell, regime):
    found = list(sensitivities(trials(cell, regime), np.random.default_rng(0)))
    assert max(each.least_caught for each in found if each.step is None) <= OF_GRADIENT
    assert max(each.least_caught for each in found if each.step is not None) <= OF_STEP


def test_a_blind_limit_shows_in_the_sensitivity(trials, monkeypatch):
    monkeypatch.setattr(tolerance, "LIMIT", 64e3)
    found = list(sensitivities(trials("lstm", "initial"), np.random.default_rng(0)))
    assert max(each.least_caught for each in found if each.step is None) > OF_GRADIENT
    assert not Found(sensitivity=found).goals()[2].holds


@pytest.mark.parametrize("threshold", [3e-13, 1e-5, 1.0])
def test_bisection_finds_the_threshold(threshold):
    assert least_caught(lambda error: error >= threshold) == pytest.approx(threshold, rel=0.13)
    assert least_caught(lambda error: False) == math.inf


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_right_is_not_accused(dtype, number):
    found = alarms_in(number, 3, dtype, witnesses_used())
    assert found.alarms == []
    assert 0 < found.worst < tolerance.LIMIT
    assert found.comparisons >= 6


def test_a_limit_without_room_cries_wolf(monkeypatch):
    monkeypatch.setattr(tolerance, "LIMIT", 1e-3)
    found = alarms_in(0, 3, "float64", witnesses_used())
    assert found.alarms
    assert not Found(alarms={"float64": found}).goals()[1].holds


def test_the_three_derivations_sum_in_other_orders_and_agree():
    candidate, problem = random_problem(3, 0, "float64")
    problem = replace(problem)
    answers = dict(derivations(candidate, problem, candidate.answer(problem)))
    assert len(answers) == (3 if problem.batch > 1 else 2)
    for answer in answers.values():
        for name, value in answers["hoisted"].gradients.items():
            np.testing.assert_allclose(answer.gradients[name], value, rtol=1e-6, atol=1e-9)


def test_random_problems_are_repeated_by_their_number():
    one, other = (random_problem(3, 7, "float64")[1] for _ in range(2))
    assert one.name == other.name
    np.testing.assert_array_equal(one.x, other.x)


def test_no_result_is_no_success():
    assert [goal.holds for goal in Found().goals()[:4]] == [False] * 4
    assert not Found().passed


def test_goals_name_the_regimes_that_miss_them():
    found = Found(
        sensitivity=[Sensitivity("rnn", "chaotic", "W_xh", None, 6e-12), Sensitivity("rnn", "initial", "W_xh", None, 1e-13)]
    )
    assert found.goals()[2].measured == "missed: chaotic 6.0e-12"


def test_a_survivor_is_a_missed_goal_and_rounding_is_not():
    made = Outcome("rnn", "initial", "a sign", "x → y", "both", SURVIVED, "", 1e3, 1e-9)
    found = Found(alarms={"float64": Alarms(1, 1)})
    found.tally["a sign", "rnn", "initial", KILLED] += 1
    assert not replace_missed(found, made).goals()[0].holds
    assert replace_missed(found, replace(made, verdict=ROUNDING, relative_error=1e-14)).goals()[0].holds
    assert not replace_missed(found, replace(made, verdict=ROUNDING, relative_error=1e-3)).goals()[0].holds


def replace_missed(found, outcome):
    return replace(found, missed=[outcome])


def test_the_whole_trial_in_small():
    plan = Plan(("rnn tanh",), ("initial", "one step"), every=40, comparisons=30, seconds=60, jobs=1, beside=(), large=False)
    found = hold(plan)
    assert found.passed, found.goals()
    assert set(found.by(2)) == {"initial", "one step"}
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_what_was_not_reached_is_said():
    assert hold(replace(QUICK, seconds=0.0, beside=(), large=False)).not_reached[0] == "rnn tanh, initial"
    assert not Found(not_reached=["rnn tanh, initial"]).goals()[4].holds


def test_pieces_keep_their_order():
    assert list(spread([lambda: 1, lambda: 2], 1)) == [1, 2]


def test_the_command_ends_with_the_verdict(monkeypatch, capsys, tmp_path):
    small = Plan(("rnn tanh",), ("initial",), every=200, comparisons=20, seconds=60, jobs=1, beside=(), large=False)
    monkeypatch.setattr("comparisons.trial.QUICK", small)
    monkeypatch.setattr("sys.argv", ["report.py", "trial", "--quick", "--json", str(tmp_path / "trial.json")])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr().out
    told = json.loads((tmp_path / "trial.json").read_text())
    assert end.value.code == 0
    assert told["passed"]
    assert all(goal["statement"] in " ".join(out.split()) for goal in told["goals"])


def test_the_command_fails_where_a_goal_is_missed(monkeypatch, capsys):
    monkeypatch.setattr(tolerance, "LIMIT", 1e9)
    monkeypatch.setattr(
        "comparisons.trial.QUICK",
        Plan(("rnn tanh",), ("initial",), every=200, comparisons=20, seconds=60, jobs=1, beside=(), large=False),
    )
    monkeypatch.setattr("sys.argv", ["report.py", "trial", "--quick"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "MISSED" in capsys.readouterr().out


@pytest.fixture(scope="module")
def sides():
    return compare_checkers((Case("rnn", "rnn", TANH, steps=2, batch=2, hidden_size=2, input_size=2),), witnesses_used()[0], 0, 2)


def test_what_goes_wrong_in_a_reference_is_no_objection():
    with pytest.raises(TypeError, match="activation"):
        compare_checkers((Case("rnn", "rnn"),), witnesses_used()[0], 0, 1)


def objections(sides, checker):
    return {(side.planted, side.dtype): (side.objected, side.asked) for side in sides if side.checker == checker}


def test_ours_objects_to_all_mistakes_and_to_nothing_else(sides):
    for (planted, _), (objected, asked) in objections(sides, OURS).items():
        assert objected == (0 if planted == RIGHT else asked), planted


@pytest.mark.parametrize("checker", ["gradcheck", "gradcheck, fast", "check_grads"])
def test_the_other_checkers_are_asked_in_earnest(sides, checker):
    told = objections(sides, checker)
    assert told[RIGHT, "float64"][0] == 0
    assert told[MISTAKE, "float64"][0] > 0.8 * told[MISTAKE, "float64"][1] > 10
    assert told["1e-09 in one entry", "float64"][0] == 0
