"""How much disagreement rounding explains: enough for what is right, far too little for what is
wrong.
"""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.problems.cases import CASES
from bptt_crosscheck.comparisons.problems.problem import OFFSET, FunctionProblem
from bptt_crosscheck.comparisons.witnesses import tolerance
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES

EPS = {"float64": 2.0**-52, "float32": 2.0**-23}


def noise_of(one):
    answer = one.torch.answer(one.problem)
    return tolerance.measure(one.problem, one.torch.answer, answer, at_random=True), answer


def test_unit_is_a_unit_roundoff_by_the_root_of_the_number_of_terms(trial):
    problem = trial("tanh").problem
    assert tolerance.unit(problem) == pytest.approx(EPS["float64"] * (12 * (3 + 5 + 4)) ** 0.5)
    assert tolerance.unit(problem, 9) == pytest.approx(3 * tolerance.unit(problem))
    assert tolerance.unit(problem.astype("float32")) == pytest.approx(
        2.0**29 * tolerance.unit(problem)
    )


@pytest.mark.parametrize("dtype", EPS)
def test_a_perturbation_moves_every_variable_by_at_most_a_unit_roundoff(trial, dtype):
    problem = trial("tanh", dtype=dtype).problem
    moved = tolerance.perturb(problem, np.random.default_rng(0))
    for name, value in problem.variables.items():
        change = np.abs(moved.variables[name] - value)
        assert moved.variables[name].dtype == dtype
        assert (change <= 1.51 * EPS[dtype] * np.abs(value)).all()
        assert change.any(), name
    for name, value in problem.constants.items():
        np.testing.assert_array_equal(moved.constants[name], value)


def test_a_perturbation_moves_the_cells_weights_differently_at_every_step(trial):
    problem = trial("tanh").problem
    moved = tolerance.perturb(problem, np.random.default_rng(0)).variables
    assert {name for name in moved if name.endswith(OFFSET)} == {"W_xh@t", "W_hh@t", "b_h@t"}
    assert moved["W_hh@t"].shape == (12, 5, 5)
    assert (
        np.abs(moved["W_hh@t"]) <= 1.01 * EPS["float64"] * np.abs(problem.variables["W_hh"])
    ).all()
    assert (moved["W_hh@t"][0] != moved["W_hh@t"][1]).any()
    still = tolerance.perturb(problem, np.random.default_rng(0), every_step=False).variables
    assert not [name for name in still if name.endswith(OFFSET)]


def test_a_zero_stays_zero(trial):
    moved = tolerance.perturb(trial("tanh-zero-state").problem, np.random.default_rng(0))
    assert not moved.variables["h_0"].any()


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_what_the_limit_lets_pass_is_tiny(trial, name):
    """LIMIT times the noise stays below a ten-millionth of the gradient, and of each step's
    largest share.
    """
    noise, answer = noise_of(trial(name))
    for quantity, value in tolerance.quantities(answer).items():
        assert 0 < tolerance.LIMIT * noise.total[quantity] < 1e-7 * np.abs(value).max(), quantity
    for quantity, shares in tolerance.step_quantities(answer).items():
        sizes = np.abs(shares).reshape(len(shares), -1).max(axis=1)
        alive = sizes > 0
        assert (tolerance.LIMIT * noise.steps[quantity][alive] < 1e-7 * sizes[alive]).all(), (
            quantity
        )
        assert noise.steps[quantity].shape == (len(shares),)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_an_error_of_a_hundred_billionth_is_above_the_limit(trial, name):
    noise, answer = noise_of(trial(name))
    for gradient, value in answer.gradients.items():
        assert tolerance.LIMIT * noise.total[gradient] < 1e-11 * np.abs(value).max(), gradient


def test_noise_is_that_of_the_precision(trial):
    double, _ = noise_of(trial("tanh"))
    single, _ = noise_of(trial("tanh", dtype="float32"))
    for name in ("W_hh", "h_0", tolerance.LOSS, tolerance.of_state("h")):
        assert 1e7 < single.total[name] / double.total[name] < 1e11


