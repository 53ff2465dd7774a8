"""Ways of writing backpropagation through time by hand, and how little it takes to check each.

Every file beside this one is somebody's own code, untouched. What stands between the two marks is
all that is added to it.
"""

import inspect
import types
from pathlib import Path

import numpy as np
import pytest
from bptt_crosscheck import (
    GradientMismatch,
    check_gradients,
    check_vjp,
    from_attributes,
    from_list,
    from_update,
    set_attributes,
)

HERE = Path(__file__).parent


def char_rnn(code):
    # glue
    names = ("Wxh", "Whh", "Why", "bh", "by")

    def run(params, inputs):
        set_attributes(code, params)
        return code.loss_fun(inputs["tokens"], inputs["targets"], inputs["hprev"])

    gradients = from_list(lambda params, inputs: run(params, inputs)[1:6], names)
    params = {name: getattr(code, name) for name in names}
    inputs = {
        "tokens": [0, 3, 1, 1, 4, 2],
        "targets": [3, 1, 1, 4, 2, 5],
        "hprev": np.full((5, 1), 0.3),
    }
    loss = lambda params, inputs: run(params, inputs)[0]  # noqa: E731
    check_gradients(gradients, loss, params, inputs, convention={"clip_value": 1})
    # end of glue


def self_attributes(code):
    rng = np.random.default_rng(0)
    inputs = {"X": rng.normal(size=(6, 3)), "Y": rng.normal(size=(6, 2))}
    # glue
    model = code.RNN(3, 4, 2)

    def run(inputs):
        loss = model.forward(inputs["X"], inputs["Y"])
        model.backward()
        return loss

    def loss(params, inputs):
        set_attributes(model, params)
        return model.forward(inputs["X"], inputs["Y"])

    weights = {"Wx": "dWx", "Wh": "dWh", "Wy": "dWy", "b": "db"}
    params = {name: getattr(model, name) for name in weights}
    check_gradients(from_attributes(run, model, weights), loss, params, inputs)
    # end of glue


def module_globals(code):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(5, 3)), "y": rng.normal(size=(5, 2))}

    # glue
    def run(inputs):
        code.forward(inputs["x"])
        code.backward(inputs["x"], inputs["y"])

    def loss(params, inputs):
        set_attributes(code, params)
        code.forward(inputs["x"])
        return code.loss(inputs["y"])

    gradients = from_attributes(run, code, {"U": "grad_u", "W": "grad_w", "V": "grad_v"})
    check_gradients(gradients, loss, {"U": code.U, "W": code.W, "V": code.V}, inputs)
    # end of glue


def tuple_caches(code):
    rng = np.random.default_rng(0)
    N, T, D, H = 2, 5, 3, 4
    weights = {
        "Wx": rng.normal(size=(D, H)),
        "Wh": rng.normal(size=(H, H)) / 2,
        "b": rng.normal(size=H),
    }
    inputs = {"x": rng.normal(size=(N, T, D)), "h0": rng.normal(size=(N, H))}
    # glue
    forward = lambda params, inputs: code.rnn_forward(**inputs, **params)  # noqa: E731
    names = ("x", "h0", "Wx", "Wh", "b")

    def vjp(params, inputs, cotangent):
        cache = forward(params, inputs)[1]
        return dict(zip(names, code.rnn_backward(cotangent, cache), strict=True))

    check_vjp(vjp, lambda params, inputs: forward(params, inputs)[0], weights, inputs)
    # end of glue


def column_vectors(code):
    rng = np.random.default_rng(0)
    parameters, cotangent = code.initialize(n_x=3, n_a=2), rng.normal(size=(2, 4, 5))
    inputs = {"x": rng.normal(size=(3, 4, 5)), "a0": rng.normal(size=(2, 4))}
    # glue
    forward = lambda params, arrays: code.lstm_forward(arrays["x"], arrays["a0"], params)  # noqa: E731
    loss = lambda params, inputs: np.sum(cotangent * forward(params, inputs)[0])  # noqa: E731

    def gradients(params, inputs):
        found = code.lstm_backward(cotangent, forward(params, inputs)[1], params)
        return {name.removeprefix("d"): gradient for name, gradient in found.items()}

    check_gradients(gradients, loss, parameters, inputs)
    # end of glue


