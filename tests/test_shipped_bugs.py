"""Wrong gradients that were released once, planted again: what catches each, where it hides, and that without it the code passes.

    where                            the bug                                         what catches it here
    haste#43                         mask of step 0 used at every step               check_vjp: x, step by step
    pytorch#95137                    wrong where h_0 is not zero; h_n, c_n ignored   check_vjp: random h_0; each output alone
    pytorch#96416                    fails when only h_n or c_n is used              check_vjp: each output alone
    pytorch#1532, tensorflow#26331   a second backward differs from the first        check_vjp: asked twice (NotRepeatable)
    tensorflow#34171                 no peephole terms in ∂L/∂c_{t−1}                check_cell: d_state_prev['c'] at every step
    mxnet#17898, PR 18203            3 layers both ways: a buffer overwritten        check_problem: L = 3, bidirectional
    mxnet-PR-17872                   zero bias gradient in upper layers              check_problem: "all zero"
    mamba#368                        last block of the sequence left out             check_vjp: T no multiple of the block
    flash-linear-attention#1140      T shorter than a block                          check_vjp: T = 1, 3
    flash-linear-attention-PR-871    cotangent read as if contiguous (PR 1139 too)   check_gradients: another memory order
    flash-linear-attention-PR-781    head 0's decay used for all heads               check_vjp: distinct numbers per head
    RWKV-LM#241                      batch row 0's start used for all rows           check_vjp: distinct numbers per row
    transformers-PR-23774            no gradient through the carried state           check_vjp: the final state alone
    numpy-ml#42, many tutorials      one gate's bias for three; no σ′; no carry      check_cell: by parameter, by gate, by step

All of them can occur in code that is handed in. In manual/ some cannot, for it has no blocks, no buffers that outlive a call, no
memory layout of its own (mamba#368, flash-linear-attention#1140 and PR 871, pytorch#1532, mxnet#17898); the kernels here have
them on purpose. PR 871 is seen twice: where the framework of a loss makes cotangents with odd strides (LAYOUT), the gradient is
wrong; where it does not, every check asks once more with the same numbers in another memory order. What is peculiar to a device
(MPS, CUDA) is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp, from_torch
from bptt_crosscheck.comparisons.candidates.built_in_cells import CellCandidate
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.crosscheck import check_problem
from bptt_crosscheck.comparisons.checking.environment import report_of
from bptt_crosscheck.comparisons.errors import CandidateFailed, LayoutMatters, NotRepeatable
from bptt_crosscheck.comparisons.problems.cases import Case
from bptt_crosscheck.comparisons.witnesses.engines import select
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.peephole_lstm import PeepholeLSTM
from bptt_crosscheck.manual.through_time import bptt
from bptt_crosscheck.manual.through_time.network import Network

B, I, H = 3, 2, 3  # noqa: E741
TORCH = {"references": ["torch"]}
SIZES = {"steps": 4, "batch": 2, "input_size": I, "hidden_size": H}


def draw(steps, weights, **more):
    """(params, inputs): weights by name and shape, x (T, B, I), and more inputs by name and shape."""
    rng = np.random.default_rng(6)
    params = {name: rng.normal(scale=0.7, size=shape) for name, shape in weights.items()}
    return params, {
        name: rng.normal(size=shape) for name, shape in {"x": (steps, B, I), **more}.items()
    }


# haste#43: h_t = m_t ⊙ h_{t−1} + (1 − m_t) ⊙ tanh(W x_t + U h_{t−1}), zoneout with a mask for
# every step.


def zoneout(xp, params, inputs):
    h, states = inputs["h_0"], []
    for x, mask in zip(inputs["x"], inputs["mask"], strict=True):
        h = mask * h + (1 - mask) * xp.tanh(x @ params["W"].T + h @ params["U"].T)
        states.append(h)
    return xp.stack(states)


def zoneout_vjp(params, inputs, cotangents, mask_of_step_0):
    W, U, x, mask = params["W"], params["U"], inputs["x"], inputs["mask"]
    h = np.concatenate([inputs["h_0"][None], zoneout(np, params, inputs)])
    found, dh = (
        {"W": np.zeros_like(W), "U": np.zeros_like(U), "x": np.zeros_like(x)},
        np.zeros_like(h[0]),
    )
    for t in reversed(range(len(x))):
        m = mask[0 if mask_of_step_0 else t]
        dh = dh + cotangents[t]
        delta = dh * (1 - m) * (1 - np.tanh(x[t] @ W.T + h[t] @ U.T) ** 2)
        found["W"] += delta.T @ x[t]
        found["U"] += delta.T @ h[t]
        found["x"][t] = delta @ W
        dh = m * dh + delta @ U
    return {**found, "h_0": dh}


def haste(bug, steps=6):
    params, inputs = draw(steps, {"W": (H, I), "U": (H, H)}, h_0=(B, H))
    mask = np.random.default_rng(1).random((steps, B, H))
    return check_vjp(
        partial(zoneout_vjp, mask_of_step_0=bug), zoneout, params, {**inputs, "mask": mask}, **TORCH
    )


# A layer of LSTM as a library has it: the output at every step, and the two final states.


def layer(xp, params, inputs):
    state, states = {"h": inputs["h_0"], "c": inputs["c_0"]}, []
    for x in inputs["x"]:
        state, _ = LSTM().step(xp, params, state, x)
        states.append(state["h"])
    return {"output": xp.stack(states), "h_n": state["h"], "c_n": state["c"]}


def taped(params, inputs):
    return bptt.forward(LSTM(), params, {"h": inputs["h_0"], "c": inputs["c_0"]}, inputs["x"])


def at_steps(cotangents):
    """The final states' cotangents added to those of the last step."""
    e = {"h": cotangents["output"].copy(), "c": np.zeros_like(cotangents["output"])}
    e["h"][-1] += cotangents["h_n"]
    e["c"][-1] += cotangents["c_n"]
    return e


