"""Mistakes, planted in derivations that are right: the oracle's own examination paper.

OPERATORS is the table: a name, the mistake in a sentence, and how to plant it. A kind is planted
wherever it makes sense, in one way or in many: in what the cell computes at a step, in the time
loop, in the network, in the loss, or in the finished gradients. What comes out is a Mutant, an
answer to the same problem by a derivation with exactly one mistake in it.
"""

from collections.abc import Iterator

import numpy as np

from . import syntax as source
from .mutate_cell import (
    another_time,
    bias_summed_wrongly,
    changes_in_place,
    each_carry,
    gate_missing,
    gates_permuted,
    keeps_between_calls,
    overwritten,
    row_for_all,
    some_rows_only,
    through_another_weight,
    transposed,
)
from .mutate_gradient import (
    clipped,
    each_gradient,
    entries_swapped,
    entry_off,
    initial_state_forgotten,
    step_left_out,
    step_off,
    weight_transposed,
)
from .mutate_loop import (
    factors,
    loss_before_softmax,
    mask_ignored,
    not_reset,
    reductions,
    some_cotangents,
    truncated,
)
from .mutate_source import of_source
from .subject import Mutant, MutationOperator, Subject

OPERATORS: tuple[MutationOperator, ...] = (
    MutationOperator(
        "carry dropped",
        "∂L/∂h_{t+1}, or ∂L/∂c_{t+1}, is not passed back",
        each_carry(lambda d: 0 * d),
    ),
    MutationOperator(
        "carry doubled", "what comes back from step t+1 is added twice", each_carry(lambda d: 2 * d)
    ),
    MutationOperator(
        "carry with the wrong sign",
        "what comes back from step t+1 is subtracted",
        each_carry(lambda d: -d),
    ),
    MutationOperator(
        "carry not reset",
        "the next sequence, or row, begins with the carry of the one before",
        not_reset,
    ),
    MutationOperator(
        "truncated", "the gradient is cut after K steps, or at the border of every chunk", truncated
    ),
    MutationOperator("transposed weight", "W where Wᵀ belongs", transposed),
    MutationOperator(
        "another weight", "dx, or the carry, through the wrong weight", through_another_weight
    ),
    MutationOperator(
        "h_t for h_{t−1}",
        "the state after the step where the state before it belongs",
        another_time,
    ),
    MutationOperator(
        "gates permuted", "the gates stand in another order on the way back", gates_permuted
    ),
    MutationOperator("a gate missing", "one gate's term is left out", gate_missing),
    MutationOperator(
        "one sample of the batch",
        "the weight gradients are those of the last, or first, sample only",
        some_rows_only,
    ),
    MutationOperator(
        "one row's data for all", "x, or the state, of row 0 is used for every row", row_for_all
    ),
    MutationOperator(
        "bias over the wrong axis",
        "the bias is summed over the units, averaged, or taken from one gate",
        bias_summed_wrongly,
    ),
    MutationOperator(
        "embedding overwritten",
        "rows of repeated tokens are overwritten, not accumulated",
        overwritten,
    ),
    MutationOperator(
        "changed in place", "the code writes into what it was given", changes_in_place
    ),
    MutationOperator("kept between calls", "a second call adds to the first", keeps_between_calls),
    MutationOperator(
        "cotangents of other steps",
        "the loss's own derivative is that of the last step only, or shifted",
        some_cotangents,
    ),
    MutationOperator(
        "mask ignored", "padded steps, or dropped units, are passed on the way back", mask_ignored
    ),
    MutationOperator(
        "loss before the softmax", "ŷ without − y, or y without the softmax", loss_before_softmax
    ),
    MutationOperator("reduction", "mean instead of sum over T, B or V, or the reverse", reductions),
    MutationOperator("factor 2", "the square's 2, or a weight somewhere, on everything", factors),
    MutationOperator(
        "one gradient doubled", "a factor 2 on one gradient", each_gradient(lambda d: 2 * d)
    ),
    MutationOperator(
        "one gradient averaged",
        "one gradient is divided by 3, as by B",
        each_gradient(lambda d: d / 3),
    ),
    MutationOperator(
        "one gradient negated", "the sign of one gradient", each_gradient(lambda d: -d)
    ),
    MutationOperator(
        "one gradient zero", "one gradient is never filled in", each_gradient(lambda d: 0 * d)
    ),
    MutationOperator(
        "one gradient missing", "one gradient is not given", each_gradient(lambda d: None)
    ),
    MutationOperator(
        "one gradient NaN",
        "one entry is NaN",
        each_gradient(lambda d: np.where(np.arange(d.size).reshape(d.shape) == 0, np.nan, d)),
    ),
    MutationOperator("one entry off", "one entry by a millionth of the largest", entry_off),
    MutationOperator("two entries swapped", "two entries in each other's place", entries_swapped),
    MutationOperator("weight gradient transposed", "dWᵀ where dW belongs", weight_transposed),
    MutationOperator("clipped", "gradients, or the carry, clipped by value or norm", clipped),
    MutationOperator(
        "first step left out", "the sum over steps begins at the second", step_left_out(0)
    ),
    MutationOperator(
        "last step left out", "the sum over steps ends before the last", step_left_out(-1)
    ),
    MutationOperator(
        "one step off",
        "the share of the step that contributes least, by a tenth, or twice",
        step_off,
    ),
    MutationOperator(
        "initial state's gradient", "∂L/∂h_0, or ∂L/∂c_0, is left out", initial_state_forgotten
    ),
    MutationOperator(
        source.FACTOR_MISSING,
        "the product rule's other factor, or a slope, is left out",
        of_source(source.FACTOR_MISSING),
    ),
    MutationOperator(
        source.FACTOR_TWICE, "a factor, a slope say, is taken twice", of_source(source.FACTOR_TWICE)
    ),
    MutationOperator(
        source.TERM_MISSING,
        "one way by which a variable reaches the loss is forgotten",
        of_source(source.TERM_MISSING),
    ),
    MutationOperator(source.SIGN, "plus for minus", of_source(source.SIGN)),
    MutationOperator(
        source.SLOPE_LEFT_OUT, "1 − tanh² is taken for 1", of_source(source.SLOPE_LEFT_OUT)
    ),
    MutationOperator(
        source.SLOPE_OF_INPUT,
        "1 − z² with z the net input, not its tanh",
        of_source(source.SLOPE_OF_INPUT),
    ),
    MutationOperator(
        source.WRONG_VARIABLE,
        "one variable for another: c_{t−1} and c_t, i and f, …",
        of_source(source.WRONG_VARIABLE),
    ),
    MutationOperator(
        source.PERMUTED,
        "two parts of what is stacked or named in each other's place",
        of_source(source.PERMUTED),
    ),
    MutationOperator(
        source.TRANSPOSED,
        "a matrix transposed, or a product in the other order",
        of_source(source.TRANSPOSED),
    ),
    MutationOperator(source.ZERO, "a returned derivative is zero", of_source(source.ZERO)),
    MutationOperator(source.CONSTANT, "2 for 1", of_source(source.CONSTANT)),
)


def mutants(
    subject: Subject, operators: tuple[MutationOperator, ...] = OPERATORS
) -> Iterator[Mutant]:
    """Every mistake by these operators that makes sense in this subject."""
    for operator in operators:
        for what, answer in operator.mutate(subject):
            yield Mutant(operator.name, what, answer)
