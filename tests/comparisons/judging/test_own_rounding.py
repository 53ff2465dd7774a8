"""What a derivation's own rounding explains, and that it excuses no mistake."""

import numpy as np
import pytest
import torch
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.judging.findings import Mistake
from bptt_crosscheck.comparisons.judging.own_rounding import in_longdouble

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > np.finfo(np.float64).eps / 1000,
    reason="longdouble is no wider than float64 on this platform",
)


class Saturated:
    """h_t = σ(W x_t + U h_{t−1} + b) with b so large that σ is within 1e-11 of 1; σ′ as the
    textbook has it, σ (1 − σ).
    """

    bias = 25.0

    def parameter_shapes(self, input_size, hidden_size):
        return {
            "W": (hidden_size, input_size),
            "U": (hidden_size, hidden_size),
            "b": (hidden_size,),
        }

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def initialise(self, rng, input_size, hidden_size, batch):
        return {"b": np.full(hidden_size, self.bias)}

    def step(self, xp, params, state, x):
        z = x @ params["W"].T + state["h"] @ params["U"].T + params["b"]
        s = 1 / (1 + xp.exp(-z))
        return {"h": s}, {"s": s, "h": state["h"], "x": x}

    def slope(self, s):
        return s * (1 - s)

    def step_backward(self, params, cache, d_state):
        delta = d_state["h"] * self.slope(cache["s"])
        d_params = {"W": delta.T @ cache["x"], "U": delta.T @ cache["h"], "b": delta.sum(axis=0)}
        return d_params, delta @ params["W"], {"h": delta @ params["U"]}


class WithMistake(Saturated):
    """The same with a slope that is off by a thousandth, in every precision."""

    def slope(self, s):
        return 1.001 * s * (1 - s)


class InSingle(Saturated):
    """The same computed in float32, whatever it is given."""

    def slope(self, s):
        return super().slope(s.astype(np.float32)).astype(s.dtype)


class NoLongdouble(Saturated):
    """The same, as code that refuses longdouble."""

    def slope(self, s):
        if s.dtype == np.longdouble:
            raise TypeError("float64 only")
        return super().slope(s)


class InDoubleAlone(Saturated):
    """The same with a mistake on the path of float64, which longdouble and float32 do not take."""

    def slope(self, s):
        return super().slope(s) * (1.001 if s.dtype == np.float64 else 1.0)


ASKED = {"references": ["torch"], "steps": 4}
QUIET = {"references": ["torch"], "raise_exception": False}


def test_digits_that_cancel_are_the_code_s_own_rounding():
    report = check_cell(Saturated(), **ASKED)
    assert report.passed
    assert "the code's own rounding explains the difference in W" in str(report)
    row = next(row for row in report.rows if row.gradient == "W")
    assert 1e-8 < row.max_rel_error < 1e-2
    assert row.error_over_noise <= 1.5


@pytest.mark.parametrize("cell", [WithMistake, InSingle, NoLongdouble, InDoubleAlone])
def test_a_mistake_is_there_in_longdouble_too(cell):
    made = cell()
    made.bias = {InSingle: 5.0, InDoubleAlone: 0.0}.get(cell, 25.0)
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_cell(made, **ASKED)


def test_all_zero_never_passes():
    """σ = 1 to the last bit, in longdouble as well as in float64."""
    cell = Saturated()
    cell.bias = 60.0
    with pytest.raises(GradientMismatch, match="all zero"):
        check_cell(cell, **ASKED)


def test_a_function_has_the_second_look_too():
    x = np.linspace(24, 26, 5)

    def loss(xp, p, i):
        return xp.sum(i["c"] / (1 + xp.exp(-p["z"])))

    def slope(p, i, factor=1.0):
        s = 1 / (1 + np.exp(-p["z"]))
        return {"z": factor * i["c"] * s * (1 - s)}

    given = ({"z": x}, {"c": np.arange(1.0, 6.0)})
    assert "own rounding" in str(check_gradients(slope, loss, *given))
    with pytest.raises(GradientMismatch):
        check_gradients(lambda p, i: slope(p, i, 1.001), loss, *given)


def test_what_is_asked_for_by_tolerance_has_none():
    with pytest.raises(GradientMismatch):
        check_cell(Saturated(), rtol=1e-12, **ASKED)


def test_a_lower_precision_has_none(trial):
    problem = trial("tanh").problem
    assert in_longdouble(problem, trial("tanh").candidate).gradients["W_hh"].dtype == np.longdouble
    assert in_longdouble(problem.in_precision("float32"), trial("tanh").candidate) is None


# What is right in the limit of fine arithmetic, and no rounding that saturation or cancellation
# explains.


def spread(xp, p, i):
    z = i["x"] @ p["W"].T
    return xp.sum((z - xp.mean(z, axis=0)) ** 2)


def spread_gradient(p, i):
    z = i["x"] @ p["W"].T
    return 2 * (z - z.mean(axis=0)).T @ i["x"]


def spread_question():
    rng = np.random.default_rng(9)
    return spread, {"W": rng.normal(size=(5, 4))}, {"x": rng.normal(size=(3, 4))}


