"""A mistake that trains all the same: the way back from f to the previous h is forgotten.

The report says in which output of step_backward the mistake sits, though six gradients come out
wrong of it.

    python comparisons/report.py check examples/minimal_gated_unit_with_mistake.py
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
        h = state["h"]
        f = 1 / (1 + xp.exp(-(x @ params["W_f"].T + h @ params["U_f"].T + params["b_f"])))
        n = xp.tanh(x @ params["W_n"].T + (f * h) @ params["U_n"].T + params["b_n"])
        return {"h": (1 - f) * h + f * n}, (x, h, f, n)

    def step_backward(self, params, cache, d_state):
        x, h, f, n = cache
        dh = d_state["h"]
        dn = dh * f * (1 - n**2)
        dfh = dn @ params["U_n"]
        df = (dh * (n - h) + dfh * h) * f * (1 - f)
        d_params = {"W_f": df.T @ x, "U_f": df.T @ h, "b_f": np.sum(df, axis=0)}
        d_params |= {"W_n": dn.T @ x, "U_n": dn.T @ (f * h), "b_n": np.sum(dn, axis=0)}
        d_x = df @ params["W_f"] + dn @ params["W_n"]
        return d_params, d_x, {"h": dh * (1 - f) + dfh * f}  # + df @ params["U_f"] is missing


if __name__ == "__main__":
    from bptt_crosscheck import check_cell

    print(check_cell(MinimalGatedUnit(), raise_exception=False))
