"""The built-in cases: one line each in CASES. Adding a case is adding a line.

`positions` says where the loss counts: "every" step, the "last" alone, or "masked" (a random
mask). `trained` is the number of plain SGD steps on the case's own data that the weights have
behind them (learning_rate is that of the mean loss): trained weights saturate, and mistakes hide
there. `jacobians`: whether ∂s_t/∂s_{t−1} and their products are compared as well. `loss` is a
head's, or PROJECTION: random cotangents on every state at every step. `layers` and `bidirectional`
make a network of the cell; `unequal` gives the rows of a batch different numbers of steps,
`dropout` a fixed mask between layers that drops about that share. `window` and `chunk` cut the
gradient after so many steps. `algorithm` is how the derivation goes through time: backwards
("bptt") or forwards ("rtrl").
"""

from dataclasses import dataclass, field
from typing import Any

SOFTMAX = "softmax-cross-entropy"
SQUARED = "squared-error"
PROJECTION = "projection"
LOSS_LABELS = {SOFTMAX: "CE", SQUARED: "SE"}


@dataclass(frozen=True)
class Case:
    """A problem still without numbers."""

    name: str
    cell: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    loss: str = SOFTMAX
    inputs: str = "dense"
    positions: str = "every"
    reduction: str = "sum"
    initial_state: str = "random"
    trained: int = 0
    learning_rate: float = 0.1
    steps: int = 12
    batch: int = 3
    input_size: int = 4
    hidden_size: int = 5
    output_size: int = 6
    jacobians: bool = False
    layers: int = 1
    bidirectional: bool = False
    unequal: bool = False
    dropout: float = 0.0
    window: int | None = None
    chunk: int | None = None
    algorithm: str = "bptt"


AFTER, BEFORE = ({"reset": where} for where in ("after", "before"))
TANH, RELU, SIGMOID, IDENTITY = (
    {"activation": name} for name in ("tanh", "relu", "sigmoid", "identity")
)
POSITIVE = {"activation": "positive"}
PROJECTED = {"projection_size": None}
RESIDUAL = {"alpha": 0.5, "activation": "tanh"}
STACKED: dict[str, Any] = {"layers": 3, "bidirectional": True, "steps": 7}

CASES: tuple[Case, ...] = (
    Case("tanh", "rnn", TANH, jacobians=True),
    Case("tanh-trained", "rnn", TANH, trained=50),
    Case("tanh-tokens", "rnn", TANH, inputs="tokens", reduction="mean"),
    Case("tanh-tokens-trained", "rnn", TANH, inputs="tokens", reduction="mean", trained=50),
    Case("tanh-masked", "rnn", TANH, positions="masked", reduction="mean"),
    Case("tanh-zero-state", "rnn", TANH, initial_state="zero", loss=SQUARED),
    Case("relu", "rnn", RELU, reduction="mean", jacobians=True),
    Case("relu-trained", "rnn", RELU, reduction="mean", trained=50),
    Case("sigmoid-last", "rnn", SIGMOID, positions="last"),
    Case("sigmoid-last-trained", "rnn", SIGMOID, positions="last", trained=50),
    Case("sigmoid-tokens", "rnn", SIGMOID, inputs="tokens", loss=SQUARED, positions="masked"),
    Case("identity", "rnn", IDENTITY, loss=SQUARED, reduction="mean"),
    Case("irnn", "irnn", reduction="mean", jacobians=True),
    Case("irnn-trained", "irnn", reduction="mean", trained=50),
    Case("residual", "residual", RESIDUAL, jacobians=True),
    Case("lstm", "lstm", jacobians=True),
    Case("lstm-tokens-trained", "lstm", inputs="tokens", reduction="mean", trained=50),
    Case("lstm-last", "lstm", positions="last"),
    Case("lstm-states", "lstm", loss=PROJECTION),
    Case("peephole-lstm", "peephole-lstm", jacobians=True, steps=8),
    Case("projected-lstm", "projected-lstm", PROJECTED, jacobians=True, steps=8),
    Case("gru", "gru", AFTER, reduction="mean", jacobians=True),
    Case("gru-trained", "gru", AFTER, reduction="mean", trained=50),
    Case("gru-reset-before", "gru", BEFORE, reduction="mean", jacobians=True, steps=8),
    Case("min-gru", "min-gru", POSITIVE, jacobians=True),
    Case("min-lstm", "min-lstm", POSITIVE, jacobians=True),
    Case("lru", "lru", jacobians=True, steps=8),
    Case("slstm", "slstm", jacobians=True, steps=8),
    Case("slstm-states", "slstm", loss=PROJECTION),
    Case("tanh-3-layers-both-ways", "rnn", TANH, **STACKED),
    Case("lstm-3-layers-both-ways", "lstm", **STACKED),
    Case("lstm-unequal", "lstm", unequal=True, reduction="mean"),
    Case(
        "gru-unequal-both-ways",
        "gru",
        AFTER,
        unequal=True,
        positions="last",
        bidirectional=True,
        layers=2,
        steps=7,
    ),
    Case(
        "projected-lstm-both-ways",
        "projected-lstm",
        PROJECTED,
        bidirectional=True,
        layers=2,
        steps=5,
    ),
    Case("gru-dropout", "gru", AFTER, layers=2, dropout=0.4, steps=7),
    Case("tanh-window", "rnn", TANH, window=3, steps=8),
    Case("lstm-window", "lstm", window=2, steps=6),
    Case("lstm-chunks", "lstm", chunk=4, layers=2, steps=8),
    Case("tanh-rtrl", "rnn", TANH, algorithm="rtrl"),
    Case("gru-rtrl", "gru", AFTER, algorithm="rtrl", steps=6),
    Case("one-step", "rnn", TANH, steps=1),
    Case("one-row", "rnn", TANH, batch=1, loss=SQUARED, positions="last"),
    Case("one-of-each", "rnn", TANH, steps=1, batch=1, input_size=1, hidden_size=1, output_size=2),
    Case(
        "larger",
        "rnn",
        TANH,
        steps=30,
        batch=8,
        input_size=16,
        hidden_size=32,
        output_size=24,
        reduction="mean",
    ),
)

# One of each cell, without Jacobians.
QUICK: tuple[str, ...] = (
    "tanh",
    "irnn",
    "residual",
    "lstm",
    "peephole-lstm",
    "projected-lstm",
    "gru",
    "min-gru",
    "min-lstm",
    "lru",
    "slstm",
)
