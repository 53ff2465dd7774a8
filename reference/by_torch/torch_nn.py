"""torch's own nn.RNN, nn.LSTM and nn.GRU on given weights.

A forward that nobody here wrote, differentiated by torch.

RNN and LSTM keep two biases, b_ih and b_hh, that only ever occur as their sum; b_h is put into the
first, zero into the second. Several layers, both directions and rows of unequal length (as a
PackedSequence) are the module's own; with given dropout masks each layer is a module by itself,
since a module draws its own; chunks of a sequence are calls that hand on a detached state.
"""

from typing import Any

import array_api_compat.torch as xp
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..arrays import Arrays, Named
from ..equations.parts import Readout
from ..equations.unrolling import ONE_RUN, Arrangement
from .torch_autograd import differentiate, rounding
from .torch_autograd import why_not_on as why_not_on

State = list[torch.Tensor]  # h, or h and c, each (runs, B, ·)

MODULES: dict[str, type[torch.nn.RNNBase]] = {
    "rnn": torch.nn.RNN,
    "irnn": torch.nn.RNN,
    "lstm": torch.nn.LSTM,
    "projected-lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
}


def weights(leaves: Named, suffix: str, number: str) -> dict[str, Any]:
    """The parameters of one run under torch's names.

    `suffix` is that of the leaves, `number` that of torch.
    """
    in_bias = leaves["b_x" + suffix] if "b_x" + suffix in leaves else leaves["b_h" + suffix]
    recurrent_bias = (
        leaves["b_hh" + suffix] if "b_hh" + suffix in leaves else torch.zeros_like(in_bias)
    )
    named = {
        "weight_ih": leaves["W_xh" + suffix],
        "weight_hh": leaves["W_hh" + suffix],
        "bias_ih": in_bias,
    }
    named |= {"bias_hh": recurrent_bias} | (
        {"weight_hr": leaves["W_hr" + suffix]} if "W_hr" + suffix in leaves else {}
    )
    return {name + number: value for name, value in named.items()}


def initial(leaves: Named, suffixes: list[str], names: tuple[str, ...]) -> list[torch.Tensor]:
    """h_0, or h_0 and c_0, each (runs, B, ·)."""
    return [torch.stack([leaves[f"{name}{suffix}_0"] for suffix in suffixes]) for name in names]


def module_of(
    cell: str, options: Named, leaves: Named, suffixes: list[str], layers: int
) -> torch.nn.RNNBase:
    """torch's module of these sizes, without numbers of its own."""
    cell_of_rnn = (
        {"nonlinearity": options.get("activation", "relu")} if MODULES[cell] is torch.nn.RNN else {}
    )
    W_xh, W_hh = leaves["W_xh" + suffixes[0]], leaves["W_hh" + suffixes[0]]
    gates = {torch.nn.RNN: 1, torch.nn.LSTM: 4, torch.nn.GRU: 3}[MODULES[cell]]
    projection = {"proj_size": W_hh.shape[1]} if cell == "projected-lstm" else {}
    both = len(suffixes) == 2 * layers
    return MODULES[cell](
        W_xh.shape[1],
        W_hh.shape[0] // gates,
        layers,
        bidirectional=both,
        device="meta",
        dtype=W_xh.dtype,
        **cell_of_rnn,
        **projection,
    )


def call(
    module: torch.nn.RNNBase,
    named: Named,
    x: torch.Tensor,
    state: State,
    lengths: torch.Tensor | None,
) -> Any:
    """(output (T, B, ·), last states) of the module with these weights.

    Integer x stands for one-hot rows.
    """
    if not x.is_floating_point():
        x = torch.nn.functional.one_hot(x, named["weight_ih_l0"].shape[1]).to(
            named["weight_ih_l0"].dtype
        )
    if lengths is None and module.proj_size and x.dtype != torch.float64:
        # Given as it is, torch warns of oneDNN before it computes the same, bit for bit.
        lengths = torch.full((x.shape[1],), len(x))
    given = x if lengths is None else pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    output, last = torch.func.functional_call(
        module, dict(named), (given, tuple(state) if len(state) > 1 else state[0])
    )
    if lengths is not None:
        output = pad_packed_sequence(output, total_length=len(x))[0]
    return output, list(last) if len(state) > 1 else [last]


