"""The loss that code under test has of its own is the one that it is judged by, or nothing is said
of gradients; and None from autograd is said.
"""

import math

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients, from_jax, from_torch
from bptt_crosscheck.comparisons.diagnosis.of_losses import TwoLosses, named_factor
from bptt_crosscheck.comparisons.errors import BadContract, CandidateFailed, ForwardMismatch

from tests.comparisons.small import INPUTS, PARAMS, gradients, loss, numpy_loss

T, B, H = 5, 2, 3
rng = np.random.default_rng(0)
LSTM = {"W": (4 * H, 4), "U": (4 * H, H), "b": (4 * H,)}
WEIGHTS = {name: rng.normal(size=shape) for name, shape in LSTM.items()}
DATA = {"x": rng.normal(size=(T, B, 4)), "w": rng.normal(size=(T, B, H))}
TORCH = {"references": "torch"}


def lstm(order="ifgo", scale=1.0, columns=False):
    """loss(xp, params, inputs) of an LSTM whose gates stand in this order, in rows or columns."""

    def run(xp, params, inputs):
        def sigmoid(z):
            return 1 / (1 + xp.exp(-z))

        h = c = 0 * inputs["w"][0]
        total = 0.0
        for t in range(T):
            if columns:
                z = inputs["x"][t] @ params["W"] + h @ params["U"] + params["b"]
            else:
                z = inputs["x"][t] @ params["W"].T + h @ params["U"].T + params["b"]
            gate = {name: z[:, n * H : (n + 1) * H] for n, name in enumerate(order)}
            c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * xp.tanh(gate["g"])
            h = sigmoid(gate["o"]) * xp.tanh(c)
            total = total + xp.sum(inputs["w"][t] * h)
        return scale * total

    return run


def by_torch(function):
    import torch

    return from_torch(lambda params, inputs: function(torch, params, inputs))


def by_jax(function):
    import jax.numpy

    return from_jax(lambda params, inputs: function(jax.numpy, params, inputs))


adapters = pytest.mark.parametrize("adapted", [by_torch, by_jax])


def in_numpy(function):
    return lambda params, inputs: function(np, params, inputs)


def refused(given, function=None, params=WEIGHTS, inputs=DATA, **options):
    """The text of the ForwardMismatch."""
    with pytest.raises(ForwardMismatch) as caught:
        check_gradients(given, function or lstm(), params, inputs, **TORCH, **options)
    return str(caught.value)


@adapters
def test_the_same_loss_passes(adapted):
    assert check_gradients(adapted(lstm()), lstm(), WEIGHTS, DATA, **TORCH).passed
    assert check_gradients(adapted(lstm()), in_numpy(lstm()), WEIGHTS, DATA).passed


@adapters
@pytest.mark.parametrize(
    ("order", "places"), [("ifog", "1, 2, 4, 3"), ("figo", "2, 1, 3, 4"), ("oifg", "4, 1, 2, 3")]
)
def test_gates_in_another_order_are_another_forward(adapted, order, places):
    words = f"With the 4 blocks of rows of W, U, b in the order {places}, loss gives that value"
    text = refused(adapted(lstm(order)))
    assert "the adapted loss is" in text
    if order == "oifg":
        places = "2, 3, 4, 1"  # where each gate of this order stands in the other
        words = f"With the 4 blocks of rows of W, U, b in the order {places}, loss gives that value"
    assert words in text


def test_gates_in_columns():
    columns = {name: np.ascontiguousarray(value.T) for name, value in WEIGHTS.items()}
    text = refused(by_torch(lstm("ifog", columns=True)), lstm(columns=True), columns)
    assert "the 4 blocks of columns of W, U, b in the order 1, 2, 4, 3" in text


