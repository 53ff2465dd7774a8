"""The character model: its windows, the state between them, and training that stays together with the references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from comparisons import candidates, language_model
from comparisons.candidates import built_in
from comparisons.cases import CASES
from comparisons.engines import ENGINES
from comparisons.errors import BadText
from comparisons.language_model import corpus_of, default_corpus, read_corpus, text_case, train_together, windows
from manual.rnn import RNN

TORCH = ENGINES[:1]
RHYME = "row, row, row your boat, gently down the stream; merrily, merrily, life is but a dream. " * 3


def model(text=RHYME, steps=4, batch=2, hidden_size=5):
    corpus = corpus_of("rhyme", text)
    return corpus, text_case(corpus, CASES[0], steps, batch, hidden_size)


def trained(updates=6, seed=0, dtype="float64", engines=TORCH, watch=None, **how):
    return train_together(*model(**how), engines, updates, seed, dtype, watch)


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
    [(b"", "is empty"), (b"abc\xff\xfe", "is not UTF-8 text: byte 3"), (None, "cannot be read: No such file")],
)
def test_a_file_that_is_no_text(tmp_path, content, message):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadText, match=message):
        read_corpus(path)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(BadText, match="cannot be read"):
        read_corpus(tmp_path)


def test_a_file_goes_by_its_name(tmp_path):
    (tmp_path / "t.txt").write_text("aβ", encoding="utf-8")
    assert read_corpus(tmp_path / "t.txt").name == "t.txt"
    assert read_corpus(tmp_path / "t.txt").vocabulary == "aβ"


def test_the_default_text_is_the_readme(monkeypatch, tmp_path):
    readme = Path(language_model.__file__).parent.parent / "README.md"
    assert len(default_corpus().tokens) == len(readme.read_text(encoding="utf-8"))
    monkeypatch.setattr(language_model, "__file__", str(tmp_path / "comparisons" / "language_model.py"))
    installed = default_corpus()
    assert installed.name == "README.md"
    assert "".join(installed.vocabulary[token] for token in installed.tokens).startswith("# bptt-crosscheck")


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
    assert (case.inputs, case.loss, case.reduction, case.positions) == ("tokens", "softmax-cross-entropy", "mean", "every")
    assert (case.cell, case.options) == (CASES[0].cell, CASES[0].options)
    assert case.input_size == case.output_size == len(corpus.vocabulary)
    assert (case.steps, case.hidden_size) == (4, 5)
    assert case.batch == (len(RHYME) - 1) // 4


# Training.


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training_stays_together_with_every_reference(dtype):
    names = ("torch", "jax", "torch.nn")
    heard = []
    training = trained(12, dtype=dtype, engines=[engine for engine in ENGINES if engine.name in names], watch=heard.append)
    assert training.summary["passed"]
    assert [row["reference"] for row in training.summary["rows"]] == list(names)
    assert all(0 <= row["error_over_noise"] < 16 for row in training.summary["rows"])
    assert [check.name.rpartition(", ")[2] for check in training.checks] == ["update 0", "update 6", "update 12"]
    assert all(check.passed for check in training.checks)
    assert heard == training.checks


def test_training_lowers_the_loss():
    summary = trained(60).summary
    assert summary["passed"]
    assert summary["loss_after"] < 0.9 * summary["loss_before"]
    assert summary["loss_before"] == pytest.approx(np.log(summary["vocabulary"]), abs=1)
    assert {"text": "rhyme", "characters": len(RHYME), "vocabulary": len(set(RHYME)), "updates": 60}.items() <= summary.items()


def test_training_is_determined_by_its_seed():
    one, two, other = (trained(seed=seed).summary for seed in (0, 0, 1))
    assert one == two
    assert one["loss_after"] != other["loss_after"]


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
        moved = first.variables[name] - language_model.LEARNING_RATE * gradients[name]
        np.testing.assert_array_equal(second.variables[name], moved)


def test_a_text_of_one_character_has_nothing_to_learn():
    summary = trained(text="aaaaaaaaaa").summary
    assert summary["passed"]
    assert summary["loss_before"] == summary["loss_after"] == 0


class Slightly(RNN):
    """dW_hh a millionth too large."""

    def accumulate(self, params, cache, delta):
        d_params, d_x = super().accumulate(params, cache, delta)
        return {**d_params, "W_hh": (1 + 1e-6) * d_params["W_hh"]}, d_x


def test_training_with_a_wrong_derivation_drifts_apart(monkeypatch):
    monkeypatch.setitem(candidates.CELLS, "rnn", Slightly)
    training = trained()
    assert not training.summary["passed"]
    (row,) = training.summary["rows"]
    assert (row["passed"], row["reference"]) == (False, "torch")
    assert row["error_over_noise"] > 1e4
    assert not any(check.passed for check in training.checks)
    assert {check.name: {row.gradient for row in check.failures()} for check in training.checks}.popitem()[1] == {"W_hh"}


def test_training_whose_own_gradients_are_nan_does_not_stay_together(monkeypatch):
    class Broken(RNN):
        def accumulate(self, params, cache, delta):
            d_params, d_x = super().accumulate(params, cache, delta)
            return {**d_params, "b_h": np.nan * d_params["b_h"]}, d_x

    monkeypatch.setitem(candidates.CELLS, "rnn", Broken)
    training = trained(2)
    assert not training.summary["passed"]
    assert not any(check.passed for check in training.checks)


def test_other_cells_are_trained_as_their_case_says():
    corpus = corpus_of("rhyme", RHYME)
    relu = next(case for case in CASES if case.name == "relu")
    case = replace(text_case(corpus, relu, 4, 2, 5))
    assert case.options == relu.options
    assert train_together(corpus, case, TORCH, 3, 0, "float64").summary["passed"]
