"""Converted weights are run by the framework that they come from.

torch, ONNX's reference evaluator, Keras. Gradients too.
"""

import itertools
import re
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bptt_crosscheck.manual import layouts
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.peephole_lstm import PeepholeLSTM
from bptt_crosscheck.manual.cells.projected_lstm import ProjectedLSTM
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.through_time import bptt
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from tests.closeness import ROUNDING, relative_error

T, B, I, H, P = 5, 2, 3, 4, 2  # noqa: E741


CELLS = {
    "rnn": RNN(),
    "lstm": LSTM(),
    "projected-lstm": ProjectedLSTM(P),
    "peephole-lstm": PeepholeLSTM(),
    "gru-after": GRU("after"),
    "gru-before": GRU("before"),
}


def locked(array):
    array.setflags(write=False)
    return array


def draw(rng, *shape):
    return locked(rng.normal(size=shape))


def draw_params(rng, cell, input_size=I, hidden_size=H, projected=0, peepholes=False):
    """Parameters in this project's layout, of all its bias and extra names."""
    rows = len(layouts.ORDERS["project"][cell]) * hidden_size
    shapes = {"W_xh": (rows, input_size), "W_hh": (rows, projected or hidden_size)}
    shapes |= dict.fromkeys(("b_x", "b_hh") if cell == "gru" else ("b_h",), (rows,))
    shapes |= {"W_hr": (projected, hidden_size)} if projected else {}
    shapes |= dict.fromkeys(("p_i", "p_f", "p_o"), (hidden_size,)) if peepholes else {}
    return {name: draw(rng, *shape) for name, shape in shapes.items()}


def run(cell, params, initial, x):
    """h_1..h_T (T, B, ·)."""
    return bptt.forward(cell, params, initial, x).states["h"][1:]


def same(found, expected):
    """The same names, and exactly the same numbers and dtypes."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    return True


# torch.

TORCH = {
    "rnn": ("rnn", torch.nn.RNN, {}),
    "lstm": ("lstm", torch.nn.LSTM, {}),
    "projected-lstm": ("lstm", torch.nn.LSTM, {"proj_size": P}),
    "gru-after": ("gru", torch.nn.GRU, {}),
}


def torch_module(name, **options):
    torch.manual_seed(5)
    cell, build, more = TORCH[name]
    module = build(I, H, dtype=torch.float64, **more, **options)
    return cell, module


def torch_states(module, x):
    """(outputs (T, B, ·), {"h": (layers · directions, B, ·), …})."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    initial = {"h": torch.randn(count, B, module.proj_size or H, dtype=torch.float64)}
    if isinstance(module, torch.nn.LSTM):
        initial["c"] = torch.randn(count, B, H, dtype=torch.float64)
    states = tuple(initial.values())
    outputs, _ = module(x, states if len(states) == 2 else states[0])
    return outputs, {key: value.numpy() for key, value in initial.items()}


def run_network(cell, params, initial, x, layers, directions):
    """Layers of cells as torch stacks them.

    The reverse direction reads time backwards, outputs side by side.
    """
    for k in range(layers):
        sides = []
        for d in range(directions):
            suffix = f"_l{k}" + "_reverse" * d if layers * directions > 1 else ""
            own = {
                name.removesuffix(suffix): value
                for name, value in params.items()
                if name.endswith(suffix)
            }
            own = (
                own
                if d or directions == 1
                else {name: value for name, value in own.items() if "reverse" not in name}
            )
            turn = slice(None, None, -1 if d else 1)
            start = {key: value[k * directions + d] for key, value in initial.items()}
            sides.append(run(cell, own, start, x[turn])[turn])
        x = np.concatenate(sides, axis=-1)
    return x


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_networks_of_torch_give_their_outputs(name, layers, directions):
    cell, module = torch_module(name, num_layers=layers, bidirectional=directions == 2)
    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, initial = torch_states(module, x)
    params = layouts.network_from_torch(cell, module.state_dict())
    found = run_network(CELLS[name], params, initial, x.numpy(), layers, directions)
    assert relative_error(found, outputs.detach().numpy(), separately=1) <= ROUNDING

    back = layouts.network_to_torch(cell, params)  # and torch runs what goes back
    module.load_state_dict({key: torch.tensor(value) for key, value in back.items()}, strict=True)
    assert same(layouts.network_from_torch(cell, module.state_dict()), params)


