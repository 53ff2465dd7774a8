"""A cell of one's own: the minimal gated unit, its step and the derivation of its backward.

Zhou, Wu, Zhang and Zhou 2016, "Minimal gated unit for recurrent neural networks".

    python comparisons/report.py check examples/minimal_gated_unit.py
"""

import numpy as np


class MinimalGatedUnit:
    """h′ = (1 − f) ⊙ h + f ⊙ n.

    f = σ(W_f x + U_f h + b_f),  n = tanh(W_n x + U_n (f ⊙ h) + b_n)
    """

    def parameter_shapes(self, input_size, hidden_size):
        w, u, b = (hidden_size, input_size), (hidden_size, hidden_size), (hidden_size,)
        return {"W_f": w, "U_f": u, "b_f": b, "W_n": w, "U_n": u, "b_n": b}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def step(self, xp, params, state, x):
        """One step on a batch, x (B, I) and h (B, H).

        torch and jax differentiate this very code, with xp as their namespace.
        """
        h = state["h"]
        f = 1 / (1 + xp.exp(-(x @ params["W_f"].T + h @ params["U_f"].T + params["b_f"])))
        n = xp.tanh(x @ params["W_n"].T + (f * h) @ params["U_n"].T + params["b_n"])
        return {"h": (1 - f) * h + f * n}, (x, h, f, n)

    def step_backward(self, params, cache, d_state):
        """The derivation: from ∂L/∂h′ to the gradients of the parameters, of x and of h."""
        x, h, f, n = cache
        dh = d_state["h"]
        dn = dh * f * (1 - n**2)  # ∂L/∂(net input of n)
        dfh = dn @ params["U_n"]  # ∂L/∂(f ⊙ h)
        df = (dh * (n - h) + dfh * h) * f * (1 - f)  # ∂L/∂(net input of f)
        d_params = {"W_f": df.T @ x, "U_f": df.T @ h, "b_f": np.sum(df, axis=0)}
        d_params |= {"W_n": dn.T @ x, "U_n": dn.T @ (f * h), "b_n": np.sum(dn, axis=0)}
        d_x = df @ params["W_f"] + dn @ params["W_n"]
        return d_params, d_x, {"h": dh * (1 - f) + dfh * f + df @ params["U_f"]}


if __name__ == "__main__":
    from bptt_crosscheck import check_cell

    print(check_cell(MinimalGatedUnit()))
