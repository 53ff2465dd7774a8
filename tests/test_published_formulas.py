"""Formulas for backpropagation through time as they are published, each held against automatic differentiation.

A formula that holds is asserted to hold; one that does not is asserted to fail, with the reason; one that holds under a
convention is asserted to hold under that one and to fail under the other. Names carry the row: A the RNN with a linear
output, B the one-hot softmax language model, C clipping, D the scalar chain of two steps, E sequence-to-sequence in error
terms. Vectors are columns, one sequence at a time; nothing here uses the derivations in manual/.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.closeness import ROUNDING, relative_error

SQUARED, SOFTMAX = "squared-error", "softmax-cross-entropy"
every_loss = pytest.mark.parametrize("loss", [SQUARED, SOFTMAX])
WEIGHTS = ("W_xh", "W_hh", "b_h")


@dataclass(frozen=True)
class Model:
    """h_t = tanh(W_hh h_{t−1} + W_xh x_t + b_h), y_t = W_hy h_t + b_y, T steps; x (T, I), targets
    for either loss.
    """

    W_xh: np.ndarray
    W_hh: np.ndarray
    b_h: np.ndarray
    W_hy: np.ndarray
    b_y: np.ndarray
    h_0: np.ndarray
    x: np.ndarray
    wanted: np.ndarray
    label: np.ndarray

    @property
    def steps(self):
        return len(self.x)


def random_model(steps=4, hidden=3, inputs=2, outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    weights = (hidden, inputs), (hidden, hidden), (hidden,), (outputs, hidden), (outputs,)
    shapes = *weights, (hidden,), (steps, inputs), (steps, outputs)
    return Model(
        *(0.7 * rng.standard_normal(shape) for shape in shapes), rng.integers(outputs, size=steps)
    )


def forward(model):
    """(a, h, y): h[0] is the initial state, a[0] is not used."""
    a, h = [np.zeros_like(model.h_0)], [model.h_0]
    for x in model.x:
        a.append(model.W_hh @ h[-1] + model.W_xh @ x + model.b_h)
        h.append(np.tanh(a[-1]))
    return np.array(a), np.array(h), np.array(h[1:]) @ model.W_hy.T + model.b_y


def softmax(y):
    shifted = np.exp(y - y.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def slope(a):
    return np.cosh(a) ** -2.0


def output_errors(model, loss):
    """∂L_t/∂y_t: y − wanted, or p − one-hot."""
    y = forward(model)[2]
    return y - model.wanted if loss == SQUARED else softmax(y) - np.eye(y.shape[-1])[model.label]


def state_cotangents(model, loss):
    """∂L_t/∂h_t of the loss of the same step, e[0] unused."""
    return np.concatenate([np.zeros((1, len(model.h_0))), output_errors(model, loss) @ model.W_hy])


@dataclass(frozen=True)
class Autograd:
    """Torch's gradients of the loss: by weight, and with respect to every h_t and a_t."""

    weights: dict
    d_h: np.ndarray
    d_a: np.ndarray


def autograd(model, loss, reduction="sum", window=None):
    """By torch; with a window K, the loss at t is cut off from the state before step t − K, each
    loss by itself.
    """
    leaf = {
        n: torch.tensor(getattr(model, n), requires_grad=True)
        for n in (*WEIGHTS, "W_hy", "b_y", "h_0")
    }
    x = torch.tensor(model.x)

    def states(first, last, h):
        kept, nets = [h], []
        for t in range(first, last):
            nets.append(leaf["W_hh"] @ kept[-1] + leaf["W_xh"] @ x[t] + leaf["b_h"])
            kept.append(torch.tanh(nets[-1]))
        return kept, nets

    def loss_at(t, h):
        y = leaf["W_hy"] @ h + leaf["b_y"]
        if loss == SQUARED:
            return functional.mse_loss(y, torch.tensor(model.wanted[t]), reduction="sum") / 2
        return functional.cross_entropy(y, torch.tensor(model.label[t]))

    h, a = states(0, model.steps, leaf["h_0"])
    for value in (*h, *a):
        value.retain_grad()
    if window is None:
        losses = [loss_at(t, h[t + 1]) for t in range(model.steps)]
    else:
        starts = [max(0, t - window) for t in range(model.steps)]
        losses = [
            loss_at(t, states(start, t + 1, h[start].detach())[0][-1])
            for t, start in enumerate(starts)
        ]
    total = torch.stack(losses)
    (total.mean() if reduction == "mean" else total.sum()).backward()
    gradients = {name: value.grad.numpy() for name, value in leaf.items() if value.grad is not None}
    along = [
        np.array([np.zeros_like(model.h_0) if v.grad is None else v.grad.numpy() for v in values])
        for values in (h, a)
    ]
    return Autograd(gradients, *along)


def jacobian(model, t, k):
    """∂h_t/∂h_k in numerator layout, by jacrev of the unrolled map."""
    W_xh, W_hh, b_h, x = (
        torch.tensor(value) for value in (model.W_xh, model.W_hh, model.b_h, model.x)
    )

    def unrolled(h):
        for j in range(k, t):
            h = torch.tanh(W_hh @ h + W_xh @ x[j] + b_h)
        return h

    return torch.func.jacrev(unrolled)(torch.tensor(forward(model)[1][k])).numpy()


