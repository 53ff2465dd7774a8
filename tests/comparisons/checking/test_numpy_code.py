"""A loss in NumPy, however it is written, is differentiated as it stands; where it cannot be, that
is said with the operation and its line, and no part of a derivative is passed off as the whole.
"""

import pickle
import struct

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients, check_vjp, set_attributes
from scipy import linalg

from . import numpy_manners
from .numpy_manners import INPUTS, MANNERS, NET, PARAMS, STATEFUL, gradients

ON_TORCH = "torch (NumPy code)"


def test_manners_are_twenty_and_more():
    assert len(MANNERS) >= 20


@pytest.mark.parametrize("manner", MANNERS)
def test_numpy_code_as_people_write_it_is_differentiated_as_it_stands(manner):
    report = check_gradients(gradients, MANNERS[manner], PARAMS, INPUTS)
    assert report.passed
    assert ON_TORCH not in report.cases[0].left_out
    assert {row.gradient for row in report.rows if row.reference == ON_TORCH} == {*PARAMS, "x"}


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("name", ["W", "U", "V", "b", "c", "x"])
def test_an_error_of_1e_12_of_a_gradient_is_seen(manner, name):
    def wrong(params, inputs):
        found = gradients(params, inputs)
        worst = np.unravel_index(np.argmax(np.abs(found[name])), found[name].shape)
        found[name][worst] *= 1 + 1e-12
        return found

    with pytest.raises(GradientMismatch) as raised:
        check_gradients(wrong, MANNERS[manner], PARAMS, INPUTS, references=[ON_TORCH])
    rows = raised.value.report.rows if hasattr(raised.value, "report") else []
    assert {row.gradient for row in rows if not row.passed} <= {name}


def test_shares_of_the_steps_are_told_of_inputs():
    def wrong(params, inputs):
        found = gradients(params, inputs)
        found["x"][2] *= 1.01
        return found

    with pytest.raises(GradientMismatch, match="step 3"):
        check_gradients(wrong, MANNERS["lists_that_grow"], PARAMS, INPUTS)


def test_nothing_is_left_on_the_objects_and_in_the_modules_of_the_user():
    NET.__dict__.clear()
    before = vars(numpy_manners).copy()
    for manner in ("class_with_a_buffer_and_index_minus_one", "module_globals"):
        check_gradients(gradients, MANNERS[manner], PARAMS, INPUTS)
    check_gradients(gradients, MANNERS["a_state_on_the_object_and_a_generator"], PARAMS, INPUTS)
    assert numpy_manners.np is np
    assert {name for name in before if vars(numpy_manners)[name] is not before[name]} <= set(
        "WUVbc"
    )
    for value in (*vars(NET).values(), STATEFUL.h, numpy_manners.W):
        assert type(value) is np.ndarray
        assert value.dtype == np.float64


# What cannot be followed.

W0 = np.random.default_rng(0).normal(size=(3, 3))
BUFFER = linalg.orth(W0)  # of a library's making: the copy of it is traced


def a_library_that_knows_no_torch(w):
    return linalg.expm(w).sum()


def an_array_that_a_library_made(w):
    made = linalg.block_diag([1.0], [1.0])
    made[0] = w[0, :2]
    return made.sum()


def int_of_a_number(w):
    return w.sum() * int(w[0, 0] * 100)


def pickled(w):
    return pickle.loads(pickle.dumps(w)).sum()


def packed(w):
    return struct.unpack("d", struct.pack("d", w[0, 0]))[0] + w.sum()


def object_array(w):
    return np.array([w[0, 0], None, w[0, 1]], dtype=object)[0] + w.sum()


def caught(w):
    try:
        return linalg.expm(w).sum()
    except TypeError:
        return w.sum()


def from_bytes(w):
    return np.frombuffer(w.tobytes()).sum()


def another_value_by_its_type(w):
    return w.sum() * (1.0 if type(w) is np.ndarray else 2.0)


def filled_through_an_iterator(w):
    return np.fromiter((z * z for z in w.ravel()), dtype=float).sum()


