"""Refusals of manual/: what is out of range says so."""

import numpy as np
import pytest
from bptt_crosscheck.manual.activations import relu_derivative
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.linear import linear
from bptt_crosscheck.manual.through_time import bptt

PARAMS = {"W_xh": np.ones((2, 3)), "W_hh": np.eye(2), "b_h": np.zeros(2)}


def test_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        bptt.forward(RNN(), PARAMS, {"h": np.zeros((1, 2))}, np.zeros((0, 1, 3)))


def test_negative_window_is_refused():
    tape = bptt.forward(RNN(), PARAMS, {"h": np.zeros((1, 2))}, np.ones((2, 1, 3)))
    with pytest.raises(ValueError, match="window of -1"):
        bptt.double_sum(RNN(), PARAMS, tape, {"h": np.ones((2, 1, 2))}, window=-1)


@pytest.mark.parametrize(("token", "error"), [(-1, ValueError), (3, IndexError)])
def test_token_out_of_range_is_refused(token, error):
    with pytest.raises(error):
        linear(np, PARAMS["W_xh"], np.array([0, token]))


def test_relu_lets_a_cotangent_pass_at_nan():
    assert relu_derivative(np.array([np.nan, -1.0, 0.0, 1.0]), np.zeros(4)).tolist() == [1, 0, 0, 1]
