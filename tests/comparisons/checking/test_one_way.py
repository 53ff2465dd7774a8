"""Built-in cases and what users bring take one way, on which every reference is asked once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck import check_cell, check_gradients
from bptt_crosscheck.comparisons.candidates.built_in_cells import CELLS, CellCandidate, built_in
from bptt_crosscheck.comparisons.candidates.draw import problem_of
from bptt_crosscheck.comparisons.checking.crosscheck import Manner, check_problem, examine
from bptt_crosscheck.comparisons.errors import ForwardMismatch, LayoutMatters, NotRepeatable
from bptt_crosscheck.comparisons.problems.cases import CASES
from bptt_crosscheck.comparisons.witnesses import ask as asking
from bptt_crosscheck.comparisons.witnesses.engines import Engine, select

from tests.comparisons.small import INPUTS, PARAMS, SIZES, Elman, elman, gradients, loss, spoiled

TORCH = select(("torch",))


@pytest.fixture
def asked(monkeypatch):
    """How often each engine is asked plainly, by engine and problem."""
    count = Counter()
    answer = Engine.answer

    def counted(engine, problem, rounding_seed=None, shares=True):
        if rounding_seed is None:
            count[engine.name, problem.name] += 1
        return answer(engine, problem, rounding_seed, shares)

    monkeypatch.setattr(Engine, "answer", counted)
    return count


@pytest.fixture
def asks(monkeypatch):
    """The problems of which the references were asked, in order."""
    names = []
    ask = asking.ask

    def counted(problem, engines):
        names.append(problem.name)
        return ask(problem, engines)

    monkeypatch.setattr(asking, "ask", counted)
    return names


def small(name, **changed):
    case = next(case for case in CASES if case.name == name)
    return problem_of(replace(case, steps=3, batch=2, hidden_size=3, jacobians=False, **changed))


@pytest.mark.parametrize("name", ["tanh", "lstm", "gru"])
def test_a_built_in_case_asks_each_reference_once(asked, name):
    problem = small(name)
    assert check_problem(
        problem, built_in(problem.cell, problem.options), select(("torch", "torch.nn"))
    ).passed
    assert asked == {("torch", problem.name): 1, ("torch.nn", problem.name): 1}


def test_a_wrong_built_in_case_asks_each_reference_once(asked):
    problem = small("tanh", loss="projection")
    case = check_problem(problem, CellCandidate(Doubled()), TORCH)
    assert not case.passed
    assert case.local
    assert asked == {("torch", problem.name): 1}


def dropped(params, cache, d_state):
    d_params, d_x, before = elman("step_backward", params, cache, d_state)
    return d_params, d_x, {"h": 0 * before["h"]}


@pytest.mark.parametrize("cell", [Elman(), spoiled(step_backward=dropped)], ids=["right", "wrong"])
def test_a_users_cell_asks_once_a_trial(asks, cell):
    report = check_cell(cell, raise_exception=False, **SIZES)
    assert asks == [case.name for case in report.cases]
    assert len(asks) == 2


@pytest.mark.parametrize("factor", [1, 2])
def test_a_users_function_asks_once(asks, asked, factor):
    def given(params, inputs):
        return {name: factor * value for name, value in gradients(params, inputs).items()}

    report = check_gradients(
        given, loss, PARAMS, INPUTS, references=["torch", "jax"], raise_exception=False
    )
    assert report.passed == (factor == 1)
    assert asks == ["gradients"]
    assert asked == {("torch", "gradients"): 1, ("jax", "gradients"): 1}


def test_what_was_said_is_handed_on():
    problem = small("tanh")
    examined = examine(problem, built_in(problem.cell, problem.options), TORCH)
    told = examined.witnesses.plain[TORCH[0]]
    for name, value in examined.answer.gradients.items():
        np.testing.assert_allclose(value, told.gradients[name], rtol=1e-9)


class Doubled(CELLS["rnn"]):
    """The carry is passed back twice."""

    def delta(self, params, cache, d_state):
        delta, before = super().delta(params, cache, d_state)
        return delta, {name: 2 * value for name, value in before.items()}

    sequence = sequence_backward = property()  # the step form alone


def test_single_steps_are_looked_at_in_a_wrong_built_in_case():
    case = check_problem(small("tanh", loss="projection"), CellCandidate(Doubled()), TORCH)
    assert [row.output for row in case.local if not row.passed] == ["d_state_prev['h']"]
    assert any("d_state_prev['h'] is exact up to" in found.text for found in case.diagnosis)


def test_single_steps_are_left_alone_where_they_are_not_known():
    assert check_problem(small("tanh"), CellCandidate(Doubled()), TORCH).local == []


class Remembering:
    """Answers with the answer before added."""

    def __init__(self, candidate):
        self.candidate, self.before = candidate, 0.0

    def answer(self, problem):
        answer = self.candidate.answer(problem)
        self.before = self.before + answer.gradients["W_hh"]
        return replace(answer, gradients={**answer.gradients, "W_hh": self.before})


def test_built_in_cases_are_asked_twice():
    problem = small("tanh")
    with pytest.raises(NotRepeatable, match="the gradient W_hh"):
        check_problem(problem, Remembering(built_in(problem.cell, problem.options)), TORCH)


class InMemoryOrder:
    """Reads memory as if arrays were C-contiguous."""

    def __init__(self, candidate):
        self.candidate = candidate

    def answer(self, problem):
        answer = self.candidate.answer(problem)
        read = problem.variables["W_hh"].ravel(order="K").reshape(problem.variables["W_hh"].shape)
        return replace(
            answer, gradients={**answer.gradients, "W_hh": answer.gradients["W_hh"] + read}
        )


def test_built_in_cases_are_asked_in_another_memory_order():
    problem = small("tanh")
    with pytest.raises(LayoutMatters, match="the gradient W_hh"):
        check_problem(problem, InMemoryOrder(built_in(problem.cell, problem.options)), TORCH)


class OtherForward:
    """Computes another loss."""

    def __init__(self, candidate):
        self.candidate = candidate

    def answer(self, problem):
        answer = self.candidate.answer(problem)
        return replace(answer, loss=answer.loss * 1.01)


def test_another_forward_is_a_row_of_a_built_in_case_and_an_error_of_a_users():
    problem = small("tanh")
    candidate = OtherForward(built_in(problem.cell, problem.options))
    assert check_problem(problem, candidate, TORCH).forward_differs
    with pytest.raises(ForwardMismatch, match="loss: differs from torch"):
        check_problem(problem, candidate, TORCH, manner=Manner(from_outside=True))


class RoundedOtherwise:
    """A gradient in another memory order is off by so many times its noise."""

    def __init__(self, candidate, noises):
        self.candidate, self.noises = candidate, noises

    def answer(self, problem):
        answer = self.candidate.answer(problem)
        if problem.variables["W_hh"].flags.c_contiguous:
            return answer
        moved = answer.gradients["h_0"] + self.noises * 1e-6
        return replace(answer, gradients={**answer.gradients, "h_0": moved})


def test_what_the_noise_explains_hangs_on_no_layout(monkeypatch):
    """As where a gradient is zero on paper, and another rounding in every order of summation."""
    problem = small("tanh")
    right = built_in(problem.cell, problem.options)
    measured = asking.measured

    def noisy(*given):
        found = measured(*given)
        return replace(found, noise=replace(found.noise, total={**found.noise.total, "h_0": 1e-6}))

    with pytest.raises(LayoutMatters, match="the gradient h_0"):
        check_problem(problem, RoundedOtherwise(right, 4), TORCH)
    monkeypatch.setattr(asking, "measured", noisy)
    assert check_problem(problem, RoundedOtherwise(right, 4), TORCH).passed
    with pytest.raises(LayoutMatters, match="the gradient h_0"):
        check_problem(problem, RoundedOtherwise(right, 1e4), TORCH)


@pytest.mark.parametrize("seed", range(1, 7))
def test_right_cells_hang_on_no_layout_whatever_the_seed(seed):
    for name in ("slstm", "lru", "min-lstm"):
        case = next(case for case in CASES if case.name == name)
        problem = problem_of(replace(case, steps=4, jacobians=False), seed)
        assert check_problem(problem, built_in(problem.cell, problem.options), TORCH).passed
