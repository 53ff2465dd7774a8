"""Clipping where a reference tells a gradient along directions only, and what is told of a norm."""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients
from bptt_crosscheck.comparisons.problems.answer import Answer
from bptt_crosscheck.comparisons.problems.clipping import TORCH_EPS, Bounds, Entries, Seen, reached
from bptt_crosscheck.comparisons.problems.convention import Convention

SIZE = 100  # more entries than numeric references tell one by one
rng = np.random.default_rng(0)
PARAMS = {"w": rng.normal(size=SIZE), "v": rng.normal(size=(3, 2))}
INPUTS = {"x": rng.normal(size=SIZE), "y": rng.normal(size=(3, 2))}


def loss(params, inputs):
    near = np.sum(np.sin(params["w"] * inputs["x"]))
    return near + np.sum(np.sin(params["v"] * inputs["y"]))


def gradients(params, inputs):
    w, v, x, y = params["w"], params["v"], inputs["x"], inputs["y"]
    return {"w": x * np.cos(w * x), "v": y * np.cos(v * y)}


def cut(bound):
    return lambda found: {name: np.clip(value, -bound, bound) for name, value in found.items()}


def normed(bound, eps=0.0):
    def clip(found):
        norm = np.sqrt(sum(np.sum(value**2) for value in found.values()))
        return {name: value * min(1.0, bound / (norm + eps)) for name, value in found.items()}

    return clip


def each(bound, eps=0.0):
    return lambda found: {
        name: normed(bound, eps)({name: value})[name] for name, value in found.items()
    }


# what is declared, and what does it
WAYS = {
    "value, not reached": ({"clip_value": 5}, cut(5)),
    "value, reached": ({"clip_value": 0.5}, cut(0.5)),
    "value, every entry": ({"clip_value": 1e-4}, cut(1e-4)),
    "norm, not reached": ({"clip_norm": 500}, normed(500)),
    "norm, reached": ({"clip_norm": 0.5}, normed(0.5)),
    "norm, by torch": ({"clip_norm": 0.5}, normed(0.5, 1e-6)),
    "norm of each, one reached": ({"clip_norm_each": 3}, each(3)),
    "norm of each, by torch": ({"clip_norm_each": 0.5}, each(0.5, 1e-6)),
    "value and norm": ({"clip_value": 0.5, "clip_norm": 2}, lambda g: normed(2)(cut(0.5)(g))),
    "value and norm of each": (
        {"clip_value": 0.5, "clip_norm_each": 2},
        lambda found: each(2)(cut(0.5)(found)),
    ),
    "scale and value": (
        {"scale": -3, "clip_value": 0.5},
        lambda g: cut(0.5)({name: -3 * value for name, value in g.items()}),
    ),
}


def check(does, declared, spoil=None, references="differences"):
    def given(params, inputs):
        found = gradients(params, inputs)
        return does(found if spoil is None else spoil(found))

    options = {"convention": declared, "references": references}
    return check_gradients(given, loss, PARAMS, INPUTS, **options, raise_exception=False)


@pytest.mark.parametrize("references", ["differences", "complex step"])
@pytest.mark.parametrize(("declared", "does"), WAYS.values(), ids=WAYS)
def test_a_declared_clip_is_decided_along_directions(declared, does, references):
    report = check(does, declared, references=references)
    assert report.passed
    assert {row.along_directions for row in report.rows if row.gradient == "w"} == {True}


def one_entry_off(found):
    """Of w, one that no bound above 0.5 reaches, by 1 %; a mistake that no norm hides."""
    w = found["w"].copy()
    at = np.flatnonzero((np.abs(w) > 0.05) & (np.abs(w) < 0.1))[0]
    w[at] *= 1.01
    return {**found, "w": w}


def a_sign_off(found):
    """Of the largest entry of w, which every bound cuts."""
    w = found["w"].copy()
    w[np.argmax(np.abs(w))] *= -1
    return {**found, "w": w}


@pytest.mark.parametrize("spoil", [one_entry_off, a_sign_off])
@pytest.mark.parametrize(("declared", "does"), WAYS.values(), ids=WAYS)
def test_and_a_mistake_under_it_is_seen(declared, does, spoil):
    if declared == {"clip_value": 1e-4} and spoil is one_entry_off:
        return  # it is cut away
    report = check(does, declared, spoil)
    assert {row.gradient for row in report.rows if not row.passed} >= {"w"}


