"""Two hundred layouts at random: time is found where it is, or not at all."""

import numpy as np
import pytest
from bptt_crosscheck import GradientMismatch, check_gradients
from bptt_crosscheck.comparisons.candidates.user_function import UserFunction
from bptt_crosscheck.comparisons.checking.function_cases import axes_of

COUNT = 200
CELLS = ("tanh", "gated", "linear")


class Laid:
    """A recurrent loss of x, whose axes T, B and features stand in an order of the seed's own."""

    def __init__(self, seed):
        rng = np.random.default_rng([seed, 1])
        self.letters = "".join(rng.permutation(list("TBI")))
        sizes = dict(zip("TBI", rng.integers(3, 7, size=3), strict=True))
        self.cell = CELLS[seed % len(CELLS)]
        shape = [sizes[letter] for letter in self.letters]
        self.x = rng.normal(size=shape)
        self.params = {
            "W": rng.normal(size=(sizes["I"], 4)),
            "U": 0.5 * rng.normal(size=(4, 4)),
            "V": rng.normal(size=4),
        }

    def in_order(self, x):
        return np.transpose(x, [self.letters.index(letter) for letter in "TBI"])

    def loss(self, params, inputs):
        x = self.in_order(inputs["x"])
        h, total = np.zeros((x.shape[1], 4)), 0.0
        for x_t in x:
            a, b = x_t @ params["W"], h @ params["U"]
            if self.cell == "tanh":
                h = np.tanh(a + b)
            elif self.cell == "gated":
                z = 1 / (1 + np.exp(-a))
                h = z * h + (1 - z) * np.tanh(b + a)
            else:
                h = a + b
            total = total + np.sum(np.tanh(h @ params["V"]))
        return total


def found(laid):
    user = UserFunction("loss", laid.loss, laid.params, {"x": laid.x}, None, 0)
    layout = axes_of(user, None)()
    return layout.axis("x", "T")


def test_no_other_axis_is_called_time():
    right = 0
    for seed in range(COUNT):
        laid = Laid(seed)
        axis = found(laid)
        assert axis in (None, laid.letters.index("T")), (seed, laid.letters, laid.cell)
        right += axis is not None
    assert right > COUNT // 2


@pytest.mark.parametrize("seed", range(6))
def test_a_wrong_step_is_named_where_time_is_found(seed):
    laid = Laid(3 * seed)
    assert laid.cell == "tanh"
    axis = found(laid)

    def gradients(params, inputs):
        W, U, V, x = params["W"], params["U"], params["V"], laid.in_order(inputs["x"])
        hs = [np.zeros((x.shape[1], 4))]
        for x_t in x:
            hs.append(np.tanh(x_t @ W + hs[-1] @ U))
        dx, dh = np.zeros_like(x), 0.0
        for t in reversed(range(len(x))):
            h = hs[t + 1]
            dh = dh + (1 - np.tanh(h @ V) ** 2)[:, None] * V
            delta = dh * (1 - h**2)
            dx[t], dh = delta @ W.T, delta @ U.T
        dx[1] *= 1.1
        return {"x": np.transpose(dx, ["TBI".index(letter) for letter in laid.letters])}

    question = (gradients, laid.loss, laid.params, {"x": laid.x})
    for layout in (laid.letters, None):
        with pytest.raises(GradientMismatch) as caught:
            check_gradients(*question, layout=layout, references=["torch (NumPy code)"])
        told = str(caught.value)
        if layout or axis is not None:
            assert "first wrong at step 2 (wrong: 2 of" in told
        else:
            assert " step " not in told
