"""Asking: what is left out and why, and what the noise is made of."""

from dataclasses import replace

import numpy as np
import pytest
from bptt_crosscheck.comparisons.errors import NothingFollows, UnknownName
from bptt_crosscheck.comparisons.problems.answer import Answer
from bptt_crosscheck.comparisons.problems.convention import Convention
from bptt_crosscheck.comparisons.witnesses import ask as asking
from bptt_crosscheck.comparisons.witnesses import tolerance
from bptt_crosscheck.comparisons.witnesses.ask import ask
from bptt_crosscheck.comparisons.witnesses.engines import Engine, names_in, select
from bptt_crosscheck.comparisons.witnesses.left_out import LeftOut, WhyLeftOut


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, None),
        ("torch", ["torch"]),
        ("torch, jax", ["torch", "jax"]),
        ((" torch", "complex step "), ["torch", "complex step"]),
        (["jax"], ["jax"]),
    ],
)
def test_names_of_references(given, names):
    assert names_in(given) == names


@pytest.mark.parametrize("given", ["", "torch,", ["torch", " "]])
def test_a_name_that_is_empty(given):
    with pytest.raises(UnknownName, match="a reference without a name; there are torch, jax"):
        names_in(given)


def test_what_does_not_apply_is_left_out_as_such(trial):
    asked = ask(trial("sigmoid-last").problem, select(("torch", "torch.nn")))
    assert [engine.name for engine in asked.answers] == ["torch"]
    assert asked.left_out["torch.nn"].kind is WhyLeftOut.NOT_APPLICABLE


def test_what_cannot_follow_is_left_out_as_such(trial):
    def step(xp, params, state, x):
        return {"h": np.tanh(x @ params["W_xh"].T + state["h"] @ params["W_hh"].T)}

    problem = replace(trial("tanh").problem, step=step, jacobians=False)
    with pytest.raises(NothingFollows, match="no reference can answer; .*torch: cannot follow"):
        ask(problem, select(("torch",)))


def test_a_reason_is_told_as_text():
    left = LeftOut(WhyLeftOut.MISSING, "pip install it")
    assert (str(left), left.to_dict()) == ("pip install it", "pip install it")


class Sloppy(Engine):
    """torch, which in a lower precision errs by a tenth more than it does."""

    def answer(self, problem, rounding_seed=None, shares=True) -> Answer:
        told = super().answer(problem, rounding_seed, shares)
        if problem.dtype == np.float64:
            return told
        off = {name: value * np.float32(1.1) for name, value in told.gradients.items()}
        return replace(told, gradients=off)


def test_the_frameworks_own_error_in_a_lower_precision_is_noise(trial):
    """With moved weights and a floor alone, the noise would be that of rounding: 1e-7, and no tenth."""
    problem = trial("tanh").problem.in_precision("float32")
    [torch] = select(("torch",))
    sloppy = Sloppy(**{name: getattr(torch, name) for name in torch.__dataclass_fields__})
    found = asking.Testimony(problem, [torch, sloppy], Convention(), frozenset()).full
    honest = asking.Testimony(problem, [torch], Convention(), frozenset()).full
    for name, value in found.plain[torch].gradients.items():
        tenth = 0.1 * float(np.max(np.abs(value)))
        assert found.noise.total[name] == pytest.approx(tenth, rel=1e-3)
        assert honest.noise.total[name] < 1e-3 * tenth
    assert tolerance.limit_of(problem) == tolerance.LOW_LIMIT
