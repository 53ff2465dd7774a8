"""Kernels in short arrays: right ones pass, a factor of 1.02 does not, and what is declared counts."""

import ml_dtypes
import numpy as np
import pytest
import torch
from bptt_crosscheck import GradientMismatch, check_gradients, check_vjp, from_torch
from bptt_crosscheck.comparisons.errors import BadOption
from bptt_crosscheck.comparisons.problems.convention import Convention, Precision, precision_of
from bptt_crosscheck.comparisons.trial import low_precision
from bptt_crosscheck.comparisons.witnesses.tolerance import LOW_LIMIT

MIXED = {"arrays": "bfloat16", "accumulate": "float32"}
TORCH = ["torch"]


def attention(xp, params, inputs):
    q, k, v, state = (params[name] for name in ("q", "k", "v", "h0"))
    out = []
    for t in range(q.shape[0]):
        state = 0.9 * state + k[t, :, None] * v[t, None, :]
        out.append(xp.sum(state * q[t, :, None], axis=0))
    return xp.stack(out)


def numbers(steps=24, width=12):
    r = np.random.default_rng(3)
    params = {name: r.normal(size=(steps, width)) for name in "qkv"}
    return {**params, "h0": r.normal(size=(width, width))}


def kernel(factor=1.0, dtype=torch.bfloat16):
    """The product by torch: arrays in a short dtype, everything between them in float32."""

    def vjp(params, inputs, cotangents):
        leaves = {
            name: torch.tensor(value).to(dtype).requires_grad_() for name, value in params.items()
        }
        single = {name: leaf.to(torch.float32) for name, leaf in leaves.items()}
        out = attention(torch, single, {}).to(dtype).to(torch.float32)
        total = (out * torch.tensor(cotangents).to(torch.float32)).sum()
        found = torch.autograd.grad(total, list(leaves.values()))
        gradients = {
            name: value.double().numpy() for name, value in zip(leaves, found, strict=True)
        }
        return {**gradients, "k": factor * gradients["k"]}

    return vjp


def check(factor, precision, **options):
    asked = {"convention": {"precision": precision}, "references": TORCH, **options}
    return check_vjp(kernel(factor), attention, numbers(), {}, **asked)


@pytest.mark.parametrize("precision", ["bfloat16", MIXED])
def test_a_right_kernel_passes_and_its_rms_ratio_is_told(precision):
    report = check(1.0, precision)
    assert "RMS ratio at most 0.00" in str(report)
    ratios = [row.rms_ratio for row in report.rows]
    assert all(1e-4 < ratio < 5e-3 for ratio in ratios)
    assert report.to_dict()["cases"][0]["rows"][0]["rms_ratio"] == ratios[0]


@pytest.mark.parametrize("factor", [1.02, 0.98, 1.2])
def test_a_fiftieth_too_much_is_refused_where_sums_are_in_float32(factor):
    with pytest.raises(GradientMismatch, match=r"k: differs.*RMS ratio 0\.") as raised:
        check(factor, MIXED)
    assert "right: q, v, h0" in str(raised.value)


def test_a_fifth_too_much_is_refused_where_all_is_in_bfloat16():
    with pytest.raises(GradientMismatch, match="k: differs"):
        check(1.2, "bfloat16")


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 1 / 8), (MIXED, 1 / 25)])
def test_the_limit_does_not_grow_with_the_number_of_entries(precision, share):
    """Of 3,000 numbers as of 40 an error of this share of the largest entry is seen."""
    for params in (numbers(4, 3), numbers(48, 16)):
        asked = {"convention": {"precision": precision}, "references": TORCH}
        for row in check_vjp(kernel(), attention, params, {}, **asked).rows:
            largest = row.max_abs_error / row.max_rel_error
            assert LOW_LIMIT * row.noise < share * largest


def test_numbers_are_rounded_to_the_arrays_before_anybody_is_asked():
    seen = []

    def vjp(params, inputs, cotangents):
        seen.extend([*params.values(), cotangents])
        return kernel()(params, inputs, cotangents)

    asked = {"convention": {"precision": MIXED}, "references": TORCH}
    assert check_vjp(vjp, attention, numbers(), {}, **asked).passed
    for value in seen:
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, value.astype(ml_dtypes.bfloat16).astype(float))