# A. The vanilla RNN with a biased linear output.


@every_loss
def test_a1_the_double_sum_over_losses_and_earlier_steps_is_the_gradient(loss):
    """Published formula A1: ∂L/∂W_hh = Σ_t Σ_{k≤t} ∂L_t/∂h_t · ∂h_t/∂h_k · ∂⁺h_k/∂W_hh holds."""
    model = random_model()
    a, h, _ = forward(model)
    e = state_cotangents(model, loss)
    total = np.zeros_like(model.W_hh)
    for t in range(1, model.steps + 1):
        for k in range(1, t + 1):
            row = e[t] @ jacobian(model, t, k)
            immediate = np.einsum(
                "i,ij,l->ijl", slope(a[k]), np.eye(3), h[k - 1]
            )  # ∂⁺h_k[i]/∂W_hh[j, l]
            total += np.einsum("i,ijl->jl", row, immediate)
    assert relative_error(total, autograd(model, loss).weights["W_hh"]) <= ROUNDING


def test_a1_fails_when_the_derivative_is_not_the_immediate_one():
    """Published formula A1 with the total ∂h_k/∂W_hh in place of ∂⁺h_k/∂W_hh counts every path
    several times.
    """
    model = random_model()
    e = state_cotangents(model, SQUARED)
    a, h, _ = forward(model)
    total, sensitivity = np.zeros_like(model.W_hh), np.zeros((5, 3, 3, 3))
    for k in range(1, 5):
        immediate = np.einsum("i,ij,l->ijl", slope(a[k]), np.eye(3), h[k - 1])
        sensitivity[k] = immediate + np.einsum(
            "im,mjl->ijl", jacobian(model, k, k - 1), sensitivity[k - 1]
        )
    for t in range(1, 5):
        for k in range(1, t + 1):
            total += np.einsum("i,ijl->jl", e[t] @ jacobian(model, t, k), sensitivity[k])
    assert relative_error(total, autograd(model, SQUARED).weights["W_hh"]) > 0.1


def test_a2_the_product_of_step_jacobians_has_its_newest_factor_on_the_left():
    """Published formula A2: ∂h_t/∂h_k = Π ∂h_j/∂h_{j−1} holds in the order J_t … J_{k+1}, and
    fails in the other.
    """
    model = random_model()
    a, _, _ = forward(model)
    steps = [slope(a[j])[:, None] * model.W_hh for j in range(1, 5)]
    newest_left = steps[3] @ steps[2] @ steps[1] @ steps[0]
    oldest_left = steps[0] @ steps[1] @ steps[2] @ steps[3]
    assert relative_error(newest_left, jacobian(model, 4, 0)) <= ROUNDING
    assert relative_error(oldest_left, jacobian(model, 4, 0)) > 0.1


def test_a3_the_last_error_is_the_output_error_through_the_head_for_half_the_squared_error():
    """Published formula A3: δ_T = W_hyᵀ (y_T − ŷ_T), as columns, holds for ½‖y − ŷ‖² with a linear
    output.
    """
    model = random_model()
    found = model.W_hy.T @ (forward(model)[2][-1] - model.wanted[-1])
    assert relative_error(found, autograd(model, SQUARED).d_h[-1]) <= ROUNDING


def test_a3_fails_for_the_squared_error_without_its_half():
    """Published formula A3 is too small by the factor 2 for ‖y − ŷ‖²."""
    model = random_model()
    found = model.W_hy.T @ (forward(model)[2][-1] - model.wanted[-1])
    without_half = 2 * autograd(model, SQUARED).d_h[-1]
    assert relative_error(found, without_half) == pytest.approx(0.5)


def test_a3_holds_for_cross_entropy_of_the_softmax_and_fails_without_the_softmax():
    """Published formula A3 with p = softmax(y) in place of y holds for cross-entropy; with y
    itself it fails.
    """
    model = random_model()
    y, one_hot = forward(model)[2][-1], np.eye(3)[model.label[-1]]
    expected = autograd(model, SOFTMAX).d_h[-1]
    assert relative_error(model.W_hy.T @ (softmax(y) - one_hot), expected) <= ROUNDING
    assert relative_error(model.W_hy.T @ (y - one_hot), expected) > 0.1, (
        "the logits are not probabilities"
    )


def test_a3_as_a_row_needs_the_head_untransposed():
    """Published formula A3 as a row vector times W_hyᵀ fails where W_hy maps states to outputs:
    the row is (y − ŷ) W_hy.
    """
    model = random_model()
    row = forward(model)[2][-1] - model.wanted[-1]
    expected = autograd(model, SQUARED).d_h[-1]
    assert relative_error(row @ model.W_hy, expected) <= ROUNDING
    assert relative_error(row @ model.W_hy.T, expected) > 0.1, (
        "V = H here, or the shapes would not even fit"
    )


@every_loss
def test_a4_the_recursion_for_the_total_derivative_holds_at_every_step(loss):
    """Published formula A4: δ_t = ∂L_t/∂h_t + δ_{t+1} ∂h_{t+1}/∂h_t holds for rows and numerator
    layout.
    """
    model = random_model()
    e = state_cotangents(model, loss)
    d_h = [e[4]]
    for t in range(3, -1, -1):
        d_h.insert(0, e[t] + d_h[0] @ jacobian(model, t + 1, t))
    assert relative_error(d_h, autograd(model, loss).d_h, separately=1) <= ROUNDING


