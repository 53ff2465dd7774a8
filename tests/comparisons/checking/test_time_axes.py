"""Which axis is time: found where a later step sees an earlier one, and only there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bptt_crosscheck import Unrolled, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.checking.noted_arrays import Watch
from bptt_crosscheck.comparisons.checking.time_axes import layout_of, moved_entries
from bptt_crosscheck.comparisons.errors import BadOption, GradientMismatch
from bptt_crosscheck.comparisons.problems.axes import Layout, declared_layout

from tests.comparisons.small import SIZES, TORCH, Elman

T, B, I, H = 7, 4, 5, 6  # noqa: E741
RNG = np.random.default_rng(0)
W, U = RNG.normal(size=(I, H)) / 2, RNG.normal(size=(H, H)) / 2.5
E = RNG.normal(size=(9, H))
Forward = Callable[..., Any]


def found(forward: Forward, x: np.ndarray, **others: np.ndarray) -> Layout:
    """What moving slices shows of forward(x)."""

    def run(named):
        outputs = forward(**named)
        return outputs if isinstance(outputs, dict) else {"output": outputs}

    named = {"x": x, **others}
    inputs = [name for name in named if name != "table"]
    return layout_of(Watch("loss", run, named), inputs, None)


def table_for(x: np.ndarray) -> dict[str, np.ndarray]:
    """What tokens are looked up in, a parameter."""
    return {"table": E} if x.dtype.kind == "i" else {}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def at(x, axis, t):
    return x[(slice(None),) * axis + (t,)]


def rnn(axis: int, backwards: bool = False, hoisted: bool = False) -> Forward:
    def forward(x):
        h, total = np.zeros(H), 0.0
        z = x @ W if hoisted else x
        order = range(x.shape[axis])
        for t in reversed(order) if backwards else order:
            z_t = at(z, axis, t)
            h = np.tanh((z_t if hoisted else z_t @ W) + h @ U)
            total = total + np.sum(h)
        return total

    return forward


def on_columns(x):
    h, total = np.zeros((H, x.shape[1])), 0.0
    for t in range(x.shape[2]):
        h = np.tanh(W.T @ x[:, :, t] + U.T @ h)
        total += np.sum(h**2)
    return total


def row_by_row(last):
    def forward(x):
        total = 0.0
        for row in x:
            h = np.zeros(H)
            for x_t in row:
                h = np.tanh(x_t @ W + h @ U)
            total = total + np.sum(h**2)
        return last(total)

    return forward


def into_a_buffer(x):
    h = np.zeros((T + 1, B, H))
    for t in range(T):
        h[t] = np.tanh(x[t] @ W + h[t - 1] @ U)
    return np.sum(h**2)


def scan(x):
    """Linear in x: its outputs tell."""
    h, outputs = np.zeros((B, H)), []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] @ W
        outputs.append(h)
    return {"y": np.stack(outputs, axis=1)}


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(causal):
    def forward(x):
        q = x @ W
        scores = q @ np.swapaxes(q, -1, -2)
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -1e30)
        return np.sum(np.tanh(softmax(scores) @ q))

    return forward


def after_a_causal_convolution(x):
    padded = np.concatenate([np.zeros((3, *x.shape[1:])), x])
    y = sum(padded[k : k + T] * weight for k, weight in enumerate((0.1, 0.2, 0.3, 0.4)))
    h, states = np.zeros((B, H)), []
    for t in range(T):
        h = np.tanh(y[t]) @ W + 0.5 * h
        states.append(h)
    return np.sum(np.stack(states) ** 2)


def tokens(axis):
    def forward(x, table):
        h, total = np.zeros(H), 0.0
        for t in range(x.shape[axis]):
            h = np.tanh(table[at(x, axis, t)] + h @ U)
            total = total + np.sum(h)
        return total

    return forward


def of_heads(x):
    """Heads one after the other, mixed at the end."""
    last = []
    for head in x:
        h = np.zeros(H)
        for x_t in head:
            h = np.tanh(x_t @ W + h @ U)
        last.append(h)
    return np.sum(np.tanh(sum(last)))


def of_numbers(x):
    h, total = 0.1, 0.0
    for x_t in x:
        h = np.tanh(0.7 * x_t + 0.5 * h)
        total = total + h**2
    return total


INTEGERS = np.random.default_rng(2).integers(0, 9, size=(T, B))

# name, forward, x, the axis, whether it is read from its end, B
IN_TIME = (
    ("T, B, I", rnn(0), normal(T, B, I), 0, False, B),
    ("B, T, I", rnn(1), normal(B, T, I), 1, False, B),
    ("hoisted", rnn(0, hoisted=True), normal(T, B, I), 0, False, B),
    ("hoisted, B, T, I", rnn(1, hoisted=True), normal(B, T, I), 1, False, B),
    ("all sizes equal", rnn(1), normal(I, I, I), 1, False, I),
    ("one row", rnn(1), normal(1, T, I), 1, False, 1),
    ("T, I", rnn(0), normal(T, I), 0, False, None),
    ("I, B, T", on_columns, normal(I, B, T), 2, False, B),
    ("B, T, heads, I", rnn(1), normal(B, T, 3, I), 1, False, B),
    ("three steps", rnn(0), normal(3, B, I), 0, False, B),
    ("many steps", rnn(0), normal(300, B, I), 0, False, B),
    ("backwards", rnn(0, backwards=True), normal(T, B, I), 0, True, B),
    ("backwards, B, T, I", rnn(1, backwards=True), normal(B, T, I), 1, True, B),
    ("row by row", row_by_row(lambda total: total), normal(B, T, I), 1, False, B),
    ("row by row, root", row_by_row(np.sqrt), normal(B, T, I), 1, False, B),
    ("buffer", into_a_buffer, normal(T, B, I), 0, False, B),
    ("linear scan", scan, normal(B, T, I), 1, False, B),
    ("causal attention", attention(True), normal(B, T, I), 1, False, B),
    ("convolution", after_a_causal_convolution, normal(T, B, I), 0, False, B),
    ("heads", of_heads, normal(3, T, I), 1, False, None),
    ("numbers", of_numbers, normal(T), 0, False, None),
    ("tokens T, B", tokens(0), INTEGERS, 0, False, B),
    ("tokens B, T", tokens(1), INTEGERS.T, 1, False, B),
    ("tokens T", tokens(0), INTEGERS[:, 0], 0, False, None),
)


@pytest.mark.parametrize(
    ("forward", "x", "axis", "backwards", "rows"),
    [case[1:] for case in IN_TIME],
    ids=[case[0] for case in IN_TIME],
)
def test_time_is_found(forward, x, axis, backwards, rows):
    layout = found(forward, x, **table_for(x))
    assert layout.axis("x", "T") == axis
    assert layout.size("T") == x.shape[axis]
    assert ("x" in layout.backwards) is backwards
    assert rows is None or layout.size("B") == rows


def dense(x):
    return np.sum(np.tanh(np.tanh(x @ W) @ U))


def row_after_row(last):
    def forward(x):
        total = 1.0
        for row in x:
            total = total + np.sum(np.tanh(row @ W) ** 2)
        return last(total)

    return forward


def normalised(x):
    z = x @ W
    return np.sum(np.tanh((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)) ** 3)


def pairs(x):
    z, total = np.tanh(x @ W), 0.0
    for one in range(len(z)):
        for other in range(one):
            total = total + np.exp(-np.sum((z[one] - z[other]) ** 2))
    return total


def unlike_pairs(x):
    """Every pair at length, the first two before the others are looked at."""
    total = 0.0
    for one in range(len(x)):
        for other in range(one):
            z = np.tanh(x[one] @ W) @ U
            for _ in range(6):
                z = np.sin(z) @ U
            total = total + np.sum(z * np.tanh(x[other] @ W))
    return total


def running(combine):
    """What is gathered over rows has no order."""

    def forward(x):
        gathered = np.sum(x[0] @ W)
        for row in x[1:]:
            gathered = combine(gathered, np.sum(row @ W))
        return np.tanh(gathered)

    return forward


def feature_by_feature(x):
    z = 0.0
    for j in range(x.shape[-1]):
        z = z + x[..., j : j + 1] * W[j]
    return np.sum(np.maximum(z, 0) ** 2)


def neighbours(x):
    padded = np.concatenate([np.zeros((1, I)), x, np.zeros((1, I))])
    return np.sum(np.tanh((padded[:-2] + padded[1:-1] + padded[2:]) @ W) ** 2)


def rolled(x):
    return {"y": np.tanh((x + np.roll(x, 1, axis=0)) @ W)}


UNORDERED = (
    ("dense", dense, normal(B, T, I)),
    ("rows in a loop", row_after_row(lambda total: total), normal(T, I)),
    ("root of rows in a loop", row_after_row(np.sqrt), normal(T, I)),
    ("logarithm of rows in a loop", row_after_row(np.log), normal(T, I)),
    ("batch normalisation", normalised, normal(T, I)),
    ("attention", attention(False), normal(B, T, I)),
    ("pairs", pairs, normal(T, I)),
    ("pairs that are not alike", unlike_pairs, normal(T, I)),
    ("logaddexp", running(np.logaddexp), normal(T, I)),
    ("maximum", running(np.maximum), normal(T, I)),
    ("hypot", running(np.hypot), normal(T, I)),
    ("feature by feature", feature_by_feature, normal(T, I)),
    ("neighbours", neighbours, normal(T, I)),
    ("rolled", rolled, normal(T, I)),
    ("outputs by row", lambda x: {"y": np.tanh(x @ W)}, normal(T, B, I)),
    ("x not read", lambda x: np.sum(W), normal(T, B, I)),
    ("two steps", rnn(0), normal(2, B, I)),
    ("one step", rnn(0), normal(1, B, I)),
    ("no entries", lambda x: np.sum(x), normal(0, B, I)),
    ("one token throughout", tokens(0), np.zeros((T, B), dtype=int)),
    ("a scalar", lambda x: x**2, np.array(2.0)),
)


@pytest.mark.parametrize(
    ("forward", "x"), [case[1:] for case in UNORDERED], ids=[case[0] for case in UNORDERED]
)
def test_nothing_is_said_of_what_has_no_order(forward, x):
    layout = found(forward, x, **table_for(x))
    assert dict(layout.letters) == {}
    assert (layout.size("T"), layout.size("B")) == (None, None)


@pytest.mark.parametrize("seed", range(60))
def test_random_functions_without_order_have_no_steps(seed):
    """Dead units, saturated attention and coincidences of sizes do not make a step."""
    rng = np.random.default_rng(seed)
    rows, steps, features, units = (int(size) for size in rng.integers(1, 7, size=4))
    w, u = rng.normal(size=(features, units)), rng.normal(size=(units, units))
    x = 10 ** rng.uniform(-1, 0.7) * rng.normal(size=(rows, steps, features))

    def relu(x):
        return np.sum(np.maximum(np.maximum(x @ w, 0) @ u, 0) ** 2)

    def attended(x):
        q = x @ w
        return np.sqrt(1 + np.sum((softmax(q @ np.swapaxes(q @ u, -1, -2)) @ q) ** 2))

    def unit_by_unit(x):
        total = 1.0
        for j in range(units):
            total = total + np.sum(np.maximum(x @ w[:, j], 0)) ** 2
        return np.log(total)

    for forward in (relu, attended, unit_by_unit):
        assert dict(found(forward, x).letters) == {}, forward.__name__


def test_what_is_drawn_anew_in_every_run_says_nothing():
    rng = np.random.default_rng(0)
    layout = found(lambda x: rnn(0)(x * rng.uniform(0.5, 1, x.shape)), normal(T, B, I))
    assert dict(layout.letters) == {}


def test_code_that_raises_says_nothing():
    def forward(x):
        raise ZeroDivisionError

    assert dict(found(forward, normal(T, B, I)).letters) == {}


def test_other_inputs_have_their_own_time_axis():
    def forward(x, delta, start):
        h, total = start, 0.0
        for t in range(T):
            h = np.tanh(x[:, t] @ W + h @ U + delta[t])
            total = total + np.sum(h)
        return total

    layout = found(forward, normal(B, T, I), delta=np.zeros((T, B, H)), start=normal(B, H))
    assert (layout.axis("x", "T"), layout.axis("delta", "T")) == (1, 0)
    assert layout.of("start") == ()


def test_what_is_declared_is_not_looked_for():
    def never(named):
        raise AssertionError

    x = normal(B, T, I)
    declared = declared_layout("BTI", {}, {"x": x})
    assert layout_of(Watch("loss", never, {"x": x}), ["x"], declared) is declared


def test_inputs_beside_a_declared_one_are_looked_at():
    def run(named):
        h, total = 0.0, 0.0
        for t in range(T):
            h = np.tanh(named["x"][:, t] @ W + h + named["delta"][t])
            total = total + np.sum(h)
        return {"output": total}

    named = {"x": normal(B, T, I), "delta": np.zeros((T, B, H))}
    declared = declared_layout({"x": "BTI"}, {}, named)
    layout = layout_of(Watch("loss", run, named), list(named), declared)
    assert (layout.of("x"), layout.axis("delta", "T")) == (("B", "T", "I"), 0)


def test_a_loss_by_its_step_has_steps_by_contract():
    """Two of them are enough."""
    loss = Unrolled(
        lambda xp, p, i: {"h": xp.zeros(H)},
        lambda xp, p, s, at: {"h": xp.tanh(at["x"] @ p["W"] + s["h"] @ p["U"])},
        lambda xp, p, s, at: xp.sum(s["h"]),
    )
    inputs = {"x": normal(2, B, I)}
    convention = {"scale": "1/(T·B)"}
    gradients = gradients_of(0, factor=1 / (2 * B))
    report = check_gradients(gradients, loss, PARAMS, inputs, convention=convention, **TORCH)
    assert report.cases[0].layout == {"x": ["T", "", ""]}
    with pytest.raises(GradientMismatch, match=r"first wrong at step 1 \(wrong: 1 of 1–2\)"):
        check_gradients(gradients_of(0, wrong=(0,)), loss, PARAMS, inputs, **TORCH)


def test_a_few_runs_are_enough():
    runs = []

    def forward(x):
        runs.append(None)
        return np.sum(np.sin(x))

    assert found(forward, normal(60)).size("T") is None
    assert len(runs) == 2
    assert found(forward, normal(T, B, I)).size("T") is None
    assert len(runs) == 2 + 4
    runs.clear()
    assert found(lambda x: runs.append(None) or rnn(1)(x), normal(B, T, I)).size("T") == T
    assert len(runs) < 25


def test_long_sequences_are_not_run_to_their_end():
    steps = []

    def forward(x):
        h = np.zeros((B, H))
        for x_t in x:
            steps.append(None)
            h = np.tanh(x_t @ W + h @ U)
        return np.sum(h)

    assert found(forward, normal(5000, B, I)).size("T") == 5000
    assert len(steps) < 1000


def test_moved_entries_are_of_their_kind():
    x = np.array([[0.0, 2.0], [-3.0, 4.0]])
    moved = moved_entries(x)
    assert (moved != x).all()
    assert (np.sign(moved[x != 0]) == np.sign(x[x != 0])).all()
    integers = np.array([3, 5, 4, 3])
    assert sorted(set(moved_entries(integers))) == [3, 4, 5]
    assert (moved_entries(integers) != integers).all()


# The three functions.


def loss_of(axis):
    def loss(xp, p, i):
        h, total = xp.zeros(H), 0.0
        for t in range(i["x"].shape[axis]):
            x_t = i["x"][t] if axis == 0 else i["x"][:, t]
            h = xp.tanh(x_t @ p["W"] + h @ p["U"])
            total = total + xp.sum(h)
        return total

    return loss


def gradients_of(axis, wrong=(), factor=1.0):
    def gradients(p, i):
        x = i["x"] if axis == 0 else i["x"].swapaxes(0, 1)
        h = [np.zeros((x.shape[1], H))]
        for x_t in x:
            h.append(np.tanh(x_t @ p["W"] + h[-1] @ p["U"]))
        found = {"W": np.zeros_like(W), "U": np.zeros_like(U), "x": np.zeros_like(x)}
        dh = np.zeros_like(h[0])
        for t in reversed(range(len(x))):
            delta = (dh + 1) * (1 - h[t + 1] ** 2)
            found["W"] += x[t].T @ delta
            found["U"] += h[t].T @ delta
            found["x"][t], dh = delta @ p["W"].T, delta @ p["U"].T
        found["x"] = found["x"] if axis == 0 else found["x"].swapaxes(0, 1).copy()
        if wrong:
            found["x"][wrong] *= 1.01
        return {name: factor * value for name, value in found.items()}

    return gradients


PARAMS = {"W": W, "U": U}
ROWS_FIRST = {"x": normal(2, T, I)}
STEPS_FIRST = {"x": normal(T, 2, I)}


@pytest.mark.parametrize("layout", [None, "BTI", {"x": "BTI"}])
def test_rows_are_not_called_steps(layout):
    gradients = gradients_of(1, wrong=(1, 4))
    with pytest.raises(GradientMismatch) as caught:
        check_gradients(gradients, loss_of(1), PARAMS, ROWS_FIRST, layout=layout, **TORCH)
    text = str(caught.value)
    assert "walking back, first wrong at step 5 (wrong: 5 of 1–7) along axis 1" in text
    assert ("axis 0 (row), index 1 of 2 only" if layout else "axis 0, index 1 of 2 only") in text
    assert "step 2" not in text


def test_a_wrong_row_is_named_beside_the_step():
    gradients = gradients_of(0, wrong=(slice(2, 4), 1))
    with pytest.raises(GradientMismatch) as caught:
        check_gradients(gradients, loss_of(0), PARAMS, STEPS_FIRST, **TORCH)
    text = str(caught.value)
    assert "axis 1, index 1 of 2 only" in text
    assert "walking back, first wrong at step 4 (wrong: 3–4 of 1–7) along axis 0" in text


def test_without_steps_an_axis_is_an_axis():
    """Two steps do not tell that they are steps."""
    inputs = {"x": normal(2, 3, I)}
    gradients = gradients_of(0, wrong=(1, 2))
    with pytest.raises(GradientMismatch) as caught:
        check_gradients(gradients, loss_of(0), PARAMS, inputs, **TORCH)
    text = str(caught.value)
    assert "axis 0, index 1 of 2 only; axis 1, index 2 of 3 only" in text
    assert "step" not in text


@pytest.mark.parametrize(
    ("scale", "factor"), [("T", T), ("1/T", 1 / T), ("B", 2), ("1/(T·B)", 1 / (2 * T))]
)
@pytest.mark.parametrize("layout", [None, "BTI"])
def test_letters_are_those_of_the_layout(scale, factor, layout):
    gradients = gradients_of(1, factor=factor)
    asked = {"convention": {"scale": scale}, "layout": layout, **TORCH}
    assert check_gradients(gradients, loss_of(1), PARAMS, ROWS_FIRST, **asked).passed
    with pytest.raises(GradientMismatch):
        check_gradients(gradients_of(1), loss_of(1), PARAMS, ROWS_FIRST, **asked)


def test_a_factor_is_named_by_the_layout():
    with pytest.raises(GradientMismatch, match=f"exact up to the factor 1/T = 1/{T}"):
        check_gradients(gradients_of(1, factor=1 / T), loss_of(1), PARAMS, ROWS_FIRST, **TORCH)


def test_a_letter_that_nothing_tells_is_refused_at_once():
    calls = []

    def loss(params, inputs):
        calls.append(None)
        return np.sum(np.sin(params["w"] * inputs["tokens"]))

    def gradients(params, inputs):
        return {"w": inputs["tokens"] * np.cos(params["w"] * inputs["tokens"])}

    params, inputs = {"w": normal(60)}, {"tokens": normal(60)}
    for scale in ("T", "1/B", "1/(T·B)"):
        calls.clear()
        with pytest.raises(BadOption, match="declare the axes of x by layout="):
            check_gradients(gradients, loss, params, inputs, convention={"scale": scale})
        assert len(calls) < 10


def test_a_report_tells_the_axes_that_it_knows():
    report = check_gradients(gradients_of(1), loss_of(1), PARAMS, ROWS_FIRST, **TORCH)
    assert report.cases[0].layout == {"x": ["", "T", ""]}
    assert (report.cases[0].steps, report.cases[0].batch) == (T, 2)


def heads(xp, params, inputs):
    """A linear recurrence with decays, all arrays (B, T, H, D)."""
    state, outputs = 0.0, []
    for t in range(T):
        state = xp.exp(-(params["g"][:, t] ** 2)) * state + params["k"][:, t]
        outputs.append(state * params["q"][:, t])
    return {"y": xp.stack(outputs, axis=1)}


def heads_vjp(name, where):
    def vjp(params, inputs, cotangents):
        q, k, g, dy = params["q"], params["k"], params["g"], cotangents["y"]
        found = {each: np.zeros_like(value) for each, value in params.items()}
        states, d_state = [np.zeros_like(q[:, 0])], 0.0
        for t in range(T):
            states.append(np.exp(-(g[:, t] ** 2)) * states[-1] + k[:, t])
        for t in reversed(range(T)):
            decay = np.exp(-(g[:, t] ** 2))
            found["q"][:, t] = states[t + 1] * dy[:, t]
            d_state = d_state + q[:, t] * dy[:, t]
            found["k"][:, t] = d_state
            found["g"][:, t] = -2 * g[:, t] * decay * states[t] * d_state
            d_state = decay * d_state
        if name:
            found[name][where] *= -1
        return found

    return vjp


FOUR_AXES = {name: normal(2, T, 3, 2) + index for index, name in enumerate("qkg")}
EVERY = slice(None)


@pytest.mark.parametrize("layout", [None, "BTHD", {"q": "BTHD", "k": "BTHD", "g": "BTHD"}])
@pytest.mark.parametrize(
    ("name", "where", "found", "declared"),
    [
        ("k", (EVERY, EVERY, 1), "axis 2, index 1 of 3", "axis 2 (head), index 1 of 3"),
        ("q", (EVERY, EVERY, [0, 2]), "axis 2, indices 0, 2 of 3", "axis 2 (head), indices 0, 2"),
        ("g", 1, "axis 0, index 1 of 2", "axis 0 (row), index 1 of 2"),
        ("q", (..., 1), "axis 3, index 1 of 2", "axis 3 (feature), index 1 of 2"),
        (
            "k",
            (EVERY, slice(4)),
            "steps 1–4 of 1–7 (axis 1) only",
            "steps 1–4 of 1–7 (axis 1) only",
        ),
        ("k", (0, 4), "step 5 of 1–7 (axis 1) only", "axis 0 (row), index 0 of 2 only; step 5"),
    ],
)
def test_one_head_row_feature_or_chunk_is_named(layout, name, where, found, declared):
    with pytest.raises(GradientMismatch) as caught:
        check_vjp(heads_vjp(name, where), heads, FOUR_AXES, {}, layout=layout, **TORCH)
    assert (declared if layout else found) in str(caught.value)


def test_four_axes_right():
    assert check_vjp(heads_vjp(None, ()), heads, FOUR_AXES, {}, **TORCH).passed


def test_a_layout_that_does_not_fit_is_refused_before_anything_is_computed():
    def never(*_):
        raise AssertionError

    for check in (check_gradients, check_vjp):
        with pytest.raises(BadOption, match="2 axes, and x has 3"):
            check(never, never, PARAMS, ROWS_FIRST, layout="BT")


def test_a_cell_has_the_layout_of_the_loop_over_it():
    assert check_cell(Elman(), layout="TBI", **SIZES, **TORCH).passed
    for layout in ("BTI", {"x": "TBI"}, 3):
        with pytest.raises(BadOption, match="its step sees"):
            check_cell(Elman(), layout=layout, **SIZES, **TORCH)