def layer_vjp(params, inputs, cotangents, tape=None):
    found = bptt.backward(LSTM(), params, tape or taped(params, inputs), at_steps(cotangents))
    return {
        **found.params,
        "x": found.x,
        "h_0": found.d_state["h"][0],
        "c_0": found.d_state["c"][0],
    }


def initial_state_as_zero(params, inputs, cotangents):
    """dW_hh = Σ_{t>1} δ_t h_{t−1}ᵀ."""
    delta, _ = bptt.walk_deltas(LSTM(), params, taped(params, inputs), at_steps(cotangents))
    found = layer_vjp(params, inputs, cotangents)
    return {**found, "W_hh": found["W_hh"] - delta[0].T @ inputs["h_0"]}


def needs_the_output(params, inputs, cotangents):
    if not cotangents["output"].any():
        raise RuntimeError("the gradient of the output is undefined")
    return layer_vjp(params, inputs, cotangents)


def final_states_ignored(params, inputs, cotangents):
    return layer_vjp(
        params, inputs, {**cotangents, "h_n": 0 * cotangents["h_n"], "c_n": 0 * cotangents["c_n"]}
    )


class BufferNotCleared:
    """The weight gradient is added into a buffer that the next call finds full."""

    def __init__(self):
        self.buffer = 0.0

    def __call__(self, params, inputs, cotangents):
        found = layer_vjp(params, inputs, cotangents)
        self.buffer = self.buffer + found["W_hh"]
        return {**found, "W_hh": self.buffer}


class CacheOverwritten:
    """The backward works in place in what the forward has kept, and a second backward finds that."""

    def __init__(self):
        self.tape = None

    def __call__(self, params, inputs, cotangents):
        self.tape = self.tape or taped(params, inputs)
        found = layer_vjp(params, inputs, cotangents, self.tape)
        for cache in self.tape.caches:
            cache["i"] *= cache["not_i"]
        return found


def library(bug, vjp=None, outputs=("output", "h_n", "c_n"), start=1.0):
    """The report on the layer, its bug in `vjp`; `outputs` are those that are asked for, `start`
    the scale of h_0.
    """
    params, inputs = draw(5, LSTM().parameter_shapes(I, H), h_0=(B, H), c_0=(B, H))
    inputs = {**inputs, "h_0": start * inputs["h_0"]}
    vjp = (vjp() if isinstance(vjp, type) else vjp) if bug else layer_vjp

    def asked(xp, params, inputs):
        everything = layer(xp, params, inputs)
        return {name: everything[name] for name in outputs}

    def answered(params, inputs, cotangents):
        return vjp(
            params,
            inputs,
            {
                **{name: 0 * value for name, value in layer(np, params, inputs).items()},
                **cotangents,
            },
        )

    return check_vjp(answered, asked, params, inputs, **TORCH)