def test_gates_of_a_single_unit_and_of_a_gru():
    """Three gates of one row each."""
    params = {"W": rng.normal(size=(3, 2))}
    inputs = {"x": rng.normal(size=2)}

    def gated(order):
        def run(xp, params, inputs):
            z = params["W"] @ inputs["x"]
            gate = {name: z[n] for n, name in enumerate(order)}
            return xp.tanh(gate["r"]) * gate["z"] + gate["n"] ** 2

        return run

    text = refused(by_torch(gated("zrn")), gated("rzn"), params, inputs)
    assert "With the 3 blocks of rows of W in the order 2, 1, 3, loss gives that value" in text


def test_gates_of_one_parameter_alone():
    """b in another order than W and U."""

    def mixed(xp, params, inputs):
        order = [*range(2 * H), *range(3 * H, 4 * H), *range(2 * H, 3 * H)]
        return lstm()(xp, {**params, "b": params["b"][order]}, inputs)

    assert "blocks of rows of b in the order 1, 2, 4, 3, loss gives" in refused(by_torch(mixed))


def test_a_transposed_weight():
    square = {"V": rng.normal(size=(3, 3))}
    inputs = {"v": rng.normal(size=3)}
    text = refused(
        by_torch(lambda xp, p, i: (p["V"] @ xp.tanh(p["V"] @ i["v"])).sum()),
        lambda xp, p, i: xp.sum(p["V"].T @ xp.tanh(p["V"].T @ i["v"])),
        square,
        inputs,
    )
    assert "With V transposed, loss gives that value" in text


@adapters
@pytest.mark.parametrize(
    ("scale", "words", "declared"),
    [
        (1 / T, "It is 1/T = 1/5 times that of loss", '{"scale": "1/T"}'),
        (1 / B, "It is 1/B = 1/2 times that of loss", '{"scale": "1/B"}'),
        (1 / (T * B), "It is 1/(T·B) = 1/10 times that of loss", '{"scale": "1/(T·B)"}'),
        (T, "It is T = 5 times that of loss", '{"scale": "T"}'),
        (-1, "It is −1 times that of loss", '{"sign": -1}'),
        (1 / (T * B * H), "It is 1/30 times that of loss", '{"scale": 0.03333333333333333}'),
        (1 / math.log(2), "It is 1/ln 2 times", '{"scale": 1.4426950408889634}'),
        (math.log(2) / T, "It is ln 2 · 1/T = 1/5 times", '{"scale": 0.13862943611198905}'),
    ],
)
def test_a_mean_for_a_sum_is_another_forward(adapted, scale, words, declared):
    given = adapted(lstm(scale=scale))
    text = refused(given)
    assert words in text
    assert f"off by the same factor: make the losses the same, or declare convention={declared}"
    assert text.endswith(declared)
    convention = {"sign": -1} if scale == -1 else {"scale": scale}
    assert check_gradients(given, lstm(), WEIGHTS, DATA, convention=convention, **TORCH).passed


@adapters
def test_what_nothing_explains_is_not_explained(adapted):
    def near(xp, params, inputs):
        return 1.0001 * lstm()(xp, params, inputs) + 1e-3

    text = refused(adapted(near))
    assert text.endswith("they are not the same function")


def test_both_values_are_in_the_text():
    at = lstm()(np, WEIGHTS, DATA)
    text = refused(by_torch(lstm(scale=0.5)))
    assert f"is {at / 2:.12g}"[:14] in text
    assert f"loss gives {at:.12g}"[:18] in text


def test_a_smallest_difference_that_is_another_function():
    def nearly(xp, params, inputs):
        return lstm()(xp, params, inputs) + 1e-8 * xp.sum(params["b"] ** 2)

    assert "not the same function" in refused(by_torch(nearly))


def test_a_constant_is_another_function_too():
    """Its gradient is the same; which of the two losses is meant is for the user to say."""
    assert "not the same" in refused(by_torch(lambda xp, p, i: lstm()(xp, p, i) + 0.1))