FOLLOWED_NOT = {
    a_library_that_knows_no_torch: "linalg.expm",
    an_array_that_a_library_made: "made[0]",
    int_of_a_number: "int()",
    pickled: "pickl",
    packed: "float()",
    object_array: "test_numpy_code.py",
    caught: "linalg.expm",
    from_bytes: "tobytes",
    another_value_by_its_type: "where NumPy computes",
    filled_through_an_iterator: "fromiter",
}


@pytest.mark.parametrize("code", FOLLOWED_NOT, ids=lambda code: code.__name__)
def test_what_leaves_the_traced_world_leaves_the_reference_out_with_its_place(code):
    def loss(params, inputs):
        return code(params["w"])

    def by_differences(params, inputs):
        from scipy.optimize import approx_fprime

        found = approx_fprime(params["w"].ravel(), lambda w: code(w.reshape(3, 3)), 1e-7)
        return {"w": found.reshape(3, 3)}

    report = check_gradients(
        by_differences, loss, {"w": W0}, {}, rtol=1e-3, atol=1e-3, raise_exception=False
    )
    left = str(report.cases[0].left_out[ON_TORCH])
    assert FOLLOWED_NOT[code] in left
    assert "\n" not in left
    assert ON_TORCH not in {row.reference for row in report.rows}


def test_arrays_of_the_module_and_of_libraries_are_constants_that_are_followed():
    def loss(params, inputs):
        return np.sum(np.tanh(BUFFER @ params["w"]))

    def right(params, inputs):
        return {"w": BUFFER.T @ (1 - np.tanh(BUFFER @ params["w"]) ** 2)}

    report = check_gradients(right, loss, {"w": W0}, {}, references=[ON_TORCH])
    assert report.passed


def test_outputs_of_numpy_code_under_cotangents():
    def function(params, inputs):
        return {"y": np.tanh(params["w"] @ inputs["x"]), "last": params["w"][-1] ** 2}

    def vjp(params, inputs, cotangents):
        d = cotangents["y"] * (1 - np.tanh(params["w"] @ inputs["x"]) ** 2)
        dw = np.outer(d, inputs["x"])
        dw[-1] += 2 * params["w"][-1] * cotangents["last"]
        return {"w": dw}

    report = check_vjp(vjp, function, {"w": W0}, {"x": W0[0]})
    assert report.passed
    assert ON_TORCH in {row.reference for row in report.rows}


def test_numbers_put_into_a_float32_buffer_are_named_with_their_line():
    def loss(params, inputs):
        kept = np.zeros((3, 3), dtype=np.float32)
        kept[:] = np.sin(params["w"])
        return np.sum(kept)

    report = check_gradients(lambda p, i: {"w": np.cos(p["w"])}, loss, {"w": W0}, {})
    assert any("in float32 at test_numpy_code.py" in note for note in report.cases[0].notes)


def test_a_method_as_loss_and_an_object_in_setup_are_one_object():
    class Counting:
        calls = 0

        def reset(self):
            self.calls = 0

        def loss(self, params, inputs):
            self.calls += 1
            return self.calls * np.sum(params["w"] ** 2)

    net = Counting()
    report = check_gradients(
        lambda p, i: {"w": 2 * p["w"]}, net.loss, {"w": W0}, {}, setup=net.reset
    )
    assert report.passed


def test_a_module_as_the_object_that_holds_the_weights():
    def loss(params, inputs):
        set_attributes(numpy_manners, params)
        return numpy_manners._loss_of_globals(inputs)

    before = numpy_manners.W
    report = check_gradients(gradients, loss, PARAMS, INPUTS, references=[ON_TORCH, "differences"])
    assert report.passed
    assert {row.gradient for row in report.rows if row.reference == ON_TORCH} == {*PARAMS, "x"}
    assert before is None or type(numpy_manners.W) is np.ndarray


def test_attributes_set_by_the_adapter_are_those_of_the_copy():
    class Holder:
        w = None

        def loss(self):
            return np.sum(self.w**3)

    holder = Holder()

    def loss(params, inputs):
        set_attributes(holder, params)
        return holder.loss()

    report = check_gradients(
        lambda p, i: {"w": 3 * p["w"] ** 2}, loss, {"w": W0}, {}, references=[ON_TORCH]
    )
    assert report.passed
    assert type(holder.w) is np.ndarray
