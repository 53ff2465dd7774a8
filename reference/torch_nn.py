"""torch's own nn.RNN on given weights: a forward that nobody here wrote, differentiated by torch.

The module keeps two biases, b_ih and b_hh, that only ever occur as their sum; b_h is put into the first, zero into the second.
"""

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch as xp
import numpy.typing as npt
import torch

from reference.equations import Readout
from reference.torch_autograd import differentiate

Arrays = dict[str, npt.NDArray[Any]]

MODULE_NONLINEARITIES = ("tanh", "relu")


def rnn_states(leaves: Mapping[str, Any], x: torch.Tensor, *, activation: str) -> dict[str, torch.Tensor]:
    """h_1..h_T (T, B, H) from torch.nn.RNN with the weights of `leaves`."""
    hidden_size, input_size = leaves["W_xh"].shape
    if not x.is_floating_point():
        x = torch.nn.functional.one_hot(x, input_size).to(leaves["W_xh"].dtype)
    module = torch.nn.RNN(input_size, hidden_size, nonlinearity=activation, device="meta")
    weights = {
        "weight_ih_l0": leaves["W_xh"],
        "weight_hh_l0": leaves["W_hh"],
        "bias_ih_l0": leaves["b_h"],
        "bias_hh_l0": torch.zeros_like(leaves["b_h"]),
    }
    h, _ = torch.func.functional_call(module, weights, (x, leaves["h_0"][None]))
    return {"h": h}


STATES = {"rnn": rnn_states}


def gradients(
    cell: str, options: Mapping[str, Any], readout: Readout, variables: Mapping[str, Any], constants: Mapping[str, Any]
) -> tuple[float, Arrays, Arrays]:
    """(loss, states, gradient for every variable); `cell` is a key of STATES, `readout` is from reference.equations."""

    def forward(leaves: Mapping[str, Any], fixed: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        states = STATES[cell](leaves, {**fixed, **leaves}["x"], **options)
        return readout(xp, leaves, states, fixed), states

    return differentiate(forward, variables, constants)
