"""LSTM on columns: activations (n_a, m), inputs (n_x, m, T_x), dicts, [a, x] in one array."""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_cell_forward(xt, a_prev, c_prev, parameters):
    concat = np.concatenate((a_prev, xt), axis=0)
    ft = sigmoid(parameters["Wf"] @ concat + parameters["bf"])
    it = sigmoid(parameters["Wi"] @ concat + parameters["bi"])
    cct = np.tanh(parameters["Wc"] @ concat + parameters["bc"])
    c_next = ft * c_prev + it * cct
    ot = sigmoid(parameters["Wo"] @ concat + parameters["bo"])
    a_next = ot * np.tanh(c_next)
    return a_next, c_next, (a_next, c_next, c_prev, ft, it, cct, ot, concat)


def lstm_cell_backward(da_next, dc_next, cache, parameters):
    a_next, c_next, c_prev, ft, it, cct, ot, concat = cache
    n_a = len(a_next)
    dc = dc_next + da_next * ot * (1 - np.tanh(c_next) ** 2)
    dot = da_next * np.tanh(c_next) * ot * (1 - ot)
    dcct = dc * it * (1 - cct**2)
    dit = dc * cct * it * (1 - it)
    dft = dc * c_prev * ft * (1 - ft)
    gates = {"f": dft, "i": dit, "c": dcct, "o": dot}
    gradients = {"dW" + gate: d @ concat.T for gate, d in gates.items()}
    gradients |= {"db" + gate: d.sum(axis=1, keepdims=True) for gate, d in gates.items()}
    dconcat = sum(parameters["W" + gate].T @ d for gate, d in gates.items())
    return gradients, dconcat[:n_a], dc * ft


def lstm_forward(x, a0, parameters):
    a, c, caches, outputs = a0, np.zeros_like(a0), [], []
    for t in range(x.shape[2]):
        a, c, cache = lstm_cell_forward(x[:, :, t], a, c, parameters)
        caches.append(cache)
        outputs.append(a)
    return np.stack(outputs, axis=2), caches


def lstm_backward(da, caches, parameters):
    gradients = {"d" + name: np.zeros_like(value) for name, value in parameters.items()}
    da_prev, dc_prev = np.zeros(da.shape[:2]), np.zeros(da.shape[:2])
    for t in reversed(range(da.shape[2])):
        found, da_prev, dc_prev = lstm_cell_backward(
            da[:, :, t] + da_prev, dc_prev, caches[t], parameters
        )
        for name in gradients:
            gradients[name] += found[name]
    gradients["da0"] = da_prev
    return gradients


def initialize(n_x, n_a, seed=2):
    rng = np.random.default_rng(seed)
    parameters = {"W" + gate: rng.normal(size=(n_a, n_a + n_x)) / 2 for gate in "fico"}
    return parameters | {"b" + gate: rng.normal(size=(n_a, 1)) for gate in "fico"}
