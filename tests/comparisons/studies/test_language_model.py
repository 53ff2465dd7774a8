"""The character model: its windows, the state between them, and training that stays together with
the references.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.candidates import built_in_cells
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.errors import BadText, UnknownName
from bptt_crosscheck.comparisons.places import ROOT
from bptt_crosscheck.comparisons.problems.cases import CASES
from bptt_crosscheck.comparisons.studies import language_model, optimisers
from bptt_crosscheck.comparisons.studies.language_model import (
    TRAININGS,
    Recipe,
    corpus_of,
    default_corpus,
    read_corpus,
    recipes,
    text_case,
    train_side_by_side,
    windows,
)
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES
from bptt_crosscheck.manual import training as by_hand
from bptt_crosscheck.manual.cells.rnn import RNN

TORCH = ENGINES[:1]
RHYME = (
    "row, row, row your boat, gently down the stream; merrily, merrily, life is but a dream. " * 3
)


ALL = tuple(engine for engine in ENGINES if engine.name in ("torch", "jax", "torch.nn"))
PLAIN = Recipe("rnn", {"optimiser": "sgd", "learning_rate": 0.5, "clip": None})
BY_NORM = Recipe("rnn", {"optimiser": "sgd", "learning_rate": 0.5, "clip": "norm", "limit": 0.5})
ADAM = Recipe(
    "rnn",
    {
        "optimiser": "adam",
        "learning_rate": 0.02,
        "beta1": 0.9,
        "beta2": 0.99,
        "epsilon": 1e-8,
        "clip": None,
    },
)
MOMENTUM = Recipe(
    "rnn",
    {
        "optimiser": "momentum",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "clip": "value",
        "limit": 0.05,
    },
    2,
)


def model(text=RHYME, steps=4, batch=2, hidden_size=5, cell="rnn"):
    corpus = corpus_of("rhyme", text)
    like = next(case for case in CASES if case.cell == cell)
    return corpus, text_case(corpus, like, steps, batch, hidden_size)


def trained(updates=6, seed=0, dtype="float64", engines=TORCH, recipe=PLAIN, **how):
    return train_side_by_side(
        *model(**how, cell=recipe.cell), recipe, engines, updates, seed, dtype
    )


# Texts.


def test_tokens_spell_the_text():
    corpus = corpus_of("a", "hello, häßlich")
    assert corpus.vocabulary == "".join(sorted(set("hello, häßlich")))
    assert "".join(corpus.vocabulary[token] for token in corpus.tokens) == "hello, häßlich"


def test_an_empty_text():
    with pytest.raises(BadText, match="a is empty"):
        corpus_of("a", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc\xff\xfe", "is not UTF-8 text: byte 3"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_text(tmp_path, content, message):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadText, match=message):
        read_corpus(path)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(BadText, match="is no regular file"):
        read_corpus(tmp_path)


def test_a_file_goes_by_its_name(tmp_path):
    (tmp_path / "t.txt").write_text("aβ", encoding="utf-8")
    assert read_corpus(tmp_path / "t.txt").name == "t.txt"
    assert read_corpus(tmp_path / "t.txt").vocabulary == "aβ"


def test_the_default_text_is_the_readme(monkeypatch, tmp_path):
    readme = ROOT / "README.md"
    assert len(default_corpus().tokens) == len(readme.read_text(encoding="utf-8"))
    monkeypatch.setattr(language_model, "ROOT", tmp_path)
    installed = default_corpus()
    assert installed.name == "README.md"
    assert "".join(installed.vocabulary[token] for token in installed.tokens).startswith(
        "# bptt-crosscheck"
    )


# Windows.


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 2), (5, 3), (4, 1000), (263, 7)])
def test_the_target_of_a_character_is_the_next_one(steps, batch):
    corpus = corpus_of("rhyme", RHYME)
    cut = windows(corpus, steps, batch)
    streams = cut[0][0].shape[1]
    count = (len(RHYME) - 1) // (streams * steps)
    assert len(cut) == count
    assert streams == min(batch, (len(RHYME) - 1) // steps)
    length = count * steps
    for stream in range(streams):
        for column, start in ((0, 0), (1, 1)):
            tokens = np.concatenate([window[column][:, stream] for window in cut])
            np.testing.assert_array_equal(tokens, corpus.tokens[stream * length + start :][:length])
    assert all(part.shape == (steps, streams) for window in cut for part in window)


def test_a_text_of_one_window():
    ((x, target),) = windows(corpus_of("a", "abcd"), 3, 8)
    assert (x.ravel().tolist(), target.ravel().tolist()) == ([0, 1, 2], [1, 2, 3])


def test_a_text_shorter_than_a_window():
    with pytest.raises(BadText, match="a has 3 characters; a window of 3 steps needs 4"):
        windows(corpus_of("a", "abc"), 3, 1)


def test_the_text_as_a_case():
    corpus, case = model(steps=4, batch=1000)
    assert (case.inputs, case.loss, case.reduction, case.positions) == (
        "tokens",
        "softmax-cross-entropy",
        "mean",
        "every",
    )
    assert (case.cell, case.options) == (CASES[0].cell, CASES[0].options)
    assert case.input_size == case.output_size == len(corpus.vocabulary)
    assert (case.steps, case.hidden_size) == (4, 5)
    assert case.batch == (len(RHYME) - 1) // 4


# Training.


def together(training):
    """Reference → who updated its weights; all of them far within the limit."""
    rows = training.row.rows
    assert all(row.passed and 0 <= row.error_over_noise < 16 for row in rows)
    return {row.reference: row.updated_by for row in rows}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training_stays_together_with_every_reference(dtype):
    training = trained(12, dtype=dtype, engines=ALL)
    assert training.row.passed
    assert together(training) == {"torch": "torch.optim", "jax": "optax", "torch.nn": "torch.optim"}
    assert [check.name.rpartition(", ")[2] for check in training.checks] == [
        "update 0",
        "update 6",
        "update 12",
    ]
    assert all(check.passed for check in training.checks)


def test_training_lowers_the_loss():
    summary = trained(60).row
    assert summary.passed
    assert summary.loss_after < 0.9 * summary.loss_before
    assert summary.loss_before == pytest.approx(np.log(summary.vocabulary), abs=1)
    assert {
        "text": "rhyme",
        "characters": len(RHYME),
        "vocabulary": len(set(RHYME)),
        "updates": 60,
    }.items() <= summary.to_dict().items()


def test_training_is_determined_by_its_seed():
    one, two, other = (trained(seed=seed).row for seed in (0, 0, 1))
    assert one == two
    assert one.loss_after != other.loss_after


def test_the_state_is_carried_from_window_to_window_and_starts_again_with_the_text(monkeypatch):
    seen = []

    def spy(problem, candidate, engines, *more, **named):
        seen.append(problem)
        return check(problem, candidate, engines, *more, **named)

    check = language_model.check_problem
    monkeypatch.setattr(language_model, "check_problem", spy)
    trained(2, text="abcabdabd", steps=4, batch=1)  # two windows: abca|bcab and bdab|dabd
    first, second, again = seen
    assert not first.variables["h_0"].any()
    states = built_in("rnn", CASES[0].options).answer(first).states["h"]
    np.testing.assert_array_equal(second.variables["h_0"], states[-1])
    assert (first.x.ravel().tolist(), second.x.ravel().tolist()) == ([0, 1, 2, 0], [1, 3, 0, 1])
    np.testing.assert_array_equal(again.x, first.x)
    assert not again.variables["h_0"].any()
    gradients = built_in("rnn", CASES[0].options).answer(first).gradients
    for name in first.weight_names:
        moved = first.variables[name] - PLAIN.settings["learning_rate"] * gradients[name]
        np.testing.assert_array_equal(second.variables[name], moved)


def test_a_text_of_one_character_has_nothing_to_learn():
    summary = trained(text="aaaaaaaaaa").row
    assert summary.passed
    assert summary.loss_before == summary.loss_after == 0


class Slightly(RNN):
    """dW_hh a millionth too large."""

    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        return {**d_params, "W_hh": (1 + 1e-6) * d_params["W_hh"]}, d_x


def test_training_with_a_wrong_derivation_drifts_apart(monkeypatch):
    monkeypatch.setitem(built_in_cells.CELLS, "rnn", Slightly)
    training = trained()
    assert not training.row.passed
    (row,) = training.row.rows
    assert (row.passed, row.reference) == (False, "torch")
    assert row.error_over_noise > 1e4
    assert not any(check.passed for check in training.checks)
    assert {
        check.name: {row.gradient for row in check.failures()} for check in training.checks
    }.popitem()[1] == {"W_hh"}


def test_training_whose_own_gradients_are_nan_does_not_stay_together(monkeypatch):
    class Broken(RNN):
        def accumulate(self, params, cache, delta):
            d_params, d_x = super().accumulate(params, cache, delta)
            return {**d_params, "b_h": np.nan * d_params["b_h"]}, d_x

    monkeypatch.setitem(built_in_cells.CELLS, "rnn", Broken)
    training = trained(2)
    assert not training.row.passed
    assert training.notes == [
        "text rhyme: from update 1 on, the weights trained by hand are not finite"
    ]
    assert [check.name for check in training.checks] == ["text rhyme, update 0"]
    assert not any(check.passed for check in training.checks)


def test_other_cells_are_trained_as_their_case_says():
    corpus = corpus_of("rhyme", RHYME)
    relu = next(case for case in CASES if case.name == "relu")
    case = text_case(corpus, relu, 4, 2, 5)
    assert case.options == relu.options
    assert train_side_by_side(corpus, case, PLAIN, TORCH, 3, 0, "float64").row.passed


# Optimisers.


@pytest.mark.parametrize("recipe", TRAININGS, ids=lambda recipe: recipe.cell)
def test_a_hundred_updates_on_real_text_stay_together(recipe):
    """At the rates of the table the loss falls, with the references' own optimisers beside."""
    corpus = default_corpus()
    like = next(case for case in CASES if case.cell == recipe.cell)
    training = train_side_by_side(
        corpus, text_case(corpus, like, 4, 4, 8), replace(recipe, checks=2), ALL, 100, 1, "float64"
    )
    assert together(training) == {"torch": "torch.optim", "jax": "optax", "torch.nn": "torch.optim"}
    assert training.row.passed
    assert training.row.loss_after < 0.85 * training.row.loss_before
    assert {"cell": recipe.cell, **recipe.settings}.items() <= training.row.to_dict().items()
    assert {check.name.rpartition(", ")[2] for check in training.checks} == {
        "update 0",
        "update 100",
    }
    assert training.notes == []