def test_a4_fails_without_the_later_steps():
    """Published formula A4 without its second term is right at the last step alone."""
    model = random_model()
    e, expected = state_cotangents(model, SQUARED), autograd(model, SQUARED).d_h
    assert relative_error(e[4], expected[4]) <= ROUNDING
    assert all(relative_error(e[t], expected[t]) > 0.01 for t in range(4))


def test_a5_is_the_transpose_of_the_jacobian():
    """Published formula A5: W_hhᵀ diag(tanh′) is not ∂h_{t+1}/∂h_t in numerator layout, but its
    transpose.
    """
    model = random_model()
    a, _, _ = forward(model)
    published = model.W_hh.T @ np.diag(slope(a[2]))
    assert relative_error(published.T, jacobian(model, 2, 1)) <= ROUNDING
    assert relative_error(published, jacobian(model, 2, 1)) > 0.1


def test_a5_is_right_beside_a_column_and_wrong_beside_the_row_of_a4():
    """Published formula A5: W_hhᵀ diag(tanh′) δ is the carry for a column δ.

    Δ W_hhᵀ diag(tanh′) for a row is not.
    """
    model = random_model()
    a, _, _ = forward(model)
    expected = autograd(model, SQUARED).d_h
    published = model.W_hh.T @ np.diag(slope(a[2]))
    own = state_cotangents(model, SQUARED)[1]
    assert relative_error(own + published @ expected[2], expected[1]) <= ROUNDING
    assert relative_error(own + expected[2] @ published, expected[1]) > 0.1


@every_loss
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a6_the_single_sum_over_steps_is_the_gradient(loss, weight):
    """Published formula A6: Σ_t diag(tanh′(a_t)) δ_t h_{t−1}ᵀ, x_tᵀ, 1, with δ_t = ∂L/∂h_t, holds
    for W_hh, W_xh and b_h.
    """
    model = random_model()
    a, h, _ = forward(model)
    found, expected = a6(model, autograd(model, loss).d_h, a, h[:-1]), autograd(model, loss).weights
    assert relative_error(found[weight], expected[weight]) <= ROUNDING


def a6(model, d_h, a, h_prev):
    each = slope(a[1:]) * d_h[1:]
    return {"W_xh": each.T @ model.x, "W_hh": each.T @ h_prev, "b_h": each.sum(axis=0)}


def test_a6_fails_with_the_new_state_for_the_old():
    """Published formula A6 with h_t in place of h_{t−1} fails for W_hh."""
    model = random_model()
    a, h, _ = forward(model)
    truth = autograd(model, SQUARED)
    assert relative_error(a6(model, truth.d_h, a, h[1:])["W_hh"], truth.weights["W_hh"]) > 0.1


def test_a6_fails_when_its_error_is_that_of_the_net_input():
    """Published formula A6 with δ_t = ∂L/∂a_t takes tanh′ twice."""
    model = random_model()
    a, h, _ = forward(model)
    truth = autograd(model, SQUARED)
    d_a = np.concatenate([np.zeros((1, 3)), truth.d_a])
    assert all(
        relative_error(a6(model, d_a, a, h[:-1])[name], truth.weights[name]) > 0.1
        for name in WEIGHTS
    )


def undriven(W_hh, b_h, h_0, steps):
    """A model without inputs, of whose outputs nothing is asked."""
    idle = random_model(steps, len(h_0), inputs=1, outputs=1)
    return replace(
        idle, W_hh=np.array(W_hh), b_h=np.array(b_h), h_0=np.array(h_0), x=np.zeros((steps, 1))
    )


def test_a7_a_spectral_radius_above_1_does_not_imply_exploding():
    """Published formula A7 fails: with W_hh = 2 I, every eigenvalue 2, saturated units make the
    gradient vanish.
    """
    model = undriven(2 * np.eye(2), [3.0, 3.0], [0.5, -0.5], steps=10)
    assert np.min(np.abs(np.linalg.eigvals(model.W_hh))) == 2
    assert np.linalg.norm(jacobian(model, 10, 0), ord=2) < 1e-20


def test_a7_a_spectral_radius_below_1_does_not_imply_vanishing():
    """Published formula A7 fails: W_hh is nilpotent, every eigenvalue 0, and the gradient grows by
    1.5 at each step.

    The second unit is saturated, which leaves diag(φ′) W_hh ≈ [[1.5, −1.5], [0, 0]]: the spectral
    radius of W_hh is not even necessary for exploding. The largest singular value is.
    """
    model = undriven([[1.5, -1.5], [1.5, -1.5]], [-1.5, -20.0], [0.0, -1.0], steps=30)
    np.testing.assert_array_equal(model.W_hh @ model.W_hh, 0)
    growth = np.linalg.norm(jacobian(model, 30, 0), ord=2) / np.linalg.norm(
        jacobian(model, 10, 0), ord=2
    )
    assert growth == pytest.approx(1.5**20)
    assert np.linalg.norm(model.W_hh, ord=2) > 1


