"""Dumps: what is written comes back with its names, says what the gradients are made of, and is
whole or absent.
"""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from bptt_crosscheck.comparisons.errors import BadTarget
from bptt_crosscheck.comparisons.reporting import dump
from bptt_crosscheck.comparisons.reporting.dump import file_name, load, write
from bptt_crosscheck.comparisons.witnesses.engines import ENGINES

T, B, S = 12, 3, 5


@pytest.fixture(scope="module")
def dumped(trial, tmp_path_factory):
    """(the path of a dump of the case "tanh", its dataset), the loss counting at every step."""
    return _dumped(trial("tanh"), tmp_path_factory.mktemp("dumps"))


@pytest.fixture(scope="module")
def dumped_last(trial, tmp_path_factory):
    """The same, the loss counting at the last step alone."""
    return _dumped(
        trial("tanh", positions="last"), tmp_path_factory.mktemp("dumps") / "made" / "on the way"
    )


def _dumped(one, folder):
    path = write(
        folder,
        one.problem,
        one.candidate,
        [engine for engine in ENGINES if engine.name in ("torch", "torch.nn")],
    )
    return path, load(path)


def test_the_file_is_named_after_the_case(dumped, dumped_last):
    for path, _ in (dumped, dumped_last):
        assert path.name == "tanh.npz"
        assert [each.name for each in path.parent.iterdir()] == ["tanh.npz"]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("tanh", "tanh"),
        ("lstm-3-layers_l1_reverse", "lstm-3-layers_l1_reverse"),
        ("lstm/softmax-ce", "lstm%2Fsoftmax-ce"),
        ("../a b", "..%2Fa%20b"),
        ("λ\x1b", "%CE%BB%1B"),
        ("\udc80", "%ED%B2%80"),
    ],
)
def test_file_names(case, name):
    assert file_name(case) == name


def test_every_case_has_a_file_of_its_own():
    names = ["a b", "a_b", "a/b", "a%20b", "a  b", "a", "A", "a\n", "λ", "l"]
    names += ["x" * 300 + end for end in ("", "y", "z")] + [f"{' ' * 100}{end}" for end in "ab"]
    found = {file_name(name) for name in names}
    assert len(found) == len(names)
    assert max(map(len, found)) <= 200


def test_a_dump_goes_through_a_link_and_keeps_its_mode(trial, tmp_path):
    one = trial("one-step")
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "elsewhere").chmod(0o600)
    (tmp_path / "one-step.npz").symlink_to("elsewhere")
    path = write(tmp_path, one.problem, one.candidate, [])
    assert path.is_symlink()
    assert load(path).attrs["case"] == "one-step"
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o600


def test_dimensions_are_named(dumped):
    _, data = dumped
    for name, dimensions in dump.DIMENSIONS.items():
        if name != "contribution_norm":
            assert data[name].dims == dimensions
    assert data["contribution_norm/W_hh"].dims == ("t", "k")
    assert data["torch/state_jacobian"].dims == ("step", "batch", "state", "state_prev")
    assert data["torch/d_state"].dims == ("t", "batch", "state")
    sizes = {
        "step": T,
        "origin": T,
        "t": T + 1,
        "k": T + 1,
        "batch": B,
        "state": S,
        "state_prev": S,
        "rank": S,
        "unit": S,
    }
    assert sizes.items() <= dict(data.sizes).items()


def test_steps_carry_their_numbers(dumped):
    _, data = dumped
    assert data["step"].values.tolist() == list(range(1, T + 1))
    assert data["origin"].values.tolist() == list(range(T))
    assert data["t"].values.tolist() == data["k"].values.tolist() == list(range(T + 1))
    np.testing.assert_array_equal(
        data["state_jacobian"].sel(step=1), data["state_jacobian"].values[0]
    )


def test_meta_data(dumped):
    _, data = dumped
    expected = {
        "schema": 1,
        "case": "tanh",
        "cell": "rnn",
        "steps": T,
        "batch": B,
        "input_size": 4,
        "hidden_size": S,
        "output_size": 6,
    }
    assert expected.items() <= data.attrs.items()
    assert data.attrs["state"] == ["h"]
    assert {"numpy", "python", "seed", "dtype"} <= set(data.attrs["environment"])
    assert (data.attrs["environment"]["seed"], data.attrs["environment"]["dtype"]) == (0, "float64")
    assert "numerator layout" in data.attrs["notation"]


