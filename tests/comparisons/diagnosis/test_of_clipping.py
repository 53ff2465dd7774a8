"""Clipping is named by its bound, where a person chose one and it was reached to the last digit;
what merely looks like it is not.
"""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients
from bptt_crosscheck.comparisons.diagnosis.of_clipping import Sight, norm_reached
from bptt_crosscheck.comparisons.diagnosis.pairs import Pair

from tests.comparisons.small import TORCH

rng = np.random.default_rng(3)
SHAPES = {"A": (3, 2), "B": (4,), "x": (2, 2)}
TRUE = {name: 4 * rng.normal(size=shape) for name, shape in SHAPES.items()}
PARAMS = {name: np.ones(shape) for name, shape in SHAPES.items() if name != "x"}
INPUTS = {"x": np.ones(SHAPES["x"])}


def diagnoses(does, true=TRUE, dtype=np.float64):
    """The diagnosis of a loss whose gradients are `true`, and which `does` this to them."""

    def loss(xp, params, inputs):
        both = {**params, **inputs}
        return sum(xp.sum(both[name] * xp.asarray(value)) for name, value in true.items())

    def gradients(params, inputs):
        return {name: value.astype(dtype) for name, value in does(dict(true)).items()}

    params = {name: value.astype(dtype) for name, value in PARAMS.items()}
    inputs = {name: value.astype(dtype) for name, value in INPUTS.items()}
    report = check_gradients(gradients, loss, params, inputs, **TORCH, raise_exception=False)
    assert not report.passed
    return [found.text for found in report.cases[0].diagnosis]


def cut(bound, names=tuple(SHAPES)):
    return lambda found: {
        name: np.clip(value, -bound, bound) if name in names else value
        for name, value in found.items()
    }


def normed(bound, names=tuple(SHAPES), eps=0.0):
    def clip(found):
        norm = np.sqrt(sum(np.sum(found[name] ** 2) for name in names))
        share = bound / (norm + eps)
        return {name: value * share if name in names else value for name, value in found.items()}

    return clip


def test_of_all():
    assert diagnoses(cut(1)) == ["exact up to clipping at ±1"]
    assert diagnoses(cut(1 / 3)) == ["exact up to clipping at ±0.333333"]
    assert diagnoses(normed(0.25)) == [
        "exact up to clipping all gradients together to the global norm 0.25"
    ]
    [text] = diagnoses(normed(0.25, eps=1e-6))
    assert text.endswith("norm 0.25 as torch's clip_grad_norm_ clips it, by norm + 1e-06")
    [text] = diagnoses(normed(0.25, eps=1e-8))
    assert text.endswith("to the global norm 0.25 by norm + 1e-08")
    [text] = diagnoses(normed(1 / 3))
    assert text.startswith("exact up to the factor 0.0")


def test_of_one_array_beside_another_mistake():
    def spoiled_b(found):
        return {**found, "B": found["B"] ** 2}

    assert diagnoses(lambda found: spoiled_b(cut(1)(found))) == [
        "A is exact up to clipping at ±1",
        "x is exact up to clipping at ±1",
    ]
    assert diagnoses(lambda found: spoiled_b(cut(1, "A")(found))) == [
        "A is exact up to clipping at ±1"
    ]
    assert diagnoses(lambda found: spoiled_b(normed(0.25, "A")(found))) == [
        "A is exact up to clipping to norm 0.25"
    ]
    assert diagnoses(lambda found: spoiled_b(normed(0.25, "AB")(found))) == [
        f"A is exact up to the factor {normed(0.25, 'AB')(TRUE)['A'][0, 0] / TRUE['A'][0, 0]:.10g}"
    ]
    # clipped last, by the norm of right and wrong together
    for eps, words in ((0.0, ""), (1e-6, " as torch's clip_grad_norm_ clips it, by norm + 1e-06")):
        assert diagnoses(lambda found, eps=eps: normed(0.25, eps=eps)(spoiled_b(found))) == [
            "A, x are exact up to clipping all gradients together to the global norm 0.25" + words
        ]


def test_of_parameters_and_not_of_inputs():
    assert diagnoses(normed(0.25, "AB")) == [
        "A, B are exact up to clipping, together, to norm 0.25"
    ]
    assert diagnoses(cut(1, "AB")) == [
        "A is exact up to clipping at ±1",
        "B is exact up to clipping at ±1",
    ]