def one_sided(step):
    def gradients(p, i):
        W, at = p["W"], spread(np, p, i)
        h, dW = np.asarray(step, p["W"].dtype), np.zeros_like(p["W"])
        for n in np.ndindex(W.shape):
            moved = W.copy()
            moved[n] += h
            dW[n] = (spread(np, {"W": moved}, i) - at) / h
        return {"W": dW}

    return gradients


@pytest.mark.parametrize("step", [1e-13, 1e-10, 1e-6])
def test_differences_are_no_rounding(step):
    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(one_sided(step), *spread_question())


@pytest.mark.parametrize("power", [0.5, 0.6, 0.75])
def test_a_guard_is_no_rounding(power):
    """A right gradient over 1 + ε^power, as a guard against division by zero leaves it."""

    def gradients(p, i):
        dW = spread_gradient(p, i)
        return {"W": dW / (1 + np.finfo(dW.dtype).eps ** power)}

    with pytest.raises(GradientMismatch, match="W: differs"):
        check_gradients(gradients, *spread_question())


def decaying(xp, p, i):
    h, total = i["h0"], 0.0
    for t in range(i["x"].shape[0]):
        h = xp.exp(-xp.exp(i["x"][t] @ p["Wa"].T)) * h + i["x"][t] @ p["Wk"].T
        total = total + xp.sum(i["c"][t] * h)
    return total


def rebuilding(xp, p, i):
    """The states on the way back by h_{t−1} = (h_t − k_t) / a_t, as reversible code has it."""
    x, c, h = i["x"], i["c"], i["h0"]
    e, k = xp.exp(x @ p["Wa"].T), x @ p["Wk"].T
    a = xp.exp(-e)
    for t in range(len(x)):
        h = a[t] * h + k[t]
    dWa, dWk, dx, dh = 0 * p["Wa"], 0 * p["Wk"], 0 * x, 0 * h
    for t in reversed(range(len(x))):
        h = (h - k[t]) / a[t]
        dh = dh + c[t]
        dz = dh * h * a[t] * -e[t]
        dWa, dWk = dWa + dz.T @ x[t], dWk + dh.T @ x[t]
        dx[t], dh = dz @ p["Wa"] + dh @ p["Wk"], dh * a[t]
    return {"Wa": dWa, "Wk": dWk, "x": dx, "h0": dh}


def decaying_question(steps, dtype="float64"):
    rng = np.random.default_rng(0)
    Wa = 0.3 * rng.normal(size=(4, 3))
    Wa[:, 0] = 0.0
    x = rng.normal(size=(steps, 2, 3))
    x[:, :, 0] = 1.0
    params = {"Wa": Wa, "Wk": rng.normal(size=(4, 3))}
    inputs = {"x": x, "c": rng.normal(size=(steps, 2, 4)), "h0": rng.normal(size=(2, 4))}
    cast = [{name: v.astype(dtype) for name, v in given.items()} for given in (params, inputs)]
    return decaying, *cast


def lost_digits(report):
    found = [found for case in report.cases for found in case.diagnosis]
    return {each.where: each for each in found if each.mistake is Mistake.LOST_DIGITS}


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 16), ("float32", 7)])
def test_states_that_are_rebuilt_are_refused_with_the_digits_they_lose(dtype, digits):
    asked = lambda p, i: rebuilding(np, p, i)  # noqa: E731
    report = check_gradients(asked, *decaying_question(24, dtype), **QUIET)
    assert {row.gradient for row in report.rows if not row.passed} == {"Wa", "x"}
    found = lost_digits(report)
    assert set(found) == {"Wa", "x"}
    assert 6 <= found["x"].digits_lost <= digits
    assert 10 < found["x"].from_step < 24
    assert f"Wa is right on paper, and loses {found['Wa'].digits_lost} of {digits}" in str(report)
    assert report.to_dict()["cases"][0]["diagnosis"][0]["digits_lost"] == found["Wa"].digits_lost


def test_states_that_are_rebuilt_over_few_steps_pass():
    report = check_gradients(lambda p, i: rebuilding(np, p, i), *decaying_question(4))
    assert report.passed


def test_digits_that_torch_code_loses_are_told_too():
    def gradients(p, i):
        params = {name: torch.tensor(value) for name, value in p.items()}
        inputs = {name: torch.tensor(value) for name, value in i.items()}
        found = rebuilding(torch, params, inputs)
        return {name: value.numpy() for name, value in found.items()}

    report = check_gradients(gradients, *decaying_question(24), **QUIET)
    assert not report.passed
    assert lost_digits(report)["Wa"].digits_lost >= 10
    assert "its error grows in float32 as roundoff does" in str(report)


