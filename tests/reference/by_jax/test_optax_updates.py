"""The updates by optax against those by torch, and against optax uncompiled."""

import jax
import numpy as np
import optax
import pytest
from bptt_crosscheck.reference.by_jax import optax_updates
from bptt_crosscheck.reference.by_torch import torch_optim

from tests.closeness import ROUNDING, relative_error

SGD = {"optimiser": "sgd", "learning_rate": 0.1, "clip": None}
MOMENTUM = {"optimiser": "momentum", "learning_rate": 0.1, "momentum": 0.9, "clip": None}
ADAM = {
    "optimiser": "adam",
    "learning_rate": 0.1,
    "beta1": 0.8,
    "beta2": 0.99,
    "epsilon": 1e-6,
    "clip": None,
}
ALL = [SGD, MOMENTUM, MOMENTUM | {"nesterov": True}, ADAM]
RULES = [
    optax.sgd(0.1),
    optax.sgd(0.1, 0.9),
    optax.sgd(0.1, 0.9, nesterov=True),
    optax.adam(0.1, 0.8, 0.99, 1e-6),
]
IDS = ["sgd", "momentum", "nesterov", "adam"]
each = pytest.mark.parametrize("settings", ALL, ids=IDS)


def draw(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in {"W_hh": (3, 3), "b_h": (3,)}.items()
    }
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def trained(module, settings, updates=100, dtype=np.float64):
    params = draw(0, dtype)
    memory = module.start(params, settings)
    for seed in range(1, updates + 1):
        params, memory = module.update(params, draw(seed, dtype), memory, settings)
    return params


def worst(found, expected):
    assert found.keys() == expected.keys()
    return max(relative_error(found[name], value) for name, value in expected.items())


@each
def test_a_hundred_updates_equal_those_by_torch(settings):
    for clipped in (settings, settings | {"clip": "value", "limit": 0.5}):
        expected = trained(torch_optim, clipped)
        assert worst(trained(optax_updates, clipped), expected) <= ROUNDING
        assert worst(trained(optax_updates, clipped | {"learning_rate": 0.1001}), expected) > 1e-6


@pytest.mark.parametrize(("settings", "rule"), list(zip(ALL, RULES, strict=True)), ids=IDS)
def test_clipping_by_norm_is_optaxs_and_not_torchs(settings, rule):
    """They divide by norms that differ by 1e-6."""
    settings = settings | {"clip": "norm", "limit": 1.0}
    found = trained(optax_updates, settings, 10)
    assert (
        worst(found, uncompiled(optax.chain(optax.clip_by_global_norm(1.0), rule), 10)) <= ROUNDING
    )
    assert 1e-9 < worst(found, trained(torch_optim, settings, 10)) < 1e-4


def uncompiled(rule, updates):
    with jax.enable_x64(True):
        params = dict(draw(0))
        memory = rule.init(params)
        for seed in range(1, updates + 1):
            along, memory = rule.update(dict(draw(seed)), memory, params)
            params = optax.apply_updates(params, along)
        return {name: np.asarray(value) for name, value in params.items()}


def test_settings_count():
    for other in ({"nesterov": True}, {"momentum": 0.8}, {"optimiser": "sgd"}):
        found, expected = (
            trained(optax_updates, MOMENTUM | other, 3),
            trained(optax_updates, MOMENTUM, 3),
        )
        assert worst(found, expected) > 1e-3, other


@each
def test_an_update_is_pure(settings):
    """Read-only arrays will do, the same memory gives the same, and 64-bit mode is off again."""
    before = jax.config.jax_enable_x64
    _, memory = optax_updates.update(
        draw(0), draw(1), optax_updates.start(draw(0), settings), settings
    )
    once, _ = optax_updates.update(draw(0), draw(2), memory, settings)
    with jax.enable_x64(False):
        again, _ = optax_updates.update(draw(0), draw(2), memory, settings)
        assert not jax.config.jax_enable_x64
    assert jax.config.jax_enable_x64 == before
    assert all(np.array_equal(once[name], value) for name, value in again.items())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept(dtype):
    for settings in ALL:
        assert {value.dtype for value in trained(optax_updates, settings, 2, dtype).values()} == {
            np.dtype(dtype)
        }


def test_names():
    assert optax_updates.update({}, {}, optax_updates.start({}, ADAM), ADAM)[0] == {}
    moved, _ = optax_updates.update(
        draw(0), {**draw(1), "x": np.ones(2)}, optax_updates.start(draw(0), ADAM), ADAM
    )
    assert moved.keys() == draw(0).keys()
    with pytest.raises(KeyError, match="b_h"):
        optax_updates.update(
            draw(0), {"W_hh": np.ones((3, 3))}, optax_updates.start(draw(0), SGD), SGD
        )
    for wrong in ({"optimiser": "adagrad"}, {"clip": "both"}):
        with pytest.raises(KeyError):
            optax_updates.start(draw(0), SGD | wrong)
