"""Clipping and parameter updates against torch.optim, torch.nn.utils and optax."""

import jax
import numpy as np
import optax
import pytest
import torch
from bptt_crosscheck.manual.training import (
    SGD,
    Adam,
    Moments,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
    sgd,
)

from tests.closeness import ROUNDING, relative_error

SHAPES = {"W_hh": (3, 3), "b_h": (3,)}
LOUD = 100  # some gradients are as large as this, some as small as 1e-6


def draw(seed, dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(seed)
    arrays = {
        name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()
    }
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


HISTORY = [draw(seed, scale=10.0 ** (seed % 9 - 6)) for seed in range(1, 101)]


def worst(found, expected):
    assert found.keys() == expected.keys()
    return max(relative_error(found[name], value) for name, value in expected.items())


def by_hand(rule, history=HISTORY, clip=lambda gradients: gradients):
    params = draw(0)
    memory = rule.start(params)
    for gradients in history:
        params, memory = rule.update(params, clip(gradients), memory)
    return params


def by_torch(make, history=HISTORY, clip=lambda leaves: None):
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in draw(0).items()}
    optimizer = make(leaves.values())
    for gradients in history:
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[name])
        clip(leaves.values())
        optimizer.step()
    return {name: leaf.detach().numpy() for name, leaf in leaves.items()}


def by_optax(*chained, history=HISTORY):
    rule = optax.chain(*chained)
    with jax.enable_x64(True):
        params = {name: jax.numpy.asarray(value) for name, value in draw(0).items()}
        memory, update = rule.init(params), jax.jit(rule.update)
        for gradients in history:
            along, memory = update(gradients, memory, params)
            params = optax.apply_updates(params, along)
        return {name: np.asarray(value) for name, value in params.items()}


def sgd_by_torch(history, learning_rate):
    return by_torch(lambda leaves: torch.optim.SGD(leaves, lr=learning_rate), history)


# Plain gradient descent.


@pytest.mark.parametrize("updates", [1, 100])
def test_sgd_equals_torch_optim(updates):
    params = draw(0)
    for gradients in HISTORY[:updates]:
        params = sgd(params, gradients, 0.1)
    assert worst(params, sgd_by_torch(HISTORY[:updates], 0.1)) <= ROUNDING


def test_uphill_and_another_rate_are_far_from_torch():
    start, gradients = draw(0), draw(1)
    expected = sgd_by_torch([gradients], 0.1)["W_hh"]
    assert relative_error(sgd(start, gradients, -0.1)["W_hh"], expected) > 0.05
    assert relative_error(sgd(start, gradients, 0.2)["W_hh"], expected) > 0.05


def test_gradients_of_what_is_not_trained_are_left_aside():
    gradients = {**draw(1), "x": np.ones(2), "h_0": np.ones(3)}
    assert sgd(draw(0), gradients, 0.1).keys() == SHAPES.keys()


def test_a_parameter_without_a_gradient_is_not_passed_over():
    with pytest.raises(KeyError, match="b_h"):
        sgd(draw(0), {"W_hh": np.ones((3, 3))}, 0.1)


def test_nan_in_a_gradient_reaches_its_own_entry_only():
    gradients = {name: value.copy() for name, value in draw(1).items()}
    gradients["b_h"][1] = np.nan
    new = sgd(draw(0), gradients, 0.1)
    np.testing.assert_array_equal(np.isnan(new["b_h"]), [False, True, False])
    assert not np.isnan(new["W_hh"]).any()


# The optimisers, a hundred updates.

# name → by hand, by torch, by optax
RULES = {
    "sgd": (SGD(0.1), lambda leaves: torch.optim.SGD(leaves, lr=0.1), optax.sgd(0.1)),
    "momentum": (
        SGD(0.1, 0.9),
        lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9),
        optax.sgd(0.1, 0.9),
    ),
    "nesterov": (
        SGD(0.1, 0.9, nesterov=True),
        lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9, nesterov=True),
        optax.sgd(0.1, 0.9, nesterov=True),
    ),
    "adam": (Adam(0.1), lambda leaves: torch.optim.Adam(leaves, lr=0.1), optax.adam(0.1)),
    "other adam": (
        Adam(0.01, 0.8, 0.95, 1e-3),
        lambda leaves: torch.optim.Adam(leaves, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
        optax.adam(0.01, 0.8, 0.95, 1e-3),
    ),
}
each_rule = pytest.mark.parametrize("name", RULES)


