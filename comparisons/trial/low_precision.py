"""The experiment behind `comparisons.witnesses.tolerance.LOW_LIMIT` and RMS_SHARE.

    python -m bptt_crosscheck.comparisons.trial.low_precision --problems 1000

draws functions of recurrences, of one number to some thousand, and asks for their gradients right
code by torch that computes in float32, float16 or bfloat16, or in float32 between arrays of the
latter two, in the manners in which kernels do. It prints how many comparisons there were, how many
of them objected, and the largest ratios of error to noise; and of the same gradients times 1.02 how
many were refused, where arrays are short and sums are not.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import typer

from ..candidates.adapters import from_torch
from ..checking.entry_points import check_gradients
from ..checking.report_data import Report
from ..problems.arrays import Array

Named = Mapping[str, Any]
FACTOR = 1.02  # of a gradient that is to be refused


@dataclass(frozen=True)
class Manner:
    """How right code computes.

    inside      the dtype of what it computes in
    operands    whether products round what they multiply to the arrays' dtype, as tensor cores do
    tape        whether the way back has the operands in the arrays' dtype
    """

    name: str
    inside: str | None = None
    operands: bool = False
    tape: bool = False


WITHIN = Manner("all in the arrays' dtype")
IN_SINGLE = Manner("float32 inside", "float32")
OPERANDS = Manner("operands rounded", "float32", operands=True)
TAPE = Manner("tape rounded", "float32", tape=True)


@dataclass(frozen=True)
class Declared:
    """A precision as a user declares it, and the manners that are right under it."""

    precision: Any
    arrays: str
    manners: tuple[Manner, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether sums are finer than arrays."""
        return not isinstance(self.precision, str)


def _mixed(arrays: str) -> dict[str, str]:
    return {"arrays": arrays, "accumulate": "float32"}


DECLARED = (
    Declared("float32", "float32", (WITHIN,)),
    Declared("float16", "float16", (WITHIN, IN_SINGLE)),
    Declared("bfloat16", "bfloat16", (WITHIN, IN_SINGLE, OPERANDS, TAPE)),
    Declared(_mixed("float16"), "float16", (IN_SINGLE, OPERANDS, TAPE)),
    Declared(_mixed("bfloat16"), "bfloat16", (IN_SINGLE, OPERANDS, TAPE)),
)


@dataclass(frozen=True)
class Drawn:
    """A function of a recurrence with its numbers: loss(xp, multiply, named) -> scalar.

    rewritten    the same function in other operations, as the code on trial has it
    """

    name: str
    loss: Callable[[Any, Any, Named], Any]
    rewritten: Callable[[Any, Any, Named], Any]
    params: dict[str, Array]
    inputs: dict[str, Array]


def linear_attention(xp: Any, multiply: Any, named: Named) -> Any:
    """Gated linear attention: S_t = e^{g_t} S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t; cotangents c."""
    state, total = named["h0"], 0.0
    for t in range(named["q"].shape[1]):
        outer = multiply(named["k"][:, t, :, None], named["v"][:, t, None, :])
        state = xp.exp(named["g"][:, t])[:, None, None] * state + outer
        o = xp.sum(multiply(state, named["q"][:, t, :, None]), axis=1)
        total = total + xp.sum(o * named["c"][:, t])
    return total


def linear_attention_by_matrices(xp: Any, multiply: Any, named: Named) -> Any:
    """The same, S transposed, outputs kept to the end."""
    state, decay = named["h0"].mT, xp.exp(named["g"])
    outputs: list[Any] = []
    for t in range(named["q"].shape[1]):
        outer = multiply(named["v"][:, t, :, None], named["k"][:, t, None, :])
        state = outer + state * decay[:, t, None, None]
        outputs.append(multiply(named["q"][:, t, None, :], state, True))
    return xp.sum(xp.concat(outputs, axis=1) * named["c"])


def linear_scan(xp: Any, multiply: Any, named: Named) -> Any:
    """h_t = a h_{t−1} + b x_t, under cotangents."""
    h, total = named["h0"], 0.0
    for t in range(named["x"].shape[0]):
        h = named["a"] * h + multiply(named["b"], named["x"][t])
        total = total + xp.sum(h * named["c"][t])
    return total


