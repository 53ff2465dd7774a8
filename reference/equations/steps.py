"""Every step by its name: a new cell is a line here."""

from functools import partial

from ..arrays import Named
from .diagonal import lru
from .elman import residual, rnn
from .exponential import slstm
from .gated import gru, lstm, min_gru, min_lstm, peephole_lstm, projected_lstm
from .parts import Step

STEPS: dict[str, Step] = {
    "rnn": rnn,
    "irnn": partial(rnn, activation="relu"),
    "residual": residual,
    "lstm": lstm,
    "peephole-lstm": peephole_lstm,
    "projected-lstm": projected_lstm,
    "gru": gru,
    "min-gru": min_gru,
    "min-lstm": min_lstm,
    "lru": lru,
    "slstm": slstm,
}


def bound_step(name: str, options: Named) -> Step:
    """The step of STEPS called `name`, its options filled in."""
    return partial(STEPS[name], **options)
