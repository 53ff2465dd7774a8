"""The checkers that come with the frameworks, shown the same mistakes."""

import pytest
from bptt_crosscheck.comparisons.problems.cases import TANH, Case
from bptt_crosscheck.comparisons.trial.other_checkers import MISTAKE, OURS, RIGHT, compare_checkers
from bptt_crosscheck.comparisons.trial.trial import witnesses_used


@pytest.fixture(scope="module")
def sides():
    return compare_checkers(
        (Case("rnn", "rnn", TANH, steps=2, batch=2, hidden_size=2, input_size=2),),
        witnesses_used()[0],
        0,
        2,
    )


def test_what_goes_wrong_in_a_reference_is_no_objection():
    with pytest.raises(TypeError, match="activation"):
        compare_checkers((Case("rnn", "rnn"),), witnesses_used()[0], 0, 1)


def objections(sides, checker):
    return {
        (side.planted, side.dtype): (side.objected, side.asked)
        for side in sides
        if side.checker == checker
    }


def test_ours_objects_to_all_mistakes_and_to_nothing_else(sides):
    for (planted, _), (objected, asked) in objections(sides, OURS).items():
        assert objected == (0 if planted == RIGHT else asked), planted


@pytest.mark.parametrize("checker", ["gradcheck", "gradcheck, fast", "check_grads"])
def test_the_other_checkers_are_asked_in_earnest(sides, checker):
    told = objections(sides, checker)
    assert told[RIGHT, "float64"][0] == 0
    assert told[MISTAKE, "float64"][0] > 0.8 * told[MISTAKE, "float64"][1] > 10
    assert told["1e-09 in one entry", "float64"][0] == 0
