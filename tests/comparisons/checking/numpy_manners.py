"""One recurrent network in the manners in which people write it in NumPy.

All compute the same:

    h_t = tanh(W x_t + U h_{t−1} + b),  p_t = softmax(V h_t + c),  L = −Σ_t log p_t[y_t],  h_0 = 0.

A manner is a function loss(params, inputs); `MANNERS` holds them all by name, `gradients` is the
derivative of each.
"""

import functools
import math
from collections import namedtuple
from dataclasses import dataclass, field
from math import exp, log
from types import SimpleNamespace

import numpy
import numpy as np
import numpy.linalg as LA  # noqa: N812 - as people write it
from bptt_crosscheck import set_attributes
from numpy import dot, tanh, zeros

T, I, H, O = 6, 3, 4, 5  # noqa: E741
RNG = np.random.default_rng(5)
PARAMS = {
    "W": RNG.normal(size=(H, I)),
    "U": RNG.normal(size=(H, H)),
    "V": RNG.normal(size=(O, H)),
    "b": RNG.normal(size=H),
    "c": RNG.normal(size=O),
}
INPUTS = {"x": RNG.normal(size=(T, I)), "y": RNG.integers(0, O, T)}


def gradients(params, inputs):
    """By hand."""
    W, U, V, b, c = (params[name] for name in "WUVbc")
    x, y = inputs["x"], inputs["y"]
    h, p = [np.zeros(H)], []
    for t in range(T):
        h.append(np.tanh(W @ x[t] + U @ h[t] + b))
        e = np.exp(V @ h[t + 1] + c)
        p.append(e / e.sum())
    d = {name: np.zeros_like(value) for name, value in params.items()}
    dx, dh = np.zeros_like(x), np.zeros(H)
    for t in reversed(range(T)):
        do = p[t].copy()
        do[y[t]] -= 1
        d["V"] += np.outer(do, h[t + 1])
        d["c"] += do
        dz = (dh + V.T @ do) * (1 - h[t + 1] ** 2)
        d["W"] += np.outer(dz, x[t])
        d["U"] += np.outer(dz, h[t])
        d["b"] += dz
        dx[t], dh = W.T @ dz, U.T @ dz
    return {**d, "x": dx}


def softmax(z):
    e = np.exp(z - np.max(z))
    return e / np.sum(e)


# Classes.


class Net:
    def forward(self, x, y):
        s, loss = np.zeros((T + 1, H)), 0.0
        for t in np.arange(T):
            s[t] = np.tanh(self.W.dot(x[t]) + self.U.dot(s[t - 1]) + self.b)
            o = softmax(self.V.dot(s[t]) + self.c)
            loss += -np.log(o[y[t]])
        self.s = s
        return loss


NET = Net()


def class_with_a_buffer_and_index_minus_one(params, inputs):
    set_attributes(NET, params)
    return NET.forward(inputs["x"], inputs["y"])


class Both(Net):
    def loss_and_gradients(self, x, y):
        loss = self.forward(x, y)
        dV, dh = np.zeros_like(self.V), np.zeros(H)
        for t in reversed(range(T)):
            o = softmax(self.V.dot(self.s[t]) + self.c)
            o[y[t]] -= 1
            dV += np.outer(o, self.s[t])
            dh = self.U.T @ ((1 - self.s[t] ** 2) * (self.V.T @ o + dh))
        return loss, {"V": dV}


def loss_and_gradients_together(params, inputs):
    net = Both()
    for name, value in params.items():
        setattr(net, name, value)
    return net.loss_and_gradients(inputs["x"], inputs["y"])[0]


class Layer:
    def __init__(self, size):
        self.size, self.memory = size, {}

    def __call__(self, *args):
        return self.forward(*args)


class Recurrent(Layer):
    def __init__(self, params):
        super().__init__(H)
        self.params = params

    @staticmethod
    def activation(z):
        return np.tanh(z)

    def forward(self, x, h):
        z = self.params["W"] @ x + self.params["U"] @ h + self.params["b"]
        self.memory["h"] = self.activation(z)
        return self.memory["h"]


