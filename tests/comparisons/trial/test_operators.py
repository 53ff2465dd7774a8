"""Planted mistakes: that each kind is planted, that each is a mistake, and that nothing of
`manual/` is changed by it.
"""

import ast
import inspect
import types
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from bptt_crosscheck.comparisons.candidates.built_in_cells import CELLS as CELLS_BY_NAME
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.places import ROOT
from bptt_crosscheck.comparisons.problems.cases import CASES, Case
from bptt_crosscheck.comparisons.trial import mutate_source, other_checkers, syntax
from bptt_crosscheck.comparisons.trial.mutate_cell import altered, transposed_blocks, with_globals
from bptt_crosscheck.comparisons.trial.mutate_source import UNFILLED
from bptt_crosscheck.comparisons.trial.mutation_score import (
    ON_TRIAL,
    REGIMES,
    cells_on_trial,
    outcomes,
    problem_in,
    same,
)
from bptt_crosscheck.comparisons.trial.operators import OPERATORS, mutants
from bptt_crosscheck.comparisons.trial.subject import Mutant, MutationOperator, Subject
from bptt_crosscheck.comparisons.trial.syntax import NothingToMutate
from bptt_crosscheck.manual.cells import gru, lstm
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.through_time import bptt, network

REGIME = {regime.name: regime for regime in REGIMES}
CELL = {case.name: case for case in ON_TRIAL}


def subject(cell: str = "lstm", regime: str = "initial") -> Subject:
    case = CELL[cell]
    candidate, problem = built_in(case.cell, case.options), problem_in(case, REGIME[regime], 0)
    return Subject(candidate, problem, candidate.answer(problem))


