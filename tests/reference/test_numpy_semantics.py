"""NumPy code on torch means what it means in NumPy: values, dtypes, shapes, views; and its
derivatives are those that differences find.

Every expression below is run by NumPy itself, and by the copy of it that runs on torch.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from bptt_crosscheck.reference.by_torch import numpy_code
from bptt_crosscheck.reference.by_torch.traced_array import TRACE, Trace, Traced
from bptt_crosscheck.reference.by_torch.traced_namespace import NUMPY
from bptt_crosscheck.reference.worlds import World
from numpy.linalg import norm
from scipy import special

RNG = np.random.default_rng(0)
A, B, C = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 3)), RNG.uniform(0.5, 2, size=(3, 4))
V, S = RNG.normal(size=4), RNG.normal(size=(4, 4)) + 4 * np.eye(4)
MASK = RNG.random((3, 4)) > 0.5
WHERE = np.array([2, 0, 2, 1])


def loop(a, b, c, v, s):
    h = np.zeros((4, 4))
    for t in range(3):
        h[t] = np.tanh(a[t] + s @ h[t - 1])
    return h


def buffer_of_lists(a, b, c, v, s):
    states = [v]
    for row in a:
        states.append(np.tanh(row * states[-1]))
    return np.array(states)


def in_place(a, b, c, v, s):
    total = np.zeros_like(a)
    total += a
    total *= c
    total[1:] -= a[:2]
    total[total > 0] **= 2
    return total


def views(a, b, c, v, s):
    whole = np.array(a)
    part, turned = whole[1], whole.T
    part[:] = v * v
    turned[0] += 1
    flat = whole.ravel()
    flat[2] = 7 * v[0]
    return whole


def scalars_are_no_views(a, b, c, v, s):
    whole = a.copy()
    number = whole[0, 0]
    number += v[0]
    number *= 2
    return whole + number


def in_float32(a, b, c, v, s):
    low = a.astype(np.float32)
    low = low * 2.0 + np.float32(0.1)
    return low * low


def fancy_writes(a, b, c, v, s):
    whole = np.ones((4, 3))
    whole[WHERE] = b
    whole[::-1, 0] = v
    whole[[0, 1], [1, 2]] *= v[:2]
    whole[MASK.T] += 1
    return whole


def added_at(a, b, c, v, s):
    whole = np.zeros((3, 3))
    np.add.at(whole, WHERE, b)
    return whole


def out_and_where(a, b, c, v, s):
    whole = np.zeros((3, 4))
    np.multiply(a, c, out=whole)
    np.exp(a, out=whole, where=MASK)
    return whole


def column_vectors(a, b, c, v, s):
    h = np.zeros((4, 1))
    for t in range(3):
        h = np.tanh(np.dot(s, h) + a[t].reshape(-1, 1))
    return h


def dict_of_states(a, b, c, v, s):
    h = {-1: np.copy(v)}
    for t in range(3):
        h[t] = np.tanh(np.dot(s, h[t - 1]) + a[t])
    return sum(np.sum(h[t]) for t in range(3))


def one_hot(a, b, c, v, s):
    x = np.zeros((4, 1))
    x[WHERE[1]] = 1
    return np.dot(s, x) * v[:, None]


def shuffled(a, b, c, v, s):
    order = np.argsort(v)
    return a[:, order] + np.sort(v)


def branches(a, b, c, v, s):
    return a * 2 if np.sum(v) > -100 and v.any() else -a


def numbers(a, b, c, v, s):
    total = float(a[0, 0]) * 2
    total += v[1].item()
    text = f"{total:.3f}" + "%.2f" % total + str(total)  # noqa: UP031 - as people write it
    assert isinstance(total, float)
    assert len(text) > 8
    return total * math.exp(v[2]) + math.sqrt(c[0, 0]) + np.float64(c[0, 1])


def least(a, b, c, v, s):
    return min(v[0], v[1]) + max(v) + abs(v[2]) + sum(v) + round(v[3])


def local_import(a, b, c, v, s):
    import numpy
    import numpy.linalg as la
    from numpy import tanh

    return tanh(a) @ numpy.ones((4, 2)) * la.norm(v)


def default_of_its_own(a, b, c, v, s, activation=np.tanh):
    return activation(a)


def recursion(a, b, c, v, s):
    def again(t):
        return v if t < 0 else np.tanh(a[t] + again(t - 1))

    return again(2)


EXPRESSIONS = {
    "+": lambda a, b, c, v, s: 2 + a - c * 3,
    "/": lambda a, b, c, v, s: 1 / c / a,
    "**": lambda a, b, c, v, s: a**2 + c**0.5 + c**-1 + c**a + 2**a,
    "np.int64 exponent": lambda a, b, c, v, s: a ** np.int64(3),
    "%": lambda a, b, c, v, s: c % 0.3,
    "//": lambda a, b, c, v, s: (c // 0.3) * a,
    "@": lambda a, b, c, v, s: a @ b @ a @ v,
    "@ of arrays of three axes": lambda a, b, c, v, s: np.stack([a, c]) @ b,
    "an array of NumPy's on the left": lambda a, b, c, v, s: np.arange(4) * a + MASK * c,
    "dot": lambda a, b, c, v, s: np.dot(a, b).dot(a).dot(v) + v.dot(v),
    "outer": lambda a, b, c, v, s: np.outer(v, a[0]) + np.multiply.outer(v, v),
    "einsum": lambda a, b, c, v, s: np.einsum("ij,jk,ik->k", a, b, a @ b) + np.einsum("ii", s),
    "tensordot": lambda a, b, c, v, s: np.tensordot(a, c, axes=([0, 1], [0, 1])),
    "inner, vdot, trace": lambda a, b, c, v, s: np.inner(a, c) * np.vdot(v, v) + np.trace(s),
    "reductions": lambda a, b, c, v, s: a.sum(0) + a.mean(axis=0) + np.prod(c, axis=0) + a.var(0),
    "reductions over axes": lambda a, b, c, v, s: a.sum(axis=(0, 1), keepdims=True) * np.mean(c),
    "std with ddof": lambda a, b, c, v, s: a.std(axis=1, ddof=1),
    "max, min": lambda a, b, c, v, s: (
        a.max(axis=1, keepdims=True) - np.min(a) + np.amax(c, 1)[:, None]
    ),
    "ptp": lambda a, b, c, v, s: np.ptp(a, axis=0),
    "cumsum": lambda a, b, c, v, s: np.cumsum(a, axis=1) + np.cumprod(c, axis=1),
    "add.reduce": lambda a, b, c, v, s: np.add.reduce(a, axis=1) + np.maximum.reduce(a, axis=1),
    "logaddexp": lambda a, b, c, v, s: np.logaddexp(a, c) + np.logaddexp.reduce(a, axis=0),
    "functions": lambda a, b, c, v, s: np.sin(a) + np.cosh(a) + np.exp(a) + np.log(c) + np.sqrt(c),
    "more functions": lambda a, b, c, v, s: np.expm1(a) + np.log1p(c) + np.arctan(a) + np.square(a),
    "still more": lambda a, b, c, v, s: (
        np.arctan2(a, c) + np.hypot(a, c) + np.reciprocal(c) + np.log2(c)
    ),
    "abs, sign, floor": lambda a, b, c, v, s: np.abs(a) * np.sign(a) + np.floor(a) * c,
    "clip": lambda a, b, c, v, s: np.clip(a, -0.5, 0.5) + a.clip(min=0) + np.clip(a, None, 1),
    "maximum": lambda a, b, c, v, s: np.maximum(a, 0) + np.minimum(a, c) + np.fmax(a, 0.1),
    "where": lambda a, b, c, v, s: np.where(a > 0, a, 0.01 * a) + np.where(MASK, c, 0),
    "softplus": lambda a, b, c, v, s: np.log(1 + np.exp(-np.abs(a))) + np.maximum(a, 0),
    "softmax": lambda a, b, c, v, s: (
        np.exp(a - np.max(a, axis=1, keepdims=True))
        / np.sum(np.exp(a - np.max(a, axis=1, keepdims=True)), axis=1, keepdims=True)
    ),
    "scipy.special": lambda a, b, c, v, s: (
        special.expit(a)
        + special.softmax(a, axis=1)
        + special.logsumexp(a, axis=1, keepdims=True)
        + special.erf(a)
        + special.log_softmax(a, axis=1)
    ),
    "concatenate": lambda a, b, c, v, s: np.concatenate([a, c, v[None]], axis=0),
    "concatenate with zeros": lambda a, b, c, v, s: np.concatenate((np.zeros(1), v, [1.0])),
    "stack": lambda a, b, c, v, s: np.stack([a[0], v], axis=1) + np.vstack((v, v)).T,
    "hstack": lambda a, b, c, v, s: np.hstack((a, c)) + np.column_stack([a, c]) + np.c_[a, c],
    "r_": lambda a, b, c, v, s: np.r_[v, a[0], 1.0],
    "append": lambda a, b, c, v, s: np.append(v, 1.0) + np.insert(v, 0, 2.0),
    "array of numbers": lambda a, b, c, v, s: np.array([[v[0], 1.0], [a[0, 0], v[1] * 2]]),
    "asarray": lambda a, b, c, v, s: np.asarray([v, v * 2]) + np.array(v, dtype=np.float64),
    "block": lambda a, b, c, v, s: np.block([[a, c], [c, a]]),
    "reshape": lambda a, b, c, v, s: (
        a.reshape(2, 6) @ np.reshape(c, (6, 2)) + a.reshape((-1, 2)).sum()
    ),
    "reshape in Fortran's order": lambda a, b, c, v, s: (
        a.reshape(4, 3, order="F") + a.flatten("F")[0]
    ),
    "ravel": lambda a, b, c, v, s: a.ravel() * c.flatten() + np.ravel(a, order="F"),
    "transpose": lambda a, b, c, v, s: (
        a.T @ c + np.transpose(b, (1, 0)).T @ c + np.swapaxes(a, 0, 1) @ c
    ),
    "axes": lambda a, b, c, v, s: np.expand_dims(v, 0) + v[np.newaxis] + np.squeeze(v[None], 0),
    "moveaxis": lambda a, b, c, v, s: (
        np.moveaxis(np.stack([a, c]), 0, -1) + np.rollaxis(np.stack([a, c]), 0, 3)
    ),
    "split": lambda a, b, c, v, s: sum(part * k for k, part in enumerate(np.split(a, 2, axis=1))),
    "array_split": lambda a, b, c, v, s: np.array_split(v, 3)[0] * 2,
    "hsplit": lambda a, b, c, v, s: np.hsplit(a, 2)[1] - np.vsplit(s, 2)[0][:, :2].sum(),
    "tile": lambda a, b, c, v, s: np.tile(v, (3, 1)) * np.repeat(a[:, :1], 4, axis=1),
    "flip": lambda a, b, c, v, s: np.flip(a, 0) + a[::-1] + np.roll(a, 1, axis=1) + np.fliplr(a),
    "strides": lambda a, b, c, v, s: a[::2, 1::2] + a[::-2, ::-2] + a[-1, -2],
    "fancy": lambda a, b, c, v, s: a[[0, 2]][:, WHERE] + a[np.ix_([0, 1], [1, 2])].sum(),
    "pairs of indices": lambda a, b, c, v, s: a[np.arange(3), WHERE[:3]] + a[range(3), [0, 1, 2]],
    "mask": lambda a, b, c, v, s: np.sum(a[MASK] ** 2) + c[a > 0].sum(),
    "a mixed index": lambda a, b, c, v, s: (
        np.stack([a, c])[:, 0, [1, 2]] + np.stack([a, c])[[0, 1], ..., 0][:, :2]
    ),
    "take": lambda a, b, c, v, s: np.take(a, WHERE, axis=1) + a.take([0, 1, 2, 3], axis=1),
    "take_along_axis": lambda a, b, c, v, s: np.take_along_axis(a, np.argsort(a, axis=1), axis=1),
    "diag": lambda a, b, c, v, s: np.diag(v) + np.diag(np.diag(s)) + np.eye(4) * np.trace(s),
    "tril": lambda a, b, c, v, s: np.tril(s) + np.triu(s, 1),
    "kron": lambda a, b, c, v, s: np.kron(v, a[0]),
    "norm": lambda a, b, c, v, s: norm(a) + np.linalg.norm(a, axis=1) + np.linalg.norm(v, 1),
    "solve": lambda a, b, c, v, s: np.linalg.solve(s, v) + np.linalg.inv(s) @ v,
    "det": lambda a, b, c, v, s: np.linalg.det(s) + np.linalg.slogdet(s)[1],
    "broadcast": lambda a, b, c, v, s: np.broadcast_to(v, (3, 4)) * a,
    "full": lambda a, b, c, v, s: np.full((2, 2), v[0]) + np.full_like(s[:2, :2], v[1]),
    "empty": lambda a, b, c, v, s: np.zeros(a.shape, dtype=a.dtype) + np.ones_like(a) * a,
    "linspace": lambda a, b, c, v, s: np.linspace(0, 1, 4) * v + np.arange(4.0),
    "nan_to_num": lambda a, b, c, v, s: np.nan_to_num(a) + np.nansum(a),
    "diff": lambda a, b, c, v, s: np.diff(a, axis=1),
    "pad": lambda a, b, c, v, s: np.pad(a, ((1, 0), (0, 0)))[:3] * a,
    "average": lambda a, b, c, v, s: (
        np.average(a, axis=0) + np.average(a, axis=0, weights=[1.0, 2, 3])
    ),
    "apply_along_axis": lambda a, b, c, v, s: np.apply_along_axis(
        lambda row: row / row.sum(), 1, c
    ),
    "vectorize": lambda a, b, c, v, s: np.vectorize(lambda z: z * z if z > 0 else 0.1 * z)(a),
    "select": lambda a, b, c, v, s: np.select([a > 1, a > 0], [a, a * a], 0.5 * a),
    "copyto": lambda a, b, c, v, s: np.copyto(d := np.zeros((3, 4)), a * c) or d,
    "complex numbers": lambda a, b, c, v, s: (
        np.abs(np.exp(1j * a)[0] * c[0]) + np.real((a + 1j * c) ** 2).sum()
    ),
    "polar": lambda a, b, c, v, s: (c * np.exp(1j * a)).imag,
    "fft": lambda a, b, c, v, s: np.fft.ifft(np.fft.fft(v) * np.fft.fft(a[0])).real,
    "fractions": lambda a, b, c, v, s: a * float(Fraction(1, 3)),
    "tolist": lambda a, b, c, v, s: np.array([[z * 2 for z in row] for row in a.tolist()]),
    "zip": lambda a, b, c, v, s: sum(x * y for x, y in zip(v, a[0], strict=True)),
    "attributes": lambda a, b, c, v, s: (
        a * a.shape[0] * a.ndim / a.size + len(a) * a.dtype.itemsize
    ),
    "isinstance": lambda a, b, c, v, s: (
        a if isinstance(a, np.ndarray) and a.dtype == np.float64 else -a
    ),
    "np.float64 of a sum": lambda a, b, c, v, s: (
        isinstance(np.sum(a), float) * np.float64(np.sum(a)) * v
    ),
}
EXPRESSIONS |= {
    function.__name__: function
    for function in (
        loop,
        buffer_of_lists,
        in_place,
        views,
        scalars_are_no_views,
        in_float32,
        fancy_writes,
        added_at,
        out_and_where,
        column_vectors,
        dict_of_states,
        one_hot,
        shuffled,
        branches,
        numbers,
        least,
        local_import,
        default_of_its_own,
        recursion,
    )
}
GIVEN = {"a": A, "b": B, "c": C, "v": V, "s": S}


def on_torch(function):
    """What the copy of the function on torch gives, as NumPy's."""
    token = TRACE.set(Trace())
    try:
        import torch

        given = [
            Traced(torch.tensor(value, requires_grad=True).clone()) for value in GIVEN.values()
        ]
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            found = numpy_code.world().copy(function)(*given)
    finally:
        TRACE.reset(token)
    return found.numbers() if isinstance(found, Traced) else np.asarray(found)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_values_dtypes_and_shapes_are_those_of_numpy(name):
    function = EXPRESSIONS[name]
    expected = np.asarray(function(*(value.copy() for value in GIVEN.values())))
    found = on_torch(function)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    roundoff = np.finfo(expected.dtype).eps
    assert np.allclose(found, expected, rtol=64 * roundoff, atol=64 * roundoff)