def test_right_code_in_a_lower_precision_has_no_other_forward():
    import torch

    def inside(dtype):
        def run(params, inputs):
            low = [{k: v.to(dtype) for k, v in named.items()} for named in (params, inputs)]
            return lstm()(torch, *low).double()

        return from_torch(run)

    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(GradientMismatch):
            check_gradients(inside(dtype), lstm(), WEIGHTS, DATA, **TORCH)
    declared = {"convention": {"precision": "float32"}}
    assert check_gradients(inside(torch.float32), lstm(), WEIGHTS, DATA, **TORCH, **declared).passed
    # the twins: in a lower precision too, a mean is no sum
    with pytest.raises(ForwardMismatch):
        check_gradients(inside(torch.bfloat16), lstm(scale=T), WEIGHTS, DATA, **TORCH)


def test_arrays_in_float32():
    low = [{k: v.astype(np.float32) for k, v in named.items()} for named in (WEIGHTS, DATA)]
    assert check_gradients(by_torch(lstm()), lstm(), *low, **TORCH).passed
    with pytest.raises(ForwardMismatch, match="in the order 1, 2, 4, 3, loss gives that value"):
        check_gradients(by_torch(lstm("ifog")), lstm(), *low, **TORCH)
    with pytest.raises(ForwardMismatch, match="It is 1/T = 1/5 times"):
        check_gradients(by_torch(lstm(scale=1 / T)), lstm(), *low, **TORCH)


def test_a_loss_that_cancels_to_nothing_is_the_same():
    """Zero but for rounding, summed in another order."""
    w = np.array([0.1, 0.2, 0.3, 0.4, -1.0])
    params, inputs = {"w": w}, {"c": np.array([3.0, 3.0, 3.0, 3.0, 3.0])}

    def forth(xp, p, i):
        return xp.sum(p["w"] * i["c"])

    def back(xp, p, i):
        total = 0.0
        for k in range(4, -1, -1):
            total = total + p["w"][k] * i["c"][k]
        return total

    assert forth(np, params, inputs) != back(np, params, inputs)
    assert check_gradients(by_torch(back), forth, params, inputs).passed
    assert check_gradients(by_torch(back), in_numpy(forth), params, inputs).passed


# own_loss


def test_a_loss_of_its_own_that_agrees():
    seen = []

    def own(params, inputs):
        seen.append(sorted({**params, **inputs}))
        return numpy_loss(params, inputs)

    for told in (own, lambda: numpy_loss(PARAMS, INPUTS), lambda: np.array([[1.0]]) * own_value()):
        assert check_gradients(gradients, loss, PARAMS, INPUTS, own_loss=told, **TORCH).passed
    assert seen == [["U", "W", "b", "x"]]


def own_value():
    return numpy_loss(PARAMS, INPUTS)


def test_a_printed_mean_of_a_sum():
    """The gradients are those of the sum, right as they are."""
    printed = lambda params, inputs: numpy_loss(params, inputs) / 4  # noqa: E731
    text = refused(gradients, loss, PARAMS, INPUTS, own_loss=printed)
    assert f"own_loss is {own_value() / 4:.17g}, where loss gives {own_value():.17g}" in text
    assert "It is 1/T = 1/4 times that of loss; the gradients given agree with loss as it" in text


def test_a_mean_whose_gradients_are_those_of_the_mean():
    def mean(params, inputs):
        return {name: value / 4 for name, value in gradients(params, inputs).items()}

    printed = lambda params, inputs: numpy_loss(params, inputs) / 4  # noqa: E731
    asked = {"own_loss": printed, "params": PARAMS, "inputs": INPUTS, "function": loss}
    assert 'declare convention={"scale": "1/T"}' in refused(mean, **asked)
    declared = {"own_loss": printed, "convention": {"scale": "1/T"}, **TORCH}
    assert check_gradients(mean, loss, PARAMS, INPUTS, **declared).passed


