"""The forward equations, typed a second time as array-API code, for engines that differentiate by themselves.

Nothing here knows a derivative. Steps are `step(xp, params, state, x, **options) -> new state`; readouts are
`readout(xp, params, states, constants, **options) -> scalar` on stacked states (T, B, ·). `xp` is an array-API namespace:
NumPy, torch through array-api-compat, jax.numpy. The conventions are torch's: weights are (out, in), rows are samples; in a
network of several layers or directions the names have the suffixes "_l0", "_l0_reverse", "_l1", ….
"""

from .parts import Readout as Readout
from .parts import ScalarFunction as ScalarFunction
from .parts import Step as Step
from .parts import stop_gradient as stop_gradient
from .readouts import READOUTS as READOUTS
from .readouts import bound_readout as bound_readout
from .steps import STEPS as STEPS
from .steps import bound_step as bound_step
from .unrolling import ONE_RUN as ONE_RUN
from .unrolling import Arrangement as Arrangement
from .unrolling import SequenceLoss as SequenceLoss
from .unrolling import numpy_scan as numpy_scan
