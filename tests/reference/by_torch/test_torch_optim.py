"""The updates by torch against torch's own optimiser classes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from bptt_crosscheck.reference.by_torch.torch_optim import start, update

from tests.closeness import relative_error

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
BY_CLASS = {
    "sgd": (SGD, lambda leaves: torch.optim.SGD(leaves, lr=0.1)),
    "momentum": (MOMENTUM, lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9)),
    "nesterov": (
        MOMENTUM | {"nesterov": True},
        lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (ADAM, lambda leaves: torch.optim.Adam(leaves, lr=0.1, betas=(0.8, 0.99), eps=1e-6)),
}


def draw(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in {"W_hh": (3, 3), "b_h": (3,)}.items()
    }
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def trained(settings, dtype=np.float64, updates=100):
    params = draw(0, dtype)
    memory = start(params, settings)
    for seed in range(1, updates + 1):
        params, memory = update(params, draw(seed, dtype), memory, settings)
    return params


def by_class(make, clip=lambda leaves: None, dtype=np.float64):
    leaves = {
        name: torch.tensor(value, requires_grad=True) for name, value in draw(0, dtype).items()
    }
    optimizer = make(leaves.values())
    for seed in range(1, 101):
        for name, value in draw(seed, dtype).items():
            leaves[name].grad = torch.tensor(value)
        clip(leaves.values())
        optimizer.step()
    return {name: leaf.detach().numpy() for name, leaf in leaves.items()}


def same(found, expected):
    return all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in expected.items()
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", BY_CLASS)
def test_a_hundred_updates_are_those_of_the_class(name, dtype):
    settings, make = BY_CLASS[name]
    expected = by_class(make, dtype=dtype)
    assert same(trained(settings, dtype), expected)
    assert not same(trained(settings | {"learning_rate": 0.1001}, dtype), expected)


@pytest.mark.parametrize("name", BY_CLASS)
def test_clipped_updates_are_those_of_the_class(name):
    settings, make = BY_CLASS[name]
    for kind, clip in {
        "value": torch.nn.utils.clip_grad_value_,
        "norm": torch.nn.utils.clip_grad_norm_,
    }.items():
        expected = by_class(make, lambda leaves, clip=clip: clip(leaves, 0.5))
        assert same(trained(settings | {"clip": kind, "limit": 0.5}), expected)
        assert not same(trained(settings), expected)


def test_settings_count():
    for other in ({"nesterov": True}, {"momentum": 0.8}, {"optimiser": "sgd"}):
        found, expected = trained(MOMENTUM | other, updates=3), trained(MOMENTUM, updates=3)
        assert relative_error(found["W_hh"], expected["W_hh"]) > 1e-3, other


@pytest.mark.parametrize(
    "settings", [SGD, MOMENTUM, ADAM | {"clip": "norm", "limit": 1.0}], ids=lambda s: s["optimiser"]
)
def test_an_update_is_pure(settings):
    """Read-only arrays will do, and the same memory twice gives the same.

    The caller's torch is what it was.
    """
    _, memory = update(draw(0), draw(1), start(draw(0), settings), settings)
    once, _ = update(draw(0), draw(2), memory, settings)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    try:
        with torch.no_grad():
            again, _ = update(draw(0), draw(2), memory, settings)
            assert not torch.is_grad_enabled()
        assert (torch.get_default_dtype(), torch.get_default_device().type) == (
            torch.float16,
            "meta",
        )
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert same(once, again)
    assert torch.is_grad_enabled()


def test_names():
    assert update({}, {}, start({}, ADAM), ADAM)[0] == {}
    moved, _ = update(draw(0), {**draw(1), "x": np.ones(2)}, start(draw(0), ADAM), ADAM)
    assert moved.keys() == draw(0).keys()
    with pytest.raises(KeyError, match="b_h"):
        update(draw(0), {"W_hh": np.ones((3, 3))}, start(draw(0), SGD), SGD)
    for wrong in ({"optimiser": "adagrad"}, {"clip": "both"}):
        with pytest.raises(KeyError):
            update(draw(0), draw(1), start(draw(0), SGD | wrong), SGD | wrong)


def test_torch_dynamo_is_not_imported():
    both = [SGD | {"clip": "value", "limit": 1.0}, ADAM | {"clip": "norm", "limit": 1.0}]
    code = (
        "import sys; import numpy as np\n"
        "from bptt_crosscheck.reference.by_torch.torch_optim import start, update\n"
        "a = {'a': np.ones(2)}\n"
        f"for s in {both}: update(a, a, start(a, s), s)\n"
        "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
