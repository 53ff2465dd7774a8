"""Nested parameters as flat named arrays and back: nothing is lost, nothing is renamed, nothing
else is touched.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
from bptt_crosscheck.comparisons.problems.named_arrays import flatten, is_differentiable, rebuild
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

arrays = npst.arrays(
    st.sampled_from([np.float64, np.float32, np.int64]),
    npst.array_shapes(min_dims=0, max_dims=2, max_side=3),
)
numbers = st.one_of(st.floats(allow_nan=False), st.integers(-9, 9))
others = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.just(object()))
keys = st.text("abWU_", min_size=1, max_size=3)
nests = st.recursive(
    st.one_of(arrays, numbers, others),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=6,
)
trees = st.dictionaries(keys, nests, max_size=4)
fuzz = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def same(one, other):
    """Equal in structure, types and every number."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    return (
        one is other or (type(one) is float and one == other) or (type(one) is int and one == other)
    )


def leaves(value):
    """The numbers and arrays, from left to right."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return (
        [value]
        if isinstance(value, np.ndarray | float | int) and not isinstance(value, bool)
        else []
    )


@fuzz
@given(tree=trees)
def test_there_and_back(tree):
    assert same(tree, rebuild(tree, {}))
    assert same(
        tree,
        rebuild(
            tree,
            {
                path: value
                for path, value in flatten(tree).items()
                if value.dtype.kind == "f" or value.ndim
            },
        ),
    )


@fuzz
@given(tree=trees)
def test_every_number_has_one_path_and_nothing_else_has(tree):
    found = flatten(tree)
    assert len(found) == len(leaves(tree))
    for value, leaf in zip(found.values(), leaves(tree), strict=True):
        assert np.array_equal(value, leaf, equal_nan=value.dtype.kind == "f")


@fuzz
@given(tree=trees, data=st.data())
def test_one_leaf_is_put_where_it_was(tree, data):
    found = flatten(tree)
    if not found:
        return
    path = data.draw(st.sampled_from(sorted(found)))
    marked = flatten(rebuild(tree, {path: np.full_like(found[path], 7)}))
    assert list(marked) == list(found)
    for name, value in marked.items():
        assert np.array_equal(
            value,
            np.full_like(found[name], 7) if name == path else found[name],
            equal_nan=value.dtype.kind == "f",
        )


@fuzz
@given(tree=trees)
def test_the_nest_itself_is_never_changed(tree):
    before = {path: value.copy() for path, value in flatten(tree).items()}
    rebuilt = rebuild(tree, {path: value + 1 for path, value in before.items()})
    assert all(
        np.array_equal(value, before[path], equal_nan=value.dtype.kind == "f")
        for path, value in flatten(tree).items()
    )
    assert rebuilt is not tree


def test_paths_are_how_one_would_write_them():
    nest = {
        "layers": [{"W": np.ones((2, 2))}, {"W": np.ones(1), "gates": (1.0, 2.0)}],
        "b": 3.0,
        0: {1: np.zeros(1)},
        "name": "x",
    }
    assert list(flatten(nest)) == [
        "layers[0].W",
        "layers[1].W",
        "layers[1].gates[0]",
        "layers[1].gates[1]",
        "b",
        "0.1",
    ]
    assert list(flatten(np.ones(2), "output")) == ["output"]
    assert list(flatten((np.ones(2), 1.0), "output")) == ["output[0]", "output[1]"]


@pytest.mark.parametrize(
    "other",
    [
        None,
        "text",
        b"bytes",
        True,
        object(),
        np.random.default_rng(0),
        np.array(["a"]),
        np.array([None]),
    ],
)
def test_what_is_no_number_stays_and_is_no_leaf(other):
    assert flatten({"a": other}) == {}
    assert rebuild({"a": other}, {"a.b": 1})["a"] is other


def test_a_python_float_stays_one_and_a_framework_s_value_stays_what_it_is():
    class Tensor:
        pass

    tensor = Tensor()
    assert type(rebuild({"a": 1.5}, {"a": np.array(2.5)})["a"]) is float
    assert rebuild({"a": 1.5}, {"a": tensor})["a"] is tensor
    assert isinstance(rebuild({"a": np.array(1.5)}, {"a": np.array(2.5)})["a"], np.ndarray)
    assert rebuild({"a": 1.5}, {"a": np.array(2.5 + 1j)})["a"] == 2.5 + 1j


def test_other_mappings_are_read():
    assert list(flatten(OrderedDict(b=1.0, a=OrderedDict(c=2.0)))) == ["b", "a.c"]


class Weights(NamedTuple):
    W: np.ndarray
    b: float


def test_a_named_tuple_stays_one():
    nest = {"rnn": Weights(np.ones(2), 0.5)}
    assert rebuild(nest, {path: value * 2 for path, value in flatten(nest).items()})["rnn"].b == 1.0


@pytest.mark.parametrize(
    ("dtype", "verdict"),
    [("f2", True), ("f4", True), ("f8", True), ("i8", False), ("?", False), ("c16", False)],
)
def test_only_real_floating_point_numbers_have_gradients(dtype, verdict):
    assert is_differentiable(np.ones(2, dtype)) is verdict
