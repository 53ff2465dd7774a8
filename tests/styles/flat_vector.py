"""All parameters in one vector θ, as scientific optimisers want them; so is the gradient."""

import numpy as np

N, M = 3, 2


def unpack(theta):
    return (
        theta[: N * M].reshape(N, M),
        theta[N * M : N * M + N * N].reshape(N, N),
        theta[N * M + N * N :],
    )


def objective(theta, signal, wanted):
    A, B, c = unpack(theta)
    h, total = np.zeros(N), 0.0
    for u, d in zip(signal, wanted, strict=True):
        h = np.tanh(A @ u + B @ h)
        total = total + 0.5 * (c @ h - d) ** 2
    return total


def jacobian(theta, signal, wanted):
    A, B, c = unpack(theta)
    hs = [np.zeros(N)]
    for u in signal:
        hs.append(np.tanh(A @ u + B @ hs[-1]))
    gA, gB, gc, lam = np.zeros((N, M)), np.zeros((N, N)), np.zeros(N), np.zeros(N)
    for t in range(len(signal), 0, -1):
        residual = c @ hs[t] - wanted[t - 1]
        gc += residual * hs[t]
        adjoint = (lam + residual * c) * (1 - hs[t] ** 2)
        gA += np.outer(adjoint, signal[t - 1])
        gB += np.outer(adjoint, hs[t - 1])
        lam = B.T @ adjoint
    return np.concatenate([gA.ravel(), gB.ravel(), gc])
