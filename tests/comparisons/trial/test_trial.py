"""The trial in a short form: its goals, and that one that is missed is said to be."""

import json
from dataclasses import replace

import pytest
from bptt_crosscheck.comparisons.command_line import main
from bptt_crosscheck.comparisons.trial.false_alarms import Alarms
from bptt_crosscheck.comparisons.trial.mutation_score import KILLED, ROUNDING, SURVIVED, Outcome
from bptt_crosscheck.comparisons.trial.other_checkers import MISTAKE, OURS, RIGHT, Side
from bptt_crosscheck.comparisons.trial.sensitivity import Sensitivity
from bptt_crosscheck.comparisons.trial.trial import QUICK, Found, Plan, merge, results_of, run_trial
from bptt_crosscheck.comparisons.witnesses import tolerance


def test_no_result_is_no_success():
    assert [goal.holds for goal in Found().goals()[:4]] == [False] * 4
    assert not Found().passed


def test_goals_name_the_regimes_that_miss_them():
    found = Found(
        sensitivity=[
            Sensitivity("rnn", "chaotic", "W_xh", None, 6e-12),
            Sensitivity("rnn", "initial", "W_xh", None, 1e-13),
        ]
    )
    assert found.goals()[2].measured == "missed: chaotic 6.0e-12"


def test_a_survivor_is_a_missed_goal_and_rounding_is_not():
    made = Outcome("rnn", "initial", "a sign", "x → y", "both", SURVIVED, "", 1e3, 1e-9)
    found = Found(alarms={"float64": Alarms(1, 1)})
    found.tally["a sign", "rnn", "initial", KILLED] += 1
    assert not replace_missed(found, made).goals()[0].holds
    assert (
        replace_missed(found, replace(made, verdict=ROUNDING, relative_error=1e-14))
        .goals()[0]
        .holds
    )
    assert (
        not replace_missed(found, replace(made, verdict=ROUNDING, relative_error=1e-3))
        .goals()[0]
        .holds
    )


def replace_missed(found, outcome):
    return replace(found, missed=[outcome])


def test_the_whole_trial_in_small():
    plan = Plan(
        ("rnn tanh",),
        ("initial", "one step"),
        every=40,
        comparisons=30,
        seconds=60,
        jobs=1,
        beside=(),
        large=False,
    )
    found = run_trial(plan)
    assert found.passed, found.goals()
    assert set(found.by(2)) == {"initial", "one step"}
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_what_was_not_reached_is_said():
    assert (
        run_trial(replace(QUICK, seconds=0.0, beside=(), large=False)).not_reached[0]
        == "rnn tanh, initial"
    )
    assert not Found(not_reached=["rnn tanh, initial"]).goals()[4].holds


def test_pieces_keep_their_order():
    assert list(results_of([lambda: 1, lambda: 2], None)) == [1, 2]


def test_the_command_ends_with_the_verdict(monkeypatch, capsys, tmp_path):
    small = Plan(
        ("rnn tanh",),
        ("initial",),
        every=200,
        comparisons=20,
        seconds=60,
        jobs=1,
        beside=(),
        large=False,
    )
    monkeypatch.setattr("bptt_crosscheck.comparisons.trial.trial.QUICK", small)
    monkeypatch.setattr(
        "sys.argv", ["report.py", "trial", "--quick", "--json", str(tmp_path / "trial.json")]
    )
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
        "bptt_crosscheck.comparisons.trial.trial.QUICK",
        Plan(
            ("rnn tanh",),
            ("initial",),
            every=200,
            comparisons=20,
            seconds=60,
            jobs=1,
            beside=(),
            large=False,
        ),
    )
    monkeypatch.setattr("sys.argv", ["report.py", "trial", "--quick"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 4
    assert "MISSED" in capsys.readouterr().out


def beside(seen, accused, times):
    sides = [Side(name, MISTAKE, "float64", 10, count) for name, count in seen.items()]
    sides += [Side(name, RIGHT, "float32", 10, count) for name, count in accused.items()]
    return {
        goal.statement.split(" ")[0]: goal.holds
        for goal in Found(sides=sides, times=times).beside_others()
    }


def test_better_than_the_other_checkers():
    ours, other = OURS, "gradcheck"
    assert beside(
        {ours: 9, other: 8}, {ours: 0, other: 0}, {ours: 1.0, other: 100.0}
    ) == dict.fromkeys(["more", "right", "at"], True)
    assert not beside({ours: 8, other: 8}, {ours: 0, other: 0}, {})["more"]
    assert not beside({ours: 9, other: 8}, {ours: 1, other: 0}, {})["right"]
    assert not beside({ours: 9, other: 8}, {ours: 0, other: 0}, {ours: 1.0, other: 99.0})["at"]
    assert Found().beside_others() == []


def test_what_several_cases_show_of_a_checker_is_added_up():
    found = Found()
    for asked, objected in ((3, 2), (4, 4)):
        merge(found, Found(sides=[Side(OURS, MISTAKE, "float64", asked, objected, 1.0)]))
    assert found.sides == [Side(OURS, MISTAKE, "float64", 7, 6, 2.0)]