@pytest.mark.parametrize("name", TORCH)
def test_without_biases_they_are_zero(name):
    cell, module = torch_module(name, bias=False)
    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, initial = torch_states(module, x)
    params = layouts.from_torch(cell, module.state_dict())
    assert all(not params[bias].any() for bias in layouts.BIASES[cell])
    assert (
        relative_error(
            run_network(CELLS[name], params, initial, x.numpy(), 1, 1), outputs.detach().numpy()
        )
        <= ROUNDING
    )


@pytest.mark.parametrize("name", TORCH)
def test_gradients_of_torch_are_those_of_the_manual_backward(name):
    cell, module = torch_module(name)
    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, initial = torch_states(module, x)
    cotangent = torch.randn(outputs.shape, dtype=torch.float64)
    (outputs * cotangent).sum().backward()
    told = {key: parameter.grad.numpy() for key, parameter in module.named_parameters()}

    params = layouts.from_torch(cell, module.state_dict())
    tape = bptt.forward(
        CELLS[name], params, {key: value[0] for key, value in initial.items()}, x.numpy()
    )
    cotangents = {key: np.zeros((T, *value.shape[1:])) for key, value in initial.items()} | {
        "h": cotangent.numpy()
    }
    manual = bptt.backward(CELLS[name], params, tape, cotangents).params
    found = layouts.from_torch(cell, told, gradients=True)
    assert found.keys() == manual.keys()
    for key, value in manual.items():
        assert relative_error(found[key], value) <= ROUNDING
    for key, value in layouts.to_torch(cell, manual, gradients=True).items():
        assert relative_error(value, told[key]) <= ROUNDING
    as_if_weights = layouts.from_torch(cell, told)  # the twin: gradients of one sum, added
    assert (
        (relative_error(as_if_weights.get("b_h", 0), manual["b_h"]) > 0.9)
        if cell != "gru"
        else same(as_if_weights, found)
    )


def test_a_model_around_the_layers_and_a_cell_without_suffix():
    _, module = torch_module("lstm", num_layers=2)
    model = torch.nn.ModuleDict(
        {"encoder": module, "head": torch.nn.Linear(H, 1, dtype=torch.float64)}
    )
    found = layouts.network_from_torch("lstm", model.state_dict(), prefix="encoder.")
    assert same(found, layouts.network_from_torch("lstm", module.state_dict()))
    assert set(layouts.network_to_torch("lstm", found, prefix="encoder.")) == {
        f"encoder.{key}" for key in module.state_dict()
    }
    single = torch.nn.GRUCell(I, H)
    params = layouts.from_torch("gru", single.state_dict(), suffix="")
    assert same(
        layouts.to_torch("gru", params, suffix=""),
        {key: value.numpy() for key, value in single.state_dict().items()},
    )


# ONNX.

ONNX = {
    "rnn": ("RNN", {}, {}),
    "lstm": ("LSTM", {}, {}),
    "peephole-lstm": ("LSTM", {}, {"peepholes": True}),
    "gru-before": ("GRU", {}, {}),
    "gru-after": ("GRU", {"linear_before_reset": 1}, {}),
}


def onnx_outputs(op, attributes, tensors, initial, x):
    """Y (T, D, B, H) of ONNX's own evaluator."""
    feeds = {"X": x, **tensors, **{f"initial_{key}": value for key, value in initial.items()}}
    order = ["X", "W", "R", "B", "", "initial_h", *(["initial_c", "P"] if op == "LSTM" else [])]
    inputs = [name if name in feeds else "" for name in order]
    direction = "bidirectional" if len(tensors["W"]) == 2 else "forward"
    node = onnx.helper.make_node(
        op, inputs, ["Y"], hidden_size=H, direction=direction, **attributes
    )
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, value.shape)
        for name, value in feeds.items()
    ]
    result = onnx.helper.make_tensor_value_info(
        "Y", onnx.TensorProto.DOUBLE, (T, len(tensors["W"]), B, H)
    )
    model = onnx.helper.make_model(onnx.helper.make_graph([node], op, infos, [result]))
    onnx.checker.check_model(model, full_check=True)
    return ReferenceEvaluator(model).run(None, feeds)[0]


def onnx_case(name, directions, seed=8):
    rng = np.random.default_rng(seed)
    op, attributes, more = ONNX[name]
    cell = op.lower()
    params = [draw_params(rng, cell, **more) for _ in range(directions)]
    states = ("h", "c") if cell == "lstm" else ("h",)
    initial = {key: draw(rng, directions, B, H) for key in states}
    return cell, op, attributes, params, initial, draw(rng, T, B, I)