def test_a_loss_that_the_code_keeps_is_read_after_its_gradients():
    class Layer:
        loss = math.nan

        def run(self, params, inputs):
            self.loss = self.factor * numpy_loss(params, inputs)
            return gradients(params, inputs)

    for factor in (1.0, 2.0):
        layer = Layer()
        layer.factor = factor
        asked = {"own_loss": lambda layer=layer: layer.loss, **TORCH, "raise_exception": False}
        report = check_gradients(layer.run, loss, PARAMS, INPUTS, **asked)
        assert report.passed == (factor == 1.0)
        assert ("= 2 times that of loss" in str(report)) == (factor == 2.0)


@pytest.mark.parametrize("own", [3.0, "loss", lambda one: one, lambda a, b, c: 0.0])
def test_what_is_no_loss_is_refused_before_anything_is_computed(own):
    def never(params, inputs):
        raise AssertionError

    with pytest.raises(BadContract, match="own_loss is a function"):
        check_gradients(never, loss, PARAMS, INPUTS, own_loss=own)


@pytest.mark.parametrize(
    ("own", "error", "words"),
    [
        (lambda p, i: None, BadContract, "own_loss returns a number, not None"),
        (lambda p, i: np.ones(2), BadContract, "own_loss returns a scalar, not an array"),
        (lambda p, i: "1.0", BadContract, "own_loss"),
        (lambda p, i: 1 / 0, CandidateFailed, "own_loss raised ZeroDivisionError"),
        (lambda: 1 / 0, CandidateFailed, "ZeroDivisionError"),
        (lambda p, i: math.nan, ForwardMismatch, "own_loss is nan"),
        (lambda p, i: math.inf, ForwardMismatch, "own_loss is inf"),
        (lambda p, i: 0.0, ForwardMismatch, "own_loss is 0, where"),
    ],
)
def test_what_a_loss_of_its_own_may_do(own, error, words):
    with pytest.raises(error, match=words):
        check_gradients(gradients, loss, PARAMS, INPUTS, own_loss=own, **TORCH)


def test_a_port_that_is_another_function_than_the_code(tmp_path):
    """loss, in plain operations, was ported with a sign error; the code's own loss is NumPy."""

    def ported(xp, params, inputs):
        return loss(xp, {**params, "b": -params["b"]}, inputs)

    with pytest.raises(GradientMismatch):
        check_gradients(gradients, ported, PARAMS, INPUTS, **TORCH)
    assert "not the same" in refused(gradients, ported, PARAMS, INPUTS, own_loss=numpy_loss)


# factors by name


@pytest.mark.parametrize(
    ("ratio", "within", "factor"),
    [
        (1 / 12, 1e-16, 1 / 12),
        (12.0, 1e-16, 12.0),
        (-1.0, 1e-16, -1.0),
        (1 / 12 + 1e-9, 1e-16, None),
        (0.3, 1e-16, None),
        (123456.0, 1e-16, 123456.0),
        (123457890.0, 1e-16, None),  # any large number is nearly whole
        (1 / 12, 1e-3, None),  # not known well enough
        (1 / 12, 1e-7, 1 / 12),
        (1 / 13, 1e-7, None),  # nor is it, where the number has no name
        (math.nan, 1e-16, None),
        (0.0, 1e-16, None),
    ],
)
def test_a_factor_between_two_losses(ratio, within, factor):
    found = TwoLosses(0.7 * ratio, 0.7, within).factor({"T": 12})
    assert found == (None if factor is None else pytest.approx(factor, rel=1e-15))


def test_factors_by_name():
    sizes = {"T": 12, "B": 3, "I": 12}
    assert named_factor(12.0, sizes) == "T = I = 12 times"
    assert named_factor(-1 / 36, sizes) == "−1/(T·B) = 1/36 times"
    assert named_factor(math.log(2), sizes) == "ln 2 times"
    assert named_factor(7.0, sizes) == "7 times"


# None from autograd