@pytest.mark.parametrize(
    ("declared", "does"),
    [
        ({"clip_value": 0.5}, lambda found: found),
        ({"clip_value": 0.5}, cut(0.6)),
        ({"clip_value": 0.5}, cut(0.4)),
        ({"clip_norm": 0.5}, lambda found: found),
        ({"clip_norm": 0.5}, normed(0.6)),
        ({"clip_norm": 0.5}, normed(0.5, 1e-3)),
        ({"clip_norm": 0.5}, each(0.5)),
        ({"clip_norm_each": 0.5}, normed(0.5)),
        ({"clip_norm": 0.5, "clip_norm_eps": 0}, normed(0.5, 1e-6)),
        ({"clip_norm": 0.5, "clip_norm_eps": 1e-6}, normed(0.5)),
    ],
)
def test_another_clipping_than_the_declared_one_is_wrong(declared, does):
    assert not check(does, declared).passed


def test_nothing_is_loosened_for_torch():
    """Half of torch's 1e-6 is neither the one nor the other."""
    assert not check(normed(0.5, 0.5e-6), {"clip_norm": 0.5}).passed
    assert check(normed(0.5, 0.5e-6), {"clip_norm": 0.5, "clip_norm_eps": 0.5e-6}).passed


def test_which_of_the_two_was_followed_is_said_where_it_shows():
    words = "torch's clip_grad_norm_, which divides by norm + 1e-06"
    assert words in str(check(normed(0.5, TORCH_EPS), {"clip_norm": 0.5}))
    assert words not in str(check(normed(0.5), {"clip_norm": 0.5}))
    assert words not in str(check(normed(500, TORCH_EPS), {"clip_norm": 500}))


def test_by_torch_itself():
    import torch

    def by_torch(found, **options):
        tensors = [torch.zeros(value.shape, dtype=torch.float64) for value in found.values()]
        for tensor, value in zip(tensors, found.values(), strict=True):
            tensor.grad = torch.tensor(value)
        torch.nn.utils.clip_grad_norm_(tensors, 0.25, **options)
        return {name: t.grad.numpy() for name, t in zip(found, tensors, strict=True)}

    assert check(by_torch, {"clip_norm": 0.25}).passed
    assert not check(by_torch, {"clip_norm_each": 0.25}).passed
    with_another_norm = lambda found: by_torch(found, norm_type=1.0)  # noqa: E731
    assert not check(with_another_norm, {"clip_norm": 0.25}).passed


def test_the_noise_shrinks_with_the_gradient():
    """Of a gradient of 1e9 clipped to 1, an error of 1e-9 is no rounding."""

    def large(xp, params, inputs):
        return 1e9 * xp.sum(xp.sin(params["w"] * inputs["x"]))

    def clipped(factor):
        def given(params, inputs):
            w, x = params["w"], inputs["x"]
            found = normed(1)({"w": 1e9 * x * np.cos(w * x)})
            found["w"][3] *= factor
            return found

        return given

    asked = (large, {"w": PARAMS["w"][:9]}, {"x": INPUTS["x"][:9]})
    assert check_gradients(clipped(1), *asked, convention={"clip_norm": 1}).passed
    with pytest.raises(GradientMismatch):
        check_gradients(clipped(1 + 1e-11), *asked, convention={"clip_norm": 1})


def test_entries_that_reach_a_bound():
    assert reached(np.array([[0.5, -0.5], [0.499, np.nan]]), 0.5).tolist() == [0, 1]
    third = np.array([1 / 3], np.float32)
    assert reached(third, 1 / 3).tolist() == [0]


def test_what_is_known_only_along_directions():
    true = np.array([3.0, -4.0, 0.5])
    directions = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    answer = Answer(0.0, {"w": directions @ true}, directions={"w": directions})
    given = np.clip(true, -2, 2)
    seen = Seen({"w": given}, {"w": Entries(np.array([0, 1]), true[:2])})
    told = Convention(clip_value=2).apply(answer, None, None, {"w"}, seen)
    assert told.gradients["w"] == pytest.approx(directions @ given)
    norm = float(np.linalg.norm(true))
    told = Convention(clip_norm=1).apply(answer, None, None, {"w"}, Seen({"w": true / norm}))
    assert told.gradients["w"] == pytest.approx(directions @ true / norm)
    # of no use to measure a norm by: the mean square of the inner products is left
    told = Convention(clip_norm=1).apply(answer, None, None, {"w"}, Seen({"w": 0 * true}))
    assert np.all(np.isfinite(told.gradients["w"]))


