"""Gradients in whatever way code hands them out: each adapter passes what is right, and hides no
mistake.
"""

import copy
import importlib
import subprocess
import sys
import types

import numpy as np
import pytest
from bptt_crosscheck import (
    GradientMismatch,
    QuestionError,
    check_gradients,
    from_attributes,
    from_jax,
    from_list,
    from_torch,
    from_update,
    set_attributes,
)
from bptt_crosscheck.comparisons.candidates import adapters
from bptt_crosscheck.comparisons.errors import CandidateFailed, MissingDevice, MissingFramework
from bptt_crosscheck.comparisons.problems.arrays import BFLOAT16

from tests.comparisons.small import INPUTS, PARAMS, TORCH, gradients, loss, numpy_loss


def judge(given, match=None, asked=loss, params=PARAMS, inputs=INPUTS, **options):
    """Passes; or, with `match`, is wrong in these words."""
    if match is None:
        assert check_gradients(given, asked, params, inputs, **options).passed
        return
    with pytest.raises(GradientMismatch, match=match):
        check_gradients(given, asked, params, inputs, **options)


# torch


@pytest.fixture(scope="module")
def tanh_of_torch():
    """by(slope) -> a torch tanh whose derivative by hand is slope(its value)."""
    import torch

    def by(slope):
        class Tanh(torch.autograd.Function):
            @staticmethod
            def forward(ctx, z):
                h = torch.tanh(z)
                ctx.save_for_backward(h)
                return h

            @staticmethod
            def backward(ctx, dh):
                (h,) = ctx.saved_tensors
                return dh * slope(h)

        return Tanh.apply

    return by


def through(tanh):
    """The small loss with another tanh, in the framework of its arguments."""

    def run(params, inputs):
        h, total = 0 * params["b"], 0.0
        for x in inputs["x"]:
            h = tanh(params["W"] @ x + params["U"] @ h + params["b"])
            total = total + (h**2).sum() / 2
        return total

    return run


def test_a_torch_function_with_a_derivative_by_hand(tanh_of_torch):
    judge(from_torch(through(tanh_of_torch(lambda h: 1 - h**2))))
    judge(from_torch(through(tanh_of_torch(lambda h: 1 - h))), "W: differs from torch")
    judge(from_torch(through(tanh_of_torch(lambda h: h**2 - 1))), "W: differs from torch")


def test_from_torch_gives_inputs_too_and_zero_for_a_parameter_that_no_gradient_reaches():
    import torch

    seen = {}

    def run(params, inputs):
        seen.update(params=params, inputs=inputs, grad=torch.is_grad_enabled())
        return (params["layers"][0]["w"] * inputs["x"]).sum() + params["number"]

    params = {
        "layers": [{"w": np.array([1.0, 2.0])}],
        "number": 0.5,
        "unused": np.ones(3),
        "name": "text",
    }
    with torch.no_grad():
        found = from_torch(run)(
            params,
            {"x": np.array([3.0, 4.0]), "tokens": np.array([1, 2]), "mask": np.array([True])},
        )
    assert {path: value.tolist() for path, value in found.items()} == {
        "layers[0].w": [3, 4],
        "number": 1,
        "unused": [0, 0, 0],
        "x": [1, 2],
    }
    assert all(isinstance(value, np.ndarray) for value in found.values())
    assert seen["grad"]
    assert seen["params"]["layers"][0]["w"].dtype == torch.float64
    assert seen["params"]["name"] == "text"
    assert not seen["inputs"]["tokens"].requires_grad


def test_from_torch_leaves_the_caller_s_arrays_and_precision_alone():
    import torch

    w = np.ones(2, np.float32)
    found = from_torch(lambda p, i: (p["w"] ** 2).sum())({"w": w}, {})
    assert found["w"].dtype == np.float32
    assert torch.get_default_dtype() == torch.float32
    assert w.tolist() == [1, 1]


def on_cuda():
    import torch

    return torch.cuda.is_available()


def test_from_torch_on_a_device_that_is_named(tanh_of_torch):
    devices = set()

    def watched(params, inputs):
        devices.update(str(tensor.device) for tensor in (*params.values(), *inputs.values()))
        return through(tanh_of_torch(lambda h: 1 - h**2))(params, inputs)

    judge(from_torch(watched, device="cpu"))
    assert devices == {"cpu"}