def run(
    cell: str,
    options: Named,
    leaves: Named,
    x: torch.Tensor,
    layers: list[list[str]],
    chunk: int | None,
    lengths: torch.Tensor | None,
) -> tuple[torch.Tensor, State]:
    """(output (T, B, ·), last states) of these runs, the state detached between chunks."""
    suffixes = [suffix for layer in layers for suffix in layer]
    module = module_of(cell, options, leaves, suffixes, len(layers))
    named: dict[str, Any] = {}
    for number, layer in enumerate(layers):
        for suffix, way in zip(layer, ("", "_reverse"), strict=False):
            named |= weights(leaves, suffix, f"_l{number}{way}")
    state = initial(leaves, suffixes, ("h", "c") if MODULES[cell] is torch.nn.LSTM else ("h",))
    outputs = []
    for piece in torch.split(x, chunk or len(x)):
        if outputs:
            state = [value.detach() for value in state]
        output, state = call(module, named, piece, state, lengths)
        outputs.append(output)
    return torch.cat(outputs), state


def network(
    cell: str, options: Named, leaves: Named, fixed: Named, arrangement: Arrangement
) -> dict[str, Any]:
    """The states that torch tells, by name.

    h of the top layer, of every layer where dropout masks are given.
    """
    x, lengths = {**fixed, **leaves}["x"], fixed.get("lengths")
    layers = arrangement.suffixes()
    if any(name.startswith("dropout_l") for name in fixed):
        states: dict[str, Any] = {}
        for number, layer in enumerate(layers):
            x, last = run(cell, options, leaves, x, [layer], arrangement.chunk, lengths)
            states |= told(leaves, x, last, layer, lengths)
            x = x * fixed[f"dropout_l{number}"] if f"dropout_l{number}" in fixed else x
        return states
    output, last = run(cell, options, leaves, x, layers, arrangement.chunk, lengths)
    return told(leaves, output, last, layers[-1], lengths)


def told(
    leaves: Named, output: torch.Tensor, last: State, layer: list[str], lengths: torch.Tensor | None
) -> dict[str, Any]:
    """h of one layer's runs.

    Where torch pads with zeros: the state that a row ended with, or backwards in time begins with.
    """
    states: dict[str, Any] = {}
    parts = torch.split(output, output.shape[-1] // len(layer), dim=-1)
    for suffix, part, ended in zip(layer, parts, last[0][-len(layer) :], strict=True):
        states[f"h{suffix}"] = part
        if lengths is not None:
            kept = leaves[f"h{suffix}_0"] if suffix.endswith("_reverse") else ended
            alive = torch.arange(len(output))[:, None] < lengths
            states[f"h{suffix}"] = torch.where(alive[:, :, None], part, kept)
    return states


def step_by_step(cell: str, options: Named, leaves: Named, x: torch.Tensor) -> dict[str, Any]:
    """h_1..h_T and c_1..c_T (T, B, ·) of an LSTM, a step a call.

    It tells c of the last step only.
    """
    module, named = module_of(cell, options, leaves, [""], 1), weights(leaves, "", "_l0")
    state, states = initial(leaves, [""], ("h", "c")), []
    for x_t in x:
        _, state = call(module, named, x_t[None], state, None)
        states.append(state)
    return {
        name: torch.cat([each[place] for each in states]) for place, name in enumerate(("h", "c"))
    }


def gradients(
    cell: str,
    options: Named,
    readout: Readout,
    variables: Named,
    constants: Named,
    arrangement: Arrangement = ONE_RUN,
    rounding_seed: int | None = None,
) -> tuple[float, Arrays, Arrays]:
    """(loss, states, gradient for every variable).

    `cell` is a key of MODULES, `readout` is from reference.equations.

    With a rounding_seed, under RandomRounding. Where torch runs a layer as one operation (LSTM in
    float32), its inside is exact.
    """
    plain = arrangement == ONE_RUN and "lengths" not in constants

    def forward(leaves: Named, fixed: Named) -> tuple[Any, dict[str, Any]]:
        if plain and MODULES[cell] is torch.nn.LSTM:
            states = step_by_step(cell, options, leaves, {**fixed, **leaves}["x"])
        else:
            states = network(cell, options, leaves, fixed, arrangement)
        return readout(xp, leaves, states, fixed), states

    with rounding(rounding_seed):
        return differentiate(forward, variables, constants)