@each_rule
def test_a_hundred_updates_equal_torch_and_optax(name):
    rule, torchs, optaxs = RULES[name]
    found = by_hand(rule)
    assert worst(found, by_torch(torchs)) <= ROUNDING
    assert worst(found, by_optax(optaxs)) <= ROUNDING


class Dampened(SGD):
    """v is an average, not a sum."""

    def update(self, params, gradients, memory):
        return super().update(
            params, {name: (1 - self.momentum) * g for name, g in gradients.items()}, memory
        )


class Uncorrected(Adam):
    """The averages start from zero, and nothing makes up for it."""

    def update(self, params, gradients, memory):
        _, moments = super().update(params, gradients, memory)
        along = {
            name: moments.m[name] / (np.sqrt(moments.v[name]) + self.epsilon) for name in params
        }
        return sgd(params, along, self.learning_rate), moments


class Inside(Adam):
    """ε inside the square root."""

    def update(self, params, gradients, memory):
        _, moments = super().update(params, gradients, memory)
        one, two = 1 - self.beta1**moments.updates, 1 - self.beta2**moments.updates
        along = {
            name: moments.m[name] / one / np.sqrt(moments.v[name] / two + self.epsilon)
            for name in params
        }
        return sgd(params, along, self.learning_rate), moments


class ConstantEpsilon(Adam):
    """The short form of the paper's section 2 with ε̂ = ε, as in TensorFlow."""

    def update(self, params, gradients, memory):
        _, moments = super().update(params, gradients, memory)
        scale = np.sqrt(1 - self.beta2**moments.updates) / (1 - self.beta1**moments.updates)
        along = {
            name: scale * moments.m[name] / (np.sqrt(moments.v[name]) + self.epsilon)
            for name in params
        }
        return sgd(params, along, self.learning_rate), moments


@pytest.mark.parametrize(
    ("twin", "name"),
    [
        (Dampened(0.1, 0.9), "momentum"),
        (SGD(0.1, 0.9), "nesterov"),
        (SGD(0.1), "momentum"),
        (Uncorrected(0.1), "adam"),
        (Inside(0.1), "adam"),
        (ConstantEpsilon(0.1), "adam"),
        (Adam(0.1, 0.999, 0.9), "adam"),
    ],
    ids=[
        "dampened",
        "no look-ahead",
        "no momentum",
        "no bias correction",
        "ε inside",
        "constant ε̂",
        "βs exchanged",
    ],
)
def test_a_rule_that_is_nearly_right_is_far_from_torch_and_optax(twin, name):
    _, torchs, optaxs = RULES[name]
    assert worst(by_hand(twin), by_torch(torchs)) > 1e-9
    assert worst(by_hand(twin), by_optax(optaxs)) > 1e-9


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rule_keeps_dtypes_and_what_it_is_given(name, dtype):
    """Its arguments are read-only; the same again gives the same.

    A NumPy scalar among the numbers widens nothing.
    """
    rule = RULES[name][0]
    numbers = {
        key: value if isinstance(value, bool) else np.float64(value)
        for key, value in vars(rule).items()
    }
    start, gradients = draw(0, dtype), draw(1, dtype)
    memory = locked(rule.start(start))
    once, kept = rule.update(start, gradients, memory)
    again, _ = rule.update(start, gradients, memory)
    widened, _ = type(rule)(**numbers).update(start, gradients, memory)
    later, _ = rule.update(once, gradients, kept)
    for name_ in SHAPES:
        assert once[name_].dtype == later[name_].dtype == widened[name_].dtype == dtype
        np.testing.assert_array_equal(once[name_], again[name_])
        assert not np.array_equal(once[name_], start[name_])


def locked(memory):
    for arrays in (memory.m, memory.v) if isinstance(memory, Moments) else (memory,):
        for array in arrays.values():
            array.setflags(write=False)
    return memory


def test_without_gradient_nothing_moves_and_nothing_of_nothing_is_nothing():
    for rule, _, _ in RULES.values():
        start = draw(0)
        zeros = {key: np.zeros_like(value) for key, value in start.items()}
        moved, _ = rule.update(start, zeros, rule.start(start))
        assert worst(moved, start) == 0
        assert rule.update({}, {}, rule.start({}))[0] == {}