def test_code_all_in_bfloat16_is_not_one_that_sums_in_float32():
    r = np.random.default_rng(0)
    params = {"a": r.uniform(0.8, 1.0, size=8)}
    inputs = {"x": r.normal(size=(200, 8))}

    def loss(xp, p, i):
        h, total = 0 * i["x"][0], 0.0
        for t in range(200):
            h = p["a"] * h + i["x"][t]
            total = total + xp.sum(h * h)
        return total

    def inside(p, i):
        low = [{name: value.bfloat16() for name, value in named.items()} for named in (p, i)]
        return loss(torch, *low).double()

    asked = {"references": TORCH, "raise_exception": False}
    declared = [{"convention": {"precision": name}} for name in ("bfloat16", MIXED)]
    plain, mixed = (
        check_gradients(from_torch(inside), loss, params, inputs, **asked, **one)
        for one in declared
    )
    assert plain.passed
    assert not mixed.passed


@pytest.mark.parametrize("number", range(0, 52, 4))
def test_right_code_of_every_manner(number):
    """One of each: a precision as it is declared, and a manner of computing in it."""
    seeds = range(number, number + 4)
    found = low_precision.look_at(seeds)
    assert not found.objections
    assert found.unseen <= 1
    assert len(found.ratios) >= 12


def test_every_manner_is_asked_for():
    asked = {low_precision.asked(seed)[1].name for seed in range(52)}
    assert asked == {
        manner.name for declared in low_precision.DECLARED for manner in declared.manners
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arrays": "bfloat16", "sums": "float32"}, "arrays"),
        ({"accumulate": "float32"}, "arrays"),
        ({"arrays": "bfloat61"}, "bfloat61"),
        ({"arrays": "float32", "accumulate": "bfloat16"}, "shorter"),
        ({"arrays": "bfloat16", "accumulate": 32}, "32"),
        ("single", "single"),
    ],
)
def test_a_precision_that_makes_no_sense(given, words):
    with pytest.raises(BadOption, match=words):
        check(1.0, given)


def test_a_precision_is_a_name_or_two():
    assert precision_of("float16") == Precision("float16")
    assert (
        precision_of(MIXED)
        == Precision("bfloat16", "float32")
        == precision_of(Precision("bfloat16", "float32"))
    )
    assert Convention(precision=MIXED).computes_in == Precision("bfloat16", "float32")
    assert Convention().computes_in is None


# The limit goes by gradient.


def product(xp, params, inputs):
    return xp.sum(xp.tanh(inputs["x"] @ params["W"] + params["b"]))


def derived(factor=1.0):
    def gradients(params, inputs):
        d = 1 - np.tanh(inputs["x"] @ params["W"] + params["b"]) ** 2
        found = {"W": inputs["x"].T @ d, "b": d.sum(axis=0)}
        found["W"] = factor * found["W"]
        return {name: value.astype(params[name].dtype) for name, value in found.items()}

    return gradients


def of_two_dtypes(short):
    r = np.random.default_rng(1)
    params = {"W": r.normal(size=(3, 4)), "b": r.normal(size=4).astype(short)}
    return params, {"x": r.normal(size=(5, 3))}


@pytest.mark.parametrize("short", ["float32", "float16", "bfloat16"])
def test_one_short_parameter_lowers_no_other_limit(short):
    question = of_two_dtypes(short)
    report = check_gradients(derived(), product, *question, references=TORCH)
    noise = {row.gradient: row.noise for row in report.rows}
    assert noise["W"] < 1e-13 < noise["b"]
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(derived(1 + 1e-9), product, *question, references=TORCH)


def test_inputs_in_float64_do_not_raise_the_limit_of_code_in_float32():
    params, inputs = of_two_dtypes("float32")
    single = {name: value.astype("float32") for name, value in params.items()}
    report = check_gradients(derived(), product, single, inputs, references=TORCH)
    assert all(row.noise > 1e-8 for row in report.rows)
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(derived(1.0001), product, single, inputs, references=TORCH)
