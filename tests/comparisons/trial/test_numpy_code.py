"""Built-in derivations against their losses as NumPy code."""

import numpy as np
import pytest
from bptt_crosscheck.comparisons.trial.mutation_score import ON_TRIAL, REGIMES
from bptt_crosscheck.comparisons.trial.numpy_code import NUMPY_REGIMES, experiment_on_numpy_code
from bptt_crosscheck.comparisons.trial.sensitivity import OF_GRADIENT, sensitivities

PLACES = {place.name: place for place in REGIMES}


@pytest.mark.parametrize("case", ON_TRIAL, ids=lambda case: case.name)
def test_an_error_of_1e_12_is_seen_and_what_is_right_is_not_accused(case):
    experiment = experiment_on_numpy_code(case, PLACES["initial"], 0)
    assert experiment.rejects(experiment.right) is None
    found = [each for each in sensitivities(experiment, np.random.default_rng(0)) if not each.step]
    assert found
    assert max(each.least_caught for each in found) <= OF_GRADIENT


def test_the_regime_that_amplifies_is_left_to_the_equations():
    assert set(PLACES) - set(NUMPY_REGIMES) == {"chaotic"}
