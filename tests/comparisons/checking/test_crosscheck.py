"""The heart: what is right agrees, and each planted mistake is named where it was planted."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.candidates.built_in_cells import CellCandidate, built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking import environment
from bptt_crosscheck.comparisons.checking.crosscheck import check_problem
from bptt_crosscheck.comparisons.checking.environment import report_of
from bptt_crosscheck.comparisons.errors import (
    MissingFramework,
    NotFinite,
    QuestionError,
    UnknownName,
)
from bptt_crosscheck.comparisons.problems.cases import CASES, Case
from bptt_crosscheck.comparisons.witnesses import ask as asking
from bptt_crosscheck.comparisons.witnesses import tolerance
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES
from bptt_crosscheck.manual.activations import ACTIVATIONS
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.losses import LOSSES
from hypothesis import given, settings
from hypothesis import strategies as st

GRADIENTS = ("W_xh", "W_hh", "b_h", "W_hy", "b_y", "x", "h_0")
JACOBIANS = ("state_jacobian", "jacobian_product_to_end")
HAVE_STEPS = ("W_xh", "W_hh", "b_h", "x", "h_0", *JACOBIANS)

every_case = pytest.mark.parametrize("name", [case.name for case in CASES])


def failed(report):
    """{gradient: reason} of the rows that do not agree."""
    return {row.gradient: row.reason for row in report.failures()}


def row_of(report, gradient, reference="torch"):
    (row,) = (row for row in report.rows if (row.gradient, row.reference) == (gradient, reference))
    return row


# What is right.


@every_case
def test_the_derivation_agrees(trial, name):
    report = trial(name).check()
    assert report.passed, report.failures()
    told = set(trial(name).problem.variables) | (
        set(JACOBIANS) if trial(name).problem.jacobians else set()
    )
    told -= {"x"} if trial(name).case.algorithm == "rtrl" else set()
    assert {row.gradient for row in report.rows} == told
    assert {row.gradient for row in report.forward} == {
        "loss",
        *(f"state {part}" for part in trial(name).problem.state_sizes),
    }
    assert report.worst_over_noise() < tolerance.LIMIT / 4


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_references_are_asked(trial, dtype):
    report = trial("tanh", dtype=dtype).check(references=("torch", "jax", "torch.nn"))
    assert report.passed, report.failures()
    assert {(row.gradient, row.reference) for row in report.rows} == (
        {(name, engine) for name in GRADIENTS for engine in ("torch", "jax", "torch.nn")}
        | {(name, engine) for name in JACOBIANS for engine in ("torch", "jax")}
    )
    assert not report.left_out


@given(
    sizes=st.fixed_dictionaries(
        {
            name: st.integers(1, top)
            for name, top in (
                ("steps", 6),
                ("batch", 3),
                ("input_size", 4),
                ("hidden_size", 5),
                ("output_size", 4),
            )
        }
    ),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    inputs=st.sampled_from(["dense", "tokens"]),
    loss=st.sampled_from(sorted(LOSSES)),
    positions=st.sampled_from(["every", "last", "masked"]),
    reduction=st.sampled_from(["sum", "mean"]),
    initial_state=st.sampled_from(["random", "zero"]),
    gain=st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float64", "float32"]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_derivation_agrees_whatever_the_problem(sizes, activation, gain, seed, dtype, **how):
    case = Case("drawn", "rnn", {"activation": activation}, jacobians=seed % 2 == 0, **sizes, **how)
    problem = problem_of(case, seed, dtype)
    problem = problem.with_variables({"W_hh": (gain * problem.variables["W_hh"]).astype(dtype)})
    report = check_problem(problem, built_in("rnn", case.options), ENGINES[:1])
    assert report.passed, report.failures()


def test_a_report_says_what_the_problem_was(trial):
    report = trial("tanh").check()
    assert (report.name, report.cell, report.seconds > 0) == ("tanh", "rnn", True)
    sizes = (report.steps, report.batch, report.input_size, report.hidden_size, report.output_size)
    assert sizes == (12, 3, 4, 5, 6)


def test_the_same_problem_gives_the_same_numbers(trial):
    one, two = (
        check_problem(trial("tanh").problem, trial("tanh").candidate, ENGINES[:1]) for _ in range(2)
    )
    assert one.rows == two.rows
    assert one.forward == two.forward
    assert trial("tanh", seed=1).check().rows != one.rows


# An error in one number.


@every_case
def test_a_millionth_in_one_entry_of_any_gradient(trial, with_gradient, name):
    """In each gradient in turn: its row fails, at that index, and no other row does."""
    right = trial(name).check()
    for gradient in {row.gradient for row in right.rows}:
        index = planted = None

        def plant(value):
            nonlocal index, planted
            at = np.unravel_index(np.argmax(np.abs(value)), value.shape)
            value[at] *= 1 + 1e-6
            if value.dtype == np.float64:  # a failure is asked for once more, in longdouble
                index, planted = at, value[at]
            return value

        report = trial(name).planted(with_gradient(gradient, plant))
        assert failed(report) == {gradient: "differs"}
        row = row_of(report, gradient)
        assert (row.passed, row.worst_index, row.candidate_value) == (
            False,
            [int(i) for i in index],
            planted,
        )
        assert row.max_rel_error == pytest.approx(1e-6, rel=1e-3)
        assert row.first_wrong_step is None, "the shares of the steps were right"


@pytest.mark.parametrize("index", [(0, 0), (0, 4), (2, 3), (4, 0), (4, 4)])
def test_a_millionth_in_any_entry(trial, with_gradient, index):
    def plant(value):
        value[index] *= 1 + 1e-6
        return value

    report = trial("tanh").planted(with_gradient("W_hh", plant))
    assert failed(report) == {"W_hh": "differs"}
    assert row_of(report, "W_hh").worst_index == list(index)


def test_a_rounding_error_is_none(trial, with_gradient):
    for gradient in (*GRADIENTS, *JACOBIANS):
        assert (
            trial("tanh")
            .planted(with_gradient(gradient, lambda value: value * (1 + 2**-51)))
            .passed
        )


@every_case
def test_a_millionth_in_one_share_of_any_gradient(trial, with_gradient, name):
    """In the middle step of each gradient that has steps: that step is named, although the whole
    is right.
    """
    for gradient in trial(name).candidate.answer(trial(name).problem).steps:
        number = None

        def plant(shares):
            nonlocal number
            sizes = np.abs(shares).reshape(len(shares), -1).max(axis=1)
            alive = np.flatnonzero(sizes)
            if len(alive) == 0:
                return shares
            number = int(alive[len(alive) // 2])
            shares[number] *= 1 + 1e-6
            return shares

        report = trial(name).planted(with_gradient(gradient, plant, "steps"))
        if number is None:
            assert report.passed
            continue
        first = 0 if gradient.endswith("_0") or gradient == "jacobian_product_to_end" else 1
        first = (
            1 if gradient.endswith("_reverse_0") else first
        )  # the initial state of a reverse direction is that of step T + 1
        assert failed(report) == {gradient: "differs"}
        assert row_of(report, gradient).first_wrong_step == number + first
        assert row_of(report, gradient).error_over_noise <= tolerance.LIMIT


@pytest.mark.parametrize("gradient", ["W_xh", "W_hh", "b_h", "x", "h_0"])
@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_a_tenth_in_the_smallest_share(trial, gain, gradient):
    """Under a loss at the last step alone the first share has nearly vanished, and the error in it
    vanishes in the whole.
    """
    vanishing = trial("tanh", positions="last")
    vanishing = vanishing.but(W_hh=gain * vanishing.problem.variables["W_hh"])
    answer = vanishing.candidate.answer(vanishing.problem)
    sizes = np.abs(answer.steps[gradient]).reshape(len(answer.steps[gradient]), -1).max(axis=1)
    smallest = int(sizes.argmin())

    def plant(right):
        shares = right.steps[gradient].copy()
        error = 0.1 * shares[smallest]
        shares[smallest] += error
        whole = right.gradients[gradient] + (error if gradient in ("W_xh", "W_hh", "b_h") else 0)
        return replace(
            right,
            steps={**right.steps, gradient: shares},
            gradients={**right.gradients, gradient: whole},
        )

    assert vanishing.check().passed
    row = row_of(vanishing.planted(plant), gradient)
    assert (row.passed, row.reason) == (False, "differs")
    assert row.first_wrong_step == smallest + (0 if gradient == "h_0" else 1)
    assert row.step_error_over_noise > 1e6
    if gain < 1:
        assert row.max_rel_error < 1e-9, "the whole hardly shows it"
        assert row.error_over_noise < tolerance.LIMIT or gradient == "h_0"


# Mistakes in the derivation. The numbers of the steps are derived in the docstrings.


class DroppedCarry(RNN):
    """dh_{t−1} = 0: ∂L/∂h_T = e_T is still right, ∂L/∂h_{T−1} = e_{T−1} lacks J_Tᵀ e_T.

    Every share is wrong from T − 1 back.
    """

    def delta(self, params, cache, d_state):
        delta, d_state_prev = super().delta(params, cache, d_state)
        return delta, {"h": np.zeros_like(d_state_prev["h"])}


class TransposedCarry(RNN):
    """W_hh δ in place of W_hhᵀ δ: δ_T is right, all that comes back from it is not.

    Wrong from T − 1.
    """

    def delta(self, params, cache, d_state):
        delta, _ = super().delta(params, cache, d_state)
        return delta, {"h": delta @ params["W_hh"].T}


class NoSlope(RNN):
    """δ_t = dh_t without φ′(z_t): δ_T is wrong at once, and every share from T; ∂L/∂h_T = e_T is
    right, so h_0 from T − 1.
    """

    def delta(self, params, _, d_state):
        return d_state["h"], {"h": d_state["h"] @ params["W_hh"]}


class ThisState(RNN):
    """dW_hh = Σ δ_t h_tᵀ with h_t where h_{t−1} belongs: W_hh alone, from T."""

    def accumulate(self, params, cache, delta):
        return super().accumulate(params, {**cache, "h_prev": cache["h"]}, delta)


class LastSample(RNN):
    """The bias takes the last sample of the batch only: b_h alone, from T."""

    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        return {**d_params, "b_h": delta.reshape(-1, *delta.shape[-2:])[:, -1].sum(axis=0)}, d_x


class FlippedJacobian(RNN):
    """W_hhᵀ diag(φ′), Pascanu's eq. 5, for ∂h_t/∂h_{t−1}: no gradient is made of it; J from T,
    P_{T,k} from k = T − 1.
    """

    def step_jacobian(self, params, cache):
        return super().step_jacobian(params, cache).transpose(0, 2, 1)


class LastProductFirst(RNN):
    """J wrong at step 1 alone: J from 1, P_{T,k} from k = 0."""

    def step_jacobian(self, params, cache):
        first = np.array_equal(cache["h_prev"], self.start)
        return super().step_jacobian(params, cache) * (1.01 if first else 1)


T = 12
BACK = dict.fromkeys(["W_xh", "W_hh", "b_h", "x", "h_0"], T - 1)
AT_ONCE = {**dict.fromkeys(["W_xh", "W_hh", "b_h", "x"], T), "h_0": T - 1}


@pytest.mark.parametrize(
    "name",
    [
        "tanh",
        "tanh-trained",
        "relu",
        "identity",
        "sigmoid-last",
        "tanh-masked",
        "tanh-tokens",
        "one-row",
    ],
)
@pytest.mark.parametrize(
    ("mistake", "steps"),
    [(DroppedCarry, BACK), (TransposedCarry, BACK), (NoSlope, AT_ONCE), (ThisState, {"W_hh": T})],
)
def test_first_wrong_step(trial, name, mistake, steps):
    one = trial(name)
    if name == "identity" and mistake is NoSlope:
        steps = {}  # φ′ = 1: no mistake at all
    report = one.check(CellCandidate(mistake(**one.case.options)))
    assert all(row.passed for row in report.forward)
    expected = {
        gradient: step for gradient, step in steps.items() if gradient in one.problem.variables
    }
    assert {row.gradient: row.first_wrong_step for row in report.rows if not row.passed} == expected
    reasons = (
        {"differs", "all zero"}
        if (mistake, one.case.positions) == (DroppedCarry, "last")
        else {"differs"}
    )
    if mistake is DroppedCarry:
        reasons |= {"all zero"}  # ∂L/∂h_0
    assert set(failed(report).values()) <= reasons
    assert report.passed is (not expected)


def test_a_dropped_carry_leaves_nothing_for_the_initial_state(trial):
    assert failed(trial("tanh").check(CellCandidate(DroppedCarry())))["h_0"] == "all zero"


@pytest.mark.parametrize("name", ["tanh", "sigmoid-last", "tanh-tokens"])
def test_a_bias_of_the_last_sample(trial, name):
    """Its step form sums the batch of one step, its sequence form that of all."""
    report = trial(name).check(CellCandidate(LastSample(**trial(name).case.options)))
    assert {row.gradient: row.first_wrong_step for row in report.rows if not row.passed} == {
        "b_h": T
    }


def test_one_step_knows_no_carry(trial):
    """T = 1: only ∂L/∂h_0 is a carry, and it is step 0."""
    report = trial("one-step").check(CellCandidate(DroppedCarry()))
    assert {row.gradient: row.first_wrong_step for row in report.rows if not row.passed} == {
        "h_0": 0
    }
    assert failed(report) == {"h_0": "all zero"}


def test_one_unit_has_nothing_to_transpose(trial):
    assert trial("one-of-each").check(CellCandidate(TransposedCarry())).passed


def test_an_error_only_in_the_jacobian(trial):
    report = trial("tanh").check(CellCandidate(FlippedJacobian()))
    steps = {row.gradient: row.first_wrong_step for row in report.rows if not row.passed}
    assert steps == {"state_jacobian": T, "jacobian_product_to_end": T - 1}
    assert set(failed(report).values()) == {"differs"}


def test_an_error_only_in_the_first_jacobian(trial):
    cell = LastProductFirst()
    object.__setattr__(cell, "start", trial("tanh").problem.variables["h_0"])
    report = trial("tanh").check(CellCandidate(cell))
    steps = {row.gradient: row.first_wrong_step for row in report.rows if not row.passed}
    assert steps == {"state_jacobian": 1, "jacobian_product_to_end": 0}


@dataclass(frozen=True)
class OnlySequence(RNN):
    """Right step by step; the whole-sequence form loses a hundredth of b_h."""

    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        return ({**d_params, "b_h": 0.99 * d_params["b_h"]} if delta.ndim == 3 else d_params), d_x


@dataclass(frozen=True)
class OnlyStep(RNN):
    """Right as a whole sequence; the step form loses a hundredth of b_h."""

    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        return ({**d_params, "b_h": 0.99 * d_params["b_h"]} if delta.ndim == 2 else d_params), d_x


@pytest.mark.parametrize(("mistake", "step"), [(OnlySequence, None), (OnlyStep, T)])
def test_both_forms_of_a_cell_are_tried(trial, mistake, step):
    report = trial("tanh").check(CellCandidate(mistake()))
    assert failed(report) == {"b_h": "differs"}
    assert row_of(report, "b_h").first_wrong_step == step


# Values that disqualify themselves.


def at_one_place(value):
    def put(array):
        array[(0,) * array.ndim] = value
        return array

    return put


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda array: None, "missing"),
        (lambda array: array[:-1], "wrong shape"),
        (lambda array: array[None], "wrong shape"),
        (lambda array: array.sum(), "wrong shape"),
        (at_one_place(np.nan), "not finite"),
        (at_one_place(np.inf), "not finite"),
        (at_one_place(-np.inf), "not finite"),
        (np.zeros_like, "all zero"),
    ],
)
@pytest.mark.parametrize("gradient", [*GRADIENTS, *JACOBIANS])
def test_a_value_that_disqualifies_itself(trial, with_gradient, gradient, change, reason):
    report = trial("tanh").planted(with_gradient(gradient, change))
    assert list(failed(report)) == [gradient]
    assert row_of(report, gradient).reason.startswith(reason)


@pytest.mark.parametrize("gradient", HAVE_STEPS)
def test_shares_that_are_not_finite(trial, with_gradient, gradient):
    report = trial("tanh").planted(with_gradient(gradient, at_one_place(np.nan), "steps"))
    assert failed(report) == {gradient: "differs"}
    assert row_of(report, gradient).first_wrong_step == (
        0 if gradient in ("h_0", "jacobian_product_to_end") else 1
    )


def test_a_candidate_that_tells_no_shares_is_judged_as_a_whole(trial, with_gradient):
    report = trial("tanh").planted(lambda answer: replace(answer, steps={}))
    assert report.passed
    assert {row.step_error_over_noise for row in report.rows} == {None}
    assert failed(
        trial("tanh").planted(
            lambda answer: with_gradient("x", lambda x: 1.1 * x)(replace(answer, steps={}))
        )
    ) == {"x": "differs"}


@pytest.mark.parametrize("gradient", ["W_hh", "state_jacobian"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite(trial, with_gradient, altered, gradient, value):
    broken = altered("torch", with_gradient(gradient, at_one_place(value)))
    with pytest.raises(
        NotFinite, match=rf"not finite for {gradient}|overflows float64 in {gradient}"
    ):
        trial("tanh").check(references=[broken])


def test_one_reference_of_two_that_is_not_finite(trial, with_gradient, altered):
    broken = altered("torch", with_gradient("W_hh", at_one_place(np.nan)))
    report = trial("tanh").check(references=["jax", broken])
    assert failed(report) == {"W_hh": "not finite in the reference"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_both_sides_not_finite(trial, with_gradient, altered, value):
    put = with_gradient("W_hh", at_one_place(value))
    with pytest.raises(NotFinite, match="W_hh"):
        trial("tanh").planted(put, [altered("torch", put)])


@pytest.mark.parametrize("where", ["gradients", "steps"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_decides_nothing_about_another(
    trial, with_gradient, altered, where, value
):
    """jax gone wrong: the right derivation agrees with torch, the wrong one does not."""
    references = ["torch", altered("jax", with_gradient("W_hh", at_one_place(value), where))]
    assert row_of(trial("tanh").check(references=references), "W_hh").passed
    wrong = trial("tanh").planted(with_gradient("W_hh", lambda d: 1.1 * d), references)
    assert not row_of(wrong, "W_hh").passed


def test_weights_that_are_nan_are_no_wrong_gradient(trial):
    W_hh = trial("tanh").problem.variables["W_hh"].copy()
    W_hh[0, 0] = np.nan
    with pytest.raises(
        NotFinite, match="tanh: the state h is NaN from step 1 of 12 on, in the forward pass"
    ):
        trial("tanh").but(W_hh=W_hh).check()


def test_all_gradients_zero_on_both_sides_agree(trial):
    """One output only: softmax is 1, the loss is 0 whatever the weights."""
    report = trial("tanh", output_size=1).check()
    assert report.passed, report.failures()
    assert {row.max_abs_error for row in report.rows if row.gradient in GRADIENTS} == {0.0}


# The forward comes first.


@pytest.mark.parametrize(
    ("change", "failures"),
    [
        (lambda answer: replace(answer, loss=answer.loss * (1 + 1e-6)), {"loss": "differs"}),
        (lambda answer: replace(answer, loss=np.nan), {"loss": "not finite"}),
        (lambda answer: replace(answer, loss=0.0), {"loss": "all zero"}),
        (lambda answer: replace(answer, states={}), {"state h": "missing"}),
        (
            lambda answer: replace(answer, states={"h": answer.states["h"] * (1 + 1e-6)}),
            {"state h": "differs"},
        ),
        (
            lambda answer: replace(answer, states={"h": answer.states["h"][1:]}),
            {"state h": "wrong shape"},
        ),
    ],
)
def test_a_forward_that_differs_ends_the_comparison(trial, change, failures):
    report = trial("tanh").planted(change)
    found = failed(report)
    assert list(found) == list(failures)
    assert all(found[name].startswith(reason) for name, reason in failures.items())
    assert (report.passed, report.forward_differs, report.rows) == (False, True, [])


def test_a_state_that_differs_names_its_step(trial):
    def plant(answer):
        h = answer.states["h"].copy()
        h[6] += 1e-6
        return replace(answer, states={"h": h})

    (row,) = trial("tanh").planted(plant).failures()
    assert (row.gradient, row.first_wrong_step) == ("state h", 7)


def test_another_function_is_no_wrong_gradient(trial):
    report = trial("tanh").check(CellCandidate(RNN("sigmoid")))
    assert set(failed(report)) == {"loss", "state h"}
    assert report.forward_differs


# The references.


def test_references_that_contradict_each_other_do_not_agree(trial, with_gradient, altered):
    """A reference a tenth off: the right derivation must not be said to agree with it."""
    references = ["torch", altered("jax", with_gradient("W_hh", lambda d: 1.1 * d))]
    report = trial("tanh").check(references=references)
    assert not row_of(report, "W_hh", "jax").passed
    assert not report.passed


def test_references_that_contradict_each_other_hide_no_mistake(trial, with_gradient, altered):
    """However far apart the references are, a derivation far from both is wrong."""
    references = ["torch", altered("jax", with_gradient("W_hh", lambda d: 1.1 * d))]
    report = trial("tanh").planted(with_gradient("W_hh", lambda d: 1.5 * d), references)
    assert [row_of(report, "W_hh", name).passed for name in ("torch", "jax")] == [False, False]


def test_references_whose_forwards_differ_do_not_agree(trial, altered):
    references = ["torch", altered("jax", lambda answer: replace(answer, loss=1.01 * answer.loss))]
    report = trial("tanh").check(references=references)
    assert not report.passed


@pytest.mark.parametrize("reference", ["torch", "jax", "torch.nn"])
@pytest.mark.parametrize(
    ("dtype", "gain", "steps"), [("float64", 1e-12, 30), ("float32", 1e-6, 10)]
)
def test_shares_that_vanish_below_the_smallest_normal_number_agree(
    trial, reference, dtype, gain, steps
):
    """Numbers below 2^−1022 (2^−126) lose digits, or are flushed to zero: that is rounding too."""
    one = trial("tanh", dtype=dtype, positions="last", steps=steps, batch=2, jacobians=False)
    one = one.but(W_hh=(gain * one.problem.variables["W_hh"]).astype(dtype))
    report = one.check(references=[reference])
    assert report.passed, [row.sentence() for row in report.failures()]


def test_a_reference_that_does_not_apply_is_left_out(trial):
    report = trial("sigmoid-last").check(references=["torch", "torch.nn"])
    assert report.passed
    assert list(report.left_out) == ["torch.nn"]
    assert {row.reference for row in report.rows} == {"torch"}


def test_no_reference_that_applies_is_no_question(trial):
    with pytest.raises(QuestionError, match=r"torch\.nn"):
        trial("sigmoid-last").check(references=["torch.nn"])


def test_a_reference_without_steps_judges_the_whole(trial, with_gradient):
    report = trial("tanh").check(references=["torch.nn"])
    assert report.passed
    assert {row.gradient for row in report.rows} == set(GRADIENTS)
    assert {row.gradient for row in report.rows if row.step_error_over_noise is not None} == {
        "x"
    }, "x has a time axis of its own"
    wrong = trial("tanh").planted(with_gradient("W_hh", lambda d: d * (1 + 1e-6)), ["torch.nn"])
    assert failed(wrong) == {"W_hh": "differs"}


def test_available_references():
    engines, missing = asking.available(None)
    assert ([engine.name for engine in engines], missing) == (["torch", "jax", "torch.nn"], {})
    engines, missing = asking.available(["jax"])
    assert [engine.name for engine in engines] == ["jax"]
    with pytest.raises(UnknownName, match="torch, jax"):
        asking.available(["theano"])


def no_package(name):
    return replace(ENGINES[0], name=name, module="no_such_module", package=f"the-{name}-package")


def test_a_reference_that_cannot_be_loaded_is_named(monkeypatch):
    monkeypatch.setattr(asking, "select", lambda names: (ENGINES[0], no_package("a")))
    engines, missing = asking.available(None)
    assert engines == ENGINES[:1]
    assert list(missing) == ["a"]
    assert "pip install the-a-package" in str(missing["a"])
    monkeypatch.setattr(asking, "select", lambda names: (no_package("a"), no_package("b")))
    with pytest.raises(MissingFramework, match=r"the-a-package.*the-b-package"):
        asking.available(None)


# The report.


def test_report_of_cases_says_where_it_was_made(trial):
    report = report_of([trial("one-step").check()], 5, "float32", ["a note"])
    assert report.passed
    assert (report.environment["seed"], report.environment["dtype"], report.notes) == (
        5,
        "float32",
        ["a note"],
    )
    assert report.environment["numpy"] == np.__version__
    assert {"python", "torch", "jax"} <= set(report.environment)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package-at-all"))
    assert environment.environment(0, "float64")["no-such-package-at-all"] is None


# Proof.


@pytest.mark.parametrize("name", ["one-of-each", "lstm-states", "tanh-window"])
def test_the_true_error_of_all_is_a_few_units_in_the_last_place(trial, name):
    report = trial(name, steps=3).check(references=("torch", "proof"))
    assert report.passed, report.failures()
    assert set(report.true_error) == set(trial(name).problem.variables)
    for errors in report.true_error.values():
        assert set(errors) == {"manual", "torch"}
        assert max(errors.values()) < 32


def test_proof_says_who_is_right_when_two_disagree(trial, altered, with_gradient):
    """torch's own answer a millionth off: the derivation is then called wrong, and the proof says
    who is.
    """
    liar = altered("torch", with_gradient("W_hh", lambda value: value * (1 + 1e-6)))
    report = trial("lstm-states", steps=3).check(references=(liar, "jax", "proof"))
    assert {(row.gradient, row.reference) for row in report.failures()} == {("W_hh", "torch")}
    assert not report.references_agree
    assert report.true_error["W_hh"]["torch"] > 1e8
    assert report.true_error["W_hh"]["manual"] < 32
    assert report.true_error["W_hh"]["jax"] < 32


def test_a_wrong_gradient_is_outside_the_proof(trial, with_gradient):
    report = trial("lstm-states", steps=3).planted(
        with_gradient("W_hh", lambda value: value * (1 + 1e-9)), ("proof",)
    )
    assert {row.gradient for row in report.failures()} == {"W_hh"}
    assert report.true_error["W_hh"]["manual"] > 1e5


def test_without_a_proof_nothing_is_said_of_true_errors(trial):
    assert trial("tanh").check().true_error == {}


@pytest.mark.parametrize("reference", ["complex step", "differences", "forward"])
@pytest.mark.parametrize("name", ["lstm-states", "slstm", "lru"])
def test_references_that_are_asked_by_name(trial, with_gradient, name, reference):
    right = trial(name, steps=3, jacobians=False)
    report = right.check(references=("torch", reference))
    assert report.passed, report.failures()
    assert {row.reference for row in report.rows} == {"torch", reference}
    wrong = right.planted(with_gradient("W_xh", lambda value: value * 1.001), (reference, "torch"))
    assert {(row.gradient, row.reference) for row in wrong.failures()} == {
        ("W_xh", "torch"),
        ("W_xh", reference),
    }


def test_what_numbers_cannot_tell_of_a_truncated_gradient(trial):
    report = trial("tanh-window").check(references=("torch", "complex step", "differences"))
    assert set(report.left_out) == {"complex step", "differences"}
    assert "truncated gradient" in str(report.left_out["differences"])
