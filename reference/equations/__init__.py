"""The forward equations, typed again as array-API code, for engines that differentiate.

Nothing here knows a derivative. Steps are `step(xp, params, state, x, **options) -> new state`;
readouts are `readout(xp, params, states, constants, **options) -> scalar` on stacked states (T, B,
·). `xp` is an array-API namespace: NumPy, torch through array-api-compat, jax.numpy. The
conventions are torch's: weights are (out, in), rows are samples; in a network of several layers or
directions the names have the suffixes "_l0", "_l0_reverse", "_l1", ….
"""

from .diagonal import lru as lru
from .elman import residual as residual
from .elman import rnn as rnn
from .exponential import slstm as slstm
from .gated import gru as gru
from .gated import lstm as lstm
from .gated import min_gru as min_gru
from .gated import min_lstm as min_lstm
from .gated import peephole_lstm as peephole_lstm
from .gated import projected_lstm as projected_lstm
from .parts import NONLINEARITIES as NONLINEARITIES
from .parts import Readout as Readout
from .parts import ScalarFunction as ScalarFunction
from .parts import Step as Step
from .parts import affine as affine
from .parts import blocks as blocks
from .parts import one_hot as one_hot
from .parts import positive as positive
from .parts import relu as relu
from .parts import sigmoid as sigmoid
from .parts import softplus as softplus
from .parts import stop_gradient as stop_gradient
from .readouts import READOUTS as READOUTS
from .readouts import bound_readout as bound_readout
from .readouts import outputs as outputs
from .readouts import projection as projection
from .readouts import softmax_cross_entropy as softmax_cross_entropy
from .readouts import squared_error as squared_error
from .steps import STEPS as STEPS
from .steps import bound_step as bound_step
from .unrolling import ONE_RUN as ONE_RUN
from .unrolling import Arrangement as Arrangement
from .unrolling import SequenceLoss as SequenceLoss
from .unrolling import numpy_scan as numpy_scan