@pytest.mark.parametrize("name", ONNX)
@pytest.mark.parametrize("directions", [1, 2])
def test_operators_of_onnx_give_the_cells_outputs(name, directions):
    cell, op, attributes, params, initial, x = onnx_case(name, directions)
    tensors = layouts.to_onnx(cell, *params)
    Y = onnx_outputs(op, attributes, tensors, initial, x)
    for d, own in enumerate(params):
        turn = slice(None, None, -1 if d else 1)
        start = {key: value[d] for key, value in initial.items()}
        found = run(CELLS[name], layouts.from_onnx(cell, tensors, d), start, x[turn])[turn]
        assert relative_error(found, Y[:, d], separately=1) <= ROUNDING
        assert same(layouts.from_onnx(cell, tensors, d), own)


@pytest.mark.parametrize("name", ONNX)
def test_onnx_adds_its_two_biases_as_the_cell_does(name):
    cell, op, attributes, params, initial, x = onnx_case(name, 1)
    rng = np.random.default_rng(1)
    tensors = layouts.to_onnx(cell, *params)
    tensors["B"] = draw(rng, *tensors["B"].shape)
    Y = onnx_outputs(op, attributes, tensors, initial, x)
    start = {key: value[0] for key, value in initial.items()}
    assert (
        relative_error(run(CELLS[name], layouts.from_onnx(cell, tensors), start, x), Y[:, 0])
        <= ROUNDING
    )
    del tensors["B"]
    Y = onnx_outputs(op, attributes, tensors, initial, x)
    assert (
        relative_error(run(CELLS[name], layouts.from_onnx(cell, tensors), start, x), Y[:, 0])
        <= ROUNDING
    )


# Keras.

KERAS = {
    "rnn": ("SimpleRNN", {}),
    "lstm": ("LSTM", {}),
    "gru-after": ("GRU", {"reset_after": True}),
    "gru-before": ("GRU", {"reset_after": False}),
}
KERAS_NAMES = ("kernel", "recurrent_kernel", "bias")
SINGLE = 32 * float(
    np.finfo(np.float32).eps
)  # Keras' matmul on torch is float32 in a float64 layer too (keras-team/keras#23223)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on torch; its settings file goes to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_TORCH_DEVICE", "cpu")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        import keras
    assert keras.backend.backend() == "torch"
    return keras


def keras_layer(keras, name, **options):
    """(cell, a layer of random weights, {"kernel": …, …})."""
    build, more = KERAS[name]
    layer = getattr(keras.layers, build)(
        H, return_sequences=True, dtype="float32", **more, **options
    )
    layer.build((B, T, I))
    rng = np.random.default_rng(9)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    assert tuple(weight.name for weight in layer.weights) == KERAS_NAMES[: len(layer.weights)]
    tensors = {
        weight.name: weight.value.detach().numpy() for weight in layer.weights
    }  # get_weights() is deprecated use of NumPy
    return {"SimpleRNN": "rnn"}.get(build, build.lower()), layer, tensors


def keras_outputs(layer, cell, seed=2):
    """(outputs (T, B, H) as a tensor, initial, x)."""
    rng = np.random.default_rng(seed)
    single = lambda *shape: locked(rng.normal(size=shape).astype(np.float32))  # noqa: E731
    initial = {key: single(B, H) for key in (("h", "c") if cell == "lstm" else ("h",))}
    x = single(T, B, I)
    outputs = layer(
        torch.tensor(np.swapaxes(x, 0, 1)),
        initial_state=[torch.tensor(value) for value in initial.values()],
    )
    return outputs.transpose(0, 1), in_double(initial), x.astype(float)


def in_double(arrays):
    return {name: value.astype(float) for name, value in arrays.items()}


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_layers_of_keras_give_their_outputs(keras, name, use_bias):
    cell, layer, tensors = keras_layer(keras, name, use_bias=use_bias)
    outputs, initial, x = keras_outputs(layer, cell)
    params = layouts.from_keras(cell, tensors)
    assert (
        relative_error(
            run(CELLS[name], in_double(params), initial, x), outputs.detach().numpy(), separately=1
        )
        <= SINGLE
    )
    back = layouts.to_keras(cell, params, reset=name.partition("-")[2] or "after")
    assert same({key: back[key] for key in tensors}, tensors)