def batch_first(code):
    rng = np.random.default_rng(0)
    params = {}
    for gate in "zrn":
        for kind, size in (("W", 3), ("U", 4)):
            params[kind + gate] = rng.normal(size=(size, 4)) / 2
    inputs = {
        "x": rng.normal(size=(2, 5, 3)),
        "y": rng.normal(size=(2, 4)),
        "h0": rng.normal(size=(2, 4)),
    }
    # glue
    loss = lambda params, inputs: code.mean_squared_error(**inputs, **params)  # noqa: E731
    gradients = lambda params, inputs: code.gradients_of(**inputs, **params)  # noqa: E731
    check_gradients(gradients, loss, params, inputs)
    # end of glue


def per_sample_loops(code):
    params = {"w": [[0.3, -0.4], [0.1, 0.8]], "u": [[-0.5, 0.2], [0.7, 0.6]], "b": [0.1, -0.2]}
    samples = [[[1.0, 0.5], [-0.3, 0.8], [0.2, 0.1]], [[0.4, -1.0]], [[0.9, 0.2], [0.3, -0.6]]]
    inputs = {"samples": samples, "labels": [1.0, -1.0, 0.5]}
    # glue
    loss = lambda params, inputs: code.cost(**inputs, **params)  # noqa: E731
    check_gradients(lambda params, inputs: code.backprop(**inputs, **params), loss, params, inputs)
    # end of glue


def stateful_layers(code):
    rng = np.random.default_rng(0)
    inputs = {"xs": rng.normal(size=(5, 3)), "ys": rng.normal(size=(5, 2))}
    # glue
    model = code.Model(3, 4, 2)
    layers = {"embed": model.embed, "recur": model.recur, "read": model.read}

    def loss(params, inputs):
        for name, layer in layers.items():
            layer.W = params[name]
        return model.loss(**inputs)

    def gradients(params, inputs):
        loss(params, inputs)
        model.backward()
        return {name: layer.grad for name, layer in layers.items()}

    params = {name: layer.W for name, layer in layers.items()}
    check_gradients(gradients, loss, params, inputs, setup=model.reset)
    # end of glue


def in_place_updates(code):
    rng = np.random.default_rng(0)
    inputs = {"xs": rng.normal(size=(5, 2)), "y": rng.normal(size=3)}
    # glue
    train = lambda weights, inputs: code.train_on(weights, **inputs, eta=1.0)  # noqa: E731
    loss = lambda weights, inputs: code.squared_error(weights, **inputs)  # noqa: E731
    gradients = from_update(train, learning_rate=1.0)
    check_gradients(gradients, loss, code.make_weights(), inputs)
    # end of glue


def parallel_lists(code):
    x, label = np.random.default_rng(0).normal(size=(5, 3)), 1
    # glue
    run = lambda params, inputs: code.value_and_grad(list(params.values()), **inputs)  # noqa: E731
    params = dict(zip("WUbV", code.init((3, 4, 2)), strict=True))
    inputs = {"x": x, "label": label}
    check_gradients(lambda p, i: run(p, i)[1], lambda p, i: run(p, i)[0], params, inputs)
    # end of glue


def flat_vector(code):
    rng = np.random.default_rng(0)
    inputs = {"signal": rng.normal(size=(6, 2)), "wanted": rng.normal(size=6)}
    # glue
    params = {"theta": rng.normal(size=18)}
    loss = lambda params, inputs: code.objective(params["theta"], **inputs)  # noqa: E731
    gradients = lambda params, inputs: [code.jacobian(params["theta"], **inputs)]  # noqa: E731
    check_gradients(gradients, loss, params, inputs)
    # end of glue