# tensorflow#34171, and numpy-ml#42: cells.


class NoPeepholesInTheCarry(PeepholeLSTM):
    def delta(self, params, cache, d_state):
        delta, previous = super().delta(params, cache, d_state)
        size = cache["c"].shape[-1]
        return delta, {
            **previous,
            "c": previous["c"]
            - params["p_i"] * delta[..., :size]
            - params["p_f"] * delta[..., size : 2 * size],
        }


class OneBiasForThree(LSTM):
    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        i, _, g, _ = np.split(d_params["b_h"], 4)
        return {**d_params, "b_h": np.concatenate([i, i, g, i])}, d_x


class SlopeOfSigmoidLeftOut(LSTM):
    """δ_o = dh ⊙ tanh c, without o ō."""

    def delta(self, params, cache, d_state):
        delta, previous = super().delta(params, cache, d_state)
        size = cache["o"].shape[-1]
        delta = np.concatenate([delta[..., : 3 * size], d_state["h"] * cache["tanh_c"]], axis=-1)
        return delta, {**previous, "h": delta @ params["W_hh"]}


class CarryNotPassedBack(LSTM):
    def delta(self, params, cache, d_state):
        delta, previous = super().delta(params, cache, d_state)
        return delta, {name: np.zeros_like(value) for name, value in previous.items()}


def cell(bug, right, wrong):
    return check_cell((wrong if bug else right)(), **SIZES, **TORCH)


# mxnet: networks.


class ReserveSpaceOverwritten(Network):
    """The lowest layer's reverse states are kept where the third layer writes its own."""

    def backward(self, params, done, by_step=False):
        tapes = dict(done.tapes)
        if self.layers > 2 and self.bidirectional:
            pairs = zip(tapes["_l0_reverse"].caches, tapes["_l2_reverse"].caches, strict=True)
            caches = [{**mine, "h_prev": theirs["h_prev"]} for mine, theirs in pairs]
            tapes["_l0_reverse"] = replace(tapes["_l0_reverse"], caches=caches)
        return super().backward(params, replace(done, tapes=tapes), by_step)


class NoBiasAbove(Network):
    def backward(self, params, done, by_step=False):
        found = super().backward(params, done, by_step)
        above = [
            name for name in found if name.startswith("b_h_l") and not name.startswith("b_h_l0")
        ]
        return {**found, **{name: np.zeros_like(found[name]) for name in above}}


@dataclass(frozen=True)
class InNetwork(CellCandidate):
    kind: Any = Network

    def network(self, problem):
        return self.kind(**vars(super().network(problem)))


def network(bug, kind, layers=3, bidirectional=True):
    case = Case("stack", "lstm", layers=layers, bidirectional=bidirectional, **SIZES)
    candidate = InNetwork(LSTM(), kind=kind if bug else Network)
    report = report_of(
        [check_problem(problem_of(case), candidate, select(("torch",)))], 0, "float64"
    )
    report.raise_for_failure()
    return report


# A linear recurrence with a decay for each head, h_t = a ⊙ h_{t−1} + W x_t, computed in blocks of
# four steps.

BLOCK = 4


def decay(xp, params, inputs):
    h, states = inputs["h_0"], []
    for x in inputs["x"]:
        h = params["a"] * h + x @ params["W"].T
        states.append(h)
    return {"output": xp.stack(states), "state": h}


def decay_vjp(params, inputs, cotangents, bug=None):
    x, a, steps = inputs["x"], params["a"], len(inputs["x"])
    a = np.full_like(a, a[0]) if bug == "head 0" else a
    start = (
        np.broadcast_to(inputs["h_0"][:1], inputs["h_0"].shape) if bug == "row 0" else inputs["h_0"]
    )
    h = np.concatenate([start[None], decay(np, params, inputs)["output"]])
    dh = np.zeros_like(h[0]) if bug == "no state" else cotangents["state"]
    totals = np.zeros_like(h[1:])
    blocks = steps // BLOCK if bug == "full blocks alone" else -(-steps // BLOCK)
    for number in reversed(range(blocks)):
        for t in reversed(range(BLOCK * number, min(BLOCK * (number + 1), steps))):
            totals[t] = dh = dh + cotangents["output"][t]
            dh = a * dh
    d_params = {"W": np.einsum("tbh,tbi->hi", totals, x), "a": np.sum(totals * h[:-1], axis=(0, 1))}
    return {**d_params, "x": totals @ params["W"], "h_0": dh}