def layers_that_inherit(params, inputs):
    layer, h, loss = Recurrent(params), np.zeros(H), 0.0
    for x_t, y_t in zip(inputs["x"], inputs["y"], strict=True):
        h = layer(x_t, h)
        loss = loss - np.log(softmax(params["V"] @ h + params["c"])[y_t])
    return loss


@dataclass
class Cell:
    params: dict
    history: list = field(default_factory=list)

    @property
    def last(self):
        return self.history[-1] if self.history else np.zeros(H)

    def step(self, x):
        p = SimpleNamespace(**self.params)
        self.history.append(np.tanh(p.W @ x + p.U @ self.last + p.b))

    @functools.cached_property
    def read(self):
        return np.stack(self.history) @ self.params["V"].T + self.params["c"]


def dataclass_with_properties(params, inputs):
    cell = Cell(params)
    for x_t in inputs["x"]:
        cell.step(x_t)
    logits = cell.read
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_p[np.arange(T), inputs["y"]].sum()


class Stateful:
    def __init__(self):
        self.h = np.zeros(H)

    def reset(self):
        self.h = np.zeros_like(self.h)

    def run(self, params, x):
        for x_t in x:
            self.h = np.tanh(params["W"] @ x_t + params["U"] @ self.h + params["b"])
            yield self.h


STATEFUL = Stateful()


def a_state_on_the_object_and_a_generator(params, inputs):
    STATEFUL.reset()
    loss = 0.0
    for h, y_t in zip(STATEFUL.run(params, inputs["x"]), inputs["y"], strict=True):
        loss += -np.log(softmax(params["V"] @ h + params["c"]))[y_t]
    return loss


# Functions.


def dicts_of_column_vectors(params, inputs):
    """As in min-char-rnn."""
    hs, ps, loss = {}, {}, 0
    hs[-1] = np.copy(np.zeros((H, 1)))
    for t in range(len(inputs["x"])):
        x = inputs["x"][t].reshape(-1, 1)
        hs[t] = np.tanh(
            np.dot(params["W"], x) + np.dot(params["U"], hs[t - 1]) + params["b"][:, None]
        )
        y = np.dot(params["V"], hs[t]) + params["c"][:, np.newaxis]
        ps[t] = np.exp(y) / np.sum(np.exp(y))
        loss += -np.log(ps[t][inputs["y"][t], 0])
    return loss


def lists_that_grow(params, inputs):
    states, losses = [np.zeros(H)], []
    for x_t, y_t in zip(inputs["x"], inputs["y"], strict=True):
        states.append(np.tanh(params["W"] @ x_t + params["U"] @ states[-1] + params["b"]))
        losses.append(-np.log(softmax(params["V"] @ states[-1] + params["c"])[y_t]))
    return sum(losses)


def preallocated_and_written_into(params, inputs):
    h, logits = np.empty((T + 1, H)), np.zeros((T, O))
    h[0] = 0
    for t in range(T):
        np.matmul(params["U"], h[t], out=h[t + 1])
        h[t + 1] += params["W"] @ inputs["x"][t]
        h[t + 1] += params["b"]
        np.tanh(h[t + 1], out=h[t + 1])
        logits[t, :] = params["V"].dot(h[t + 1]) + params["c"]
    logits -= logits.max(1)[:, None]
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return -np.sum(np.log(p[range(T), inputs["y"]]))


W = U = V = b = c = None


def module_globals(params, inputs):
    global W, U, V, b, c
    W, U, V, b, c = (params[name] for name in "WUVbc")
    return _loss_of_globals(inputs)


def _loss_of_globals(inputs):
    h, loss = np.zeros(H), 0.0
    for t in range(T):
        h = np.tanh(np.matmul(W, inputs["x"][t]) + np.matmul(U, h) + b)
        loss -= np.log(softmax(np.matmul(V, h) + c))[inputs["y"][t]]
    return loss


