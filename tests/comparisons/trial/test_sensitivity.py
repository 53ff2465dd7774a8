"""The smallest error that is caught."""

import math

import numpy as np
import pytest
from bptt_crosscheck.comparisons.trial.sensitivity import (
    OF_GRADIENT,
    OF_STEP,
    least_caught,
    sensitivities,
)
from bptt_crosscheck.comparisons.trial.trial import Found


@pytest.mark.parametrize(
    ("cell", "regime"), [("lstm", "initial"), ("gru before", "saturated"), ("rnn tanh", "unequal")]
)
def test_small_errors_are_caught(trials, cell, regime):
    found = list(sensitivities(trials(cell, regime), np.random.default_rng(0)))
    assert max(each.least_caught for each in found if each.step is None) <= OF_GRADIENT
    assert max(each.least_caught for each in found if each.step is not None) <= OF_STEP


def test_a_blind_limit_shows_in_the_sensitivity(trials, with_limit):
    found = list(
        sensitivities(with_limit(trials("lstm", "initial"), 64e3), np.random.default_rng(0))
    )
    assert max(each.least_caught for each in found if each.step is None) > OF_GRADIENT
    assert not Found(sensitivity=found).goals()[2].holds


@pytest.mark.parametrize("threshold", [3e-13, 1e-5, 1.0])
def test_bisection_finds_the_threshold(threshold):
    assert least_caught(lambda error: error >= threshold) == pytest.approx(threshold, rel=0.13)
    assert least_caught(lambda error: False) == math.inf