def test_names_of_a_rule():
    """What is no parameter is left aside; a parameter without a gradient is not."""
    for rule, _, _ in RULES.values():
        start = draw(0)
        moved, _ = rule.update(start, {**draw(1), "x": np.ones(2)}, rule.start(start))
        assert moved.keys() == SHAPES.keys()
        with pytest.raises(KeyError, match="b_h"):
            rule.update(start, {"W_hh": np.ones((3, 3))}, rule.start(start))


def test_nan_stays_in_its_entry_for_good_where_there_is_memory():
    gradients = {key: value.copy() for key, value in draw(1).items()}
    gradients["b_h"][1] = np.nan
    for name, (rule, _, _) in RULES.items():
        start = draw(0)
        moved, memory = rule.update(start, gradients, rule.start(start))
        later, _ = rule.update(start, draw(2), memory)
        np.testing.assert_array_equal(np.isnan(moved["b_h"]), [False, True, False])
        assert np.isnan(later["b_h"]).tolist() == [False, name != "sgd", False]
        assert not np.isnan(moved["W_hh"]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.1, 1.0), "momentum is at least 0 and below 1, not 1.0"),
        (lambda: SGD(0.1, float("nan")), "momentum is at least 0"),
        (lambda: SGD(0.1, nesterov=True), "needs a momentum above 0"),
        (lambda: Adam(beta1=1.0), "beta1 is at least 0 and below 1"),
        (lambda: Adam(beta2=-0.1), "beta2 is at least 0 and below 1"),
        (lambda: Adam(epsilon=0.0), "epsilon is above 0, not 0.0"),
    ],
)
def test_numbers_that_make_no_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Clipping.


def clipped_by_torch(clip, gradients):
    leaves = {
        name: torch.zeros(value.shape, dtype=torch.float64) for name, value in gradients.items()
    }
    for name, leaf in leaves.items():
        leaf.grad = torch.tensor(gradients[name])
    clip(leaves.values())
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def clipped_by_optax(rule, gradients):
    with jax.enable_x64(True):
        return {
            name: np.asarray(value)
            for name, value in rule.update(dict(gradients), rule.init(gradients))[0].items()
        }


@pytest.mark.parametrize(("limit", "scale"), [(0.0, 1.0), (0.5, 1e-3), (0.5, 1.0), (2.0, LOUD)])
def test_clipping_by_value_equals_torch_and_optax(limit, scale):
    gradients = draw(1, scale=scale)
    found = clip_by_value(gradients, limit)
    expected = clipped_by_torch(
        lambda leaves: torch.nn.utils.clip_grad_value_(leaves, limit), gradients
    )
    for name, value in clipped_by_optax(optax.clip(limit), gradients).items():
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_one_sided_clip_lets_minus_a_hundred_pass():
    gradients = {"b_h": np.array([-100.0, 0.5, 100.0])}
    expected = clipped_by_torch(
        lambda leaves: torch.nn.utils.clip_grad_value_(leaves, 1.0), gradients
    )["b_h"]
    one_sided = np.where(gradients["b_h"] > 1, 1.0, gradients["b_h"])
    np.testing.assert_array_equal(clip_by_value(gradients, 1.0)["b_h"], expected)
    assert expected.tolist() == [-1, 0.5, 1]
    assert one_sided.tolist() == [-100, 0.5, 1]
    assert relative_error(one_sided, expected) == 99


@pytest.mark.parametrize(("max_norm", "scale"), [(0.0, 1.0), (0.5, 1e-3), (0.5, 1.0), (2.0, LOUD)])
def test_clipping_by_global_norm_equals_torch_and_optax(max_norm, scale):
    gradients = draw(1, scale=scale)
    torchs = clipped_by_torch(
        lambda leaves: torch.nn.utils.clip_grad_norm_(leaves, max_norm), gradients
    )
    optaxs = clipped_by_optax(optax.clip_by_global_norm(max_norm), gradients)
    assert worst(clip_by_global_norm(gradients, max_norm), torchs) <= ROUNDING
    assert worst(clip_by_global_norm(gradients, max_norm, 0.0), optaxs) <= ROUNDING
    if 0 < max_norm < global_norm(gradients):
        assert worst(clip_by_global_norm(gradients, max_norm, 0.0), torchs) > 1e-10, (
            "the conventions differ"
        )
        assert worst(clip_by_global_norm(gradients, max_norm), optaxs) > 1e-10