def blocks(bug, which, steps=6, rows=B, heads=H):
    rng = np.random.default_rng(6)
    params = {"W": rng.normal(size=(heads, I)), "a": rng.uniform(0.5, 0.95, size=heads)}
    inputs = {"x": rng.normal(size=(steps, rows, I)), "h_0": rng.normal(size=(rows, heads))}
    return check_vjp(partial(decay_vjp, bug=which if bug else None), decay, params, inputs, **TORCH)


# flash-linear-attention PR 871: a kernel as a torch.autograd.Function, with y_t = tanh(W x_t) for
# brevity.


def in_storage(grad):
    """The first numbers of the memory behind a tensor, as if it were contiguous; beyond its end,
    zeros.
    """
    memory = torch.empty(0, dtype=grad.dtype).set_(grad.untyped_storage())
    flat = torch.zeros(grad.numel(), dtype=grad.dtype)
    flat[: min(len(memory), len(flat))] = memory[: len(flat)]
    return flat.reshape(grad.shape)


class Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, W, x, ignores_strides):
        y = torch.tanh(x @ W.T)
        ctx.save_for_backward(W, x, y)
        ctx.ignores_strides = ignores_strides
        return y

    @staticmethod
    def backward(ctx, grad):
        W, x, y = ctx.saved_tensors
        delta = (in_storage(grad) if ctx.ignores_strides else grad) * (1 - y * y)
        return torch.einsum("tbh,tbi->hi", delta, x), delta @ W, None


LAYOUT = {
    "expanded": lambda y, c: y.sum(),
    "transposed": lambda y, c: (y.transpose(0, 1) * c.transpose(0, 1).contiguous()).sum(),
    "contiguous": lambda y, c: (y * c).sum(),
}


def strides(bug, layout):
    params, inputs = draw(5, {"W": (H, I)}, c=(5, B, H))

    def by_kernel(params, inputs):
        return LAYOUT[layout](Kernel.apply(params["W"], inputs["x"], bug), inputs["c"])

    def loss(xp, params, inputs):
        y = xp.tanh(inputs["x"] @ params["W"].T)
        return xp.sum(y) if layout == "expanded" else xp.sum(y * inputs["c"])

    return check_gradients(from_torch(by_kernel), loss, params, inputs, **TORCH)


# The table.


@dataclass(frozen=True)
class Shipped:
    """A row: ask(bug, **asked) raises `error` and says `said`; it passes without the bug, and with
    it under `hidden`.
    """

    name: str
    ask: Callable[..., Any]
    said: tuple[str, ...]
    asked: dict[str, Any] = field(default_factory=dict)
    hidden: tuple[dict[str, Any], ...] = ()
    error: type[Exception] = GradientMismatch