def test_a7_a_largest_singular_value_below_1_is_sufficient_for_vanishing():
    """Published formula A7 mended: σ_max(W_hh) max|tanh′| < 1 bounds ‖∂h_t/∂h_k‖ by its power t −
    k.
    """
    model = random_model(steps=12)
    model = replace(model, W_hh=0.8 * model.W_hh / np.linalg.norm(model.W_hh, ord=2))
    for k in range(12):
        assert np.linalg.norm(jacobian(model, 12, k), ord=2) <= 0.8 ** (12 - k) * (1 + ROUNDING)


def test_a7_the_threshold_of_the_sigmoid_is_4():
    """Published formula A7 mended for σ′ ≤ ¼: a largest singular value of 3.9 still vanishes."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((3, 3))
    W = torch.tensor(3.9 * W / np.linalg.norm(W, ord=2))

    def unrolled(h):
        for _ in range(100):
            h = torch.sigmoid(W @ h)
        return h

    norm = torch.linalg.matrix_norm(
        torch.func.jacrev(unrolled)(torch.zeros(3, dtype=torch.float64)), ord=2
    )
    assert 0 < norm <= (3.9 / 4) ** 100


def linear_map_jacobian(steps):
    """∂h_t/∂h_0 of h ← J_t h, by jax."""
    with jax.enable_x64(True):

        def unrolled(h):
            for step in steps:
                h = step @ h
            return h

        return np.asarray(jax.jacrev(unrolled)(jnp.zeros(steps.shape[-1])))


def test_a8_steps_that_scale_by_alpha_scale_by_its_power():
    """Published formula A8: J_j = α I gives ∂h_t/∂h_k = α^{t−k} I."""
    steps = np.stack([0.9 * np.eye(2)] * 20)
    assert relative_error(linear_map_jacobian(steps), 0.9**20 * np.eye(2)) <= ROUNDING


def test_a8_an_approximation_of_each_step_does_not_carry_over_to_a_long_product():
    """Published formula A8: J_j = α I + E with ‖E‖ = α/50 keeps within 2 % at one step and is
    wrong by half at 20.
    """
    steps = np.stack([0.9 * (np.eye(2) + 0.02 * np.array([[1.0, 0.0], [0.0, -1.0]]))] * 20)
    assert relative_error(linear_map_jacobian(steps[:1]), 0.9 * np.eye(2)) == pytest.approx(0.02)
    assert relative_error(linear_map_jacobian(steps), 0.9**20 * np.eye(2)) == pytest.approx(
        1.02**20 - 1
    )
    assert 1.02**20 - 1 > 0.48


# B. The one-hot softmax language model with windowed truncation.


@dataclass(frozen=True)
class LanguageModel:
    """s_t = tanh(U x_t + W s_{t−1}), ŷ_t = softmax(V s_t), x_t one-hot tokens, s_{−1} = 0, no
    biases.
    """

    U: np.ndarray
    W: np.ndarray
    V: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray


def random_language_model():
    rng = np.random.default_rng(1)
    U, W, V = (0.8 * rng.standard_normal(shape) for shape in ((3, 4), (3, 3), (4, 3)))
    return LanguageModel(U, W, V, np.array([2, 0, 2, 2, 1, 0]), np.array([0, 2, 2, 1, 0, 3]))


def predict(model):
    """(ŷ, s): s has T + 1 rows, the last of them s_{−1} = 0."""
    steps = len(model.tokens)
    s = np.zeros((steps + 1, len(model.W)))
    for t, token in enumerate(model.tokens):
        s[t] = np.tanh(model.U[:, token] + model.W @ s[t - 1])
    return softmax(s[:steps] @ model.V.T), s


def windowed(model, window, s=None, visited=None):
    """dU, dW, dV as the loop from t down to max(0, t − K) gives them."""
    probabilities, computed = predict(model)
    s = computed if s is None else s
    d_U, d_W, d_V = (np.zeros_like(weight) for weight in (model.U, model.W, model.V))
    errors = probabilities - np.eye(len(model.V))[model.labels]
    for t in reversed(range(len(model.tokens))):
        d_V += np.outer(errors[t], s[t])
        delta = (model.V.T @ errors[t]) * (1 - s[t] ** 2)
        for step in range(t, max(0, t - window) - 1, -1):
            if visited is not None:
                visited.append((t, step))
            d_W += np.outer(delta, s[step - 1])
            d_U[:, model.tokens[step]] += delta
            delta = (model.W.T @ delta) * (1 - s[step - 1] ** 2)
    return {"U": d_U, "W": d_W, "V": d_V}


def windowed_by_torch(model, window):
    """Torch on one-hot rows, each loss's state detached before its window."""
    leaf = {
        name: torch.tensor(getattr(model, name), requires_grad=True) for name in ("U", "W", "V")
    }
    x = functional.one_hot(torch.tensor(model.tokens), 4).double()
    total = 0
    for t in range(len(x)):
        s = torch.zeros(3, dtype=torch.float64)
        for step in range(t + 1):
            s = torch.tanh(
                leaf["U"] @ x[step] + leaf["W"] @ (s.detach() if step == t - window else s)
            )
        total += functional.cross_entropy(leaf["V"] @ s, torch.tensor(model.labels[t]))
    total.backward()
    return {name: value.grad.numpy() for name, value in leaf.items()}


