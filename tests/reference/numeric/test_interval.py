"""Provable enclosures.

That they contain what is known exactly, that they are tight, and that a wrong gradient is outside.
"""

from fractions import Fraction
from threading import Event, Thread

import flint
import mpmath
import numpy as np
import pytest
from bptt_crosscheck.reference import equations
from bptt_crosscheck.reference.by_torch import torch_autograd
from bptt_crosscheck.reference.numeric import interval
from bptt_crosscheck.reference.numeric.interval import (
    BALLS,
    Dual,
    NotEnclosed,
    Undecided,
    directional,
    enclosures,
)
from flint import arb


def plain(function):
    """A function of variables alone, as the engines want it."""
    return lambda xp, scan, variables, constants: (function(xp, {**constants, **variables}), {})


def derivative(function, at, bits=128):
    """Ball of the derivative of a function of one number."""
    return directional(
        plain(lambda xp, named: function(xp, named["z"])),
        {"z": np.array(at)},
        {},
        {"z": np.array(1.0)},
        bits,
    )[1]


RULES = {
    "exp": (lambda xp, z: xp.exp(z), mpmath.exp),
    "log": (lambda xp, z: xp.log(z), lambda z: 1 / z),
    "log1p": (lambda xp, z: xp.log1p(z), lambda z: 1 / (1 + z)),
    "sqrt": (lambda xp, z: xp.sqrt(z), lambda z: 1 / (2 * mpmath.sqrt(z))),
    "sin": (lambda xp, z: xp.sin(z), mpmath.cos),
    "cos": (lambda xp, z: xp.cos(z), lambda z: -mpmath.sin(z)),
    "tanh": (lambda xp, z: xp.tanh(z), lambda z: mpmath.sech(z) ** 2),
    "logaddexp": (
        lambda xp, z: xp.logaddexp(z, -2 * z),
        lambda z: (1 - 2 * mpmath.exp(-3 * z)) / (1 + mpmath.exp(-3 * z)),
    ),
    "abs": (lambda xp, z: xp.abs(-z), lambda z: 1),
    "power": (lambda xp, z: z**3, lambda z: 3 * z**2),
    "quotient": (lambda xp, z: (1 - z) / (2 + z), lambda z: -3 / (2 + z) ** 2),
    "of a number": (lambda xp, z: 2 / z - 1, lambda z: -2 / z**2),
    "where": (
        lambda xp, z: xp.where(z > 0.25, z * z, xp.zeros_like(z)),
        lambda z: 2 * z if z > 0.25 else 0,
    ),
    "mean": (lambda xp, z: xp.mean(xp.stack([z, z * z])), lambda z: (1 + 2 * z) / 2),
}


@pytest.mark.parametrize("at", [0.1, 0.3, 1.7, 30.0])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_encloses_the_derivative_to_sixty_digits(name, at):
    function, known = RULES[name]
    with mpmath.workdps(80):
        expected = mpmath.nstr(mpmath.mpf(known(mpmath.mpf(at))), 70)
    ball = derivative(function, at, bits=256)
    with interval.Precision(256):
        assert abs(ball - arb(expected)) <= arb("1e-60") * (1 + abs(arb(expected)))


@pytest.mark.parametrize("name", ["tanh", "log", "quotient"])
def test_a_derivative_one_digit_off_is_outside(name):
    function, known = RULES[name]
    with mpmath.workdps(80):
        off = mpmath.nstr(known(mpmath.mpf(0.3)) * (1 + mpmath.mpf("1e-25")), 70)
    with interval.Precision(256):
        assert not derivative(function, 0.3, bits=256).overlaps(arb(off))


def test_a_polynomial_gradient_is_exact():
    """½ Σ (W x)² has the gradient W x xᵀ, a rational number for given floats."""
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(2, 3)), rng.normal(size=3)
    _, told = enclosures(
        plain(lambda xp, named: xp.sum((named["W"] @ named["x"]) ** 2) / 2), {"W": W}, {"x": x}
    )
    for i, j in np.ndindex(W.shape):
        exact = sum(Fraction(W[i, k]) * Fraction(x[k]) for k in range(3)) * Fraction(x[j])
        assert abs(Fraction(int(exact * 2**400), 2**400) - exact) < Fraction(1, 2**390)
        ball = told["W"].balls[i, j]
        low, high = (
            Fraction(*map(int, str(edge.fmpq()).split("/")))
            if "/" in str(edge.fmpq())
            else Fraction(int(edge.fmpq()))
            for edge in (ball.lower(), ball.upper())
        )
        assert low <= exact <= high


@pytest.fixture(scope="module")
def lstm():
    """(function, variables, constants) of an LSTM under random cotangents."""
    rng = np.random.default_rng(1)
    shapes = {
        "W_xh": (8, 3),
        "W_hh": (8, 2),
        "b_h": (8,),
        "x": (4, 2, 3),
        "h_0": (2, 2),
        "c_0": (2, 2),
    }
    variables = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    constants = {f"cotangent_{name}": rng.normal(size=(4, 2, 2)) for name in ("h", "c")}
    read = equations.bound_readout("projection", {})
    return (
        equations.SequenceLoss(equations.lstm, read, ("W_xh", "W_hh", "b_h"), ("h", "c"), "@t"),
        variables,
        constants,
    )


def units(name, found):
    return np.spacing(np.max(np.abs(found[name])))