@pytest.mark.parametrize("recipe", [BY_NORM, MOMENTUM], ids=lambda recipe: recipe.settings["clip"])
def test_the_clips_act(recipe):
    """Without the clip the same training ends elsewhere."""
    clipped, free = (
        trained(recipe=recipe),
        trained(recipe=replace(recipe, settings={**recipe.settings, "clip": None})),
    )
    assert clipped.row.loss_after != free.row.loss_after
    assert len(clipped.checks) == recipe.checks


class Average(by_hand.SGD):
    """Momentum dampened by 1 − μ."""

    def update(self, params, gradients, memory):
        return super().update(
            params, {name: (1 - self.momentum) * g for name, g in gradients.items()}, memory
        )


class Inside(by_hand.Adam):
    """ε inside the square root."""

    def update(self, params, gradients, memory):
        _, moments = super().update(params, gradients, memory)
        one, two = 1 - self.beta1**moments.updates, 1 - self.beta2**moments.updates
        along = {
            name: moments.m[name] / one / np.sqrt(moments.v[name] / two + self.epsilon)
            for name in params
        }
        return by_hand.sgd(params, along, self.learning_rate), moments


def one_sided(gradients, limit):
    return {name: np.minimum(g, limit) for name, g in gradients.items()}


def each_by_itself(gradients, max_norm, epsilon):
    return {name: right_norm({name: g}, max_norm, epsilon)[name] for name, g in gradients.items()}