def test_products_are_those_of_the_references(dumped):
    _, data = dumped
    for name in ("state_jacobian", "jacobian_product_to_end", "singular_values", "d_state"):
        np.testing.assert_allclose(data[name], data[f"torch/{name}"], rtol=1e-9, atol=1e-13)
    assert not [name for name in data if str(name).startswith("torch.nn/")], "it tells no steps"


def test_products_are_products(dumped):
    _, data = dumped
    J, P = data["state_jacobian"].values, data["jacobian_product_to_end"].values
    product = np.broadcast_to(np.eye(S), (B, S, S))
    for k in reversed(range(T)):
        product = product @ J[k]
        np.testing.assert_allclose(P[k], product, rtol=1e-10, atol=1e-14)


def test_norms_and_singular_values(dumped):
    _, data = dumped
    norm, sigma = data["product_norm"].values, data["singular_values"].values
    np.testing.assert_allclose(norm[T, :T], sigma[..., 0], rtol=1e-10)
    np.testing.assert_array_equal(norm[range(T + 1), range(T + 1)], 1)
    assert np.isnan(norm[np.triu_indices(T + 1, 1)]).all()
    assert np.isfinite(norm[np.tril_indices(T + 1)]).all()
    assert (np.diff(sigma, axis=-1) <= 0).all()
    for t in range(1, T + 1):
        np.testing.assert_allclose(
            norm[t, t - 1], np.linalg.norm(data["state_jacobian"].values[t - 1], ord=2, axis=(1, 2))
        )


def test_growth_rates_are_those_of_the_whole_product(dumped):
    """Σ_i λ_i = (1/T) log |det P_{T,0}| = (1/T) Σ_t log |det J_t|, largest first."""
    _, data = dumped
    _, log_det = np.linalg.slogdet(data["state_jacobian"].values)
    np.testing.assert_allclose(
        data["growth_rates"].sum("rank"), log_det.sum(axis=0) / T, rtol=1e-10
    )
    assert (np.diff(data["growth_rates"].values) <= 0).all()