@pytest.mark.parametrize("name", KERAS)
def test_gradients_of_keras_are_those_of_the_manual_backward(keras, name):
    cell, layer, tensors = keras_layer(keras, name)
    outputs, initial, x = keras_outputs(layer, cell)
    cotangent = np.random.default_rng(4).normal(size=outputs.shape).astype(np.float32)
    (outputs * torch.tensor(cotangent)).sum().backward()
    told = {weight.name: weight.value.grad.numpy() for weight in layer.weights}

    params = in_double(layouts.from_keras(cell, tensors))
    tape = bptt.forward(CELLS[name], params, initial, x)
    cotangents = {key: np.zeros((T, B, H)) for key in initial} | {"h": cotangent}
    manual = bptt.backward(CELLS[name], params, tape, cotangents).params
    found = layouts.from_keras(cell, told, gradients=True)
    assert found.keys() == manual.keys()
    for key, value in manual.items():
        assert relative_error(found[key], value) <= SINGLE
    back = layouts.to_keras(cell, manual, reset=name.partition("-")[2] or "after", gradients=True)
    for key, value in told.items():
        assert relative_error(back[key], value) <= SINGLE


# Properties: there and back, and gradients by the transpose.

FORMATS = {
    "torch": (
        lambda cell, params, **how: layouts.to_torch(cell, params, **how),
        lambda cell, tensors, **how: layouts.from_torch(cell, tensors, **how),
    ),
    "onnx": (layouts.to_onnx, layouts.from_onnx),
    "keras": (layouts.to_keras, layouts.from_keras),
    "keras-before": (
        lambda cell, params, **how: layouts.to_keras(cell, params, reset="before", **how),
        layouts.from_keras,
    ),
}
EXTRAS = {"torch": {"projected": P}, "onnx": {"peepholes": True}}
LAYERS = [
    (other, cell, extra)
    for other, cell in itertools.product(FORMATS, ("rnn", "lstm", "gru"))
    for extra in ([{}, EXTRAS[other]] if cell == "lstm" and other in EXTRAS else [{}])
    if other != "keras-before" or cell == "gru"
]
size = st.integers(1, 4)


def inner(one, other):
    assert one.keys() == other.keys()
    return sum(np.sum(one[name] * other[name]) for name in one)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    layer=st.sampled_from(LAYERS),
    sizes=st.tuples(size, size),
    seed=st.integers(0, 99),
    dtype=st.sampled_from("fd"),
)
def test_there_and_back_is_where_it_was(layer, sizes, seed, dtype):
    other, cell, extra = layer
    to, back = FORMATS[other]
    params = draw_params(np.random.default_rng(seed), cell, *sizes, **extra)
    params = {name: locked(value.astype(dtype)) for name, value in params.items()}
    if other == "keras-before":
        params["b_hh"] = locked(
            np.zeros_like(params["b_hh"])
        )  # there is one bias: the sum comes back in b_x
    tensors = to(cell, params)
    returned = back(cell, tensors)
    assert same(returned, params)
    assert same(to(cell, returned), tensors)
    every = [*params.values(), *tensors.values(), *returned.values()]
    assert not any(np.shares_memory(one, other) for one, other in itertools.combinations(every, 2))
    assert all(value.flags.c_contiguous for value in (*tensors.values(), *returned.values()))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(layer=st.sampled_from(LAYERS), sizes=st.tuples(size, size), seed=st.integers(0, 99))