OUTPUT = {"outputs": ("output",)}
ROWS = (
    Shipped("haste#43", haste, ("x: differs from torch", "walking back, first wrong at step 6 (wrong: 1–6 of 1–6)"),
            hidden=({"steps": 1},)),
    Shipped("pytorch#95137", library, ("W_hh: differs from torch", "right: W_xh, b_h, x, h_0, c_0"),
            {"vjp": initial_state_as_zero}, ({"start": 0.0, "outputs": ("output", "h_n")},)),
    Shipped("pytorch#95137: final states", library, ("output alone: 6 comparisons agree", "h_n alone: 6 of 6", "all zero"),
            {"vjp": final_states_ignored}, (OUTPUT,)),
    Shipped("pytorch#96416", library, ("vjp raised RuntimeError: the gradient of the output is undefined",),
            {"vjp": needs_the_output}, (OUTPUT,), CandidateFailed),
    Shipped("pytorch#1532", library, ("asked twice, the code under test gives two answers for the gradient W_hh",),
            {"vjp": BufferNotCleared}, error=NotRepeatable),
    Shipped("tensorflow#26331", library, ("asked twice, the code under test gives two answers for the gradient",),
            {"vjp": CacheOverwritten}, error=NotRepeatable),
    Shipped("tensorflow#34171", cell, ("is wrong in d_state_prev['c'] (steps 1–4 of 1–4); right in", "d_state_prev['h']"),
            {"right": PeepholeLSTM, "wrong": NoPeepholesInTheCarry}),
    Shipped("mxnet#17898", network, ("W_hh_l0_reverse: differs from torch", "1 of 33 comparisons disagree"),
            {"kind": ReserveSpaceOverwritten}, ({"layers": 2}, {"bidirectional": False})),
    Shipped("mxnet-PR-17872", network, ("b_h_l1: all zero", "b_h_l2_reverse: all zero", "4 of 33 comparisons disagree"),
            {"kind": NoBiasAbove}, ({"layers": 1},)),
    Shipped("mamba#368", blocks, ("W: differs", "walking back, first wrong at step 6"),
            {"which": "full blocks alone"}, ({"steps": 4}, {"steps": 8})),
    *(Shipped(f"flash-linear-attention#1140: T = {steps}", blocks, ("W: all zero", "x: all zero"),
              {"which": "full blocks alone", "steps": steps}) for steps in (1, 3)),
    *(Shipped(f"flash-linear-attention-PR-871: {layout}", strides, ("W: differs from torch",), {"layout": layout})
      for layout in ("expanded", "transposed")),
    Shipped("flash-linear-attention-PR-871: contiguous", strides, ("another memory order", "as if arrays were C-contiguous"),
            {"layout": "contiguous"}, error=LayoutMatters),
    Shipped("flash-linear-attention-PR-781", blocks, ("h_0: differs", "columns 1–2 of 3"), {"which": "head 0"}, ({"heads": 1},)),
    Shipped("RWKV-LM#241", blocks, ("a: differs from torch", "right: W, x, h_0"), {"which": "row 0"}, ({"rows": 1},)),
    Shipped("transformers-PR-23774", blocks, ("output alone: 4 comparisons agree", "state alone: 4 of 4", "all zero"),
            {"which": "no state"}),
    Shipped("numpy-ml#42: bias", cell, ("is wrong in d_params['b_h']", "right in d_params['W_xh'], d_params['W_hh'], d_x"),
            {"right": LSTM, "wrong": OneBiasForThree}),
    Shipped("numpy-ml#42: slope", cell, ("is wrong in d_params['W_xh']", "; right in d_state_prev['c']"),
            {"right": LSTM, "wrong": SlopeOfSigmoidLeftOut}),
    Shipped("numpy-ml#42: carry", cell, ("is wrong in d_state_prev['h'] (steps 1–4 of 1–4), d_state_prev['c']",),
            {"right": LSTM, "wrong": CarryNotPassedBack}),
)  # fmt: skip
every_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@every_row
def test_the_bug_is_caught_and_named(row):
    with pytest.raises(row.error) as caught:
        row.ask(True, **row.asked)
    for words in row.said:
        assert words in str(caught.value)


@every_row
def test_the_same_code_without_it_passes_and_with_it_where_it_hides(row):
    assert row.ask(False, **row.asked).passed
    for hidden in row.hidden:
        assert row.ask(True, **{**row.asked, **hidden}).passed, hidden


def test_a_peephole_that_is_zero_hides_its_terms():
    """tensorflow#34171: peepholes on."""
    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(size=shape)
        for name, shape in PeepholeLSTM().parameter_shapes(I, H).items()
    }
    off = {**params, **{name: np.zeros(H) for name in ("p_i", "p_f", "p_o")}}
    initial, x = {name: rng.normal(size=(B, H)) for name in ("h", "c")}, rng.normal(size=(5, B, I))
    e = {name: rng.normal(size=(5, B, H)) for name in ("h", "c")}

    def d_c_0(cell, params):
        return bptt.backward(cell, params, bptt.forward(cell, params, initial, x), e).d_state["c"][
            0
        ]

    np.testing.assert_array_equal(d_c_0(NoPeepholesInTheCarry(), off), d_c_0(PeepholeLSTM(), off))
    assert (
        np.max(np.abs(d_c_0(NoPeepholesInTheCarry(), params) - d_c_0(PeepholeLSTM(), params))) > 0.1
    )


def test_every_row_of_the_docstring_is_in_the_table():
    rows = (__doc__ or "").split("\n\n")[1].splitlines()[1:]
    named = {row.split("  ")[2].split(",")[0] for row in rows}
    assert named == {row.name.split(":")[0] for row in ROWS} - {"tensorflow#26331"}
    assert "tensorflow#26331" in (__doc__ or "")