right_norm = by_hand.clip_by_global_norm


@pytest.mark.parametrize(
    ("name", "wrong", "recipe"),
    [("SGD", Average, MOMENTUM), ("clip_by_value", one_sided, MOMENTUM), ("Adam", Inside, ADAM),
     ("clip_by_global_norm", each_by_itself, BY_NORM)],
    ids=["dampened momentum", "one-sided clip", "ε inside", "norm by norm"],
)  # fmt: skip
def test_training_by_a_wrong_rule_drifts_apart_under_right_gradients(
    monkeypatch, name, wrong, recipe
):
    assert trained(recipe=recipe).row.passed
    monkeypatch.setattr(by_hand, name, wrong)
    training = trained(recipe=recipe)
    assert not training.row.passed
    assert training.row.rows[0].error_over_noise > 1e4
    assert all(check.passed for check in training.checks)


def test_a_wrong_rule_of_one_reference_explains_nothing(monkeypatch):
    """References whose updates contradict each other do not make noise.

    Manual parts with the one that is wrong alone.
    """
    right = optimisers.importlib.import_module("bptt_crosscheck.reference.by_jax.optax_updates")
    monkeypatch.setattr(
        right,
        "OPTIMISERS",
        right.OPTIMISERS | {"adam": lambda s: right.optax.adam(s["learning_rate"], 0.9, 0.98)},
    )
    right._rule.cache_clear()
    try:
        rows = {row.reference: row.passed for row in trained(recipe=ADAM, engines=ALL).row.rows}
    finally:
        right._rule.cache_clear()
    assert rows == {"torch": True, "jax": False, "torch.nn": True}


