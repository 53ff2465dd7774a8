"""Compiled programs are shared by what they compute, and by nothing less.

What looks the same and is not must not share.
"""

import threading

import jax
import numpy as np
import pytest
from bptt_crosscheck.reference.by_jax import jax_grad, jax_programs

a, b = np.array([0.3, -1.2, 2.0]), np.array([1.5, 0.4, -0.7])


@pytest.fixture
def compiled(monkeypatch):
    """How many programs were compiled; none is kept from before."""
    jax_programs._kept.cache_clear()
    yield lambda: jax_programs._kept.cache_info().misses
    jax_programs._kept.cache_clear()


class Step:
    """A function whose value hangs on an attribute."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, xp, scan, variables, constants):
        return xp.sum(xp.tanh(self.scale * variables["a"]) * variables["b"]), {}


def slope(function, **variables):
    return jax_grad.gradients(function, variables or {"a": a, "b": b}, {})[2]["a"]


def by_differences(function):
    value = lambda moved: float(function(np, None, {"a": moved, "b": b}, {})[0])  # noqa: E731
    return np.array([(value(a + e) - value(a - e)) / 2e-6 for e in 1e-6 * np.eye(3)])


def test_another_object_of_the_same_code_is_not_compiled_again(compiled):
    first, second = slope(Step(0.5)), slope(Step(0.5))
    np.testing.assert_array_equal(first, second)
    assert compiled() == 1


many = np.arange(20_000.0)
nearly = np.where(
    many == 9_999, 10_000.5, many
)  # a text that is shortened in the middle would be the same
GAIN = {"of a global": 1.0}


def by_global(xp, scan, variables, constants):
    return xp.sum(variables["a"] ** 2) * GAIN["of a global"] + xp.sum(variables["b"]), {}


def closing_over(array):
    return lambda xp, scan, variables, constants: (
        xp.sum(variables["a"]) * xp.sum(xp.asarray(array) * 1e-4),
        {},
    )


def with_inner_jit(array):
    inner = jax.jit(lambda a: (a * array).sum())
    return lambda xp, scan, variables, constants: (
        inner(variables["a"]) if xp is not np else (variables["a"] * array).sum(),
        {},
    )


PAIRS = {
    "an attribute": (Step(0.5), Step(0.50000001)),
    "an array that is an attribute": (Step(b), Step(b + 1e-7)),
    "a long array": (closing_over(many), closing_over(nearly)),
    "the code": (
        lambda xp, scan, variables, constants: (xp.sum(xp.tanh(variables["a"])), {}),
        lambda xp, scan, variables, constants: (xp.sum(xp.exp(variables["a"])), {}),
    ),
    "the variable that is read": (
        lambda xp, scan, variables, constants: (xp.sum(variables["a"] ** 2), {}),
        lambda xp, scan, variables, constants: (xp.sum(variables["b"] ** 2), {}),
    ),
    "a constant of an inner jit": (with_inner_jit(b), with_inner_jit(2 * b)),
}


@pytest.mark.parametrize("what", PAIRS)
def test_two_that_differ_in_one_thing_do_not_share(compiled, what):
    first, second = (slope(function) for function in PAIRS[what])
    assert compiled() == 2
    for function, found in zip(PAIRS[what], (first, second), strict=True):
        np.testing.assert_allclose(found, by_differences(function), rtol=1e-5, atol=1e-5)
    assert not np.array_equal(first, second)


def test_a_global_that_changes_between_two_objects_is_seen(monkeypatch, compiled):

    def ask():
        return slope(lambda *given: by_global(*given))  # another object each time, as in a check

    before = ask()
    monkeypatch.setitem(GAIN, "of a global", 3.0)
    np.testing.assert_allclose(ask(), 3 * before, rtol=1e-15)
    assert compiled() == 2


def test_names_and_dtypes_are_told_apart(compiled):
    def square(xp, scan, variables, constants):
        return (
            sum(xp.sum(each**2) for each in variables.values()),
            {},
        )

    slope(square, a=a)
    assert set(jax_grad.gradients(square, {"other": a}, {})[2]) == {"other"}
    assert slope(square, a=a.astype(np.float32)).dtype == np.float32
    assert slope(square, a=a[:2]).shape == (2,)


def test_what_calls_back_into_python_is_not_kept(compiled):
    shape = jax.ShapeDtypeStruct((), np.float64)

    def through(scale):
        def call_back(a):
            return jax.pure_callback(
                lambda a: np.asarray(scale * a), shape, jax.lax.stop_gradient(a)
            )

        return lambda xp, scan, variables, constants: (
            xp.sum(variables["a"] ** 2),
            {"seen": call_back(variables["b"][0])},
        )

    seen = [
        float(jax_grad.gradients(through(scale), {"a": a, "b": b}, {})[1]["seen"])
        for scale in (2.0, 5.0)
    ]
    assert seen == [2 * b[0], 5 * b[0]]
    assert compiled() == 0


def lowered(function, *arguments):
    with jax.enable_x64(True):
        return jax.jit(function).lower(*arguments).as_text()


@pytest.mark.parametrize(
    "function",
    [
        lambda a: (a == a.max()).sum(),
        lambda a: jax.numpy.where(a - a.max() >= 0, a, 0),
        lambda a: jax.numpy.where(jax.numpy.tanh(a) >= a, a, 0),
        lambda a: jax.numpy.sign(a),
        lambda a: jax.numpy.floor(a),
        lambda a: jax.numpy.sort(a),
        lambda a: jax.numpy.argmax(a),
        lambda a: jax.numpy.where(a == 0, 1.0, a),
        lambda a: a.astype(int),
    ],
)
def test_what_could_see_a_value_computed_twice_is_not_compiled_fast(function):
    assert not jax_programs.bears_fast_compilation(lowered(function, a))


@pytest.mark.parametrize(
    "function",
    [
        lambda a: jax.numpy.tanh(a) @ a,
        lambda a: jax.numpy.where(a >= 0, 1 / (1 + jax.numpy.exp(-a)), a),
        lambda a: jax.lax.scan(lambda s, x: (jax.nn.sigmoid(s * x), s), a[0], a)[1],
    ],
)
def test_what_is_smooth_or_compares_with_constants_is(function):
    assert jax_programs.bears_fast_compilation(lowered(function, a))


def test_what_is_begun_is_compiled_once_on_another_thread_and_is_what_is_asked(
    compiled, monkeypatch
):
    threads, compile_it = [], jax_programs._compiled
    monkeypatch.setattr(
        jax_programs,
        "_compiled",
        lambda *given: threads.append(threading.current_thread().name) or compile_it(*given),
    )
    step = Step(0.25)
    jax_grad.begin(step, {"a": a, "b": b}, {})
    np.testing.assert_allclose(slope(step), by_differences(step), rtol=1e-6)
    assert compiled() == 1
    assert len(threads) == 1
    assert threads[0].startswith("compiler")


def test_what_cannot_be_compiled_says_so_whenever_it_is_asked(compiled, monkeypatch):
    def refuses(*given):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(jax_programs, "_compiled", refuses)
    step = Step(0.125)
    jax_grad.begin(step, {"a": a, "b": b}, {})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such instruction"):
            slope(step)