def linear_scan_hoisted(xp: Any, multiply: Any, named: Named) -> Any:
    """The same, b x of all steps at once, states kept to the end."""
    h, given = named["h0"], multiply(named["x"], named["b"])
    states: list[Any] = []
    for t in range(named["x"].shape[0]):
        h = given[t] + h * named["a"]
        states.append(h)
    return xp.sum(xp.stack(states) * named["c"])


def elman(xp: Any, multiply: Any, named: Named) -> Any:
    """h_t = tanh(W x_t + U h_{t−1} + b), under cotangents."""
    h, total = named["h0"], 0.0
    for t in range(named["x"].shape[0]):
        z = multiply(named["x"][t], named["W"], True) + multiply(h, named["U"], True)
        h = xp.tanh(z + named["b"])
        total = total + xp.sum(h * named["c"][t])
    return total


def elman_hoisted(xp: Any, multiply: Any, named: Named) -> Any:
    """The same, W x + b of all steps at once, states kept to the end."""
    h = named["h0"]
    states: list[Any] = []
    given = multiply(named["x"], named["W"], True) + named["b"]
    for t in range(named["x"].shape[0]):
        h = xp.tanh(multiply(h, named["U"], True) + given[t])
        states.append(h)
    return xp.sum(xp.stack(states) * named["c"])


def gated(xp: Any, multiply: Any, named: Named) -> Any:
    """z_t = σ(W x_t + U h_{t−1}), h_t = z_t h_{t−1} + (1 − z_t) x_t, under cotangents."""
    h, total = named["h0"], 0.0
    for t in range(named["x"].shape[0]):
        x = named["x"][t]
        z = 1 / (1 + xp.exp(-(multiply(x, named["W"], True) + multiply(h, named["U"], True))))
        h = z * h + (1 - z) * x
        total = total + xp.sum(h * named["c"][t])
    return total


def gated_by_difference(xp: Any, multiply: Any, named: Named) -> Any:
    """The same as h_t = x_t + z_t (h_{t−1} − x_t), states kept to the end."""
    h = named["h0"]
    states: list[Any] = []
    for t in range(named["x"].shape[0]):
        x = named["x"][t]
        z = xp.sigmoid(multiply(h, named["U"], True) + multiply(x, named["W"], True))
        h = x + z * (h - x)
        states.append(h)
    return xp.sum(xp.stack(states) * named["c"])


def drawn(seed: int) -> Drawn:
    """A function of one of the four recurrences, of random sizes, gains and decays."""
    rng = np.random.default_rng([seed, 11])
    T, B = int(rng.choice([1, 2, 5, 12, 24])), int(rng.integers(1, 4))
    K = int(rng.choice([1, 2, 5, 8, 16]))
    normal = rng.normal
    cotangents = {"c": normal(size=(T, B, K))}
    which = seed % 4
    if which == 0:
        decay = rng.choice([0.05, 1.0])
        params = {name: normal(size=(B, T, K)) for name in "qkv"}
        params["g"] = -decay * np.log1p(np.exp(normal(size=(B, T))))
        params["h0"] = normal(size=(B, K, K))
        return Drawn(
            "linear attention",
            linear_attention,
            linear_attention_by_matrices,
            params,
            {"c": normal(size=(B, T, K))},
        )
    inputs = {"x": normal(size=(T, B, K)), "h0": normal(size=(B, K)), **cotangents}
    if which == 1:
        params = {"a": rng.uniform(0.3, 1.0, size=K), "b": normal(size=K)}
        return Drawn("linear scan", linear_scan, linear_scan_hoisted, params, inputs)
    gain = rng.uniform(0.2, 1.2) / np.sqrt(K)
    params = {"W": normal(size=(K, K)) / np.sqrt(K), "U": gain * normal(size=(K, K))}
    if which == 2:
        return Drawn("elman", elman, elman_hoisted, {**params, "b": normal(size=K)}, inputs)
    return Drawn("gated", gated, gated_by_difference, params, inputs)


def plain_product(a: Any, b: Any, matrix: bool = False) -> Any:
    """a b elementwise, or a bᵀ."""
    return a @ b.mT if matrix else a * b