def test_of_each_by_itself():
    def each(found, bound=0.5):
        return {**found, **{n: normed(bound, n)({n: v})[n] for n, v in found.items()}}

    assert diagnoses(each) == ["exact up to clipping each array by itself to norm 0.5"]
    small = {**TRUE, "B": TRUE["B"] / 100}
    kept = lambda found: {**each(found), "B": found["B"]}  # noqa: E731
    assert np.linalg.norm(small["B"]) < 0.5
    assert diagnoses(kept, small) == ["exact up to clipping each array by itself to norm 0.5"]
    # the twin: what was kept is larger than the norm that the others were scaled down to
    assert diagnoses(kept) == [
        "A is exact up to clipping to norm 0.5",
        "x is exact up to clipping to norm 0.5",
    ]


@pytest.mark.parametrize("bound", [5, 0.5, 0.125, 100])
def test_one_entry_reaches_it(bound):
    alone = {"A": np.array([[1.0, -2.0], [6.5, 0.3], [0.2, 0.1]]) * bound / 5, "B": np.ones(4) / 9}
    assert diagnoses(cut(bound), alone) == [f"exact up to clipping at ±{bound}"]


def test_one_entry_that_is_wrong_is_no_clipping():
    alone = {"A": np.array([[1.0, -2.0], [6.5, 0.3], [0.2, 0.1]]), "B": np.ones(4)}

    def to(value):
        def spoil(found):
            spoiled = found["A"].copy()
            spoiled[1, 0] = value
            return {**found, "A": spoiled}

        return spoil

    assert diagnoses(to(5.0), alone) == ["exact up to clipping at ±5"]
    assert diagnoses(to(5.123456), alone) == []  # nobody chose this bound
    assert diagnoses(to(8.0), alone) == []  # larger than the truth
    assert diagnoses(to(-5.0), alone) == []
    assert diagnoses(to(1.5), alone) == []  # another entry is larger


def test_two_equal_entries_that_are_equally_wrong_are_no_clipping():
    alike = {"A": np.array([[7.3, 7.3], [1.0, 0.3], [0.2, 0.1]]), "B": np.ones(4)}

    def less(found):
        return {**found, "A": np.where(found["A"] > 7, 5.123456, found["A"])}

    assert diagnoses(less, alike) == []
    alike["A"][0, 1] = 9.1
    assert diagnoses(less, alike) == ["exact up to clipping at ±5.12346"]


def test_all_but_one_entry_clipped_is_no_clipping():
    def but_one(found):
        clipped = cut(1)(found)
        clipped["B"][np.argmax(np.abs(found["B"]))] *= 0.9
        return clipped

    assert diagnoses(but_one) == [
        "A is exact up to clipping at ±1",
        "x is exact up to clipping at ±1",
    ]


def test_in_float32():
    assert diagnoses(cut(0.7), dtype=np.float32) == ["exact up to clipping at ±0.7"]
    assert diagnoses(normed(0.25), dtype=np.float32) == [
        "exact up to clipping all gradients together to the global norm 0.25"
    ]


def test_a_factor_of_few_digits_stays_one():
    """Half of a gradient of norm 10 has the norm 5: the one and the other are said."""
    alone = {"A": np.array([[6.0, 8.0], [0, 0], [0, 0]]), "B": np.zeros(4)}
    assert diagnoses(lambda found: {**found, "A": found["A"] / 2}, alone) == [
        "exact up to the factor 1/x.shape[0] = 1/2, in every gradient",
        "exact up to clipping all gradients together to the global norm 5",
    ]


def test_a_norm_along_directions():
    size = 100
    given = {"w": np.linspace(-1, 2, size)}

    def gradients(params, inputs):
        plain = 2 * params["w"]
        return {"w": plain * 0.25 / np.linalg.norm(plain)}

    with pytest.raises(GradientMismatch, match="to the global norm 0.25\n"):
        check_gradients(
            gradients, lambda p, i: np.sum(p["w"] ** 2), given, {}, references="differences"
        )


@pytest.mark.parametrize(
    ("roundoff", "value", "bound"),
    [
        (2e-16, 0.25, 0.25),
        (2e-16, 0.25 * (1 + 1e-14), 0.25),
        (2e-16, 0.25 * (1 + 1e-10), None),
        (2e-16, 1 / 3, None),
        (2e-16, 0.0, None),
        (1e-7, float(np.float32(0.7)), 0.7),
        (1e-7, 0.333, None),  # two digits are all that can be told
        (1e-3, 0.5, None),  # every number is near one of few digits
    ],
)
def test_a_bound_that_a_person_chose(roundoff, value, bound):
    assert Sight(roundoff).bound(value) == bound


def test_a_gradient_that_grew_was_not_clipped():
    pair = Pair("w", np.array([3.0, 4.0]), np.array([1.5, 2.0]), 1e-15)
    assert norm_reached([pair], 2.0, Sight(2e-16)) is None
    assert norm_reached([pair], 0.5, Sight(2e-16)).bound == 5
