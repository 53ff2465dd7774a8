"""The built-in cases: one line each in CASES. Adding a case is adding a line.

`positions` says where the loss counts: "every" step, the "last" alone, or "masked" (a random mask). `trained` is the number of
plain SGD steps on the case's own data that the weights have behind them (learning_rate is that of the mean loss): trained weights
saturate, and mistakes hide there.
`jacobians`: whether ∂s_t/∂s_{t−1} and their products are compared as well.
"""

from dataclasses import dataclass, field
from typing import Any

SOFTMAX = "softmax-cross-entropy"
SQUARED = "squared-error"
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


AFTER, BEFORE = ({"reset": where} for where in ("after", "before"))
TANH, RELU, SIGMOID, IDENTITY = ({"activation": name} for name in ("tanh", "relu", "sigmoid", "identity"))

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
    Case("lstm", "lstm"),
    Case("lstm-tokens-trained", "lstm", inputs="tokens", reduction="mean", trained=50),
    Case("gru", "gru", AFTER, reduction="mean"),
    Case("gru-trained", "gru", AFTER, reduction="mean", trained=50),
    Case("gru-reset-before", "gru", BEFORE, reduction="mean"),
    Case("one-step", "rnn", TANH, steps=1),
    Case("one-row", "rnn", TANH, batch=1, loss=SQUARED, positions="last"),
    Case("one-of-each", "rnn", TANH, steps=1, batch=1, input_size=1, hidden_size=1, output_size=2),
    Case("larger", "rnn", TANH, steps=30, batch=8, input_size=16, hidden_size=32, output_size=24, reduction="mean"),
)

QUICK: tuple[str, ...] = ("tanh", "tanh-tokens-trained", "relu", "one-step")
