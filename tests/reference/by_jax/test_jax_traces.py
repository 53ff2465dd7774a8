"""A trace tells two steps apart wherever they compute something else.

It says nothing where it cannot tell.
"""

import jax
import numpy as np
import pytest
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_jax import jax_grad, jax_traces

ARRAY = np.array([[0.3, -1.2], [2.0, 0.5]])
SHAPES = {"W": (2, 2), "h_0": (3, 2), "x": (4, 3, 2)}
NAMED = {name: jax.ShapeDtypeStruct(shape, np.float64) for name, shape in SHAPES.items()}


def scaled(scale):
    return lambda xp, params, state, x: {"h": xp.tanh(scale * (x + state["h"] @ params["W"]))}


def through(function):
    return lambda xp, params, state, x: {"h": function(xp, x + state["h"] @ params["W"])}


def function_of(step):
    return equations.SequenceLoss(step, equations.projection, ("W",), ("h",), "@t")


def told(step, named=NAMED):
    with jax.enable_x64(True):
        return jax_traces.traced(function_of(step), named)[1]


def test_another_object_of_the_same_step_is_told_the_same():
    one, other = told(scaled(0.5)), told(scaled(0.5))
    assert one is not None
    assert one == other
    assert hash(one) == hash(other)


DIFFERENT = {
    "a number": (scaled(0.5), scaled(0.5 + 1e-16)),
    "the sign of zero": (scaled(0.0), scaled(-0.0)),
    "an array": (scaled(ARRAY[0]), scaled(np.nextafter(ARRAY[0], 9))),
    "an operation": (through(lambda xp, a: xp.tanh(a)), through(lambda xp, a: xp.sin(a))),
    "what it is applied to": (
        lambda xp, params, state, x: {"h": x - state["h"] @ params["W"]},
        lambda xp, params, state, x: {"h": state["h"] @ params["W"] - x},
    ),
    "a parameter of an operation": (
        lambda xp, params, state, x: {"h": x + state["h"] @ params["W"]},
        lambda xp, params, state, x: {"h": x + state["h"] @ params["W"].T},
    ),
    "what is inside a jit": (
        through(lambda xp, a: jax.jit(lambda a: a * ARRAY[0])(a)),
        through(lambda xp, a: jax.jit(lambda a: a * ARRAY[1])(a)),
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_two_that_differ_in_one_thing_are_told_apart(what):
    one, other = map(told, DIFFERENT[what])
    assert one is not None
    assert other is not None
    assert one != other


def test_settings_of_jax_are_told_apart():
    before = told(scaled(0.5))
    with jax.default_matmul_precision("float32"):
        assert told(scaled(0.5)) != before


@jax.custom_jvp
def own_slope(a):
    return a**2


own_slope.defjvp(lambda given, moved: (given[0] ** 2, 5 * moved[0]))


def called_back(xp, a):
    return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(a.shape, a.dtype), a)


def printing(xp, a):
    jax.debug.print("{}", a[0, 0])
    return a


@pytest.mark.parametrize(
    "inside", [called_back, printing, lambda xp, a: own_slope(a), lambda xp, a: xp.no_such(a)]
)
def test_a_trace_with_more_than_numbers_and_names_tells_nothing(inside):
    step = through(inside)
    with jax.enable_x64(True):
        function, found = jax_traces.traced(function_of(step), NAMED)
    assert found is None
    assert function.step is step


def test_rows_of_unequal_length_are_told_by_the_whole_program():
    assert told(scaled(0.5), NAMED | {"lengths": jax.ShapeDtypeStruct((3,), np.int64)}) is None


@pytest.mark.parametrize("step", [scaled(0.5), through(lambda xp, a: own_slope(a))])
def test_the_gradient_is_that_of_the_step_itself(step):
    rng = np.random.default_rng(0)
    variables = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    constants = {"cotangent_h": rng.normal(size=(4, 3, 2))}

    def plain(xp, scan, named, fixed):
        # is not traced apart
        return function_of(step)(xp, scan, named, fixed)

    (value, states, found), (other_value, other_states, other) = (
        jax_grad.gradients(function, variables, constants)
        for function in (function_of(step), plain)
    )
    assert value == pytest.approx(other_value, rel=1e-14)
    np.testing.assert_allclose(states["h"], other_states["h"], rtol=1e-13)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, other[name], rtol=1e-12, atol=1e-13, err_msg=name)