def test_gradients_go_by_the_transpose_of_the_weights_map(layer, sizes, seed):
    """⟨to(dw), v⟩ = ⟨dw, from(v)⟩ for every v in the other format: dv = Aᵀ dw."""
    other, cell, extra = layer
    to, back = FORMATS[other]
    rng = np.random.default_rng(seed)
    gradient = draw_params(rng, cell, *sizes, **extra)
    if other == "keras-before":
        gradient["b_hh"] = gradient["b_x"]
    found = to(cell, gradient, gradients=True)
    direction = {name: draw(rng, *value.shape) for name, value in found.items()}
    scale = np.sqrt(inner(found, found) * inner(direction, direction))
    assert abs(inner(found, direction) - inner(gradient, back(cell, direction))) <= ROUNDING * scale
    assert same(back(cell, found, gradients=True), gradient)
    unbiased = {name: value for name, value in gradient.items() if not name.startswith("b_")}
    assert same(back(cell, to(cell, unbiased, gradients=True), gradients=True), unbiased)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    cell=st.sampled_from(["rnn", "lstm", "gru"]),
    layers=st.integers(1, 11),
    directions=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_networks_there_and_back(cell, layers, directions, seed):
    rng = np.random.default_rng(seed)
    suffixes = [f"_l{k}{d}" for k in range(layers) for d in ("", "_reverse")[:directions]]
    suffixes = [""] if suffixes == ["_l0"] else suffixes
    params = {
        name + suffix: value
        for suffix in suffixes
        for name, value in draw_params(rng, cell, 2, 2).items()
    }
    tensors = layouts.network_to_torch(cell, params, prefix="a.")
    assert all(name.startswith("a.") for name in tensors)
    assert same(layouts.network_from_torch(cell, tensors, prefix="a."), params)
    gradients = layouts.network_to_torch(cell, params, gradients=True)
    assert same(layouts.network_from_torch(cell, gradients, gradients=True), params)


# Orders, and the twins: a wrong one is seen.


BLOCKS_OF_TORCH = {
    "lstm": {
        "torch": [0, 1, 2, 3],
        "cudnn": [0, 1, 2, 3],
        "keras": [0, 1, 2, 3],
        "onnx": [0, 3, 1, 2],
        "haste": [0, 2, 1, 3],
        "miopen": [0, 1, 3, 2],
    },
    "gru": {
        "torch": [0, 1, 2],
        "cudnn": [0, 1, 2],
        "keras": [1, 0, 2],
        "onnx": [1, 0, 2],
        "haste": [1, 0, 2],
        "miopen": [1, 0, 2],
    },
}


def test_order_of_a_library_is_these_blocks_of_torch():
    for cell, library, blocks in [
        (cell, *told) for cell, table in BLOCKS_OF_TORCH.items() for told in table.items()
    ]:
        own = layouts.ORDERS["project"][cell]
        stacked = np.repeat(np.arange(len(own)), 2)
        table = np.stack([stacked, 10 + stacked])
        order, expected = layouts.ORDERS[library][cell], np.repeat(blocks, 2)
        np.testing.assert_array_equal(layouts.reorder(stacked, own, order), expected)
        np.testing.assert_array_equal(
            layouts.reorder(table, tuple(own), tuple(order), axis=1), [expected, 10 + expected]
        )


def only_the_right_order_agrees(
    monkeypatch, library, cell, outputs_by_converted, expected, tolerance
):
    right = layouts.ORDERS[library][cell]
    for wrong in map("".join, itertools.permutations(right)):
        monkeypatch.setitem(layouts.ORDERS[library], cell, wrong)
        error = relative_error(outputs_by_converted(), expected)
        assert (error <= tolerance) if wrong == right else error > 1e-2


@pytest.mark.parametrize("name", ["lstm", "gru-before", "gru-after"])
def test_any_other_order_gives_other_outputs_than_onnx(name, monkeypatch):
    cell, op, attributes, params, initial, x = onnx_case(name, 1)
    tensors = layouts.to_onnx(cell, *params)
    Y = onnx_outputs(op, attributes, tensors, initial, x)[:, 0]
    start = {key: value[0] for key, value in initial.items()}
    converted = lambda: run(CELLS[name], layouts.from_onnx(cell, tensors), start, x)  # noqa: E731
    only_the_right_order_agrees(monkeypatch, "onnx", cell, converted, Y, ROUNDING)


@pytest.mark.parametrize("name", ["lstm", "gru-before"])
def test_any_other_order_gives_other_outputs_than_keras(keras, name, monkeypatch):
    cell, layer, tensors = keras_layer(keras, name)
    outputs, initial, x = keras_outputs(layer, cell)

    def converted():
        return run(CELLS[name], in_double(layouts.from_keras(cell, tensors)), initial, x)

    only_the_right_order_agrees(
        monkeypatch, "keras", cell, converted, outputs.detach().numpy(), SINGLE
    )


@pytest.mark.parametrize("name", ["lstm", "gru-after"])
def test_any_other_order_gives_other_outputs_than_torch(name, monkeypatch):
    cell, module = torch_module(name)
    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, initial = torch_states(module, x)
    start = {key: value[0] for key, value in initial.items()}

    def converted():
        return run(CELLS[name], layouts.from_torch(cell, module.state_dict()), start, x.numpy())

    only_the_right_order_agrees(
        monkeypatch, "torch", cell, converted, outputs.detach().numpy(), ROUNDING
    )