@pytest.mark.skipif(not on_cuda(), reason="torch sees no CUDA device on this machine")
def test_from_torch_on_a_gpu(tanh_of_torch):
    devices = set()

    def watched(slope):
        def run(params, inputs):
            devices.update(tensor.device.type for tensor in (*params.values(), *inputs.values()))
            return through(tanh_of_torch(slope))(params, inputs)

        return run

    judge(from_torch(watched(lambda h: 1 - h**2), device="cuda"))
    assert devices == {"cuda"}
    judge(from_torch(watched(lambda h: 1 - h), device="cuda"), "W: differs from torch")


@pytest.mark.skipif(
    on_cuda(), reason="torch has a CUDA device on this machine: there is nothing to refuse"
)
def test_a_gpu_that_is_not_there_is_refused(tanh_of_torch):
    with pytest.raises(
        MissingDevice, match=r"torch has no device 'cuda' here: .*; device='cpu' is everywhere"
    ) as caught:
        check_gradients(
            from_torch(through(tanh_of_torch(lambda h: 1 - h**2)), device="cuda"),
            loss,
            PARAMS,
            INPUTS,
            **TORCH,
        )
    assert "\n" not in str(caught.value)


def test_a_device_that_torch_does_not_know_is_refused():
    with pytest.raises(MissingDevice, match="torch has no device 'gpu' here"):
        check_gradients(from_torch(through(None), device="gpu"), loss, PARAMS, INPUTS, **TORCH)


def test_a_torch_loss_that_fails_is_told_by_its_line():
    with pytest.raises(
        CandidateFailed, match=r"gradients raised RuntimeError: .* at test_adapters.py:\d+"
    ):
        check_gradients(from_torch(lambda p, i: p["W"] @ p["b"]), loss, PARAMS, INPUTS, **TORCH)


@pytest.mark.parametrize("value", [None, 1.5, "text"])
def test_a_torch_loss_that_returns_no_tensor(value):
    with pytest.raises(QuestionError, match="gradients"):
        check_gradients(from_torch(lambda p, i: value), loss, PARAMS, INPUTS, **TORCH)


# jax


def tanh_of_jax(slope):
    import jax

    tanh = jax.custom_vjp(jax.numpy.tanh)
    tanh.defvjp(lambda z: (jax.numpy.tanh(z),) * 2, lambda h, dh: (dh * slope(h),))
    return tanh


def test_a_jax_function_with_a_derivative_by_hand():
    import jax

    judge(from_jax(through(tanh_of_jax(lambda h: 1 - h**2))), references=["torch"])
    judge(from_jax(jax.jit(through(tanh_of_jax(lambda h: 1 - h**2)))), references=["jax"])
    judge(
        from_jax(through(tanh_of_jax(lambda h: 1 - h))),
        "W: differs from torch",
        references=["torch"],
    )


def test_from_jax_works_in_double_precision_and_leaves_the_configuration_alone():
    import jax

    found = from_jax(lambda p, i: (p["a"]["w"] * i["x"]).sum() * i["tokens"][0])(
        {"a": {"w": np.array([1.0, 1 / 3])}}, {"x": np.array([1.0, 2.0]), "tokens": np.array([2])}
    )
    assert {path: value.tolist() for path, value in found.items()} == {
        "a.w": [2, 4],
        "x": [2, 2 * (1 / 3)],
    }
    assert found["a.w"].dtype == np.float64
    assert not jax.config.jax_enable_x64


def test_a_jax_loss_of_shape_one():
    found = from_jax(lambda p, i: (p["w"] ** 2).sum().reshape(1, 1))({"w": np.array([3.0])}, {})
    assert found["w"].tolist() == [6]


# attributes


class Model:
    """Weights, states and gradients on the object."""

    def __init__(self):
        self.weight_W, self.U, self.b = np.zeros((3, 2)), np.zeros((3, 3)), np.zeros(3)

    def loss(self, inputs):
        self.calls = getattr(self, "calls", 0) + 1
        return numpy_loss({"W": self.weight_W, "U": self.U, "b": self.b}, inputs)

    def backward(self, inputs):
        found = gradients({"W": self.weight_W, "U": self.U, "b": self.b}, inputs)
        self.dW, self.dU, self.db = found["W"], found["U"], found["b"]


GRADIENTS = {"W": "dW", "U": "dU", "b": "db"}
RENAMED = {"W": "weight_W"}


def on(model):
    def asked(params, inputs):
        set_attributes(model, params, RENAMED)
        return model.loss(inputs)

    return asked


