"""Right derivations on random problems, and the twin: a limit without room must be seen to cry
wolf.
"""

import numpy as np
import pytest
from bptt_crosscheck.comparisons.trial.false_alarms import (
    DTYPES,
    alarms_in,
    derivations,
    random_problem,
)
from bptt_crosscheck.comparisons.trial.trial import EVERY_FURTHER, Found, accusers, witnesses_used
from bptt_crosscheck.comparisons.witnesses import tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_right_is_not_accused(dtype, number):
    found = alarms_in(number, 3, dtype, witnesses_used())
    assert found.alarms == []
    assert 0 < found.worst < (tolerance.LIMIT if dtype == "float64" else tolerance.LOW_LIMIT)
    assert found.comparisons >= 6


def test_a_limit_without_room_cries_wolf(monkeypatch):
    monkeypatch.setattr(tolerance, "LIMIT", 1e-3)
    found = alarms_in(0, 3, "float64", witnesses_used())
    assert found.alarms
    assert not Found(alarms={"float64": found}).goals()[1].holds


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_the_derivations_sum_in_other_orders_and_agree(number):
    candidate, problem = random_problem(3, number, "float64")
    answers = dict(derivations(candidate, problem, candidate.answer(problem)))
    assert len(answers) == 2 + (problem.batch > 1) + (
        problem.cell in ("rnn", "irnn", "lstm", "gru")
    )
    for answer in answers.values():
        for name, value in answers["hoisted"].gradients.items():
            np.testing.assert_allclose(answer.gradients[name], value, rtol=1e-6, atol=1e-9)


def test_random_problems_are_repeated_by_their_number():
    one, other = (random_problem(3, 7, "float64")[1] for _ in range(2))
    assert one.name == other.name
    np.testing.assert_array_equal(one.x, other.x)


def test_jax_is_asked_now_and_then():
    assert [engine.name for engine in accusers(EVERY_FURTHER)] == ["torch", "jax", "torch.nn"]
    assert [engine.name for engine in accusers(EVERY_FURTHER + 1)] == ["torch", "torch.nn"]


def test_what_overflows_in_half_precision_is_counted_and_says_nothing(monkeypatch):
    candidate, problem = random_problem(3, 0, "float16")
    large = problem.with_variables(
        {"W_hy": np.full_like(problem.variables["W_hy"], 6e4)}
    ).in_precision("float16")
    monkeypatch.setattr(
        "bptt_crosscheck.comparisons.trial.false_alarms.random_problem",
        lambda seed, number, dtype: (candidate, large),
    )
    found = alarms_in(0, 3, "float16", witnesses_used())
    assert (found.overflowed, found.comparisons, found.alarms) == (1, 0, [])
