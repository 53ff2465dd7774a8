"""Planted mistakes and their verdicts, and the twins: an oracle that has gone blind must be found
out.
"""

import math

import numpy as np
import pytest
from bptt_crosscheck.comparisons.errors import CannotFollow
from bptt_crosscheck.comparisons.judging import judge
from bptt_crosscheck.comparisons.trial import mutation_score
from bptt_crosscheck.comparisons.trial.mutation_score import (
    EQUIVALENT,
    KILLED,
    ROUNDING,
    SURVIVED,
    apart,
    outcomes,
)
from bptt_crosscheck.comparisons.trial.operators import OPERATORS
from bptt_crosscheck.comparisons.trial.trial import Found


def of_kinds(*names):
    return tuple(kind for kind in OPERATORS if kind.name in names)


SOME = [
    ("rnn tanh", "initial"),
    ("lstm", "one step"),
    ("gru before", "saturated"),
    ("lru", "tokens"),
    ("slstm", "last"),
]


@pytest.mark.parametrize(("cell", "regime"), [*SOME, ("rnn relu", "unequal")])
def test_every_mistake_is_caught(trials, cell, regime):
    found = list(outcomes(trials(cell, regime), every=9))
    assert [each for each in found if each.verdict in (ROUNDING, SURVIVED)] == []
    assert sum(each.verdict == KILLED for each in found) > 30


def test_what_is_accepted_is_the_true_gradient(trials):
    found = [
        each
        for each in outcomes(trials("lstm", "one step"), operators=of_kinds("truncated", "a sign"))
        if each.verdict == EQUIVALENT
    ]
    assert {each.what for each in found} >= {"chunks of 1 steps", "a window of 0 steps"}
    assert max(each.error_over_noise for each in found) <= 1


def test_a_truncation_that_loses_less_than_rounding_is_said_to(trials):
    trial = trials("rnn relu", "vanishing")
    verdicts = {
        each.what: each.verdict
        for each in outcomes(trial, operators=of_kinds("truncated"))
        if each.level == "both"
    }
    assert verdicts["a window of 1 steps"] == KILLED
    assert set(verdicts.values()) <= {KILLED, ROUNDING, EQUIVALENT}


@pytest.mark.parametrize("limit", [math.inf, 1e9])
def test_a_blind_limit_is_found_out(trials, with_limit, limit):
    blind = with_limit(trials("rnn tanh", "initial"), limit)
    survived = [
        e for e in outcomes(blind, operators=of_kinds("one entry off")) if e.verdict == SURVIVED
    ]
    assert {each.what for each in survived} >= {"W_hh", "x", "h_0"}
    assert not Found(missed=survived).goals()[0].holds


def test_an_oracle_that_does_not_look_at_steps_is_found_out(trials, monkeypatch):
    monkeypatch.setattr(judge.tolerance, "step_quantities", lambda answer: {})
    found = list(
        outcomes(trials("rnn tanh", "initial"), operators=of_kinds("carry dropped", "one step off"))
    )
    assert {each.level for each in found if each.verdict == SURVIVED} == {"steps"}


def test_an_oracle_that_forgets_a_gradient_is_found_out(trials, monkeypatch):
    kept = judge.judge
    monkeypatch.setattr(
        judge, "judge",
        lambda p, a, r, e, name, *more: kept(p, r if name == "b_h" else a, r, e, name, *more),
    )  # fmt: skip
    found = [
        each
        for each in outcomes(
            trials("rnn tanh", "initial"), operators=of_kinds("one gradient doubled")
        )
        if each.verdict == SURVIVED
    ]
    assert {each.what for each in found} == {"b_h"}


def test_a_certificate_decides_what_is_no_mistake(trials, with_limit):
    asked = []
    certify = lambda gradients: asked.append(set(gradients)) or False  # noqa: E731
    blind = with_limit(trials("rnn tanh", "initial"), math.inf)
    found = list(outcomes(blind, certify, of_kinds("one entry off")))
    assert {each.verdict for each in found if each.how == ""} == {SURVIVED}
    assert asked[0] >= {"W_hh", "b_h", "x"}


def test_what_raises_counts_as_caught_and_says_so(trials):
    found = list(
        outcomes(
            trials("lstm", "initial"), operators=of_kinds("changed in place", "kept between calls")
        )
    )
    assert {each.how for each in found} >= {"raised ValueError", "another answer the second time"}
    assert {each.verdict for each in found if each.level == "both"} == {KILLED}


def test_distance_is_measured_without_the_comparator(trials):
    trial = trials("rnn tanh", "initial")
    gradients = {**trial.truth.gradients, "b_h": trial.truth.gradients["b_h"] * 1.5}
    assert apart(trial, trial.truth.gradients, trial.truth.steps) == (0, 0)
    assert apart(trial, gradients, {})[1] == pytest.approx(0.5)
    assert apart(trial, {**gradients, "b_h": gradients["b_h"] * np.nan}, {})[0] == math.inf
    assert apart(trial, {}, {})[0] == math.inf


def test_the_certificate_is_a_proof(trials):
    """The right gradient passes; one that is off by twice the noise, or by twice what the right
    one is off, does not.
    """
    trial = trials("lstm", "one step")
    assert set(trial.proof) == set(trial.right.gradients) - {
        "state_jacobian",
        "jacobian_product_to_end",
    }
    assert trial.certified(trial.right.gradients)
    for name in ("W_hh", "c_0"):
        off = (
            3
            * max(1.0, trial.from_exact(name, trial.right.gradients[name]))
            * trial.witnesses.noise.total[name]
        )
        moved = {**trial.right.gradients, name: trial.right.gradients[name] + off}
        assert not trial.certified(moved), name


def test_a_proof_that_cannot_be_had_leaves_the_reference(trials, monkeypatch):
    trial = trials("rnn tanh", "one step")
    vars(trial).pop("proof", None)

    def refuse(names):
        raise CannotFollow("no rule")

    monkeypatch.setattr(
        mutation_score,
        "select",
        lambda names: (type("Engine", (), {"answer": staticmethod(refuse)}),),
    )
    assert trial.proof == {}
    assert trial.certified(trial.right.gradients)
    doubled = {name: 2 * value for name, value in trial.right.gradients.items()}
    assert not trial.certified(doubled)
    vars(trial).pop("proof", None)