def scan(kind):
    """loss(params, inputs) by torch or jax, h0 among either, whose backward returns None for h0."""
    if kind == "torch":
        import torch

        class Scan(torch.autograd.Function):
            @staticmethod
            def forward(ctx, a, h0):
                ctx.save_for_backward(a, h0)
                return a * h0

            @staticmethod
            def backward(ctx, g):
                return g * ctx.saved_tensors[1], None

        return from_torch(lambda p, i: Scan.apply(p["a"], {**p, **i}["h0"]).sum())
    import jax

    @jax.custom_vjp
    def product(a, h0):
        return a * h0

    product.defvjp(lambda a, h0: (a * h0, (a, h0)), lambda kept, g: (g * kept[1], None))

    def asked(params, inputs):
        return product(params["a"], {**params, **inputs}["h0"]).sum()

    def looped(params, inputs):
        named = {**params, **inputs}

        def step(total, _):
            return total + product(named["a"], named["h0"]).sum(), None

        return jax.lax.scan(step, 0.0 * named["a"][0], None, length=3)[0] / 3

    return from_jax({"jax": asked, "jit": jax.jit(asked), "loop": looped}[kind])


def product_loss(xp, params, inputs):
    return xp.sum(params["a"] * {**params, **inputs}["h0"])


A, H0 = rng.normal(size=3), rng.normal(size=3)


@pytest.mark.parametrize("kind", ["torch", "jax", "jit", "loop"])
@pytest.mark.parametrize("numpy_alone", [False, True])
def test_none_for_an_input_is_said(kind, numpy_alone):
    asked = in_numpy(product_loss) if numpy_alone else product_loss
    report = check_gradients(scan(kind), asked, {"a": A}, {"h0": H0})
    assert report.passed
    assert report.cases[0].not_given == ["h0"]
    assert "autograd gave None for h0" in str(report)
    assert ("its true gradient is not zero" in str(report)) or numpy_alone


@pytest.mark.parametrize("kind", ["torch", "jax", "jit", "loop"])
def test_none_for_a_parameter_is_wrong_and_said(kind):
    asked = (product_loss, {"a": A, "h0": H0}, {})
    report = check_gradients(scan(kind), *asked, raise_exception=False)
    assert "h0: all zero: autograd gave None for h0 (against torch)" in str(report)
    wrong = [row for row in report.rows if not row.passed]
    assert {row.gradient for row in wrong} == {"h0"}
    assert {row.reason for row in wrong} == {"all zero: autograd gave None for h0"}


def test_a_zero_gradient_is_not_called_none():
    """w is reached, and its gradient zero at these numbers alone."""
    for adapted in (by_torch, by_jax):
        given = adapted(lambda xp, p, i: (p["a"] * p["w"] ** 2).sum())
        params = {"a": A, "w": np.zeros(3)}
        report = check_gradients(
            given,
            lambda xp, p, i: xp.sum(p["a"] * (p["w"] + p["w"] ** 2)),
            params,
            {},
            raise_exception=False,
        )
        assert "None" not in str(report)
        assert "w: all zero (against torch)" in str(report)


def test_none_where_the_truth_is_zero_is_right():
    report = check_gradients(
        scan("torch"), product_loss, {"a": A}, {"h0": H0, "mask": np.ones(2)}, **TORCH
    )
    assert "autograd gave None for mask, and its true gradient is zero" in str(report)


# not given


@pytest.mark.parametrize("numpy_alone", [False, True])
def test_every_variable_that_could_have_a_gradient_is_named(numpy_alone):
    asked = numpy_loss if numpy_alone else loss

    def two(params, inputs):
        found = gradients(params, inputs)
        return {"W": found["W"], "U": None, "b": found["b"]}

    inputs = {**INPUTS, "tokens": np.array([1, 2]), "late": {"weight": np.ones(2)}, "name": "x"}
    report = check_gradients(two, asked, PARAMS, inputs)
    assert report.cases[0].not_given == ["U", "x", "late.weight"]
    assert "not given: U, x, late.weight" in str(report)