def test_noise_is_at_least_the_floor(trial):
    """ε for what is rounded step by step, ε √n for one sum over all steps, and for all where
    nothing rounds at random.
    """
    noise, answer = noise_of(trial("tanh"))
    unit, eps = tolerance.unit(trial("tanh").problem), EPS["float64"]
    summed = np.abs(answer.steps["W_hh"]).max(axis=(1, 2)).sum()
    assert noise.total["W_hh"] >= eps * summed > eps * np.abs(answer.gradients["W_hh"]).max()
    assert noise.total["b_y"] >= unit * np.abs(answer.gradients["b_y"]).max()
    assert (noise.steps["W_hh"] >= eps * np.abs(answer.steps["W_hh"]).max(axis=(1, 2))).all()
    still = tolerance.measure(trial("tanh").problem, trial("tanh").torch.answer, answer, samples=0)
    assert still.total["W_hh"] == pytest.approx(unit * summed)
    assert still.steps["W_hh"] == pytest.approx(
        unit * np.abs(answer.steps["W_hh"]).max(axis=(1, 2))
    )


def test_terms_that_cancel_do_not_hide(trial):
    """Two rows that mirror each other: the shares of b_h cancel within rounding, and the noise is
    still that of the shares.
    """
    one = trial("identity", batch=2, positions="every", reduction="sum")
    target, x, h_0 = (
        one.problem.constants["target"],
        one.problem.variables["x"],
        one.problem.variables["h_0"],
    )
    zero = {name: np.zeros_like(one.problem.variables[name]) for name in ("b_h", "b_y")}
    mirrored = one.but(
        x=np.stack([x[:, 0], -x[:, 0]], axis=1), h_0=np.stack([h_0[0], -h_0[0]]), **zero
    )
    constants = {
        **mirrored.problem.constants,
        "target": np.stack([target[:, 0], -target[:, 0]], axis=1),
    }
    mirrored = replace(mirrored, problem=replace(mirrored.problem, constants=constants))
    noise, answer = noise_of(mirrored)
    assert np.abs(answer.gradients["b_h"]).max() < 1e-12
    assert noise.total["W_hh"] > 1e-16
    assert mirrored.check().passed


def test_a_step_that_has_vanished_is_judged_by_its_own_size(trial):
    one = trial("tanh", positions="last")
    noise, answer = noise_of(one.but(W_hh=0.01 * one.problem.variables["W_hh"]))
    sizes = np.abs(answer.steps["W_hh"]).max(axis=(1, 2))
    assert sizes[0] < 1e-16 * sizes[-1]
    assert noise.steps["W_hh"][0] < 1e-10 * sizes[0]


def test_what_a_recurrence_amplifies_is_noise(trial):
    """Identity with gain 4 over 12 steps: the response is larger than the floor alone would say."""
    one = trial("identity")
    calm, _ = noise_of(one)
    wild, answer = noise_of(one.but(W_hh=4 * one.problem.variables["W_hh"]))
    unit = tolerance.unit(one.problem)
    assert wild.total["h_0"] > unit * np.abs(answer.gradients["h_0"]).max()
    assert wild.total["h_0"] > 1e3 * calm.total["h_0"]


def test_noise_is_the_same_for_the_same_seed(trial):
    problem = trial("tanh").problem
    one, two = (
        tolerance.measure(problem, torch.answer, torch.answer(problem))
        for torch in (ENGINES[0], trial("tanh").torch)
    )
    assert one.total == two.total
    other, _ = noise_of(trial("tanh", seed=1))
    assert other.total != one.total


def test_noise_does_not_vanish_where_results_are_flushed_to_zero(trial):
    noise, _ = noise_of(
        trial("tanh", positions="last", steps=30).but(
            W_hh=1e-12 * trial("tanh").problem.variables["W_hh"]
        )
    )
    assert (noise.steps["W_hh"] >= np.finfo(np.float64).tiny).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_has_no_finite_noise(trial, value):
    one = trial("tanh")
    answer = one.torch.answer(one.problem)
    broken = replace(answer, gradients={**answer.gradients, "W_hh": np.full((5, 5), value)})
    noise = tolerance.measure(one.problem, lambda problem, seed: broken, broken)
    assert not np.isfinite(noise.total["W_hh"])
    assert np.isfinite(noise.total["b_h"])


