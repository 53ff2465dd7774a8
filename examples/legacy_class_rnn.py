"""Code that was there before: a class with weights and gradients as attributes, all in NumPy.

Nothing of it is changed. The loss is differentiated numerically, so that torch and jax need not
understand it.

    python comparisons/report.py check examples/legacy_class_rnn.py
"""

import numpy as np
from bptt_crosscheck import check_gradients, from_attributes, set_attributes


class CharRNN:
    """Tokens in, softmax out; weights, gradients and the last state are kept on the object."""

    def __init__(self, vocabulary, hidden, rng):
        self.Wxh = rng.normal(0, 0.4, (hidden, vocabulary))
        self.Whh = rng.normal(0, 0.4, (hidden, hidden))
        self.Why = rng.normal(0, 0.4, (vocabulary, hidden))
        self.bh = rng.normal(0, 0.4, (hidden, 1))
        self.by = rng.normal(0, 0.4, (vocabulary, 1))

    def train_step(self, tokens, targets, hprev):
        """The loss; leaves self.dWxh and its like behind."""
        xs, hs, ps, loss = {}, {-1: hprev.copy()}, {}, 0.0
        for t in range(len(tokens)):
            xs[t] = np.zeros((self.Wxh.shape[1], 1))
            xs[t][tokens[t]] = 1
            hs[t] = np.tanh(self.Wxh @ xs[t] + self.Whh @ hs[t - 1] + self.bh)
            y = self.Why @ hs[t] + self.by
            ps[t] = np.exp(y) / np.sum(np.exp(y))
            loss += -np.log(ps[t][targets[t], 0])
        self.dWxh = np.zeros_like(self.Wxh)
        self.dWhh = np.zeros_like(self.Whh)
        self.dWhy = np.zeros_like(self.Why)
        self.dbh, self.dby = np.zeros_like(self.bh), np.zeros_like(self.by)
        dhnext = np.zeros_like(hprev)
        for t in reversed(range(len(tokens))):
            dy = np.copy(ps[t])
            dy[targets[t]] -= 1
            self.dWhy += dy @ hs[t].T
            self.dby += dy
            draw = (1 - hs[t] ** 2) * (self.Why.T @ dy + dhnext)
            self.dbh += draw
            self.dWxh += draw @ xs[t].T
            self.dWhh += draw @ hs[t - 1].T
            dhnext = self.Whh.T @ draw
        return loss


# What the check needs beside it:

WEIGHTS = ("Wxh", "Whh", "Why", "bh", "by")
model = CharRNN(vocabulary=5, hidden=4, rng=np.random.default_rng(0))


def run(inputs):
    return model.train_step(inputs["tokens"], inputs["targets"], inputs["hprev"])


def loss(params, inputs):
    set_attributes(model, params)
    return run(inputs)


gradients = from_attributes(run, model, {name: f"d{name}" for name in WEIGHTS})


def example():
    tokens = np.array([0, 3, 1, 1, 4, 2])
    inputs = {"tokens": tokens, "targets": np.roll(tokens, -1), "hprev": np.full((4, 1), 0.3)}
    return {name: getattr(model, name) for name in WEIGHTS}, inputs


if __name__ == "__main__":
    print(check_gradients(gradients, loss, *example()))