def planted(ground: Subject, *kinds: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for mutant in mutants(
        ground, tuple(kind for kind in OPERATORS if not kinds or kind.name in kinds)
    ):
        found.setdefault(mutant.kind, []).append(mutant)
    return found


def test_there_are_thirty_kinds_and_none_twice():
    names = [kind.name for kind in OPERATORS]
    assert len(names) == len(set(names)) >= 30
    assert all(kind.sentence for kind in OPERATORS)


def test_every_kind_is_planted_somewhere():
    grounds = (subject("lstm", "initial"), subject("lstm", "tokens"), subject("lstm", "stacked"))
    assert set().union(*(planted(ground) for ground in grounds)) == {
        kind.name for kind in OPERATORS
    }


def test_planting_leaves_the_right_derivation_alone():
    ground = subject("gru before")
    for mutant in islice(mutants(ground), 0, None, 3):
        try:
            with np.errstate(all="ignore"):
                mutant.answer()
        except Exception:
            continue
    assert same(ground.candidate.answer(ground.problem), ground.right)


@pytest.mark.parametrize(
    "name",
    [
        "carry dropped",
        "factor 2",
        "gates permuted",
        "first step left out",
        "one sample of the batch",
    ],
)
def test_a_mutant_is_another_gradient(name):
    ground = subject()
    for mutant in planted(ground, name)[name]:
        assert not same(mutant.answer(), ground.right), mutant.what


def test_a_dropped_carry_is_the_gradient_of_single_steps():
    ground = subject("rnn tanh")
    dropped = planted(ground, "carry dropped")["carry dropped"][0].answer()
    chunks = next(
        m for m in planted(ground, "truncated")["truncated"] if m.what == "chunks of 1 steps"
    ).answer()
    np.testing.assert_allclose(
        dropped.gradients["W_hh"], chunks.gradients["W_hh"], rtol=0, atol=1e-14
    )
    assert not dropped.gradients["h_0"].any()
    assert chunks.gradients["h_0"].any()


def test_truncation_of_one_step_is_no_mistake_in_one_step():
    ground = subject("lstm", "one step")
    assert all(
        same(m.answer(), ground.right)
        for m in planted(ground, "truncated")["truncated"]
        if m.what.startswith("chunks")
    )


def test_an_overwritten_embedding_keeps_one_of_its_terms():
    ground = subject("rnn tanh", "tokens")
    (mutant,) = planted(ground, "embedding overwritten")["embedding overwritten"]
    last = {int(token): at for at, token in enumerate(ground.problem.x.reshape(-1))}
    assert len(last) < ground.problem.x.size
    assert not np.allclose(mutant.answer().gradients["W_xh"], ground.right.gradients["W_xh"])


def test_a_second_call_adds_up():
    (mutant,) = planted(subject(), "kept between calls")["kept between calls"]
    first, second = mutant.answer(), mutant.answer()
    np.testing.assert_array_equal(second.gradients["b_h"], 2 * first.gradients["b_h"])


def test_writing_into_the_weights_is_refused_by_the_arrays():
    weights = next(
        m
        for m in planted(subject(), "changed in place")["changed in place"]
        if m.what == "the weights"
    )
    with pytest.raises(ValueError, match="read-only"):
        weights.answer()


def test_a_source_mutant_says_where_it_is_and_changes_one_expression():
    variations = list(syntax.function_variations(RNN.delta, ["z", "h"]))
    found = next(
        each
        for each in variations
        if each.kind == syntax.FACTOR_MISSING and each.what.endswith("→ slope")
    )
    file, line, *_ = found.what.split(":")
    text = Path(syntax.ROOT, file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert "slope * d_state" in text
    assert ast.unparse(found.changed()).count("delta = slope\n") == 1


def test_indices_axes_and_text_are_left_alone():
    tried = [each.what for each in syntax.function_variations(LSTM.accumulate, [])]
    assert not [what for what in tried if "axis=1" in what or "shape[0]" in what]
    ast.parse(
        "\n".join(
            ast.unparse(each.changed())
            for each in syntax.function_variations(LSTM.delta, ["i", "f"])
        )
    )


def test_a_changed_method_is_that_of_one_object_only():
    cell = LSTM()
    changed = altered(cell, delta=lambda self, params, cache, d_state: None)
    assert changed.delta({}, {}, {}) is None
    assert type(cell).delta is LSTM.delta
    assert replace(cell) == LSTM()


def test_stacked_blocks_are_transposed_one_by_one():
    weight = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(transposed_blocks(weight), [[0, 2], [1, 3], [4, 6], [5, 7]])
    assert transposed_blocks(np.ones((5, 2))) is None


def within(function) -> range:
    lines, first = inspect.getsourcelines(function)
    return range(first, first + len(lines))


def at_line(mutant) -> int:
    return int(mutant.what.split(":")[1])


def test_mistakes_are_planted_in_the_sequence_form_too():
    """In its loop and in its slopes; they change whole gradients, and leave the shares of the
    steps as they are.
    """
    ground = subject("lstm", "square")
    found = [
        m
        for m in planted(ground, "a sign", "a factor missing")["a sign"]
        if m.what.startswith("manual/cells/lstm.py")
    ]
    for function in (lstm._deltas, lstm._slopes):
        inside = [mutant for mutant in found if at_line(mutant) in within(function)]
        assert inside, function.__name__
        answer = inside[-1].answer()
        assert not np.allclose(answer.gradients["W_hh"], ground.right.gradients["W_hh"], rtol=1e-6)
        np.testing.assert_array_equal(answer.steps["W_hh"], ground.right.steps["W_hh"])


@pytest.mark.parametrize(
    ("cell", "other"), [("gru after", "_deltas_before"), ("gru before", "_deltas_after")]
)
def test_what_is_not_executed_is_no_place_for_a_mistake(cell, other):
    found = [
        m
        for kind in planted(subject(cell)).values()
        for m in kind
        if m.what.startswith("manual/cells/gru.py")
    ]
    assert found
    assert not [mutant.what for mutant in found if at_line(mutant) in within(getattr(gru, other))]


def test_lines_that_are_passed_through():
    def run():
        return lstm._o_last(np.arange(8.0))

    lines = syntax.lines_of(run)
    assert {file for file, _ in lines} == {"manual/cells/lstm.py"}
    assert {number for _, number in lines} <= set(within(lstm._o_last))


def test_memory_that_a_mutant_never_fills_is_no_number():
    assert np.isnan(UNFILLED.empty((2, 3))).all()
    assert np.isnan(UNFILLED.empty_like(np.ones(4, np.float32))).all()
    assert UNFILLED.empty_like(np.ones(4, np.float32)).dtype == np.float32
    assert UNFILLED.tanh is np.tanh


CALLS = {
    "np.add(a, b, out=c)": {
        "np.add(a, 0, out=c)",
        "np.add(0, b, out=c)",
        "np.subtract(a, b, out=c)",
    },
    "np.subtract(1, b, out=c)": {
        "np.subtract(1, 0, out=c)",
        "np.subtract(0, b, out=c)",
        "np.add(1, b, out=c)",
    },
    "np.multiply(a, b, out=c)": {
        "np.multiply(a, 1, out=c)",
        "np.multiply(1, b, out=c)",
        "np.multiply(a * a, b, out=c)",
    },
    "np.dot(a, W, out=c)": {"np.dot(a, W.T, out=c)"},
}


@pytest.mark.parametrize("call", CALLS)
def test_variations_of_an_operation_with_a_place_to_write(call):
    found = {
        ast.unparse(changed) for _, changed in syntax._of_ufunc(ast.parse(call, mode="eval").body)
    }
    assert found == CALLS[call]


@pytest.mark.parametrize(
    ("update", "changed"),
    [("a *= b", {"1", "b * b"}), ("a += b", {"0", "-b"}), ("a -= b", {"0", "-b"})],
)
def test_variations_of_an_update(update, changed):
    assert {
        ast.unparse(each) for _, each in syntax._of_update(ast.parse(update).body[0])
    } == changed


# A place that is declared and not there.


@pytest.mark.parametrize("name", ["_walk", "added_up"])
def test_a_function_of_the_loop_that_was_renamed_is_missed(monkeypatch, name):
    monkeypatch.delattr(bptt, name)
    with pytest.raises(NothingToMutate, match=f"manual.through_time.bptt has no '{name}'"):
        list(syntax.module_variations(bptt, ["_walk", "added_up"]))


@pytest.mark.parametrize(
    ("module", "name"), [("rnn", "joined_backward"), ("lstm", "_o_last"), ("gru", "_complements")]
)
def test_a_function_of_a_sequence_form_that_was_renamed_is_missed(monkeypatch, module, name):
    cell = CELLS_BY_NAME[module]
    monkeypatch.delitem(cell.sequence_backward.__globals__, name)
    with pytest.raises(NothingToMutate, match=f"manual.cells.{module} has no '{name}'"):
        mutate_source._sequence_variations.__wrapped__(cell)


def test_a_sequence_form_of_which_nothing_is_declared_is_missed(monkeypatch):
    monkeypatch.delitem(mutate_source.CALLED_BACK, "gru")
    with pytest.raises(NothingToMutate, match="CALLED_BACK.* has no 'gru'"):
        mutate_source._sequence_variations.__wrapped__(CELLS_BY_NAME["gru"])


SHARED = {"_o_first"}  # what the forward calls too


def test_all_that_is_called_on_the_way_back_is_declared():
    """A helper that a sequence form calls and nobody declares would be out of every operator's
    sight.
    """
    for module, names in mutate_source.CALLED_BACK.items():
        method = CELLS_BY_NAME[module].sequence_backward
        here = method.__globals__["__name__"]
        reached, pending = set(), [method]
        while pending:
            function = pending.pop()
            for name in function.__code__.co_names:
                called = function.__globals__.get(name)
                if isinstance(called, types.FunctionType) and called.__module__ == here:
                    pending += [called] if name not in reached else []
                    reached.add(name)
        assert reached - SHARED <= set(names)


def test_a_method_that_a_cell_has_not_is_missed():
    with pytest.raises(NothingToMutate, match="LSTM has no 'delta_of_gates'"):
        altered(CELLS_BY_NAME["lstm"](), delta_of_gates=None)


def test_a_global_name_that_a_method_has_not_is_missed():
    with pytest.raises(NothingToMutate, match="lstm has no 'linear_forward'"):
        with_globals(CELLS_BY_NAME["lstm"](), "accumulate", linear_forward=None)


def test_a_state_that_the_cache_names_otherwise_is_missed(monkeypatch):
    ground = subject("rnn tanh")
    monkeypatch.setitem(vars(ground), "cached", ["x", "before", "h", "z"])
    for operator in ("h_t for h_{t−1}", "one row's data for all"):
        with pytest.raises(NothingToMutate, match="the cache of RNN has no"):
            planted(ground, operator)


def test_every_cell_is_on_trial():
    assert {case.cell for case in ON_TRIAL} == set(CELLS_BY_NAME)


def test_a_new_cell_is_on_trial_by_its_line_in_the_table():
    more = (*CASES, Case("new", "new-cell"), Case("new", "lstm", {"peepholes": True}))
    names = [case.name for case in cells_on_trial(more)]
    assert names[-2:] == ["new-cell", "lstm True"]
    assert len(names) == len(ON_TRIAL) + 2


def stale(place):
    """An operator whose mutant asks for a name that is gone only when it answers."""
    return MutationOperator("stale", "a renamed place", lambda ground: iter([("late", place)]))


def gone():
    with_globals(CELLS_BY_NAME["lstm"](), "accumulate", linear_forward=None)


def test_a_place_that_is_missed_late_is_no_mutant_that_is_caught(trials):
    with pytest.raises(NothingToMutate, match="lstm has no 'linear_forward'"):
        list(outcomes(trials("lstm", "one step"), operators=(stale(gone),)))


def test_a_place_that_is_missed_late_is_not_passed_over_beside_other_checkers(monkeypatch):
    monkeypatch.setattr(other_checkers, "mutants", lambda ground: iter([Mutant("stale", "", gone)]))
    with pytest.raises(NothingToMutate):
        list(other_checkers.one_of_each(subject("lstm", "one step")))


def test_losses_under_another_name_are_missed(monkeypatch):
    ground = subject("lstm", "one step")
    monkeypatch.delattr(network, "LOSSES")
    with pytest.raises(NothingToMutate, match="has no 'LOSSES'"):
        planted(ground, "loss before the softmax")


def test_a_method_of_the_network_that_was_renamed_is_missed(monkeypatch):
    monkeypatch.delattr(network.Network, "_apart")
    with pytest.raises(NothingToMutate, match="Network has no '_apart'"):
        mutate_source._network_variations.__wrapped__()


@pytest.mark.parametrize(
    ("cell", "name"),
    [("lstm", "c_prev"), ("lru", "im_prev"), ("slstm", "n_prev"), ("gru before", "seen")],
)
def test_each_state_before_the_step_is_declared(monkeypatch, cell, name):
    ground = subject(cell)
    monkeypatch.setitem(vars(ground), "cached", [each for each in ground.cached if each != name])
    with pytest.raises(NothingToMutate, match=f"has no '{name}'"):
        planted(ground, "h_t for h_{t−1}")


def test_a_derivation_is_recognised_through_a_link(tmp_path):
    """Else no line is among those executed, and no operator of source finds anything."""
    (tmp_path / "linked").symlink_to(ROOT, target_is_directory=True)
    through = str(tmp_path / "linked" / "manual" / "cells" / "lstm.py")
    assert syntax.derivation_file(through) == "manual/cells/lstm.py"
    assert syntax.derivation_file(str(ROOT / "comparisons" / "report.py")) is None
    assert syntax.derivation_file("<mutant: x>") is None