def test_each_reference_is_clipped_as_its_framework_does(monkeypatch):
    assert together(trained(recipe=BY_NORM, engines=ALL))
    monkeypatch.setitem(optimisers.CLIP_EPSILON, "optax", 1e-6)
    rows = {row.reference: row.passed for row in trained(recipe=BY_NORM, engines=ALL).row.rows}
    assert rows == {"torch": True, "jax": False, "torch.nn": True}


def test_without_optax_torch_updates_along_jaxs_gradients(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    monkeypatch.delitem(
        sys.modules, "bptt_crosscheck.reference.by_jax.optax_updates", raising=False
    )
    training = trained(recipe=BY_NORM, engines=ALL)
    assert together(training) == {
        "torch": "torch.optim",
        "jax": "torch.optim",
        "torch.nn": "torch.optim",
    }
    (note,) = training.notes
    assert (
        "optax is not installed, so torch.optim updates the weights along jax's gradients: pip "
        "install optax" in note
    )


def test_without_any_optimiser_manual_updates(monkeypatch):
    monkeypatch.setattr(optimisers, "MODULES", dict.fromkeys(optimisers.MODULES, "not.installed"))
    rule, note = optimisers.by_framework("jax", BY_NORM.settings)
    assert (rule.by, rule.clip_epsilon) == ("manual", 0.0)
    assert "manual/training.py updates the weights along jax's gradients" in note


@pytest.mark.parametrize("wrong", [{"optimiser": "adagrad"}, {"clip": "both"}])
def test_a_rule_that_does_not_exist(wrong):
    for make in (optimisers.by_hand, lambda settings: optimisers.by_framework("torch", settings)):
        with pytest.raises(
            UnknownName, match=f"is called '{next(iter(wrong.values()))}'; there are"
        ):
            make({**PLAIN.settings, **wrong})


def test_the_table_of_trainings():
    assert [recipe.settings["optimiser"] for recipe in recipes(None)] == ["sgd", "adam", "momentum"]
    assert recipes("gru") == [TRAININGS[2]]
    (other,) = recipes("another")
    assert (other.cell, other.settings) == ("another", TRAININGS[0].settings)
