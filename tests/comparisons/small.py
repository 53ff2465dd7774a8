"""A small cell, a small loss and a small layer with their right derivations, for tests to spoil."""

import numpy as np

SIZES = {"steps": 3, "batch": 2, "input_size": 2, "hidden_size": 3}
TORCH = {"references": ["torch"]}


class Elman:
    """h′ = tanh(W x + U h)."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"W": (hidden_size, input_size), "U": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {"h": (hidden_size,)}

    def step(self, xp, params, state, x):
        h = xp.tanh(x @ params["W"].T + state["h"] @ params["U"].T)
        return {"h": h}, (x, state["h"], h)

    def step_backward(self, params, cache, d_state):
        x, before, h = cache
        delta = d_state["h"] * (1 - h**2)
        return (
            {"W": delta.T @ x, "U": delta.T @ before},
            delta @ params["W"],
            {"h": delta @ params["U"]},
        )


def spoiled(**methods):
    """An Elman cell with other methods; each is called without self."""
    return type(
        "Spoiled", (Elman,), {name: staticmethod(method) for name, method in methods.items()}
    )()


def elman(method, *arguments):
    """What an Elman cell's method returns."""
    return getattr(Elman(), method)(*arguments)


rng = np.random.default_rng(0)
PARAMS = {"W": rng.normal(size=(3, 2)), "U": rng.normal(size=(3, 3)), "b": rng.normal(size=3)}
INPUTS = {"x": rng.normal(size=(4, 2))}


def outputs(xp, params, inputs):
    """h_1..h_T of h_t = tanh(W x_t + U h_{t−1} + b), (T, H)."""
    h, states = xp.zeros(3), []
    for t in range(4):
        h = xp.tanh(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        states.append(h)
    return xp.stack(states)


def vjp(params, inputs, cotangents):
    h = np.concatenate([np.zeros((1, 3)), outputs(np, params, inputs)])
    gradients, dh = {name: np.zeros_like(value) for name, value in params.items()}, np.zeros(3)
    for t in range(4, 0, -1):
        delta = (dh + cotangents[t - 1]) * (1 - h[t] ** 2)
        gradients["W"] += np.outer(delta, inputs["x"][t - 1])
        gradients["U"] += np.outer(delta, h[t - 1])
        gradients["b"] += delta
        dh = params["U"].T @ delta
    return gradients


def loss(xp, params, inputs):
    """½ Σ_t ‖h_t‖²."""
    return xp.sum(outputs(xp, params, inputs) ** 2) / 2


def numpy_loss(params, inputs):
    """The same for a caller who has NumPy alone."""
    return loss(np, params, inputs)


def gradients(params, inputs):
    return vjp(params, inputs, outputs(np, params, inputs))