def test_gradients_follow_from_delta(dumped, trial):
    _, data = dumped
    problem = trial("tanh").problem
    delta = data["delta"].values
    h = trial("tanh").candidate.answer(problem).states["h"]
    previous = np.concatenate([problem.initial_state[None], h[:-1]])
    np.testing.assert_allclose(data["gradient/b_h"], delta.sum(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(
        data["gradient/W_hh"], np.einsum("tbi,tbj->ij", delta, previous), rtol=1e-11
    )
    np.testing.assert_allclose(
        data["gradient/W_xh"], np.einsum("tbi,tbj->ij", delta, problem.x), rtol=1e-11
    )
    np.testing.assert_allclose(data["gradient/h_0"], data["d_state"].sel(t=0), rtol=1e-12)


def test_a_loss_at_the_end_reaches_a_state_through_the_product(dumped_last):
    """∂L/∂s_k = P_{T,k}ᵀ ∂L/∂s_T."""
    _, data = dumped_last
    P, d = data["jacobian_product_to_end"].values, data["d_state"].values
    np.testing.assert_allclose(d[:T], np.einsum("kbij,bi->kbj", P, d[T]), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("name", ["W_xh", "W_hh", "b_h"])
def test_contributions_bound_the_gradient(dumped, name):
    """The terms sum to the gradient: ‖∂L/∂W‖ ≤ Σ ‖terms‖, terms for 1 ≤ k ≤ t only."""
    _, data = dumped
    norms = data[f"contribution_norm/{name}"].values
    there = np.tri(T + 1, dtype=bool)
    there[:, 0] = False
    np.testing.assert_array_equal(np.isfinite(norms), there)
    assert 0 < np.linalg.norm(data[f"gradient/{name}"]) <= np.nansum(norms)


@pytest.mark.parametrize("name", ["W_xh", "W_hh", "b_h"])
def test_contributions_of_a_loss_at_the_end(dumped_last, name):
    """Only t = T contributes, and its terms are the shares of the steps: b_h's are ‖Σ_b δ_k‖."""
    _, data = dumped_last
    norms = data[f"contribution_norm/{name}"].values
    assert np.nansum(norms[:T]) == 0
    assert (norms[T, 1:] > 0).all()
    if name == "b_h":
        np.testing.assert_allclose(
            norms[T, 1:], np.linalg.norm(data["delta"].sum("batch"), axis=-1), rtol=1e-10
        )


def test_one_step_has_one_contribution(trial, tmp_path):
    one = trial("one-step")
    data = load(write(tmp_path, one.problem, one.candidate, []))
    for name in ("W_xh", "W_hh", "b_h"):
        norms = data[f"contribution_norm/{name}"].values
        assert norms[1, 1] == pytest.approx(np.linalg.norm(data[f"gradient/{name}"]), rel=1e-12)
        assert np.isfinite(norms).sum() == 1


def test_tokens_can_be_dumped(trial, tmp_path):
    one = trial("tanh-tokens", steps=3)
    data = load(write(tmp_path, one.problem, one.candidate, []))
    assert "gradient/x" not in data
    assert data["gradient/W_xh"].shape == (5, 4)


def test_an_lstm_has_two_states_in_the_derivation_and_in_the_reference(trial, tmp_path):
    """The states of both are laid out in one order, under the same dimensions."""
    one = trial("lstm", steps=4)
    assert list(one.problem.state_sizes) == ["h", "c"]
    _, data = _dumped(one, tmp_path)
    size = sum(one.problem.state_sizes.values())
    for name in ("state_jacobian", "jacobian_product_to_end", "singular_values", "d_state"):
        mine, theirs = data[name], data[f"torch/{name}"]
        assert mine.dims == theirs.dims == dump.DIMENSIONS[name]
        assert mine.shape[-1] == size
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-13)
    assert data["d_state"].values[..., size // 2 :].any(), "c has a part"


# Whole or absent.


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("half way"), KeyboardInterrupt(), OSError(28, "No space left on device")],
)
def test_a_dump_that_fails_leaves_nothing(monkeypatch, trial, tmp_path, raised):
    def half(stream, **_):
        stream.write(b"PK half of it")
        raise raised

    monkeypatch.setattr(np, "savez", half)
    expected = BadTarget if isinstance(raised, OSError) else type(raised)
    with pytest.raises(expected):
        write(tmp_path, trial("one-step").problem, trial("one-step").candidate, [])
    assert list(tmp_path.iterdir()) == []


def test_a_dump_that_fails_leaves_the_one_before(monkeypatch, trial, tmp_path):
    one = trial("one-step")
    before = write(tmp_path, one.problem, one.candidate, []).read_bytes()
    monkeypatch.setattr(np, "savez", lambda stream, **_: stream.write(b"half") / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, one.problem, one.candidate, [])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_dump_replaces_the_one_before(trial, tmp_path):
    for one in (trial("one-step"), trial("one-step", seed=1)):
        path = write(tmp_path, one.problem, one.candidate, [])
    assert load(path).attrs["environment"]["seed"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["one-step.npz"]


def test_a_folder_that_is_a_file(trial, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadTarget, match="file cannot be written"):
        write(tmp_path / "file", trial("one-step").problem, trial("one-step").candidate, [])
    assert (tmp_path / "file").read_text() == "mine"


# What is no dump.


def npz(path, **arrays):
    np.savez(path, **arrays)


def meta(text):
    return lambda path: npz(path, meta=np.array(text))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: npz(path, a=np.ones(2)),
        meta(json.dumps({"schema": 99, "steps": 1})),
        meta(json.dumps({"steps": 1})),
        meta(json.dumps([1])),
        meta("no JSON"),
        lambda path: path.write_text("hello"),
        lambda path: path.write_bytes(b""),
        lambda path: (
            Path(f"{path}.npy").rename(path) if np.save(f"{path}.npy", np.ones(2)) is None else None
        ),
    ],
    ids=["other-npz", "schema-99", "no-schema", "list", "no-json", "text", "empty", "npy"],
)
def test_what_is_no_dump_is_a_value_error(tmp_path, make):
    path = tmp_path / "other.npz"
    make(path)
    with pytest.raises(ValueError, match=r"."):
        load(path)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_half_a_dump_is_a_value_error(dumped, tmp_path):
    path = tmp_path / "half.npz"
    path.write_bytes(dumped[0].read_bytes()[:-100])
    refusal = None
    try:
        load(path)
    except Exception as error:
        refusal = type(error)
    gc.collect()  # a file that NumPy has left open is closed here, in no other test
    assert refusal is not None
    assert issubclass(refusal, ValueError)


def test_no_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")