def code(problem: Drawn, manner: Manner, arrays: str, factor: float = 1.0) -> Any:
    """gradients(params, inputs) of right code in this manner, times a factor."""
    torch = importlib.import_module("torch")
    short = getattr(torch, arrays)
    inside = getattr(torch, manner.inside or arrays)

    def rounded(value: Any) -> Any:
        return value + (value.to(short).to(value.dtype) - value).detach()

    def product(a: Any, b: Any, matrix: bool = False) -> Any:
        if manner.tape:
            a_then, b_then = rounded(a).detach(), rounded(b).detach()
            by_a = plain_product(a, b_then, matrix)
            by_b = plain_product(a_then, b, matrix)
            exact = plain_product(a, b, matrix).detach()
            return by_a + by_b + (exact - by_a - by_b).detach()
        if manner.operands:
            a, b = rounded(a), rounded(b)
        return plain_product(a, b, matrix)

    def loss(params: Named, inputs: Named) -> Any:
        given = {**params, **inputs}
        named = {name: value.to(short).to(inside) for name, value in given.items()}
        return problem.rewritten(torch, product, named).to(torch.float64)

    adapted = from_torch(loss)

    def gradients(params: Any, inputs: Any) -> dict[str, Any]:
        return {name: factor * value for name, value in adapted(params, inputs).items()}

    return gradients


def checked(problem: Drawn, declared: Declared, manner: Manner, factor: float = 1.0) -> Report:
    """The report on right code, or on its gradients times a factor."""

    def loss(xp: Any, params: Named, inputs: Named) -> Any:
        return problem.loss(xp, plain_product, {**params, **inputs})

    return check_gradients(
        code(problem, manner, declared.arrays, factor),
        loss,
        problem.params,
        problem.inputs,
        references=["torch"],
        convention={"precision": declared.precision},
        raise_exception=False,
    )


@dataclass(frozen=True)
class Ratio:
    """One comparison of right code: its error over noise, and its RMS ratio."""

    value: float
    rms: float
    passed: bool
    what: str


@dataclass
class Found:
    """Comparisons of right gradients; and, of FACTOR times too large ones, how many were refused.

    unseen    problems that said nothing: no true gradient rose above what the precision explains
    """

    ratios: list[Ratio] = field(default_factory=list[Ratio])
    spoiled: int = 0
    refused: int = 0
    unseen: int = 0

    @property
    def objections(self) -> list[Ratio]:
        """To right code, which are alarms."""
        return [ratio for ratio in self.ratios if not ratio.passed]

    def largest(self) -> list[Ratio]:
        """The comparisons, those that need most first."""
        return sorted(self.ratios, key=lambda ratio: -ratio.value)

    def look_at(self, report: Report, what: str) -> None:
        """Count the comparisons of right code."""
        self.unseen += bool(report.errors)
        for row in report.rows:
            rms = row.rms_ratio or 0.0
            told = f"{row.gradient}, {what}"
            self.ratios.append(Ratio(row.worst_over_noise, rms, row.passed, told))

    def look_at_spoiled(self, report: Report) -> None:
        """Count the gradients that are FACTOR times too large."""
        self.spoiled += len(report.rows)
        self.refused += sum(not row.passed for row in report.rows)


def asked(seed: int) -> tuple[Declared, Manner]:
    """What is declared of the problem of this seed, and how its code computes."""
    every: list[tuple[Declared, Manner]] = []
    for declared in DECLARED:
        every += [(declared, manner) for manner in declared.manners]
    return every[seed // 4 % len(every)]


def look_at(seeds: Iterable[int]) -> Found:
    """A problem of each seed, in one precision and manner."""
    found = Found()
    for seed in seeds:
        problem, (declared, manner) = drawn(seed), asked(seed)
        what = f"{problem.name}, seed {seed}, declared {declared.precision}, {manner.name}"
        found.look_at(checked(problem, declared, manner), what)
        if declared.is_mixed:
            found.look_at_spoiled(checked(problem, declared, manner, FACTOR))
    return found


def main(problems: int = 1000, show: int = 10) -> None:
    """Print the number of comparisons, the objections and the largest ratios."""
    found = look_at(range(problems))
    compared, objections = len(found.ratios), len(found.objections)
    print(
        f"{compared:,} comparisons of right gradients, {objections} objections; {found.unseen} of"
    )
    print(f"{problems:,} problems show nothing in their precision; error / noise, RMS ratio:")
    for ratio in found.largest()[:show]:
        print(f"{ratio.value:10.2f}  {ratio.rms:.2g}  {ratio.what}")
    refused = f"{found.refused:,} of {found.spoiled:,}"
    print(f"{FACTOR} times too large, short arrays, sums in float32: {refused} refused")


if __name__ == "__main__":
    typer.run(main)