def a_flat_list(params, inputs):
    theta = [params[name] for name in "WUVbc"]
    h, total = np.zeros_like(theta[3]), 0
    for t in range(T):
        h = np.tanh(theta[0] @ inputs["x"][t] + theta[1] @ h + theta[3])
        o = theta[2] @ h + theta[4]
        total += np.log(np.sum(np.exp(o))) - o[inputs["y"][t]]
    return total


def one_flat_vector(params, inputs):
    flat = np.concatenate([params[name].ravel() for name in "WUVbc"])
    parts, at = {}, 0
    for name in "WUVbc":
        shape = params[name].shape
        size = int(np.prod(shape))
        parts[name] = flat[at : at + size].reshape(shape)
        at += size
    return lists_that_grow(parts, inputs)


def batch_first(params, inputs):
    x, y = inputs["x"][None], inputs["y"][None]
    h, loss = np.zeros((1, H)), np.zeros(1)
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ params["W"].T + h @ params["U"].T + params["b"])
        logits = np.einsum("bh,oh->bo", h, params["V"]) + params["c"]
        chosen = np.take_along_axis(logits, y[:, t][:, None], axis=1)[:, 0]
        loss += np.log(np.exp(logits).sum(-1)) - chosen
    return loss.mean()


def names_of_numpy(params, inputs):
    h = zeros(H)
    loss = 0.0
    for t in range(T):
        h = tanh(dot(params["W"], inputs["x"][t]) + dot(params["U"], h) + params["b"])
        o = numpy.exp(dot(params["V"], h) + params["c"])
        loss -= numpy.log(o[inputs["y"][t]] / numpy.add.reduce(o)) * LA.norm([1.0, 0.0])
    return loss


def loops_over_units(params, inputs):
    h = [0.0] * H
    loss = 0.0
    for t in range(T):
        new = []
        for j in range(H):
            z = params["b"][j]
            for i in range(I):
                z = z + params["W"][j, i] * inputs["x"][t, i]
            for k in range(H):
                z += params["U"][j][k] * h[k]
            new.append(math.tanh(z))
        h = new
        scores = [
            sum(params["V"][k, j] * h[j] for j in range(H)) + params["c"][k] for k in range(O)
        ]
        total = sum(exp(score) for score in scores)
        loss -= log(exp(scores[inputs["y"][t]]) / total)
    return loss


def a_float_at_the_end(params, inputs):
    return float(lists_that_grow(params, inputs))