def test_attributes_of_an_object():
    model = Model()
    judge(from_attributes(model.backward, model, GRADIENTS, RENAMED), asked=on(model))

    class Wrong(Model):
        def backward(self, inputs):
            super().backward(inputs)
            self.dU = self.dU * 1.01

    wrong = Wrong()
    judge(from_attributes(wrong.backward, wrong, GRADIENTS, RENAMED), "U: differs from", on(wrong))


def test_attributes_of_a_module():
    module = types.ModuleType("legacy")

    def run(inputs):
        found = gradients({"W": module.W, "U": module.U, "b": module.b}, inputs)
        for name, value in found.items():
            setattr(module, f"d{name}", value)

    judge(from_attributes(run, module, GRADIENTS), **TORCH)


def test_some_attributes_are_some_gradients():
    model = Model()
    report = check_gradients(
        from_attributes(model.backward, model, {"b": "db"}, RENAMED), on(model), PARAMS, INPUTS
    )
    assert {row.gradient for row in report.rows} == {"b"}


def test_what_is_put_on_the_object_is_a_copy():
    target, params = types.SimpleNamespace(), {"W": np.ones(2), "layers": [np.zeros(1)]}
    set_attributes(target, params)
    target.W += 1
    target.layers[0] += 1
    assert params["W"].tolist() == [1, 1]
    assert params["layers"][0].tolist() == [0]


def test_an_attribute_that_is_not_there_is_named():
    model = Model()
    with pytest.raises(CandidateFailed, match="gradients raised AttributeError: .*'grad_W'"):
        check_gradients(
            from_attributes(model.backward, model, {"W": "grad_W"}, RENAMED),
            on(model),
            PARAMS,
            INPUTS,
        )


def test_gradients_that_are_added_to_and_never_cleared_do_not_repeat():
    model = Model()
    model.dW = np.zeros((3, 2))

    def run(inputs):
        model.dW += gradients({"W": model.weight_W, "U": model.U, "b": model.b}, inputs)["W"]

    with pytest.raises(QuestionError, match="asked twice"):
        check_gradients(
            from_attributes(run, model, {"W": "dW"}, RENAMED), on(model), PARAMS, INPUTS
        )
    judge(
        from_attributes(run, model, {"W": "dW"}, RENAMED),
        asked=on(model),
        setup=lambda: setattr(model, "dW", np.zeros((3, 2))),
    )


# lists


def test_a_list_with_names_of_its_own():
    listed = lambda p, i: [gradients(p, i)[name] for name in "bW"]  # noqa: E731
    judge(from_list(listed, ["b", "W"]), **TORCH)
    judge(
        from_list(lambda p, i: [g * 2 for g in listed(p, i)], ["b", "W"]),
        "exact up to the factor",
        **TORCH,
    )


@pytest.mark.parametrize("names", [["b"], ["b", "W", "U"]])
def test_a_list_of_another_length_than_its_names(names):
    listed = lambda p, i: [gradients(p, i)[name] for name in "bW"]  # noqa: E731
    with pytest.raises(QuestionError, match="gradients"):
        check_gradients(from_list(listed, names), loss, PARAMS, INPUTS, **TORCH)


# updates


def updating(rate, spoil=lambda found: found):
    def update(params, inputs):
        for name, gradient in spoil(gradients(params, inputs)).items():
            params[name] -= rate * gradient

    return update


@pytest.mark.parametrize("rate", [1.0, 1e-3, 50.0])
def test_an_update_in_place(rate):
    judge(from_update(updating(rate), rate), **TORCH)
    judge(
        from_update(updating(rate, lambda g: {**g, "U": g["U"] * 1.01}), rate),
        "U: differs from torch",
        **TORCH,
    )


def test_an_update_of_numpy_code():
    judge(from_update(updating(1.0), 1.0), asked=numpy_loss)
    judge(
        from_update(updating(1.0, lambda g: {**g, "b": g["b"] * 1.01}), 1.0),
        r"b: differs from torch \(NumPy code\)",
        numpy_loss,
    )


def test_an_update_that_returns_new_parameters():
    def update(params, inputs):
        return {
            name: params[name] - 0.5 * gradient
            for name, gradient in gradients(params, inputs).items()
        }

    judge(from_update(update, 0.5), **TORCH)
    judge(from_update(update, 1.0), "exact up to the factor .*(0.5|1/2)", **TORCH)