PASSED_BACK = '    dh = top["W"].T @ (prediction - y)\n'
UPDATED = '    top["W"] -= eta * np.outer(prediction - y, h[-1])\n'
# style, what its author wrote, what somebody else would have written, which gradients are wrong
MISTAKES = (
    (char_rnn, "dh = np.dot(Why.T, dy) + dhnext", "dh = np.dot(Why.T, dy)", "Wxh Whh bh"),
    (
        self_attributes,
        "dz = dh * (1 - self.H[t + 1] ** 2)",
        "dz = dh * (1 - self.H[t] ** 2)",
        "Wx Wh b",
    ),
    (module_globals, "error = (outputs[t] - y[t]) / len(y)", "error = outputs[t] - y[t]", "U W V"),
    (tuple_caches, "prev_h.T.dot(dz)", "next_h.T.dot(dz)", "Wh"),
    (
        column_vectors,
        "d.sum(axis=1, keepdims=True)",
        "d.mean(axis=1, keepdims=True)",
        "bf bi bc bo",
    ),
    (batch_first, "dh * z + drh * r + dz", "dh * z + drh + dz", "Wz Uz Wr Ur Wn Un h0"),
    (per_sample_loops, "u[i][j] * delta[i]", "u[j][i] * delta[i]", "w u b"),
    (
        stateful_layers,
        "np.outer(dy, self.memory.pop())",
        "np.outer(dy, self.memory.pop(0))",
        "embed recur read",
    ),
    (
        in_place_updates,
        f"{PASSED_BACK}{UPDATED}",
        f"{UPDATED}{PASSED_BACK}",
        "layers[0].W layers[0].U",
    ),
    (parallel_lists, "dz = dh * (hs[t + 1] > 0)", "dz = dh", "W U b"),
    (flat_vector, "[gA.ravel(), gB.ravel(), gc]", "[gA.T.ravel(), gB.ravel(), gc]", "theta"),
)
STYLES = tuple(style for style, *_ in MISTAKES)


def written(style, was="", now=""):
    """The style's file as a module; `now` in the one place where it says `was`."""
    path = HERE / f"{style.__name__}.py"
    text = path.read_text()
    assert not was or text.count(was) == 1
    module = types.ModuleType(style.__name__)
    exec(compile(text.replace(was, now) if was else text, path, "exec"), vars(module))
    return module


def name_of(value):
    return getattr(value, "__name__", "")


@pytest.mark.parametrize("style", STYLES, ids=name_of)
def test_correct_code_passes(style):
    style(written(style))


@pytest.mark.parametrize(("style", "was", "now", "wrong"), MISTAKES, ids=name_of)
def test_a_mistake_is_found_where_it_is(style, was, now, wrong):
    with pytest.raises(GradientMismatch) as caught:
        style(written(style, was, now))
    accused = set()
    for line in str(caught.value).split("\n"):
        if ": differs from" in line:
            name = line.split(":")[0].strip()
            accused.add(name if name in wrong.split() else name.split("[")[0])
    assert accused == set(wrong.split())


def glue(style):
    """The lines between the marks, without blank ones and comments."""
    lines = [line.strip() for line in inspect.getsource(style).split("\n")]
    between = lines[lines.index("# glue") + 1 : lines.index("# end of glue")]
    return [line for line in between if line and not line.startswith("#")]


@pytest.mark.parametrize("style", STYLES, ids=name_of)
def test_at_most_fifteen_lines_are_added(style):
    assert 1 <= len(glue(style)) <= 15


def test_most_styles_need_fewer_than_eight_lines():
    assert sum(len(glue(style)) < 8 for style in STYLES) > len(STYLES) / 2


def test_every_file_here_is_checked():
    assert {path.stem for path in HERE.glob("*.py")} - {Path(__file__).stem} == {
        style.__name__ for style in STYLES
    }