def test_an_excuse_for_one_entry_hides_no_other():
    """Saturated in one row, and off by a little in another, in every precision."""
    x = np.array([[0.3, 24.0], [0.1, 25.0]])
    c = np.array([[1.0, 2.0], [3.0, 4.0]])

    def loss(xp, p, i):
        return xp.sum(i["c"] / (1 + xp.exp(-p["z"])))

    def slopes(p, i, error=0.0):
        s = 1 / (1 + np.exp(-p["z"]))
        d = i["c"] * s * (1 - s)
        d[0, 0] *= 1 + error
        return {"z": d}

    assert check_gradients(slopes, loss, {"z": x}, {"c": c}).passed
    for error in (5e-4, 1e-9, 1e-12):
        with pytest.raises(GradientMismatch, match="z: differs"):
            check_gradients(lambda p, i, e=error: slopes(p, i, e), loss, {"z": x}, {"c": c})


def test_digits_that_are_lost_and_excused_are_a_finding():
    report = check_cell(Saturated(), **ASKED)
    found = lost_digits(report)["W"]
    assert 5 <= found.digits_lost <= 12
    assert f"{found.digits_lost} of 16 digits lost" in str(report)


def test_a_right_code_that_is_spoilt_in_float32_alone_has_no_excuse():
    """Rounds its slope once more, by what is 1e-13 in float64 and all of it in float32."""

    class Spoilt(Saturated):
        bias = 3.0

        def slope(self, s):
            power = {np.float64: 0.83, np.float32: 0.02}.get(s.dtype.type, 1.0)
            return super().slope(s) * (1 + np.finfo(s.dtype).eps ** power)

    with pytest.raises(GradientMismatch, match="W: differs"):
        check_cell(Spoilt(), **ASKED)


def log_variance(xp, p, i):
    d = i["x"] @ p["W"].T
    return xp.sum(xp.log(xp.mean((d - xp.mean(d, axis=0)) ** 2, axis=0)))


def by_squares(p, i):
    """The variance as E z² − (E z)², which cancels where the mean is larger than the spread."""
    z = i["x"] @ p["W"].T + i["offset"]
    m = z.mean(axis=0)
    v = (z * z).mean(axis=0) - m * m
    return {"W": (2 * (z - m) / (len(z) * v)).T @ i["x"]}


@pytest.mark.parametrize(("offset", "passes"), [(10.0, True), (1000.0, False)])
def test_cancellation_is_excused_up_to_the_cap(offset, passes):
    rng = np.random.default_rng(3)
    params = {"W": rng.normal(size=(4, 3))}
    inputs = {"x": rng.normal(size=(8, 3)), "offset": np.asarray(offset)}
    report = check_gradients(by_squares, log_variance, params, inputs, **QUIET)
    assert report.passed is passes
    assert lost_digits(report)["W"].digits_lost in ((2, 3) if passes else (5, 6, 7))
    assert ("more than rounding has to" in str(report)) is not passes


# Code without longdouble: torch's.

CHUNK = 16


def attention(xp, p, i):
    q, k, v, g, S = (p[name] for name in ("q", "k", "v", "g", "S"))
    out = []
    for t in range(q.shape[0]):
        S = xp.exp(g[t]) * S + k[t][:, None] * v[t][None, :]
        out.append(xp.sum(S * q[t][:, None], axis=0))
    return {"o": xp.stack(out), "S": S}


def by_chunks(p, i, cotangents):
    """The chunk form of the same in torch: sums of products where the step form has none."""
    named = {"q": p["q"], "k": p["k"], "v": p["v"], "g": p["g"], "S": p["S"]}
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in named.items()}
    q, k, v, g, S = leaves.values()
    out = []
    for start in range(0, len(q), CHUNK):
        c = slice(start, start + CHUNK)
        G = torch.cumsum(g[c], 0)
        decay = torch.exp((G[:, None] - G[None, :]).tril()).tril()
        out.append(((q[c] @ k[c].T) * decay) @ v[c] + torch.exp(G)[:, None] * (q[c] @ S))
        S = torch.exp(G[-1]) * S + (k[c] * torch.exp(G[-1] - G)[:, None]).T @ v[c]
    total = torch.sum(torch.cat(out) * torch.tensor(cotangents["o"]))
    (total + torch.sum(S * torch.tensor(cotangents["S"]))).backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def attention_question(gate, seed=1, steps=32):
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=(steps, 3)) for name in "qkv"}
    params |= {"g": gate - 0.1 * rng.random(steps), "S": rng.normal(size=(3, 3))}
    return attention, params, {}


@pytest.mark.parametrize(("gate", "seed"), [(-6.0, 1), (-7.0, 2), (-8.0, 1)])
def test_rounding_of_torch_code_averages_out(gate, seed):
    report = check_vjp(by_chunks, *attention_question(gate, seed), references=["torch"])
    assert report.passed
    assert "the code's own rounding explains the difference in g" in str(report)
    assert lost_digits(report)["g"].digits_lost in (2, 3, 4)


@pytest.mark.parametrize("size", [2e-13, -2e-13, 1e-12, 1e-9])
def test_a_mistake_as_small_as_the_rounding_of_torch_code_does_not(size):
    def planted(p, i, cotangents):
        found = by_chunks(p, i, cotangents)
        return {**found, "g": found["g"] + size * np.abs(found["g"]).max()}

    with pytest.raises(GradientMismatch, match="g: differs"):
        check_vjp(planted, *attention_question(-6.0), references=["torch"])