def test_the_uncertainty_of_a_reference_is_scaled_with_its_gradient():
    answer = Answer(0.0, {"w": np.array([3.0, 4.0])}, uncertainty={"w": 1e-3})
    assert Convention(scale=-2).apply(answer, None, None, {"w"}).uncertainty["w"] == 2e-3
    clipped = Convention(clip_norm=1).apply(answer, None, None, {"w"})
    assert clipped.uncertainty["w"] == pytest.approx(2e-4)


@pytest.mark.parametrize(("norm", "shrunk"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (8.0, 0.25)])
def test_a_coefficient(norm, shrunk):
    assert Bounds(norm=2.0).coefficient(norm) == shrunk
    assert Bounds().coefficient(norm) == 1.0
    assert Bounds(norm=2.0, eps=8.0).coefficient(norm) == pytest.approx(min(1, 2 / (norm + 8)))


def rows_loss(xp, params, inputs):
    return xp.sum(xp.sin(inputs["x"] @ params["W"].T)) + xp.sum(params["b"] ** 2)


def rows_gradients(params, inputs):
    W, x = params["W"], inputs["x"]
    slope = np.cos(x @ W.T)
    return {"W": slope.T @ x, "b": 2 * params["b"], "x": slope @ W}


ROWS = (
    {"W": rng.normal(size=(4, 3)), "b": rng.normal(size=4)},
    {"x": rng.normal(size=(5, 3))},
)
FOLLOW_NONE = "clipping: the gradients of the parameters are clipped, those of x are not"


def params_only(does):
    def clip(found):
        mine = {name: value for name, value in found.items() if name != "x"}
        return {**found, **does(mine)}

    return clip


@pytest.mark.parametrize(
    ("declared", "does"),
    [
        ({"clip_norm": 0.25}, normed(0.25)),
        ({"clip_norm": 0.25}, normed(0.25, 1e-6)),
        ({"clip_norm_each": 0.25}, each(0.25, 1e-6)),
        ({"clip_value": 0.5}, cut(0.5)),
        ({"clip_value": 0.5, "clip_norm": 0.25}, lambda g: normed(0.25)(cut(0.5)(g))),
    ],
)
def test_parameters_are_clipped_and_inputs_not(declared, does):
    """Whichever the gradients follow is exact: half of the one and half of the other is wrong."""

    def ask(clip, declared, **options):
        given = lambda p, i: clip(rows_gradients(p, i))  # noqa: E731
        told = {"convention": declared, "references": "torch", "raise_exception": False}
        return check_gradients(given, rows_loss, *ROWS, **told, **options)

    report = ask(params_only(does), declared)
    assert report.passed
    assert FOLLOW_NONE in str(report)
    report = ask(does, declared)
    assert report.passed
    assert FOLLOW_NONE not in str(report)
    assert not ask(params_only(does), {**declared, "clipped": "all"}).passed
    assert not ask(does, {**declared, "clipped": "params"}).passed
    assert ask(params_only(does), {**declared, "clipped": "params"}).passed
    assert ask(does, {**declared, "clipped": "all"}).passed

    def half(found):
        return {**does(found), "x": 0.5 * (found["x"] + does(found)["x"])}

    assert not ask(half, declared).passed

    def only_b(found):
        return {**found, "b": params_only(does)(found)["b"]}

    assert not ask(only_b, declared).passed


def test_one_wrong_gradient_does_not_decide_for_the_others():
    def given(params, inputs):
        found = rows_gradients(params, inputs)
        return params_only(normed(0.25, 1e-6))({**found, "b": found["b"] * np.arange(4)})

    def pieces(spoiled, *at):
        found = params_only(normed(0.25, 1e-6))(rows_gradients(*at))
        return {**found, "b": found["b"] * np.arange(4)} if spoiled else found

    asked = {"convention": {"clip_norm": 0.25}, "references": "torch", "raise_exception": False}
    report = check_gradients(lambda p, i: pieces(True, p, i), rows_loss, *ROWS, **asked)
    assert {row.gradient for row in report.rows if not row.passed} == {"b"}
    assert check_gradients(lambda p, i: pieces(False, p, i), rows_loss, *ROWS, **asked).passed
    assert not check_gradients(given, rows_loss, *ROWS, **asked).passed