def test_every_entry_of_an_lstm_and_how_far_torch_is_from_it(lstm):
    value, told = enclosures(*lstm)
    loss, _, found = torch_autograd.gradients(*lstm)
    assert value == pytest.approx(loss, rel=1e-14)
    for name, enclosure in told.items():
        assert enclosure.directions is None
        assert enclosure.balls.shape == found[name].shape
        assert np.max(enclosure.distance(found[name])) < 16 * units(name, found)
        assert np.max(enclosure.distance(enclosure.middle())) <= np.max(
            np.spacing(np.abs(enclosure.middle()))
        )


@pytest.mark.parametrize("directions", [1, 5])
def test_along_random_directions(lstm, directions):
    _, told = enclosures(*lstm, entries=0, directions=directions)
    _, _, found = torch_autograd.gradients(*lstm)
    for name, enclosure in told.items():
        assert enclosure.balls.shape == (directions,)
        assert set(np.unique(enclosure.directions)) <= {-1.0, 1.0}
        assert (
            np.max(enclosure.distance(found[name]))
            < 16 * units(name, found) * found[name].size ** 0.5
        )


@pytest.mark.parametrize("entries", [0, 400])
def test_one_entry_a_trillionth_off_is_that_far(lstm, entries):
    _, told = enclosures(*lstm, entries=entries)
    _, _, found = torch_autograd.gradients(*lstm)
    off = found["W_hh"].copy()
    off[3, 1] += 1e-12
    assert np.min(told["W_hh"].distance(off)) < 1e-14 or entries == 0
    assert np.max(told["W_hh"].distance(off)) == pytest.approx(1e-12, rel=1e-2)


def test_what_is_not_finite_is_infinitely_far(lstm):
    _, told = enclosures(*lstm, names=("b_h",))
    assert set(told) == {"b_h"}
    assert np.isinf(told["b_h"].distance(np.full(8, np.nan))).all()


def test_the_precision_rises_until_the_ball_is_tight():
    """At 128 bits nothing of (1 + z) − 1 is left for z = 2⁻²⁰⁰."""
    tiny = np.array(2.0**-200)
    _, told = enclosures(plain(lambda xp, named: ((1 + named["z"]) - 1) ** 2), {"z": tiny}, {})
    assert told["z"].bits > interval.FIRST_BITS
    assert np.max(told["z"].distance(np.array(2.0**-199))) <= 2.0**-250
    before = flint.ctx.prec
    enclosures(plain(lambda xp, named: named["z"] ** 2), {"z": tiny}, {})
    assert flint.ctx.prec == before, "the caller's precision stays"


def test_a_kink_has_no_derivative_to_enclose():
    """1 − tanh²(z) is 1/cosh²(z), but no precision decides on which side of it that is."""
    both_sides = plain(
        lambda xp, named: xp.abs(
            1
            - xp.tanh(named["z"]) ** 2
            - 1 / (xp.exp(named["z"]) / 2 + xp.exp(-named["z"]) / 2) ** 2
        )
    )
    with pytest.raises(NotEnclosed, match="undecided at 4096 bits, as at a kink"):
        enclosures(both_sides, {"z": np.array(0.3)}, {})
    with pytest.raises(Undecided):
        directional(both_sides, {"z": np.array(0.3)}, {}, {"z": np.array(1.0)}, 64)


def test_exact_zeros_are_decided():
    relu = plain(lambda xp, named: xp.sum(equations.relu(xp, named["z"])))
    _, told = enclosures(relu, {"z": np.array([0.0, -1.0, 2.0])}, {})
    assert told["z"].middle().tolist() == [0, 0, 1]


def test_held_fixed_is_a_constant():
    fixed = plain(lambda xp, named: equations.stop_gradient(named["z"]) * named["z"])
    _, told = enclosures(fixed, {"z": np.array(3.0)}, {})
    assert told["z"].middle() == 3


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda xp, named: xp.sinh(named["z"]), "xp.sinh has no rule"),
        (lambda xp, named: float(named["z"]), "float"),
        (lambda xp, named: named["z"] ** 0.5, "a power of 0.5"),
        (lambda xp, named: xp.exp(xp.exp(xp.exp(xp.exp(named["z"])))), "overflows|not tight"),
    ],
)
def test_what_cannot_be_enclosed_is_said(function, said):
    with pytest.raises(NotEnclosed, match=said):
        enclosures(plain(function), {"z": np.array(40.0)}, {})


def test_products_by_arb_s_matrices_are_those_entry_by_entry():
    rng = np.random.default_rng(2)
    for one, other in (
        ((3, 4), (4, 2)),
        ((2, 3, 4), (4, 5)),
        ((4,), (4, 2)),
        ((3, 4), (4,)),
        ((2, 3, 4), (2, 4, 1)),
    ):
        a, b = rng.normal(size=one), rng.normal(size=other)
        found = (Dual(interval._balls(a)) @ b).value
        assert found.shape == (a @ b).shape
        np.testing.assert_allclose(
            np.vectorize(lambda ball: float(ball.mid()))(found).astype(float), a @ b, rtol=1e-13
        )


def test_the_shift_of_a_softmax_is_a_constant():
    y = Dual(interval._balls(np.array([[1.0, 3.0]])), interval._balls(np.ones((1, 2))))
    assert BALLS.max(y, axis=-1, keepdims=True).tangent is None


def test_precision_is_as_before_when_the_last_of_several_threads_leaves():
    """One that leaves first neither takes the bits from the other nor leaves its own behind."""
    before, entered, left = flint.ctx.prec, Event(), Event()

    def other():
        with interval.Precision(300):
            entered.set()
            left.wait()
            seen.append(flint.ctx.prec)

    seen = []
    thread = Thread(target=other)
    with interval.Precision(200):
        thread.start()
        entered.wait()
    left.set()
    thread.join()
    assert seen == [300]
    assert flint.ctx.prec == before
