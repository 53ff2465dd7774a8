"""No arrays at all: lists of lists of Python floats, one sample, one number after the other."""

import math


def run(sample, w, u, b):
    states = [[0.0] * len(b)]
    for x in sample:
        before = states[-1]
        new = []
        for i in range(len(b)):
            a = b[i]
            for j in range(len(x)):
                a += w[i][j] * x[j]
            for j in range(len(b)):
                a += u[i][j] * before[j]
            new.append(math.tanh(a))
        states.append(new)
    return states


def cost(samples, labels, w, u, b):
    total = 0.0
    for sample, label in zip(samples, labels, strict=True):
        total += (sum(run(sample, w, u, b)[-1]) - label) ** 2
    return total / len(samples)


def backprop(samples, labels, w, u, b):
    n, m = len(b), len(w[0])
    dw, du, db = [[0.0] * m for _ in range(n)], [[0.0] * n for _ in range(n)], [0.0] * n
    for sample, label in zip(samples, labels, strict=True):
        states = run(sample, w, u, b)
        dh = [2 * (sum(states[-1]) - label) / len(samples)] * n
        for t in range(len(sample), 0, -1):
            delta = [dh[i] * (1 - states[t][i] ** 2) for i in range(n)]
            for i in range(n):
                db[i] += delta[i]
                for j in range(m):
                    dw[i][j] += delta[i] * sample[t - 1][j]
                for j in range(n):
                    du[i][j] += delta[i] * states[t - 1][j]
            dh = [sum(u[i][j] * delta[i] for i in range(n)) for j in range(n)]
    return {"w": dw, "u": du, "b": db}
