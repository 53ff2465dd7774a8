"""The linear recurrent unit (LRU).

A complex diagonal recurrence that cannot explode, in real arithmetic.

The complex state is kept as its two real parts, s = (re, im), each (H,), and u likewise.

Forward, for t = 1..T (conventions: manual/__init__.py):

    λ = r e^{iφ},   r = exp(−e^ν),   φ = e^θ                    (1)   0 < r < 1 for every real ν
    v_t = W_xh x_t                                              (2)   (2H,) = (B_re x, B_im x), B = B_re + i B_im
    u_t = e^γ ⊙ v_t                                             (3)   e^γ scales both parts
    re_t = λ_re ⊙ re_{t−1} − λ_im ⊙ im_{t−1} + u_re             (4)   s_t = λ s_{t−1} + u_t
    im_t = λ_im ⊙ re_{t−1} + λ_re ⊙ im_{t−1} + u_im

with λ_re = r cos φ, λ_im = r sin φ. What comes after reads (re, im): Re(C s_t) is a real linear map
of the two, that of a head.

Rounded to float64, r is 1 where e^ν is below 2⁻⁵⁴, half of the gap between 1 and the number before
it: for ν < −54 log 2 ≈ −37.43. NumPy's exp, which may be off by one such gap, can give the number
before 1 down to ν ≈ −37.64.

Backward. All derivatives are by the real parts, dre_t = ∂L/∂re_t and dim_t = ∂L/∂im_t, so that no
convention of complex gradients enters: torch's complex gradient is dre + i dim, jax.grad's its
conjugate dre − i dim. With total derivatives at step t,

    dre_{t−1} =  λ_re ⊙ dre_t + λ_im ⊙ dim_t                    (5)   dre + i dim is multiplied by λ̄, the conjugate
    dim_{t−1} = −λ_im ⊙ dre_t + λ_re ⊙ dim_t
    dλ_re = Σ_t  dre_t ⊙ re_{t−1} + dim_t ⊙ im_{t−1}            (6)
    dλ_im = Σ_t −dre_t ⊙ im_{t−1} + dim_t ⊙ re_{t−1}
    dν = −e^ν ⊙ (dλ_re ⊙ λ_re + dλ_im ⊙ λ_im)                   (7)   ∂r/∂ν = −e^ν r
    dθ =  e^θ ⊙ (dλ_im ⊙ λ_re − dλ_re ⊙ λ_im)                   (8)   ∂λ/∂φ = iλ, ∂φ/∂θ = φ
    dγ = Σ_t (dre_t ⊙ u_re + dim_t ⊙ u_im)                      (9)   ∂u/∂γ = u
    dW_xh = Σ_t (e^γ ⊙ ds_t) x_tᵀ,   dx_t = W_xhᵀ (e^γ ⊙ ds_t)  (10)  ds = (dre, dim)

The Jacobian of one step does not depend on the data:

    J = [[diag λ_re, −diag λ_im], [diag λ_im, diag λ_re]],   ‖Jⁿ‖ = (max r)ⁿ < 1                        (11)

Source: Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", section
3.3 (λ) and 3.4 (γ); the draw of ν, θ and γ is their appendix A: λ uniform in a ring, γ = log √(1 −
|λ|²).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, Arrays
from ..cell import Halves, Shapes
from ..linear import linear, linear_backward


@dataclass(frozen=True)
class LRU(Halves):
    """s_t = λ s_{t−1} + e^γ B x_t, complex s in two real parts.

    Parameters nu, theta, gamma (H,) and W_xh (2H, I), B's real part over its imaginary; states re
    and im (B, H), both of them output; x is (B, I), or tokens (B,). `initialise` draws |λ| between
    radius_min and radius_max.
    """

    radius_min: float = 0.5
    radius_max: float = 0.99
    output_names = ("re", "im")

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Shapes of nu, theta, gamma and W_xh."""
        vectors: Shapes = dict.fromkeys(("nu", "theta", "gamma"), (hidden_size,))
        return {**vectors, "W_xh": (2 * hidden_size, input_size)}

    def state_shapes(self, hidden_size: int) -> Shapes:
        """re, then im."""
        return {"re": (hidden_size,), "im": (hidden_size,)}

    def initialise(self, rng: "np.random.Generator", input_size: int, hidden_size: int, batch: int) -> Arrays:
        """nu, theta and gamma.

        λ uniform in the ring between the radii, over the upper and lower half plane.
        """
        del input_size, batch
        low, high = self.radius_min**2, self.radius_max**2
        radius = np.sqrt(rng.uniform(low, high, size=hidden_size))
        theta = np.log(rng.uniform(0.05, 2 * np.pi, size=hidden_size))
        return {"nu": np.log(-np.log(radius)), "theta": theta, "gamma": np.log(1 - radius**2) / 2}

    def step_jacobian(self, params: Arrays, cache: Arrays) -> Array:
        """J by (11): (B, 2H, 2H), the same for every row."""
        lambda_re, lambda_im = (np.diag(part) for part in eigenvalues(np, params))
        one = np.block([[lambda_re, -lambda_im], [lambda_im, lambda_re]])  # (11)
        return np.repeat(one[None], len(cache["re_prev"]), axis=0)

    # The step in its halves; `project` and `accumulate` take (B, ·) or (T, B, ·).

    def project(self, xp: Any, params: dict[str, Any], x: Any) -> Any:
        """u by (2) and (3)."""
        scale = xp.exp(params["gamma"])
        return linear(xp, params["W_xh"], x) * xp.concat([scale, scale])  # (2), (3)

    def recur(
        self, xp: Any, params: dict[str, Any], state: dict[str, Any], projected: Any, x: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """({"re": re_t, "im": im_t}, cache) given projected = u_t."""
        lambda_re, lambda_im = eigenvalues(xp, params)
        re, im = state["re"], state["im"]
        size = re.shape[-1]
        new_re = lambda_re * re - lambda_im * im + projected[:, :size]  # (4)
        new_im = lambda_im * re + lambda_re * im + projected[:, size:]
        return {"re": new_re, "im": new_im}, {"x": x, "re_prev": re, "im_prev": im, "u": projected}

    def delta(self, params: Arrays, cache: Arrays, d_state: Arrays) -> tuple[Array, Arrays]:
        """((dre_t, dim_t) side by side (B, 2H) = ∂L/∂u_t, {"re": dre_{t−1}, "im": dim_{t−1}})."""
        del cache
        lambda_re, lambda_im = eigenvalues(np, params)
        d_re, d_im = d_state["re"], d_state["im"]
        previous = {  # (5)
            "re": lambda_re * d_re + lambda_im * d_im,
            "im": lambda_re * d_im - lambda_im * d_re,
        }
        return np.concatenate([d_re, d_im], axis=-1), previous

    def accumulate(self, params: Arrays, cache: Arrays, delta: Array) -> tuple[Arrays, Array | None]:
        """(d_params, dx) summed over every leading axis of delta (…, 2H) = (dre, dim)."""
        size = len(params["nu"])
        scale, (lambda_re, lambda_im) = np.exp(params["gamma"]), eigenvalues(np, params)
        rows, u = delta.reshape(-1, 2 * size), cache["u"].reshape(-1, 2 * size)
        d_re, d_im = rows[:, :size], rows[:, size:]
        re_prev, im_prev = cache["re_prev"].reshape(-1, size), cache["im_prev"].reshape(-1, size)
        d_lambda_re = np.sum(d_re * re_prev + d_im * im_prev, axis=0)  # (6)
        d_lambda_im = np.sum(d_im * re_prev - d_re * im_prev, axis=0)
        d_nu = -np.exp(params["nu"]) * (d_lambda_re * lambda_re + d_lambda_im * lambda_im)  # (7)
        d_theta = np.exp(params["theta"]) * (  # (8)
            d_lambda_im * lambda_re - d_lambda_re * lambda_im
        )
        d_gamma = np.sum(d_re * u[:, :size] + d_im * u[:, size:], axis=0)  # (9)
        d_W_xh, d_x = linear_backward(  # (10)
            params["W_xh"], cache["x"], delta * np.concatenate([scale, scale])
        )
        return {"nu": d_nu, "theta": d_theta, "gamma": d_gamma, "W_xh": d_W_xh}, d_x


def eigenvalues(xp: Any, params: dict[str, Any]) -> tuple[Any, Any]:
    """(λ_re, λ_im) (H,) by (1)."""
    radius, angle = xp.exp(-xp.exp(params["nu"])), xp.exp(params["theta"])
    return radius * xp.cos(angle), radius * xp.sin(angle)  # (1)