def test_noise_grows_with_samples_and_only_grows(trial):
    problem, torch = trial("gru").problem, trial("gru").torch
    one, four = (
        tolerance.measure(problem, torch.answer, torch.answer(problem), samples, True)
        for samples in (1, 4)
    )
    assert all(four.total[name] >= level for name, level in one.total.items())
    assert any(four.total[name] > level for name, level in one.total.items())


PRECISIONS = {
    "float64": (2.0**-52, 2.0**-1022),
    "float32": (2.0**-23, 2.0**-126),
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 2.0**-126),
}


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_numbers_of_a_precision(dtype):
    assert (tolerance.epsilon(dtype), tolerance.smallest(dtype)) == PRECISIONS[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_noise_of_a_lower_precision_is_what_the_reference_makes_in_it(trial, dtype):
    """Its own error against float64, and of its size: between a third of it and thirty times it."""
    problem = trial("lstm").problem.in_precision(dtype)
    torch = ENGINES[0]
    truth, lowered = torch.answer(problem), torch.answer(problem.lowered())
    noise = tolerance.measure(problem, torch.answer, truth, at_random=True)
    assert noise.limit == tolerance.LOW_LIMIT
    for name in ("W_hh", "b_h", "h_0", "x"):
        error = float(
            np.abs(truth.gradients[name] - lowered.gradients[name].astype(np.float64)).max()
        )
        assert error / 3 < noise.total[name] < 30 * error, name


# Short arrays.


def short_problem(precision, accumulate=None):
    r = np.random.default_rng(0)
    return FunctionProblem(
        name="waves",
        function=lambda xp, named: xp.sum(xp.sin(named["w"] * named["x"])),
        variables={"w": r.normal(size=500), "x": r.normal(size=500)},
        constants={},
        seed=0,
        precision=precision,
        accumulate=accumulate,
    ).rounded_to(precision)


@pytest.mark.parametrize(
    ("precision", "accumulate", "short"),
    [
        ("float32", None, False),
        ("float16", None, True),
        ("bfloat16", None, True),
        ("bfloat16", "float32", True),
        ("float32", "float64", True),
    ],
)
def test_which_arrays_are_short(precision, accumulate, short):
    assert tolerance.is_short(short_problem(precision, accumulate)) == short


def test_a_cell_keeps_the_floor_of_its_shares(trial):
    assert not tolerance.is_short(trial("lstm").problem.in_precision("float16"))


@pytest.mark.parametrize("accumulate", [None, "float32"])
def test_one_roundoff_of_the_largest_entry_and_no_root_of_their_number(accumulate):
    problem, torch = short_problem("bfloat16", accumulate), ENGINES[0]
    truth = torch.answer(problem)
    noise = tolerance.measure(problem, torch.answer, truth, samples=4, at_random=True)
    largest, eps = np.abs(truth.gradients["w"]).max(), PRECISIONS["bfloat16"][0]
    assert noise.limit == tolerance.LOW_LIMIT
    assert len(problem.variables["w"]) ** 0.5 > 20
    assert eps * largest < noise.limit * noise.total["w"] < 10 * eps * largest
    size = tolerance.rms(truth.gradients["w"])
    assert eps / 2 * size < noise.limit * noise.rms["w"] < 4 * eps * size


def test_sums_in_float32_are_allowed_less():
    torch = ENGINES[0]
    plain, mixed = (
        tolerance.measure(one, torch.answer, torch.answer(one), at_random=True)
        for one in (short_problem("bfloat16"), short_problem("bfloat16", "float32"))
    )
    assert mixed.rms["w"] < plain.rms["w"]


def test_noise_of_a_shorter_gradient_is_told_in_the_limit_of_all():
    whole = tolerance.Noise({"W": 1e-15, "b": 1e-15}, {"b": np.ones(2)})
    single = tolerance.Noise({"W": 1.0, "b": 1.0}, {"b": np.ones(2)}, 4.0, rms={"b": 2.0})
    told = tolerance.by_gradient(whole, {"b": single})
    assert told.limit == 16.0
    assert told.total == {"W": 1e-15, "b": 0.25}
    assert told.rms == {"b": 0.5}
    np.testing.assert_array_equal(told.steps["b"], [0.25, 0.25])
