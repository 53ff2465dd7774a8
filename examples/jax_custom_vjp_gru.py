"""A jax.custom_vjp with a backward written by hand, against plain operations: from_jax.

The loss may be compiled, scanned, or both; the gradients of x and of the initial state are checked
along with the weights.

    python comparisons/report.py check examples/jax_custom_vjp_gru.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from bptt_crosscheck import check_gradients, from_jax


@jax.custom_vjp
def gru_cell(params, h, x):
    """h′ = (1 − z) ⊙ n + z ⊙ h, reset after the matrix product; gates stacked as r, z, n."""
    return gru_forward(params, h, x)[0]


def gru_forward(params, h, x):
    xr, xz, xn = jnp.split(x @ params["W"].T + params["b"], 3, axis=-1)
    hr, hz, hn = jnp.split(h @ params["U"].T + params["b_h"], 3, axis=-1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (1 - z) * n + z * h, (params, h, x, r, z, n, hn)


def gru_backward(cache, dh):
    params, h, x, r, z, n, hn = cache
    dn = dh * (1 - z) * (1 - n**2)
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * hn * r * (1 - r)
    of_x, of_h = jnp.concatenate([dr, dz, dn], axis=-1), jnp.concatenate([dr, dz, dn * r], axis=-1)
    d_params = {"W": of_x.T @ x, "U": of_h.T @ h, "b": of_x.sum(0), "b_h": of_h.sum(0)}
    return d_params, dh * z + of_h @ params["U"], of_x @ params["W"]


gru_cell.defvjp(gru_forward, gru_backward)


def loss_through_my_cell(params, inputs):
    """jax arrays in, a scalar out, by the cell above, compiled."""
    h, states = jax.lax.scan(lambda h, x: (gru_cell(params, h, x),) * 2, inputs["h_0"], inputs["x"])
    return jnp.sum(inputs["weight"] * states) + jnp.sum(h**2)


gradients = from_jax(jax.jit(loss_through_my_cell))


def loss(xp, params, inputs):
    """The same mathematics in plain operations."""
    h, H, total = inputs["h_0"], inputs["h_0"].shape[-1], 0.0
    for t in range(inputs["x"].shape[0]):
        of_x, of_h = inputs["x"][t] @ params["W"].T + params["b"], h @ params["U"].T + params["b_h"]
        r, z = (1 / (1 + xp.exp(-(of_x + of_h)[:, k * H : (k + 1) * H])) for k in (0, 1))
        n = xp.tanh(of_x[:, 2 * H :] + r * of_h[:, 2 * H :])
        h = (1 - z) * n + z * h
        total = total + xp.sum(inputs["weight"][t] * h)
    return total + xp.sum(h**2)


def example():
    rng = np.random.default_rng(0)
    steps, batch, inputs, hidden = 5, 2, 3, 4
    gates = 3 * hidden
    weights = {"W": (gates, inputs), "U": (gates, hidden), "b": (gates,), "b_h": (gates,)}
    data = {"x": (steps, batch, inputs), "weight": (steps, batch, hidden), "h_0": (batch, hidden)}
    params = {name: rng.normal(scale=0.6, size=shape) for name, shape in weights.items()}
    return params, {name: rng.normal(size=shape) for name, shape in data.items()}


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example()))
