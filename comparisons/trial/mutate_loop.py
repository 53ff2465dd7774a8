"""Mistakes between steps, between layers, and in the loss."""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...manual.through_time import bptt
from ...manual.through_time.network import Head, Network, Pass
from ..candidates.built_in_cells import CellCandidate
from ..problems.arrays import Array
from ..problems.cases import SOFTMAX
from ..problems.problem import Problem
from .mutate_cell import altered, carry
from .subject import Answers, Mutations, Subject
from .syntax import must_have


@dataclass(frozen=True)
class ChangedNetwork(CellCandidate):
    """A candidate whose network, or whose forward pass as backward sees it, is changed."""

    arrange: Callable[[Network], Network] = lambda network: network
    see: Callable[[Pass], Pass] = lambda done: done

    def network(self, problem: Problem) -> Network:
        """The network, rearranged."""
        return self.arrange(super().network(problem))

    def forward(self, problem: Problem) -> Pass:
        """The pass, as it is seen."""
        return self.see(super().forward(problem))


def with_network(
    subject: Subject,
    arrange: Callable[[Network], Network] = lambda net: net,
    see: Callable[[Pass], Pass] = lambda done: done,
) -> Answers:
    """The answer of a network that is arranged, or of a pass that is seen, otherwise."""
    return partial(
        ChangedNetwork(subject.cell, subject.candidate.algorithm, arrange, see).answer,
        subject.problem,
    )