def worst_error(found, expected):
    return max(relative_error(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("window", [0, 1, 3, 5, 50])
def test_b1_each_loss_goes_back_through_at_most_k_earlier_steps(window):
    """Published formula B1: the loop from t down to max(0, t − K) is the gradient with the state
    cut before step t − K.
    """
    model = random_language_model()
    assert worst_error(windowed(model, window), windowed_by_torch(model, window)) <= ROUNDING


def test_b1_the_loop_visits_k_plus_1_steps():
    """Published formula B1: the loss's own step counts besides the K earlier ones."""
    visited = []
    windowed(random_language_model(), 2, visited=visited)
    assert [step for t, step in visited if t == 5] == [5, 4, 3]
    assert [step for t, step in visited if t == 1] == [1, 0]


@pytest.mark.parametrize("window", [0, 1, 2, 3])
def test_b1_fails_when_k_steps_are_visited_in_all(window):
    """Published formula B1 read as a window of K steps, the own one included, is the gradient for
    K − 1.
    """
    model = random_language_model()
    assert worst_error(windowed(model, window), windowed_by_torch(model, window + 1)) > 1e-3


def test_b1_a_window_over_the_whole_sequence_cuts_nothing():
    """Published formula B1 with K ≥ T − 1 is the whole gradient, and with a smaller K is not."""
    model = random_language_model()
    whole = windowed_by_torch(model, 99)
    assert worst_error(windowed(model, 5), whole) <= ROUNDING
    assert worst_error(windowed(model, 1), whole) > 0.05


def test_b2_index_minus_1_finds_the_zero_state_in_the_last_row():
    """Published formula B2: an array of T + 1 rows, its last row never written, gives s_{−1} = 0
    at t = 0.
    """
    s = predict(random_language_model())[1]
    assert s.shape == (7, 3)
    assert not s[-1].any()
    model = random_language_model()
    assert worst_error(windowed(model, 99, s=s), windowed_by_torch(model, 99)) <= ROUNDING


def test_b2_fails_with_an_array_of_t_rows():
    """Published formula B2 without the extra row: index −1 finds s_{T−1}, and W's gradient gets a
    term too many.
    """
    model = random_language_model()
    without_extra_row = predict(model)[1][:-1]
    found, expected = windowed(model, 99, s=without_extra_row), windowed_by_torch(model, 99)
    assert relative_error(found["U"], expected["U"]) <= ROUNDING, "U does not see s_{−1}"
    assert relative_error(found["W"], expected["W"]) > 0.05


def test_b3_repeated_tokens_accumulate_in_their_column():
    """Published formula B3: dU[:, x_t] += δ, step after step, is the gradient for one-hot rows."""
    model = random_language_model()
    assert np.bincount(model.tokens).max() == 3
    found, expected = windowed(model, 99)["U"], windowed_by_torch(model, 99)["U"]
    assert relative_error(found[:, :3], expected[:, :3]) <= ROUNDING
    assert not found[:, 3].any(), "token 3 does not occur"


def test_b3_fails_for_all_steps_at_once():
    """Published formula B3 with an array of tokens keeps one term of each repeated token."""
    model = random_language_model()
    deltas = np.random.default_rng(0).standard_normal((6, 3))
    leaf = torch.tensor(model.U, requires_grad=True)
    (leaf.T[torch.tensor(model.tokens)] * torch.tensor(deltas)).sum().backward()
    at_once = np.zeros_like(model.U)
    at_once[:, model.tokens] += deltas.T
    assert relative_error(at_once[:, 1], leaf.grad[:, 1]) <= ROUNDING, "token 1 occurs once"
    assert all(relative_error(at_once[:, token], leaf.grad[:, token]) > 0.1 for token in (0, 2))


def popular_output_gradient(outputs, labels, s):
    """dV with ŷ − y made in place, as the popular code does it."""
    errors = outputs
    errors[np.arange(len(labels)), labels] -= 1
    return errors.T @ s[:-1]


def test_b4_the_in_place_subtraction_destroys_the_caller_s_forward_results():
    """Published formula B4: the gradient is right, and the caller's probabilities are none any
    more.
    """
    model = random_language_model()
    outputs, s = predict(model)
    kept = outputs.copy()
    assert (
        relative_error(
            popular_output_gradient(outputs, model.labels, s), windowed_by_torch(model, 99)["V"]
        )
        <= ROUNDING
    )
    assert relative_error(outputs, kept) > 0.5
    assert relative_error(kept.sum(axis=-1), np.ones(6)) <= ROUNDING
    assert np.max(np.abs(outputs.sum(axis=-1))) <= ROUNDING, "the rows add up to 0, no longer to 1"


def test_b4_a_second_backward_from_the_same_forward_is_wrong():
    """Published formula B4: from the outputs that the first call has changed, the second subtracts
    once more.
    """
    model = random_language_model()
    outputs, s = predict(model)
    popular_output_gradient(outputs, model.labels, s)
    assert (
        relative_error(
            popular_output_gradient(outputs, model.labels, s), windowed_by_torch(model, 99)["V"]
        )
        > 0.5
    )


def test_b5_the_norm_of_a_step_jacobian_is_not_bounded_by_1():
    """Published formula B5 fails for diag(φ′) W: here its 2-norm is above 2."""
    model = undriven([[3.0, 0.5], [-0.5, 3.0]], [0.1, -0.1], [0.1, 0.1], steps=1)
    assert np.linalg.norm(jacobian(model, 1, 0), ord=2) > 2


def test_b5_the_slopes_are_bounded_by_1_and_the_step_jacobian_by_the_weights():
    """Published formula B5 mended: ‖diag(φ′)‖ ≤ 1, hence ‖diag(φ′) W‖ ≤ ‖W‖."""
    model = random_model(steps=8)
    a, _, _ = forward(model)
    for t in range(1, 9):
        slopes = torch.func.jacrev(torch.tanh)(torch.tensor(a[t])).numpy()
        assert relative_error(slopes @ model.W_hh, jacobian(model, t, t - 1)) <= ROUNDING
        assert np.linalg.norm(slopes, ord=2) <= 1
        assert np.linalg.norm(jacobian(model, t, t - 1), ord=2) <= np.linalg.norm(model.W_hh, ord=2)


def slopes_by_jax(function):
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(jax.grad(function))(jnp.linspace(-8, 8, 161)))


def test_b6_the_sigmoid_s_slope_is_at_most_a_quarter():
    """Published formula B6: σ′ ≤ ¼, with equality at 0 alone."""
    slopes = slopes_by_jax(jax.nn.sigmoid)
    assert slopes.max() == slopes[80] == 0.25
    assert np.sum(slopes == 0.25) == 1


def test_b6_fails_for_tanh():
    """Published formula B6 is the sigmoid's alone: tanh′ reaches 1."""
    assert slopes_by_jax(jnp.tanh).max() == 1


# C. Clipping from one side.


def one_sided(gradient, threshold):
    """The published cure: if grad > threshold: grad = threshold."""
    return np.where(gradient > threshold, threshold, gradient)


def test_c_one_sided_clipping_lets_minus_100_pass():
    """Published formula C: +100 is cut to the threshold and −100 passes, unlike under torch's
    clipping by value.
    """
    gradient = np.array([100.0, -100.0, 0.5])
    leaf = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    leaf.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_value_(leaf, 5.0)
    np.testing.assert_array_equal(one_sided(gradient, 5.0), [5, -100, 0.5])
    np.testing.assert_array_equal(leaf.grad, [5, -5, 0.5])


def test_c_clipping_does_nothing_against_vanishing():
    """Published formula C: a gradient below the threshold stays as small as it is."""
    vanished = np.array([1e-12, -1e-12])
    np.testing.assert_array_equal(one_sided(vanished, 5.0), vanished)


# D. The scalar chain of two steps.

CHAIN = {"u": 0.7, "w": -1.3, "k": 0.2, "x_0": 0.9, "x_1": -0.4, "s_before": 0.6}
V_OUT, V_BIAS, TARGET = np.array([0.8, -0.5, 1.1]), np.array([0.1, 0.0, -0.2]), 2
CHAIN_ACTIVATIONS = {
    "tanh": (np.tanh, lambda z: np.cosh(z) ** -2.0, jnp.tanh),
    "sigmoid": (
        lambda z: 1 / (1 + np.exp(-z)),
        lambda z: 1 / (2 + np.exp(z) + np.exp(-z)),
        jax.nn.sigmoid,
    ),
}
every_chain = pytest.mark.parametrize("activation", CHAIN_ACTIVATIONS)


def chain_by_jax(activation, weight):
    """∂E/∂weight of z_t = u x_t + w s_{t−1} + k, E the cross-entropy of softmax(v s_1 + c)."""
    phi = CHAIN_ACTIVATIONS[activation][2]

    def loss(value):
        n = {**CHAIN, weight: value}
        s_0 = phi(n["u"] * n["x_0"] + n["w"] * n["s_before"] + n["k"])
        s_1 = phi(n["u"] * n["x_1"] + n["w"] * s_0 + n["k"])
        return -jax.nn.log_softmax(V_OUT * s_1 + V_BIAS)[TARGET]

    with jax.enable_x64(True):
        return float(jax.grad(loss)(CHAIN[weight]))


def chain_factors(activation):
    """(∂E/∂q · v · s′(z_1), s′(z_0), s_0)."""
    phi, phi_slope, _ = CHAIN_ACTIVATIONS[activation]
    z_0 = CHAIN["u"] * CHAIN["x_0"] + CHAIN["w"] * CHAIN["s_before"] + CHAIN["k"]
    z_1 = CHAIN["u"] * CHAIN["x_1"] + CHAIN["w"] * phi(z_0) + CHAIN["k"]
    d_q = softmax(V_OUT * phi(z_1) + V_BIAS) - np.eye(3)[TARGET]
    return d_q @ V_OUT * phi_slope(z_1), phi_slope(z_0), phi(z_0)


@every_chain
def test_d_the_input_weight_of_two_steps(activation):
    """Published formula D: ∂E/∂u = ∂E/∂q · v · s′(z_1) · (x_1 + w s′(z_0) x_0) holds."""
    outer, slope_0, _ = chain_factors(activation)
    found = outer * (CHAIN["x_1"] + CHAIN["w"] * slope_0 * CHAIN["x_0"])
    assert relative_error(found, chain_by_jax(activation, "u")) <= ROUNDING


@every_chain
def test_d_the_recurrent_weight_of_two_steps(activation):
    """Published formula D: ∂E/∂w = ∂E/∂q · v · s′(z_1) · (s_0 + w s′(z_0) s_{−1}) holds."""
    outer, slope_0, s_0 = chain_factors(activation)
    found = outer * (s_0 + CHAIN["w"] * slope_0 * CHAIN["s_before"])
    assert relative_error(found, chain_by_jax(activation, "w")) <= ROUNDING


@every_chain
def test_d_fails_without_the_path_through_the_first_step(activation):
    """Published formula D cut to x_1 or s_0 alone is another number."""
    outer, _, s_0 = chain_factors(activation)
    assert relative_error(outer * CHAIN["x_1"], chain_by_jax(activation, "u")) > 0.1
    assert relative_error(outer * s_0, chain_by_jax(activation, "w")) > 0.1


# E. Synchronous sequence-to-sequence in error terms.


def error_terms(model, loss, transposed=True):
    """{(t, k): δ_{t,k} = ∂L_t/∂z_k} for k ≤ t, by the recursion."""
    a, _, _ = forward(model)
    e = state_cotangents(model, loss)
    carry = model.W_hh.T if transposed else model.W_hh
    delta = {}
    for t in range(1, model.steps + 1):
        delta[t, t] = slope(a[t]) * e[t]
        for k in range(t - 1, 0, -1):
            delta[t, k] = np.diag(slope(a[k])) @ carry @ delta[t, k + 1]
    return delta


def summed_terms(model, delta):
    _, h, _ = forward(model)
    return {
        "W_xh": sum(np.outer(d, model.x[k - 1]) for (_, k), d in delta.items()),
        "W_hh": sum(np.outer(d, h[k - 1]) for (_, k), d in delta.items()),
        "b_h": sum(delta.values()),
    }


def weights_of(truth):
    return {name: truth.weights[name] for name in WEIGHTS}


@every_loss
def test_e_error_terms_of_each_loss_at_each_earlier_step(loss):
    """Published formula E: δ_{t,k} = diag(φ′(z_k)) Uᵀ δ_{t,k+1} from δ_{t,t} = φ′(z_t) ⊙ ∂L_t/∂h_t
    holds, pair by pair.
    """
    model = random_model()
    delta = error_terms(model, loss)
    for t in range(1, 5):
        shorter = replace(model, x=model.x[:t], wanted=model.wanted[:t], label=model.label[:t])
        before = replace(
            model, x=model.x[: t - 1], wanted=model.wanted[: t - 1], label=model.label[: t - 1]
        )
        earlier = autograd(before, loss).d_a if t > 1 else np.zeros((0, 3))
        of_this_loss = autograd(shorter, loss).d_a - np.concatenate([earlier, np.zeros((1, 3))])
        assert (
            relative_error([delta[t, k] for k in range(1, t + 1)], of_this_loss, separately=1)
            <= ROUNDING
        )


@every_loss
def test_e_the_double_sums_of_error_terms_are_the_gradients(loss):
    """Published formula E: ΣΣ δ_{t,k} h_{k−1}ᵀ, ΣΣ δ_{t,k} x_kᵀ and ΣΣ δ_{t,k} are the gradients
    of U, W and b.
    """
    model = random_model()
    assert (
        worst_error(
            summed_terms(model, error_terms(model, loss)), weights_of(autograd(model, loss))
        )
        <= ROUNDING
    )


def test_e_fails_with_the_recurrent_weight_untransposed():
    """Published formula E with U in place of Uᵀ fails."""
    model = random_model()
    mistaken = summed_terms(model, error_terms(model, SQUARED, transposed=False))
    assert worst_error(mistaken, weights_of(autograd(model, SQUARED))) > 0.05


def running(model, loss, d_h_next=None, carry=True):
    """The gradients by one backward loop that hands dh_next from each step to the one before."""
    a, h, _ = forward(model)
    e = state_cotangents(model, loss)
    total = {name: np.zeros_like(getattr(model, name)) for name in WEIGHTS}
    d_h_next = np.zeros_like(model.h_0) if d_h_next is None else d_h_next
    for t in range(model.steps, 0, -1):
        d_z = slope(a[t]) * (e[t] + d_h_next)
        total["W_xh"] += np.outer(d_z, model.x[t - 1])
        total["W_hh"] += np.outer(d_z, h[t - 1])
        total["b_h"] += d_z
        d_h_next = model.W_hh.T @ d_z * carry
    return total, d_h_next


@every_loss
def test_e_the_running_form_with_dh_next(loss):
    """Published formula E: one loop with dh_next gives the double sums, and leaves ∂L/∂h_0 behind."""
    model = random_model()
    truth = autograd(model, loss)
    total, d_h_next = running(model, loss)
    assert worst_error(total, weights_of(truth)) <= ROUNDING
    assert relative_error(d_h_next, truth.d_h[0]) <= ROUNDING


def test_e_fails_when_dh_next_is_dropped_or_kept_from_the_last_sequence():
    """Published formula E: dh_next must be carried within a sequence and start at 0 with each."""
    model = random_model()
    truth = weights_of(autograd(model, SQUARED))
    _, left_over = running(model, SQUARED)
    assert worst_error(running(model, SQUARED, carry=False)[0], truth) > 0.1
    assert worst_error(running(model, SQUARED, d_h_next=left_over)[0], truth) > 0.05


def three_steps():
    """T = 3, inputs 1, 2, 3, h_0 = 0, scalar: U = 0.5, W = 0.3, b = 0.1, V = 0.8, c = −0.2,
    targets 0.1, 0.2, 0.3.
    """
    weights = (
        np.array([[0.3]]),
        np.array([[0.5]]),
        np.array([0.1]),
        np.array([[0.8]]),
        np.array([-0.2]),
    )
    x, wanted = np.array([[1.0], [2.0], [3.0]]), np.array([[0.1], [0.2], [0.3]])
    return Model(*weights, np.zeros(1), x, wanted, np.zeros(3, int))


def test_e_three_steps_with_inputs_1_2_3():
    """Published formula E at T = 3, x = 1, 2, 3, h_0 = 0: each of the six terms, written out, adds
    up to the gradient.
    """
    model = three_steps()
    (_, a_1, a_2, a_3), (_, h_1, h_2, h_3), _ = forward(model)
    assert (
        relative_error(
            [h_1, h_2, h_3], [np.tanh([0.4]), np.tanh(0.7 + h_1 / 2), np.tanh(1 + h_2 / 2)]
        )
        <= ROUNDING
    )
    e_1, e_2, e_3 = (
        0.8 * (0.8 * h - 0.2 - wanted) for h, wanted in ((h_1, 0.1), (h_2, 0.2), (h_3, 0.3))
    )
    d_11, d_22, d_33 = slope(a_1) * e_1, slope(a_2) * e_2, slope(a_3) * e_3
    d_21, d_32 = slope(a_1) * 0.5 * d_22, slope(a_2) * 0.5 * d_33
    d_31 = slope(a_1) * 0.5 * d_32
    expected = weights_of(autograd(model, SQUARED))
    found = {
        "W_xh": [1 * (d_11 + d_21 + d_31) + 2 * (d_22 + d_32) + 3 * d_33],
        "W_hh": [h_1 * (d_22 + d_32) + h_2 * d_33],
        "b_h": d_11 + d_21 + d_31 + d_22 + d_32 + d_33,
    }
    assert worst_error(found, expected) <= ROUNDING


def test_e_three_steps_fail_without_the_longest_path():
    """Published formula E at T = 3 without δ_{3,1} is wrong in W and b; U, whose term it meets at
    h_0 = 0, cannot tell.
    """
    model = three_steps()
    delta = {pair: d for pair, d in error_terms(model, SQUARED).items() if pair != (3, 1)}
    found, expected = summed_terms(model, delta), autograd(model, SQUARED).weights
    assert relative_error(found["W_xh"], expected["W_xh"]) > 1e-3
    assert relative_error(found["b_h"], expected["b_h"]) > 1e-3
    assert relative_error(found["W_hh"], expected["W_hh"]) <= ROUNDING


def recurrent_learning(model, loss, influence=True):
    """The gradient of W_hh forward in time: the sensitivity ∂h_t[i]/∂W_hh[j, l] is carried along
    with the state.
    """
    a, h, _ = forward(model)
    e = state_cotangents(model, loss)
    sensitivity, total = np.zeros((3, 3, 3)), np.zeros((3, 3))
    for t in range(1, model.steps + 1):
        own = np.einsum("ij,l->ijl", np.eye(3), h[t - 1])
        sensitivity = slope(a[t])[:, None, None] * (
            own + influence * np.einsum("im,mjl->ijl", model.W_hh, sensitivity)
        )
        total += np.einsum("i,ijl->jl", e[t], sensitivity)
    return total


@every_loss
def test_e_real_time_recurrent_learning_is_the_same_gradient_forward_in_time(loss):
    """Published formula E: RTRL's sensitivities, multiplied with each loss's own derivative, give
    the exact gradient.
    """
    model = random_model()
    assert (
        relative_error(recurrent_learning(model, loss), autograd(model, loss).weights["W_hh"])
        <= ROUNDING
    )


def test_e_real_time_recurrent_learning_fails_without_the_old_sensitivity():
    """Published formula E: RTRL without its W_hh ∂h_{t−1}/∂W_hh term is truncation to the step
    itself.
    """
    model = random_model()
    found = recurrent_learning(model, SQUARED, influence=False)
    assert relative_error(found, autograd(model, SQUARED).weights["W_hh"]) > 0.1
    assert relative_error(found, autograd(model, SQUARED, window=0).weights["W_hh"]) <= ROUNDING


@every_loss
def test_e_the_average_over_time_divides_the_sum_s_gradient_by_t(loss):
    """Published formula E: a loss averaged over T steps has 1/T of the summed loss's gradient, and
    is not it.
    """
    model = random_model()
    summed, averaged = running(model, loss)[0], weights_of(autograd(model, loss, reduction="mean"))
    assert worst_error({name: value / 4 for name, value in summed.items()}, averaged) <= ROUNDING
    assert worst_error(summed, averaged) == pytest.approx(3)