def test_an_update_of_nested_parameters():
    nested = {
        "cell": [{"W": PARAMS["W"], "U": PARAMS["U"]}],
        "b": PARAMS["b"],
        "epochs": 3,
        "name": "text",
    }

    def update(params, inputs):
        weights = {**params["cell"][0], "b": params["b"]}
        updating(1.0)(weights, inputs)
        params["cell"][0].update(W=weights["W"], U=weights["U"])

    def asked(xp, params, inputs):
        return loss(xp, {**params["cell"][0], "b": params["b"]}, inputs)

    judge(from_update(update, 1.0), asked=asked, params=nested, **TORCH)


def test_a_small_learning_rate_hides_what_the_subtraction_rounds_away_and_a_large_one_shows_it():
    slightly = lambda g: {**g, "W": g["W"] * (1 + 1e-9)}  # noqa: E731
    judge(from_update(updating(1e-6, slightly), 1e-6), **TORCH)
    judge(from_update(updating(1.0, slightly), 1.0), "W: differs from torch", **TORCH)


def test_an_update_that_returns_its_loss_is_told_what_belongs_there():
    def train_step(params, inputs):
        updating(1.0)(params, inputs)
        return numpy_loss(params, inputs)

    with pytest.raises(QuestionError, match="update"):
        check_gradients(from_update(train_step, 1.0), loss, PARAMS, INPUTS, **TORCH)


def test_what_an_update_is_given_survives():
    params = copy.deepcopy(PARAMS)
    from_update(updating(1.0), 1.0)(params, INPUTS)
    assert all((params[name] == value).all() for name, value in PARAMS.items())


# frameworks


@pytest.mark.parametrize(("adapter", "name"), [(from_torch, "torch"), (from_jax, "jax")])
def test_a_framework_that_is_not_installed(adapter, name, monkeypatch):
    real = importlib.import_module

    def absent(module):
        if module == name:
            raise ImportError(f"No module named '{name}'")
        return real(module)

    monkeypatch.setattr(adapters.importlib, "import_module", absent)
    with pytest.raises(MissingFramework, match=f"{name} cannot be imported: pip install {name}"):
        check_gradients(adapter(lambda p, i: 0), numpy_loss, PARAMS, INPUTS)


def test_adapters_import_no_framework_before_they_are_asked():
    code = (
        "import sys; from bptt_crosscheck import *; from_torch(print); from_jax(print); "
        "from_update(print, 1.0); "
        "assert not {'torch', 'jax'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


# Arrays of bfloat16, of which NumPy itself knows nothing.


def squares(params, inputs):
    return (params["w"] * params["w"] * inputs["x"]).sum()


def squares_by(xp, params, inputs):
    return xp.sum(params["w"] * params["w"] * inputs["x"])


def in_bfloat16(values):
    return {name: np.asarray(value).astype(BFLOAT16) for name, value in values.items()}


def test_bfloat16_reaches_torch_and_comes_back():
    import torch

    seen = []

    def noting(params, inputs):
        seen.extend([params["w"].dtype, inputs["x"].dtype, params["w"].stride()])
        return squares(params, inputs)

    numbers = np.arange(1.0, 13.0).reshape(3, 4).T  # no C-contiguous one
    params, inputs = in_bfloat16({"w": numbers}), in_bfloat16({"x": numbers[::-1]})
    found = from_torch(noting)(params, inputs)
    assert seen == [torch.bfloat16, torch.bfloat16, (3, 1)]
    assert {value.dtype for value in found.values()} == {BFLOAT16}
    np.testing.assert_array_equal(found["w"].astype(float), 2 * numbers * numbers[::-1])


def test_bfloat16_of_any_shape():
    for shape in ((), (0, 2), (1,)):
        params, inputs = in_bfloat16({"w": np.full(shape, 1.5)}), in_bfloat16({"x": np.ones(shape)})
        assert from_torch(squares)(params, inputs)["w"].shape == shape


@pytest.mark.parametrize("adapter", [from_torch, from_jax])
def test_bfloat16_is_judged_as_such(adapter):
    r = np.random.default_rng(0)
    question = in_bfloat16({"w": r.normal(size=6)}), in_bfloat16({"x": r.normal(size=6)})

    def slipped(params, inputs):
        return squares(params, inputs) * 1.25

    assert check_gradients(adapter(squares), squares_by, *question, **TORCH).passed
    with pytest.raises(GradientMismatch, match="w: differs"):
        check_gradients(adapter(slipped), squares_by, *question, **TORCH)


def test_an_update_of_bfloat16_parameters_knows_their_rounding():
    update = from_update(lambda params, inputs: params, learning_rate=1.0)
    rounding = update.rounding(in_bfloat16({"w": np.array([2.0, -4.0])}))
    assert rounding == {"w": 4 * 2.0**-7}