@pytest.mark.parametrize("name", RULES)
def test_clipped_training_equals_torch_and_optax(name):
    """In either convention; with the other's it is far away."""
    rule, torchs, optaxs = RULES[name]
    expected = by_torch(torchs, clip=lambda leaves: torch.nn.utils.clip_grad_norm_(leaves, 0.5))
    found = by_hand(rule, clip=lambda gradients: clip_by_global_norm(gradients, 0.5))
    other = by_hand(rule, clip=lambda gradients: clip_by_global_norm(gradients, 0.5, 0.0))
    assert worst(found, expected) <= ROUNDING < 1e-9 < worst(other, expected)
    expected = by_optax(optax.clip_by_global_norm(0.5), optaxs)
    assert worst(other, expected) <= ROUNDING < 1e-9 < worst(found, expected)


def test_each_array_by_its_own_norm_is_another_clip():
    gradients = draw(1, scale=LOUD)
    expected = clipped_by_torch(
        lambda leaves: torch.nn.utils.clip_grad_norm_(leaves, 1.0), gradients
    )
    apart = {name: clip_by_global_norm({name: g}, 1.0)[name] for name, g in gradients.items()}
    assert worst(apart, expected) > 0.01


def test_the_global_norm():
    assert global_norm({"a": np.array([3.0]), "b": np.array([[0.0, -4.0]])}) == 5
    assert (
        global_norm({})
        == global_norm({"a": np.zeros(3)})
        == global_norm({"a": np.zeros((0, 3))})
        == 0
    )
    assert np.isnan(global_norm({"a": np.array([1.0, np.nan])}))
    assert global_norm({"a": np.array([-np.inf])}) == np.inf
    half = {"a": np.full(100, 100, np.float16)}
    assert global_norm(half) == 1000, "summed in float16 it would be infinite"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_keeps_dtypes_and_what_it_is_given(dtype):
    gradients = draw(1, dtype, LOUD)  # read-only
    for limit in (1.0, np.float64(1.0)):
        for clip in (clip_by_value, clip_by_global_norm):
            assert {value.dtype for value in clip(gradients, limit).values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_nothing_to_clip(epsilon):
    """No gradients, zero gradients, and gradients that have vanished.

    Zero ones even at a bound of zero, where optax has 0/0.
    """
    zeros, tiny = {"b_h": np.zeros(3)}, {"b_h": np.array([1e-12, -1e-300])}
    assert clip_by_global_norm({}, 0.0, epsilon) == clip_by_value({}, 0.0) == {}
    for max_norm in (0.0, 1.0):
        assert clip_by_global_norm(zeros, max_norm, epsilon)["b_h"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(clip_by_global_norm(tiny, 1.0, epsilon)["b_h"], tiny["b_h"])
    np.testing.assert_array_equal(clip_by_value(tiny, 1.0)["b_h"], tiny["b_h"])
    assert not np.isfinite(clipped_by_optax(optax.clip_by_global_norm(0.0), zeros)["b_h"]).any()


def test_direction_is_kept_by_norm_and_not_by_value():
    gradients = {"b_h": np.array([10.0, 1.0])}
    by_norm, by_value = (
        clip_by_global_norm(gradients, 1.0)["b_h"],
        clip_by_value(gradients, 1.0)["b_h"],
    )
    assert by_norm[0] / by_norm[1] == pytest.approx(10, rel=1e-15)
    assert by_value[0] / by_value[1] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_pass_unseen(bad):
    gradients = {"W_hh": np.ones(2), "b_h": np.array([1.0, bad])}
    expected = clipped_by_torch(
        lambda leaves: torch.nn.utils.clip_grad_norm_(leaves, 1.0), gradients
    )
    for name, value in clip_by_global_norm(gradients, 1.0).items():
        np.testing.assert_array_equal(value, expected[name])
    assert np.isnan(expected["b_h"][1])
    by_value = clip_by_value(gradients, 0.5)["b_h"][1]
    assert np.isnan(by_value) if np.isnan(bad) else by_value == np.copysign(0.5, bad)


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_bounds_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="limit is at least 0"):
        clip_by_value(draw(1), bad)
    with pytest.raises(ValueError, match="max_norm is at least 0"):
        clip_by_global_norm(draw(1), bad)
    with pytest.raises(ValueError, match="epsilon is at least 0"):
        clip_by_global_norm(draw(1), 1.0, bad)
