"""The cures at work: every number of the table from another calculation, and twins that must fail."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons import command_line
from bptt_crosscheck.comparisons.candidates import built_in_cells
from bptt_crosscheck.comparisons.candidates.built_in_cells import built_in
from bptt_crosscheck.comparisons.errors import BadTarget, MissingFramework
from bptt_crosscheck.comparisons.places import ROOT
from bptt_crosscheck.comparisons.problems.problem import PRODUCT_TO_END
from bptt_crosscheck.comparisons.reporting.dump import load, write
from bptt_crosscheck.comparisons.studies import cure_measurements, cures
from bptt_crosscheck.comparisons.studies.cure_measurements import (
    CLIPPINGS,
    LIMIT,
    clipping_of,
    factor_per_step,
    finding,
    measurement_of,
    truncation_of,
)
from bptt_crosscheck.comparisons.studies.cure_variants import (
    VARIANTS,
    Variant,
    agreement,
    case_for,
    draw,
    problem_for,
)
from bptt_crosscheck.comparisons.witnesses.ask import available
from bptt_crosscheck.manual.cells.residual import ResidualRNN
from bptt_crosscheck.manual.cells.rnn import RNN

T, B, I, H = 12, 3, 4, 6  # noqa: E741
SIZES = {"steps": T, "batch": B, "input_size": I, "hidden_size": H}
SHARED = draw(0, **SIZES)


def problem_with(variant, window=None):
    return problem_for(case_for(variant, SIZES, window), variant, SHARED)


VARIANT = {variant.name: variant for variant in VARIANTS}
LINEAR = {"activation": "identity"}


@pytest.fixture(scope="module")
def torch_engine():
    return available(("torch",))[0][0]


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    """dumped(variant, window=None) → the dataset of its dump."""
    made, folder = {}, tmp_path_factory.mktemp("dumps")

    def get(variant, window=None):
        if (variant.name, window) not in made:
            problem = problem_with(variant, window)
            made[variant.name, window] = load(
                write(folder, problem, built_in(problem.cell, problem.options), [])
            )
        return made[variant.name, window]

    return get


def linear(name, W):
    return Variant(
        name, name, "rnn", LINEAR, lambda shared: {"W_xh": shared.input_weights[0], "W_hh": W}
    )


# The measurement.


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.25])
def test_a_multiple_of_the_identity_has_that_factor(dumped, gain):
    row = measurement_of("", dumped(linear(f"identity-{gain}", gain * np.eye(H))))
    assert row.factor_per_step == pytest.approx(gain, rel=1e-12)
    assert row.largest_growth == pytest.approx(gain, rel=1e-12)
    np.testing.assert_allclose(row.norms, gain ** np.arange(T + 1), rtol=1e-12)
    assert row.norm_at_start == row.norms[-1]


@pytest.mark.parametrize(("gain", "lag"), [(0.5, 10), (0.51, 11), (0.9, None)])
def test_the_lag_below_a_thousandth(dumped, gain, lag):
    """0.5¹⁰ < 0.001 ≤ 0.5⁹."""
    assert measurement_of("", dumped(linear(f"identity-{gain}", gain * np.eye(H)))).lag_below == lag


def test_a_nilpotent_matrix_ends_in_an_exact_zero(dumped):
    row = measurement_of("", dumped(linear("nilpotent", np.eye(H, k=1))))
    assert row.norms[:H] == [1.0] * H
    assert row.norms[H:] == [0.0] * (T + 1 - H)
    assert (row.lag_below, row.zero_rows, row.largest_growth) == (H, B, 0.0)
    assert finding(row, row) == f"1 at lag {H - 1}, then exactly 0 in every row"
    assert row.factor_per_step == pytest.approx(1.0), "while it lasts"


def test_residual_without_weights_keeps_everything(dumped):
    """J = I + α diag(φ′) W_hh with W_hh = 0, and with W_hh = −2 I, α = ½ and φ the identity: 0."""
    options = {"alpha": 0.5, "activation": "identity"}
    kept = Variant("residual-kept", "", "residual", options, lambda s: {"W_hh": np.zeros((H, H))})
    lost = Variant("residual-lost", "", "residual", options, lambda s: {"W_hh": -2 * np.eye(H)})
    assert measurement_of("", dumped(kept)).norms == [1.0] * (T + 1)
    assert measurement_of("", dumped(lost)).norms == [1.0] + [0.0] * T


def test_an_lru_has_its_largest_radius(dumped):
    row, variables = (
        measurement_of("", dumped(VARIANT["lru-0.5-0.99"])),
        problem_with(VARIANT["lru-0.5-0.99"]).variables,
    )
    radius = np.exp(-np.exp(variables["nu"])).max()
    assert 0.5 <= radius <= 0.99
    assert row.factor_per_step == pytest.approx(radius, rel=1e-9)
    assert row.recurrent_norm is None


def test_norms_are_those_of_torch_jacobians(dumped):
    """An LSTM typed here, s_T by s_k as one function.

    Neither the derivation nor the reference has a part in it.
    """
    import torch

    variables = {
        n: torch.tensor(np.array(v))
        for n, v in problem_with(VARIANT["lstm-forget-3"]).variables.items()
    }
    W, U, b = (variables[name] for name in ("W_xh", "W_hh", "b_h"))

    def step(s, x):
        i, f, g, o = torch.split(W @ x + U @ s[:H] + b, H)
        c = torch.sigmoid(f) * s[H:] + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c])

    def to_end(s, xs):
        for x in xs:
            s = step(s, x)
        return s

    expected = np.zeros(T + 1)
    for row in range(B):
        s, xs = torch.zeros(2 * H, dtype=torch.float64), variables["x"][:, row]
        for k in range(T + 1):
            jacobian = torch.autograd.functional.jacobian(
                lambda state, k=k, xs=xs: to_end(state, xs[k:]), s
            )
            expected[T - k] = max(expected[T - k], float(torch.linalg.matrix_norm(jacobian, 2)))
            s = step(s, xs[k]) if k < T else s
    row = measurement_of("", dumped(VARIANT["lstm-forget-3"]))
    np.testing.assert_allclose(row.norms, expected, rtol=1e-10)
    slope = np.polyfit(np.arange(1, T + 1), np.log(expected[1:]), 1)[0]
    assert row.factor_per_step == pytest.approx(np.exp(slope), rel=1e-10)


@pytest.mark.parametrize(
    ("norms", "factor"),
    [([0.5, 0.25, 0.125], 0.5), ([2, 0, 8], 2.0), ([0.0, 0.0, 3.0], None), ([0, 0], None)],
)
def test_a_line_through_what_is_not_zero(norms, factor):
    assert factor_per_step(np.array(norms)) == (factor if factor is None else pytest.approx(factor))


# Fairness.


def test_all_variants_see_the_same():
    problems = [problem_with(variant) for variant in VARIANTS]
    for problem in problems:
        np.testing.assert_array_equal(problem.x, SHARED.x)
        assert not problem.initial_state.any()
        first, *others = (problem.constants[f"cotangent_{name}"] for name in problem.state_sizes)
        np.testing.assert_array_equal(first[-1], SHARED.cotangent)
        assert not first[:-1].any()
        assert not np.any(others)
    lstm, gru, plain = (
        problem_with(VARIANT[name]).variables
        for name in ("lstm-forget-1", "gru-update-3", "tanh-Q")
    )
    for name in ("W_xh", "W_hh"):
        np.testing.assert_array_equal(lstm[name][2 * H : 3 * H], plain[name])
        np.testing.assert_array_equal(gru[name][2 * H :], plain[name])
    np.testing.assert_allclose(plain["W_hh"] @ plain["W_hh"].T, np.eye(H), atol=1e-12)
    np.testing.assert_array_equal(lstm["b_h"], np.repeat([0.0, 1.0, 0.0, 0.0], H))
    np.testing.assert_array_equal(gru["b_x"], np.repeat([0.0, 3.0, 0.0], H))


def test_other_seeds_draw_others():
    assert not np.array_equal(draw(1, **SIZES).x, SHARED.x)


def test_names_are_distinct_and_in_the_document():
    assert (
        len({variant.name for variant in VARIANTS})
        == len({variant.label for variant in VARIANTS})
        == len(VARIANTS)
    )
    shown = (ROOT / "docs" / "cures.md").read_text(encoding="utf-8").split("```")[1]
    table = shown.split("Clipping to")[0]
    assert [variant.label for variant in VARIANTS if f" {variant.label} " not in table] == []
    assert f"all {len(VARIANTS)} variants agree" in shown


# What is said follows from the numbers.


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"norm_at_start": 2500.0}, "explodes, 2,500-fold"),
        ({"norm_at_start": 24.2}, "grows, 24-fold"),
        ({"norm_at_start": 1.0, "zero_rows": 3}, "100 % is left; exactly 0 in 3 of 4 rows"),
        ({"norm_at_start": 0.22}, "22 % is left"),
        (
            {"norm_at_start": 1e-8, "lag_below": 40, "name": "other"},
            "vanishes, at 2.0 × tanh's lag",
        ),
        ({}, "vanishes"),
    ],
)
def test_findings(changed, said):
    plain = cure_measurements.CureMeasurement(
        "tanh-Q", "", [1.0, 1e-8], 0.5, 1e-8, 20, 0, 4, 0.5, 1.0, 1.0
    )
    assert finding(replace(plain, **changed), plain) == said


# Clipping.


def test_clipping_and_its_one_sided_double(dumped):
    data = dumped(linear("identity-1.25", 1.25 * np.eye(H)))
    rows = {clipping: clipping_of(clipping, "", data) for clipping in CLIPPINGS}
    names = ("W_xh", "W_hh", "b_h", "x")
    entries = np.concatenate([data[f"gradient/{name}"].values.ravel() for name in names])
    before = float(np.linalg.norm(entries))
    assert before > LIMIT < -entries.min()
    by_norm, by_value, one_sided = rows["norm"], rows["value"], rows["one-sided"]
    for row in rows.values():
        assert row.norm_before == pytest.approx(before)
        assert row.enlarged == 0
    assert (by_norm.norm_after, by_norm.cosine) == pytest.approx((LIMIT, 1.0))
    assert by_norm.decay_after == pytest.approx(by_norm.decay_before, rel=1e-12)
    clipped = np.clip(entries, -LIMIT, LIMIT)
    assert by_value.norm_after == pytest.approx(np.linalg.norm(clipped))
    assert by_value.changed == np.mean(np.abs(entries) > LIMIT)
    assert by_value.cosine == pytest.approx(clipped @ entries / before / np.linalg.norm(clipped))
    assert (by_value.smallest, by_value.largest) == (-LIMIT, LIMIT)
    assert one_sided.smallest == entries.min() < -LIMIT, "a large negative entry passes"
    assert one_sided.changed == np.mean(entries > LIMIT) < by_value.changed


def test_clipping_does_nothing_against_vanishing(dumped):
    """Under an identity RNN with W_hh = g I, ‖∂L/∂x_k‖ = g^(T−k) ‖V C‖: g before and after."""
    data = dumped(linear("identity-0.5", 0.5 * np.eye(H)))
    for clipping in CLIPPINGS:
        row = clipping_of(clipping, "", data)
        assert row.decay_before == pytest.approx(0.5, rel=1e-12)
        assert row.decay_after == pytest.approx(0.5, rel=0.05)
    assert clipping_of("norm", "", data).decay_after == pytest.approx(0.5, rel=1e-12)


# Truncation.


def test_a_window_cuts_what_is_beyond_and_keeps_what_is_within(dumped):
    variant, window = linear("identity-1.25", 1.25 * np.eye(H)), 3
    whole, cut = dumped(variant), dumped(variant, window)
    row = truncation_of("", window, whole, cut)
    assert (row.beyond, row.difference) == (0.0, 0.0)
    assert row.beyond_whole == pytest.approx(1.25**T * np.abs(SHARED.cotangent).max())
    beyond = np.einsum("k,bi->ki", 1.25 ** np.arange(window + 1, T), SHARED.cotangent).sum(
        axis=0
    )  # of b_h, by hand
    np.testing.assert_allclose(
        whole["gradient/b_h"].values - cut["gradient/b_h"].values, beyond, rtol=1e-10
    )
    names = ("W_xh", "W_hh", "b_h")
    lost = np.concatenate(
        [(whole[f"gradient/{n}"].values - cut[f"gradient/{n}"].values).ravel() for n in names]
    )
    assert row.lost == pytest.approx(np.linalg.norm(lost) / row.norm_whole, rel=1e-12)
    terms = sum(
        whole[f"contribution_norm/{name}"].sel(t=T, k=slice(1, T - window - 1)).sum()
        for name in names
    )
    assert 0 < row.lost * row.norm_whole <= float(terms)


def test_what_is_not_cut_is_not_called_cut(dumped):
    variant = linear("identity-1.25", 1.25 * np.eye(H))
    row = truncation_of("", 3, dumped(variant), dumped(variant))
    assert row.beyond == row.beyond_whole > 0
    assert row.lost == 0


# The reference.


class Wrong(RNN):
    """W_hh where its transpose belongs, in the Jacobian alone."""

    def step_jacobian(self, params, cache):
        return np.swapaxes(super().step_jacobian(params, cache), -1, -2)


class Frozen(ResidualRNN):
    """The slope of tanh is forgotten: no error in the forward."""

    def step_jacobian(self, params, cache):
        return super().step_jacobian(
            params, {**cache, "z": 0 * cache["z"], "phi": 0 * cache["phi"]}
        )


@pytest.mark.parametrize(
    ("name", "cell", "broken"), [("tanh-3Q", "rnn", Wrong), ("residual-1", "residual", Frozen)]
)
def test_a_wrong_jacobian_is_found(monkeypatch, torch_engine, name, cell, broken):
    problem = problem_with(VARIANT[name])
    assert all(verdict.passed for verdict in agreement(problem, torch_engine))
    monkeypatch.setitem(built_in_cells.CELLS, cell, broken)
    wrong = {verdict.gradient for verdict in agreement(problem, torch_engine) if not verdict.passed}
    assert wrong == {"state_jacobian", PRODUCT_TO_END}


# The command.


@pytest.fixture
def command(monkeypatch, capfd):
    """command(*arguments) → (exit status, standard output, standard error), on small cases and few
    variants.
    """
    few = tuple(VARIANT[name] for name in ("tanh-Q", "tanh-3Q", "irnn"))
    examine = cures.examine
    monkeypatch.setattr(cures, "examine", lambda *given: examine(*given, few))

    def run(*arguments):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "report.py",
                "cures",
                "--steps",
                "6",
                "--batch",
                "2",
                "--hidden-size",
                "3",
                *arguments,
            ],
        )
        with pytest.raises(SystemExit) as left:
            command_line.main()
        return left.value.code, *capfd.readouterr()

    return run


def test_the_command(command, tmp_path):
    targets = {name: str(tmp_path / name) for name in ("r.json", "new/dumps", "p.png")}
    status, out, err = command(
        "--json", targets["r.json"], "--dump", targets["new/dumps"], "--plot", targets["p.png"]
    )
    assert (status, err) == (0, "")
    assert "all 3 variants agree with torch's Jacobians" in out
    data = json.loads((tmp_path / "r.json").read_text())
    assert (data["schema"], data["passed"], data["sizes"]["steps"]) == (1, True, 6)
    assert [row["name"] for row in data["variants"]] == ["tanh-Q", "tanh-3Q", "irnn"]
    assert (len(data["clipping"]), len(data["truncation"])) == (6, 2)
    dumps = sorted(path.name for path in (tmp_path / "new" / "dumps").iterdir())
    assert dumps == [
        "irnn.npz",
        "tanh-3Q-window-1.npz",
        "tanh-3Q.npz",
        "tanh-Q-window-1.npz",
        "tanh-Q.npz",
    ]
    norms = (
        load(tmp_path / "new" / "dumps" / "tanh-Q.npz")["product_norm"]
        .sel(t=6)
        .max("batch")
        .values[::-1]
    )
    assert data["variants"][0]["norms"] == norms.tolist()
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_json_alone_on_standard_output(command):
    (status, out, err), (_, again, _), (_, other, _) = (
        command("--json", "-", "--seed", seed) for seed in ("3", "3", "4")
    )
    assert status == 0
    assert json.loads(out)["environment"]["seed"] == 3
    assert out == again != other
    assert "variants agree" in err


def test_a_wrong_derivation_is_exit_status_1(monkeypatch, command):
    monkeypatch.setitem(built_in_cells.CELLS, "rnn", Wrong)
    status, out, _ = command()
    assert status == 1
    assert "DIFFER" in out
    assert "1 of 3 variants agree" in out
    assert "tanh-Q: state_jacobian: differs from torch" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--steps", "1"), "--steps"),
        (("--plot", "picture.nosuch"), "png"),
        (("--steps", "100000000"), "too large"),
    ],
)
def test_a_question_that_cannot_be(command, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert word in err
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_cannot_be(monkeypatch, tmp_path):
    with pytest.raises(BadTarget):
        cures.must_be_drawable(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    with pytest.raises(MissingFramework, match="pip install"):
        cures.must_be_drawable(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("value", "spelt"),
    [(float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (float("nan"), "NaN")],
)
def test_what_json_cannot_hold_is_spelt(value, spelt):
    row = cure_measurements.CureMeasurement(
        "a", "a", [1.0, value], None, value, None, 0, 1, value, 1.0, None, agrees=True
    )
    made = cures.Cures({}, {}, [row], [], [])
    assert json.loads(made.to_json())["variants"][0]["norms"] == [1.0, spelt]