def numbers_taken_out_and_summed(params, inputs):
    h, loss = np.zeros((H,)), 0.0
    for t in range(T):
        h = np.tanh(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        loss += float(-np.log(softmax(params["V"] @ h + params["c"])[inputs["y"][t]]))
        loss += h.sum().item() - np.float64(h.sum())
    return loss


def one_hot_targets(params, inputs):
    targets = np.zeros((T, O))
    targets[np.arange(T), inputs["y"]] = 1
    h, loss = np.zeros(H), 0.0
    for t in range(T):
        h = np.tanh(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        loss -= np.sum(targets[t] * np.log(softmax(params["V"] @ h + params["c"])))
    return loss


def prints_on_the_way(params, inputs):
    loss = lists_that_grow(params, inputs)
    if loss > 1e9:
        print("loss %.3f" % loss, f"{loss:.4f}", loss)  # noqa: UP031 - as people write it
    text = "loss %.3f, %s" % (loss, loss) + f"{loss:>10.2e}"  # noqa: UP031
    return loss if text else 0.0


def stacked_weights(params, inputs):
    gates = np.hstack([params["W"], params["U"], params["b"][:, None]])
    h, loss = np.zeros(H), 0.0
    for t in range(T):
        h = np.tanh(gates @ np.concatenate((inputs["x"][t], h, np.ones(1))))
        loss -= np.log(softmax(np.c_[params["V"], params["c"]] @ np.r_[h, 1.0]))[inputs["y"][t]]
    return loss


def recursion(params, inputs):
    def state(t):
        if t < 0:
            return np.zeros(H)
        return np.tanh(params["W"] @ inputs["x"][t] + params["U"] @ state(t - 1) + params["b"])

    return sum(
        -np.log(softmax(params["V"] @ state(t) + params["c"])[inputs["y"][t]]) for t in range(T)
    )


def reduce_and_partial(params, inputs):
    def step(weights, carried, x):
        h = np.tanh(weights.W @ x + weights.U @ carried[-1] + weights.b)
        return (*carried, h)

    weights = namedtuple("Weights", params)(**params)
    states = functools.reduce(functools.partial(step, weights), inputs["x"], (np.zeros(H),))
    logits = np.array(states[1:]) @ weights.V.T + weights.c
    return np.sum(np.log(np.sum(np.exp(logits), 1))) - np.sum(logits[np.arange(T), inputs["y"]])


ACTIVATIONS = {"tanh": np.tanh, "exp": np.exp, "identity": lambda z: z}


def a_table_of_activations(params, inputs):
    f, h, loss = ACTIVATIONS["tanh"], np.zeros(H), 0.0
    for t in range(T):
        h = f(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        e = ACTIVATIONS["exp"](params["V"] @ h + params["c"])
        loss += -np.log(e / np.sum(e)).dot(np.eye(O)[inputs["y"][t]])
    return loss


def imports_inside(params, inputs):
    import math as m

    import numpy as xp
    from numpy import exp as e

    h, loss = xp.zeros(H), 0.0
    for t in range(T):
        h = xp.tanh(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        o = e(params["V"] @ h + params["c"])
        loss -= m.log(o[inputs["y"][t]] / o.sum())
    return loss


def all_steps_at_once(params, inputs):
    driven = inputs["x"] @ params["W"].T + params["b"]
    h = np.zeros((T, H))
    for t in range(T):
        h[t] = np.tanh(driven[t] + (params["U"] @ h[t - 1] if t else 0))
    logits = np.apply_along_axis(lambda row: params["V"] @ row + params["c"], 1, h)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1)[:, np.newaxis]
    return -np.log(p[np.arange(T), inputs["y"]]).sum()


def tanh_by_hand(params, inputs):
    def activation(z):
        return (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z))

    h, loss = np.zeros(H), 0.0
    for t in range(T):
        h = activation(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        p = softmax(params["V"] @ h + params["c"])
        loss -= np.log(np.clip(p, 1e-12, 1.0))[inputs["y"][t]]
    return loss


def dropout_that_drops_nothing(params, inputs):
    rng, h, loss = np.random.RandomState(0), np.zeros(H), 0.0
    for t in range(T):
        h = np.tanh(params["W"] @ inputs["x"][t] + params["U"] @ h + params["b"])
        h *= (rng.rand(H) < 1.0) / 1.0
        loss -= np.log(softmax(params["V"] @ h + params["c"])[inputs["y"][t]])
    return loss


MANNERS = {
    manner.__name__: manner
    for manner in (
        class_with_a_buffer_and_index_minus_one,
        loss_and_gradients_together,
        layers_that_inherit,
        dataclass_with_properties,
        a_state_on_the_object_and_a_generator,
        dicts_of_column_vectors,
        lists_that_grow,
        preallocated_and_written_into,
        module_globals,
        a_flat_list,
        one_flat_vector,
        batch_first,
        names_of_numpy,
        loops_over_units,
        a_float_at_the_end,
        numbers_taken_out_and_summed,
        one_hot_targets,
        prints_on_the_way,
        stacked_weights,
        recursion,
        reduce_and_partial,
        a_table_of_activations,
        imports_inside,
        all_steps_at_once,
        tanh_by_hand,
        dropout_that_drops_nothing,
    )
}