def test_any_other_order_of_the_peepholes_gives_other_outputs(monkeypatch):
    cell, op, attributes, params, initial, x = onnx_case("peephole-lstm", 1)
    tensors = layouts.to_onnx(cell, *params)
    Y = onnx_outputs(op, attributes, tensors, initial, x)[:, 0]
    start = {key: value[0] for key, value in initial.items()}
    for wrong in itertools.permutations(right := layouts.PEEPHOLES_OF_ONNX):
        monkeypatch.setattr(layouts, "PEEPHOLES_OF_ONNX", wrong)
        error = relative_error(run(PeepholeLSTM(), layouts.from_onnx(cell, tensors), start, x), Y)
        assert (error <= ROUNDING) if wrong == right else error > 1e-2


def test_the_other_reset_gives_other_outputs():
    cell, op, _, params, initial, x = onnx_case("gru-before", 1)
    Y = onnx_outputs(op, {"linear_before_reset": 1}, layouts.to_onnx(cell, *params), initial, x)
    assert relative_error(run(GRU("before"), params[0], {"h": initial["h"][0]}, x), Y[:, 0]) > 1e-2


# What is refused, in one line that names it.


def drawn(cell="lstm", **more: Any) -> dict[str, Any]:
    """Parameters for I = 3, H = 2, with zeros of the given shapes besides, or instead."""
    return draw_params(np.random.default_rng(0), cell, 3, 2) | {
        name: np.zeros(shape) for name, shape in more.items()
    }


def without(named, *names):
    return {name: value for name, value in named.items() if name not in names}


def refused_of_torch(cell="lstm", drawn_as="lstm", gradients=False, **more: Any) -> Any:
    tensors = layouts.to_torch(drawn_as, drawn(drawn_as)) | {
        f"{name}_l0": np.zeros(shape) for name, shape in more.items()
    }
    return layouts.from_torch(cell, tensors, gradients=gradients)


def refused_of_network(cell="rnn", prefix="", lacking="", **more: Any) -> Any:
    params = {
        name + suffix: value for suffix in ("_l0", "_l1") for name, value in drawn("rnn").items()
    }
    tensors = layouts.network_to_torch("rnn", {**params, "W_xh_l1": np.zeros((2, 2))}) | more
    return layouts.network_from_torch("rnn", without(tensors, lacking), prefix)


def refused_of_onnx(cell="lstm", direction=0, **more: Any) -> Any:
    tensors = layouts.to_onnx(cell, drawn(cell)) | {
        name: np.zeros(shape) for name, shape in more.items()
    }
    return layouts.from_onnx(cell, tensors, direction)


def refused_of_keras(cell="lstm", **more: Any) -> Any:
    return layouts.from_keras(
        cell,
        layouts.to_keras(cell, drawn(cell))
        | {name: np.zeros(shape) for name, shape in more.items()},
    )