def truncated(subject: Subject) -> Mutations:
    """The gradient is cut after K steps, or at the border of every chunk."""
    if subject.plain:
        for window in (0, 1, subject.problem.steps // 2):
            yield (
                f"a window of {window} steps",
                with_network(subject, lambda n, w=window: replace(n, window=w)),
            )
    if (
        subject.problem.window is None
        and subject.problem.chunk is None
        and not subject.problem.bidirectional
    ):
        for chunk in (1, 2, max(subject.problem.steps - 1, 1)):
            yield (
                f"chunks of {chunk} steps",
                with_network(subject, lambda n, c=chunk: replace(n, chunk=c)),
            )


def not_reset(subject: Subject) -> Mutations:
    """The carry that one sequence ended with, at s_0, is where the next begins, at s_T."""

    def see(done: Pass) -> Pass:
        cotangents = {name: value.copy() for name, value in done.reading.cotangents.items()}
        for name, value in cotangents.items():
            value[-1] += subject.right.gradients[f"{name}_0"]
        return reading(done, cotangents)

    yield "left over from the sequence before", with_network(subject, see=see)
    if subject.problem.batch > 1:
        yield (
            "left over from the row before",
            carry(subject, lambda name, value: np.roll(value, 1, axis=-2)),
        )


def reading(
    done: Pass, cotangents: Mapping[str, Array], d_params: Mapping[str, Array] | None = None
) -> Pass:
    """The pass with other cotangents, and with other gradients of the readout's own where they are
    given.
    """
    own = done.reading.d_params if d_params is None else dict(d_params)
    return replace(done, reading=replace(done.reading, cotangents=dict(cotangents), d_params=own))


def of_cotangents(change: Callable[[Array], Array]) -> Callable[[Subject], Answers]:
    """e_1..e_T, changed before the time loop; the readout's own gradients are right."""
    return lambda subject: with_network(
        subject,
        see=lambda done: reading(
            done, {n: change(value.copy()) for n, value in done.reading.cotangents.items()}
        ),
    )


def _only_last(e: Array) -> Array:
    e[:-1] = 0
    return e


def some_cotangents(subject: Subject) -> Mutations:
    """The loss's own derivative is that of the last step only, or shifted."""

    def without(at: int) -> Callable[[Array], Array]:
        def change(e: Array) -> Array:
            e[at] = 0
            return e

        return change

    yield "the last step's only", of_cotangents(_only_last)(subject)
    yield "the first step's left out", of_cotangents(without(0))(subject)
    yield "the last step's left out", of_cotangents(without(-1))(subject)
    yield "each a step too early", of_cotangents(lambda e: np.roll(e, -1, axis=0))(subject)
    yield "each a step too late", of_cotangents(lambda e: np.roll(e, 1, axis=0))(subject)
    yield "in the order of time reversed", of_cotangents(lambda e: e[::-1])(subject)


def mask_ignored(subject: Subject) -> Mutations:
    """Padded steps, or dropped units, are passed on the way back."""
    if "lengths" in subject.problem.constants:

        def see(done: Pass, at: int | None) -> Pass:
            def masked(tape: bptt.Tape) -> bptt.Tape:
                mask = (
                    None
                    if at is None or tape.mask is None
                    else np.repeat(tape.mask[at][None], len(tape.mask), axis=0)
                )
                return replace(tape, mask=mask)

            return replace(
                done, tapes={suffix: masked(tape) for suffix, tape in done.tapes.items()}
            )

        yield "rows end where the longest ends", with_network(subject, see=partial(see, at=None))
        yield "the mask of step 1 at every step", with_network(subject, see=partial(see, at=0))
    if any(name.startswith("dropout") for name in subject.problem.constants):

        def undropped(done: Pass) -> Pass:
            return replace(done, dropout=[None for _ in done.dropout])

        def first_mask(done: Pass) -> Pass:
            return replace(
                done,
                dropout=[
                    m if m is None else np.repeat(m[:1], len(m), axis=0) for m in done.dropout
                ],
            )

        yield "dropout is not applied on the way back", with_network(subject, see=undropped)
        yield "the dropout mask of step 1 at every step", with_network(subject, see=first_mask)


# The loss.


def with_loss(subject: Subject, d_loss: Callable[[Array, Array, Array], Array]) -> Answers:
    """The head under a loss whose derivative is d_loss(y, target, weights); its value is right."""
    must_have(Head.value.__globals__, ["LOSSES"], Head.value.__module__)

    def value(self: Any, params: Any, states: Any, inputs: Any) -> Any:
        right = Head.value.__globals__["LOSSES"][subject.problem.readout]

        def planted(y: Array, target: Array, weights: Array) -> tuple[float, Array]:
            return right(y, target, weights)[0], d_loss(y, target, weights)

        losses = {subject.problem.readout: planted}
        changed = types.FunctionType(
            Head.value.__code__, {**Head.value.__globals__, "LOSSES": losses}
        )
        return changed(self, params, states, inputs)

    def arrange(net: Network) -> Network:
        return replace(net, readout=altered(net.readout, value=value))

    return with_network(subject, arrange)


def _one_hot(y: Array, target: Array) -> Array:
    return np.eye(y.shape[-1], dtype=y.dtype)[target]


def _softmax(y: Array) -> Array:
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def loss_before_softmax(subject: Subject) -> Mutations:
    """Ŷ without − y, or y without the softmax."""
    if subject.problem.readout == SOFTMAX:
        yield (
            "y − target: no softmax",
            with_loss(subject, lambda y, t, w: (y - _one_hot(y, t)) * w[..., None]),
        )
        yield "p without − target", with_loss(subject, lambda y, t, w: _softmax(y) * w[..., None])
        yield (
            "target − p",
            with_loss(subject, lambda y, t, w: (_one_hot(y, t) - _softmax(y)) * w[..., None]),
        )
        yield (
            "softmax over the rows",
            with_loss(
                subject,
                lambda y, t, w: (
                    (np.moveaxis(_softmax(np.moveaxis(y, 1, -1)), -1, 1) - _one_hot(y, t))
                    * w[..., None]
                ),
            ),
        )
        yield (
            "p (1 − p) (p − target)",
            with_loss(
                subject,
                lambda y, t, w: (
                    _softmax(y) * (1 - _softmax(y)) * (_softmax(y) - _one_hot(y, t)) * w[..., None]
                ),
            ),
        )
    elif subject.problem.readout != "projection":
        yield "y without − target", with_loss(subject, lambda y, t, w: y * w[..., None])
        yield "target − y", with_loss(subject, lambda y, t, w: (t - y) * w[..., None])
        yield "weights left out", with_loss(subject, lambda y, t, w: y - t)


def everything(subject: Subject, factor: float) -> Answers:
    """All that the loss begins with, times a factor: every gradient is."""

    def see(done: Pass) -> Pass:
        scaled = {name: factor * value for name, value in done.reading.cotangents.items()}
        return reading(
            done, scaled, {name: factor * value for name, value in done.reading.d_params.items()}
        )

    return with_network(subject, see=see)


def counts(problem: Problem) -> dict[str, float]:
    """T, B, V and the counted positions: what a mean may divide by."""
    found: dict[str, float] = {
        "T": problem.steps,
        "B": problem.batch,
        "V": problem.output_size or 1,
    }
    if "mask" in problem.constants:
        found["the counted positions"] = float(problem.constants["mask"].sum())
    return {name: float(count) for name, count in found.items() if count > 1}


def reductions(subject: Subject) -> Mutations:
    """Mean instead of sum over T, B or V, or the reverse."""
    for name, count in counts(subject.problem).items():
        yield f"mean instead of sum over {name}", everything(subject, 1 / count)
        yield f"sum instead of mean over {name}", everything(subject, count)


def factors(subject: Subject) -> Mutations:
    """The square's 2, or a weight somewhere, on everything."""
    yield "the whole gradient doubled", everything(subject, 2.0)
    yield "the whole gradient halved", everything(subject, 0.5)
    yield "the whole gradient times 1.0008", everything(subject, 1.0008)
    yield "the cotangents doubled, the head right", of_cotangents(lambda e: 2 * e)(subject)
