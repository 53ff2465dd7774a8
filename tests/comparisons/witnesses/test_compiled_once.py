"""A second check of the same cell compiles nothing; a cell that computes something else never gets
another's program.
"""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell
from bptt_crosscheck.reference.by_jax import jax_programs

SIZES = {"steps": 3, "batch": 2, "input_size": 3, "hidden_size": 2, "references": ["torch", "jax"]}
SCALES = {"of the module": 1.0}


class Scaled:
    """h ← tanh(scale · factor · (W x + U h)), whose backward may believe in another scale."""

    def __init__(self, scale, believed=None):
        self.scale, self.believed = scale, scale if believed is None else believed

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "U": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def factor(self):
        return 1.0

    def step(self, xp, p, s, x):
        h = xp.tanh(self.scale * self.factor() * (x @ p["W"].T + s["h"] @ p["U"].T))
        return {"h": h}, (x, s["h"], h)

    def step_backward(self, p, cache, d):
        x, h_prev, h = cache
        delta = self.believed * self.factor() * (1 - h**2) * d["h"]
        return {"W": delta.T @ x, "U": delta.T @ h_prev}, delta @ p["W"], {"h": delta @ p["U"]}


class ByGlobal(Scaled):
    """The scale stands in the module."""

    def factor(self):
        return SCALES["of the module"]


@pytest.fixture
def compiled():
    jax_programs._kept.cache_clear()
    yield lambda: jax_programs._kept.cache_info().misses
    jax_programs._kept.cache_clear()


def test_a_second_check_compiles_nothing(compiled):
    for _ in range(2):
        assert check_cell(Scaled(0.5), **SIZES).passed
    assert compiled() == 1
    assert check_cell(Scaled(0.5), **{**SIZES, "steps": 4}).passed
    assert compiled() == 2


def by_jax(report):
    return [row for row in report.rows if row.reference == "jax"]


@pytest.mark.parametrize("scale", [0.5000001, 2.0])
def test_an_attribute_that_differs_is_another_program(compiled, scale):
    assert check_cell(Scaled(0.5), **SIZES).passed
    assert check_cell(Scaled(scale), **SIZES).passed
    assert compiled() == 2
    wrong = check_cell(
        Scaled(scale, believed=0.5), **{**SIZES, "references": ["jax"]}, raise_exception=False
    )
    assert not wrong.passed
    assert any(not row.passed for row in by_jax(wrong))


def test_an_attribute_that_changes_on_the_same_cell_is_seen(compiled):
    cell = Scaled(0.5)
    assert check_cell(cell, **SIZES).passed
    cell.scale = 0.7
    with pytest.raises(GradientMismatch):
        check_cell(cell, **{**SIZES, "references": ["jax"]})
    assert compiled() == 2


def test_a_global_that_changes_between_checks_is_seen(compiled, monkeypatch):
    assert check_cell(ByGlobal(0.5), **SIZES).passed
    monkeypatch.setitem(SCALES, "of the module", 1.5)
    report = check_cell(ByGlobal(0.5), **SIZES)
    assert report.passed
    assert report.cases[0].references_agree
    assert compiled() == 2


def test_another_step_under_the_same_name_is_another_program(compiled):
    def another_step(self, xp, p, s, x):
        h = xp.tanh(self.scale * (x @ p["W"].T - s["h"] @ p["U"].T))
        return {"h": h}, (x, s["h"], h)

    assert check_cell(Scaled(0.5), **SIZES).passed
    twin = type("Scaled", (Scaled,), {"step": another_step})
    with pytest.raises(GradientMismatch):
        check_cell(twin(0.5), **{**SIZES, "references": ["jax"]})
    assert compiled() == 2


def test_whole_gradients_are_the_sums_of_the_shares():
    """A cell without halves is asked once; what it is said to give in the whole is what its steps
    give.
    """
    from bptt_crosscheck.comparisons.candidates.built_in_cells import CellCandidate
    from bptt_crosscheck.comparisons.candidates.draw import cell_problem
    from bptt_crosscheck.comparisons.candidates.user_cell import UserCell

    mine = UserCell(Scaled(0.5), 3, 2)
    sizes = {name: size for name, size in SIZES.items() if name != "references"}
    problem = cell_problem(mine.name, (mine.parameters, mine.states), sizes, 0, mine)
    candidate = CellCandidate(mine)
    told, done = candidate.answer(problem), candidate.forward(problem)
    expected = candidate.network(problem).backward(dict(problem.variables), done)
    assert set(expected) <= set(told.gradients)
    for name, value in expected.items():
        np.testing.assert_array_equal(told.gradients[name], value, err_msg=name)


SOURCE = """
class Reloaded(Scaled):
    def step(self, xp, p, s, x):
        h = xp.tanh(self.scale * SLOPE * (x @ p["W"].T + s["h"] @ p["U"].T))
        return {"h": h}, (x, s["h"], h)
"""


def loaded(slope):
    """The cell as its file makes it, edited: of the same name, in a module of the same name, with
    the same attributes.
    """
    space = {"Scaled": Scaled, "__name__": "of_the_user"}
    exec(compile(SOURCE.replace("SLOPE", slope), "of_the_user.py", "exec"), space)
    return space["Reloaded"](0.5)


def test_a_cell_that_is_edited_and_loaded_again_is_traced_anew(compiled):
    assert check_cell(loaded("1.0"), **SIZES).passed
    assert check_cell(loaded("1.0"), **SIZES).passed
    assert compiled() == 1
    wrong = check_cell(loaded("1.25"), **{**SIZES, "references": ["jax"]}, raise_exception=False)
    assert any(not row.passed for row in by_jax(wrong))
    assert compiled() == 2


def test_a_second_check_lowers_nothing(compiled, monkeypatch):
    assert check_cell(Scaled(0.5), **SIZES).passed
    monkeypatch.setattr(jax_programs, "_lowered", None)
    assert check_cell(Scaled(0.5), **SIZES).passed