REFUSED = [
    (refused_of_torch, {"cell": "lsmt"}, "no cell is called 'lsmt'; there are rnn, lstm, gru"),
    (
        refused_of_torch,
        {"weight_hh": (5, 2)},
        "weight_hh_l0 has 5 rows: an LSTM's is a multiple of 4",
    ),
    (refused_of_torch, {"cell": "gru"}, "weight_hh_l0 has 8 rows: a GRU's is a multiple of 3"),
    (
        refused_of_torch,
        {"cell": "rnn"},
        "weight_hh_l0 has the shape (8, 2): an RNN of hidden size 8 has (8, 8)",
    ),
    (refused_of_torch, {"weight_hh": (8,)}, "weight_hh_l0 has 1 axes: it is a matrix"),
    (
        refused_of_torch,
        {"weight_ih": (7, 3)},
        "weight_ih_l0 has the shape (7, 3): an LSTM of hidden size 2 has (8, I)",
    ),
    (
        refused_of_torch,
        {"bias_hh": (8, 1)},
        "bias_hh_l0 has the shape (8, 1): an LSTM of hidden size 2 has (8,)",
    ),
    (
        refused_of_torch,
        {"cell": "gru", "drawn_as": "gru", "weight_hr": (2, 2)},
        "weight_hr_l0: a GRU has no projection",
    ),
    (refused_of_torch, {"gradients": True}, "the gradients bias_ih_l0 and bias_hh_l0 differ"),
    (
        refused_of_network,
        {"lacking": "weight_hh_l0"},
        "weight_hh_l0 is missing; there is weight_ih_l0, bias_ih_l0",
    ),
    (refused_of_network, {"bias_ih_l0_reverse": 0}, "weight_ih_l0_reverse is missing"),
    (refused_of_network, {"prefix": "a."}, "a.weight_ih_l0 is missing"),
    (layouts.network_to_torch, {"params": drawn(W_hy=(2, 2))}, "W_hy is no parameter of a layer"),
    (
        layouts.network_to_torch,
        {"params": {"W_xh_l1": np.zeros((8, 3))}},
        "W_xh_l0 is missing; there is nothing",
    ),
    (layouts.network_to_torch, {"params": drawn(W_xh_l0=(8, 3))}, "W_xh has no suffix such as _l0"),
    (layouts.to_torch, {"params": without(drawn(), "b_h")}, "b_h is missing"),
    (
        layouts.to_torch,
        {"cell": "gru", "params": without(drawn("gru"), "b_x"), "gradients": True},
        "b_x is missing",
    ),
    (
        layouts.to_torch,
        {"params": drawn(p_f=(2,), p_o=(2,))},
        "p_f: torch has nothing like it in an LSTM",
    ),
    (lambda cell: layouts.to_onnx(cell), {}, "0 directions: an ONNX operator has 1 or 2"),
    (
        lambda cell, **p: layouts.to_onnx(cell, p),
        drawn(W_hr=(2, 2)),
        "W_hr: onnx has nothing like it in an LSTM",
    ),
    (lambda cell, **p: layouts.to_onnx(cell, p), drawn(p_i=(2,), p_o=(2,)), "p_f is missing"),
    (
        lambda cell, **p: layouts.to_onnx(cell, p, drawn()),
        drawn(W_xh=(8, 5)),
        "W of the two directions: (8, 5) and (8, 3)",
    ),
    (refused_of_onnx, {"direction": 1}, "has the shape (1, "),
    (refused_of_onnx, {"cell": "gru", "P": (1, 6)}, "P: a GRU has no peepholes"),
    (refused_of_onnx, {"P": (1, 7)}, "P has the shape (7,): an LSTM of hidden size 2 has (6,)"),
    (
        refused_of_keras,
        {"recurrent_kernel": (2, 7)},
        "recurrent_kernel has 7 columns: an LSTM's is a multiple of 4",
    ),
    (
        refused_of_keras,
        {"cell": "gru", "bias": (3, 6)},
        "bias has the shape (3, 6): a GRU of hidden size 2 has (2, 6)",
    ),
    (
        layouts.to_keras,
        {"params": drawn(), "reset": "between"},
        "reset is 'after' or 'before' the product, not 'between'",
    ),
    (
        lambda cell: layouts.to_keras("gru", drawn("gru"), reset="before", gradients=True),
        {},
        "the gradients b_x and b_hh differ",
    ),
]


@pytest.mark.parametrize(("ask", "question", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_named(ask, question, said):
    with pytest.raises(ValueError, match=".") as caught:
        ask(**({"cell": "lstm"} | question))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "wanted", "axis", "said"),
    [
        ("ifgo", "ifco", 0, "the gates i, f, g, o are not i, f, c, o in another order"),
        ("iigo", "iigo", 0, "the gates i, i, g, o are not i, i, g, o in another order"),
        ("zrn", "rzn", 0, "the shape (4, 2) has no axis 0 of 3 equal blocks"),
        ("ifgo", "iofg", 2, "the shape (4, 2) has no axis 2 of 4 equal blocks"),
    ],
)
def test_what_is_no_reordering_is_refused(given, wanted, axis, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        layouts.reorder(np.zeros((4, 2)), given, wanted, axis)


def test_gradients_that_differ_by_rounding_or_nan():
    tensors = layouts.to_torch("lstm", drawn(), gradients=True)
    tensors["bias_hh_l0"] *= 1 + 1e-14
    assert same(layouts.from_torch("lstm", tensors, gradients=True), drawn())
    tensors["bias_hh_l0"][3] = np.nan
    with pytest.raises(ValueError, match="differ by up to nan"):
        layouts.from_torch("lstm", tensors, gradients=True)
