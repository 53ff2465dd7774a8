"""Where recurrence leaves no digits, that is said; what still has some is judged."""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_cell, check_gradients
from bptt_crosscheck.comparisons.errors import NotDecidable

LONG = {"references": ["torch"], "steps": 300, "hidden_size": 20}


class Chaotic:
    """h_t = tanh(W x_t + U h_{t−1}), U a multiple of an orthogonal matrix."""

    gain = 3.0

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "U": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def initialise(self, rng, input_size, hidden_size, batch):
        return {"U": self.gain * np.linalg.qr(rng.normal(size=(hidden_size, hidden_size)))[0]}

    def step(self, xp, params, state, x):
        h = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": h}, (x, state["h"], h)

    def step_backward(self, params, cache, d_state):
        x, h_prev, h = cache
        delta = (1 - h**2) * d_state["h"]
        d_params = {"W": delta.T @ x, "U": delta.T @ h_prev}
        return d_params, delta @ params["W"], {"h": self.carried(delta, params["U"])}

    def carried(self, delta, U):
        return delta @ U


class Dropped(Chaotic):
    def carried(self, delta, U):
        return 0 * delta


class Transposed(Chaotic):
    def carried(self, delta, U):
        return delta @ U.T


class Factor(Chaotic):
    def step_backward(self, params, cache, d_state):
        d_params, d_x, d_state_prev = super().step_backward(params, cache, d_state)
        return {**d_params, "W": 1.01 * d_params["W"]}, d_x, d_state_prev


class ByMemory(Chaotic):
    """Reads U as if it were C-contiguous."""

    def carried(self, delta, U):
        return delta @ U.ravel(order="K").reshape(U.shape)


def gained(cell, gain):
    made = cell()
    made.gain = gain
    return made


@pytest.mark.parametrize(("gain", "steps", "seed"), [(3.0, 300, 8), (5.0, 200, 1), (4.0, 400, 3)])
def test_right_code_in_chaos_is_neither_wrong_nor_blamed_for_its_layout(gain, steps, seed):
    asked = {**LONG, "steps": steps, "seed": seed}
    report = check_cell(gained(Chaotic, gain), raise_exception=False, **asked)
    assert [type(error) for error in report.errors] == [NotDecidable]
    assert not report.passed
    assert not report.rows
    text = str(report)
    assert "the states have none from step" in text
    assert f"of {steps} steps by themselves agree" in text


@pytest.mark.parametrize("cell", [Dropped, Transposed, Factor])
def test_what_has_digits_is_judged_in_chaos(cell):
    with pytest.raises(GradientMismatch, match=r"first \d+ of 300 steps: \d of 4 .* disagree"):
        check_cell(cell(), seed=8, **LONG)


def test_memory_order_is_still_looked_at_in_chaos():
    with pytest.raises(Exception, match="another memory order") as caught:
        check_cell(ByMemory(), seed=8, **LONG)
    assert type(caught.value).__name__ == "LayoutMatters"


def test_what_has_all_its_digits_is_judged_to_the_end():
    assert check_cell(gained(Chaotic, 1.0), seed=8, **LONG).passed
    assert check_cell(Chaotic(), seed=8, **{**LONG, "steps": 60}).passed


def loss(xp, p, i):
    h, total = i["h0"], 0.0
    for t in range(i["x"].shape[0]):
        h = xp.tanh(i["x"][t] @ p["W"].T + h @ p["U"].T)
        total = total + xp.sum(i["c"][t] * h)
    return total


def gradients(p, i, factor=1.0):
    x, hs = i["x"], [i["h0"]]
    for t in range(len(x)):
        hs.append(np.tanh(x[t] @ p["W"].T + hs[-1] @ p["U"].T))
    dW, dU, dx, dh = 0 * p["W"], 0 * p["U"], 0 * x, 0 * i["h0"]
    for t in reversed(range(len(x))):
        delta = (1 - hs[t + 1] ** 2) * (dh + i["c"][t])
        dW, dU = dW + delta.T @ x[t], dU + delta.T @ hs[t]
        dx[t], dh = factor * delta @ p["W"], delta @ p["U"]
    return {"W": dW, "U": dU, "x": dx}


def question(steps, hidden_size=20):
    rng = np.random.default_rng(0)
    U = 3 * np.linalg.qr(rng.normal(size=(hidden_size, hidden_size)))[0]
    inputs = {
        "x": rng.normal(size=(steps, 2, 3)),
        "h0": rng.normal(size=(2, hidden_size)),
        "c": rng.normal(size=(steps, 2, hidden_size)),
    }
    return {"W": 0.5 * rng.normal(size=(hidden_size, 3)), "U": U}, inputs


def test_a_function_in_chaos_is_not_decidable():
    with pytest.raises(NotDecidable, match=r"walking back, .* in x have none from step \d+ on"):
        check_gradients(gradients, loss, *question(300), references=["torch"])
    assert check_gradients(gradients, loss, *question(40), references=["torch"]).passed


def test_steps_of_a_function_that_have_digits_are_judged():
    """Near the end, where the walk back has not yet met what the states have lost."""
    with pytest.raises(GradientMismatch, match="x: differs"):
        check_gradients(
            lambda p, i: gradients(p, i, 1.01), loss, *question(100), references=["torch"]
        )


def test_a_gradient_that_is_zero_is_no_chaos():
    """Uncertain to its last digit, while the forward pass has all of its own."""
    with pytest.raises(Exception, match="VACUOUS") as caught:
        check_gradients(
            lambda p, i: {"b": np.zeros(4)},
            lambda xp, p, i: xp.sum(xp.exp(p["b"]) / xp.sum(xp.exp(p["b"]))),
            {"b": np.arange(4.0)},
            {},
        )
    assert type(caught.value).__name__ == "Vacuous"
