"""torch's own nn.RNN, nn.LSTM and nn.GRU on given weights: a forward that nobody here wrote, differentiated by torch.

RNN and LSTM keep two biases, b_ih and b_hh, that only ever occur as their sum; b_h is put into the first, zero into the second.
"""

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch as xp
import numpy.typing as npt
import torch

from reference.equations import Readout
from reference.torch_autograd import differentiate

Arrays = dict[str, npt.NDArray[Any]]

Named = Mapping[str, Any]


def rnn_states(leaves: Named, x: torch.Tensor, *, activation: str) -> Named:
    """h_1..h_T (T, B, H) from torch.nn.RNN with the weights of `leaves`."""
    module = torch.nn.RNN(leaves["W_xh"].shape[1], leaves["W_hh"].shape[1], nonlinearity=activation, device="meta")
    h, _ = call(module, one_layer(leaves, leaves["b_h"], torch.zeros_like(leaves["b_h"])), x, leaves["h_0"][None])
    return {"h": h}


def gru_states(leaves: Named, x: torch.Tensor, *, reset: str) -> Named:
    """h_1..h_T (T, B, H) from torch.nn.GRU."""
    del reset
    module = torch.nn.GRU(leaves["W_xh"].shape[1], leaves["W_hh"].shape[1], device="meta")
    h, _ = call(module, one_layer(leaves, leaves["b_x"], leaves["b_hh"]), x, leaves["h_0"][None])
    return {"h": h}


def lstm_states(leaves: Named, x: torch.Tensor) -> Named:
    """h_1..h_T and c_1..c_T (T, B, H) from torch.nn.LSTM, a step a call: it tells c of the last step only."""
    module = torch.nn.LSTM(leaves["W_xh"].shape[1], leaves["W_hh"].shape[1], device="meta")
    weights = one_layer(leaves, leaves["b_h"], torch.zeros_like(leaves["b_h"]))
    state = (leaves["h_0"][None], leaves["c_0"][None])
    states = []
    for x_t in x:
        _, state = call(module, weights, x_t[None], state)
        states.append(state)
    return {"h": torch.cat([h for h, _ in states]), "c": torch.cat([c for _, c in states])}


def one_layer(leaves: Named, b_ih: torch.Tensor, b_hh: torch.Tensor) -> Named:
    """The weights under torch's names."""
    return {"weight_ih_l0": leaves["W_xh"], "weight_hh_l0": leaves["W_hh"], "bias_ih_l0": b_ih, "bias_hh_l0": b_hh}


def call(module: torch.nn.Module, weights: Named, x: torch.Tensor, state: Any) -> Any:
    """The module's output with these weights; integer x stands for one-hot rows."""
    if not x.is_floating_point():
        x = torch.nn.functional.one_hot(x, weights["weight_ih_l0"].shape[1]).to(weights["weight_ih_l0"].dtype)
    return torch.func.functional_call(module, dict(weights), (x, state))


STATES = {"rnn": rnn_states, "lstm": lstm_states, "gru": gru_states}


def gradients(
    cell: str, options: Mapping[str, Any], readout: Readout, variables: Mapping[str, Any], constants: Mapping[str, Any]
) -> tuple[float, Arrays, Arrays]:
    """(loss, states, gradient for every variable); `cell` is a key of STATES, `readout` is from reference.equations."""

    def forward(leaves: Mapping[str, Any], fixed: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        states = STATES[cell](leaves, {**fixed, **leaves}["x"], **options)
        return readout(xp, leaves, states, fixed), states

    return differentiate(forward, variables, constants)