WEIGHTS = np.random.default_rng(1).normal(size=1000)


@pytest.mark.parametrize("name", [name for name in EXPRESSIONS if name != "in_float32"])
def test_derivatives_are_those_that_differences_find(name):
    function = EXPRESSIONS[name]

    def loss(named):
        found = np.asarray(function(*(named[key] for key in GIVEN)))
        return np.sum(found * np.reshape(WEIGHTS[: found.size], found.shape))

    def copied(world):
        copy = world.copy(loss)
        return lambda xp, named: copy({key: named[key] for key in GIVEN})

    value, _, found, narrowed = numpy_code.gradients(copied, GIVEN, {})
    assert not narrowed
    assert np.isclose(value, loss(GIVEN), rtol=1e-12)
    for key, array in GIVEN.items():
        direction = np.random.default_rng(2).normal(size=array.shape)
        h = 1e-6
        ahead, behind = (loss({**GIVEN, key: array + sign * h * direction}) for sign in (1, -1))
        slope = (ahead - behind) / (2 * h)
        assert np.isclose(np.sum(found[key] * direction), slope, rtol=1e-5, atol=1e-6)


def test_the_namespace_is_numpy_for_whoever_looks():
    assert NUMPY.pi == np.pi
    assert NUMPY.float64 == np.float64
    assert NUMPY.random.default_rng(0).normal() == np.random.default_rng(0).normal()
    assert World().copy(np) is np


def test_a_part_of_the_derivative_that_is_lost_without_a_trace_is_found_out():
    def loss(a, fixed):
        return np.sum(np.sin(a)) + 0.1 * np.sum(fixed * a)

    def copied(world):
        copy = world.copy(loss)

        def called(xp, named):
            # the second time as a constant: what no traced array can notice
            numbers = named["a"].numbers() if isinstance(named["a"], Traced) else named["a"]
            return copy(named["a"], numbers)

        return called

    with pytest.raises(numpy_code.DoesNotFollow, match="a part of it was lost"):
        numpy_code.gradients(copied, {"a": A}, {})
