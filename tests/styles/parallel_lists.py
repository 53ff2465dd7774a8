"""Two parallel lists, weights and their gradients in one order; a softmax over the last state."""

import numpy as np


def init(sizes, seed=8):
    n_in, n_hidden, n_out = sizes
    rng = np.random.default_rng(seed)
    shapes = (n_hidden, n_in), (n_hidden, n_hidden), (n_hidden,), (n_out, n_hidden)
    return [rng.normal(size=shape) / np.sqrt(shape[-1]) for shape in shapes]


def value_and_grad(weights, x, label):
    W, U, b, V = weights
    hs = [np.zeros_like(b)]
    for t in range(x.shape[0]):
        hs.append(np.maximum(W @ x[t] + U @ hs[-1] + b, 0))
    logits = V @ hs[-1]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    grads = [np.zeros_like(w) for w in weights]
    dlogits = p - np.eye(len(p))[label]
    grads[3] += np.outer(dlogits, hs[-1])
    dh = V.T @ dlogits
    for t in range(x.shape[0] - 1, -1, -1):
        dz = dh * (hs[t + 1] > 0)
        grads[0] += np.outer(dz, x[t])
        grads[1] += np.outer(dz, hs[t])
        grads[2] += dz
        dh = U.T @ dz
    return -np.log(p[label]), grads
