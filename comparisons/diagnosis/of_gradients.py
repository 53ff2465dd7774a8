"""What mistake would turn the true gradient into the wrong one that was given.

Each explanation is tried on the numbers: it is named only when it reproduces every entry to within
what rounding explains.

    factor           the same number times the truth, in every gradient: a sign, a mean for a sum,
                     the 2 of a square
    clip             the truth cut at ±c, or scaled down to a global norm
    transpose        a square matrix gradient transposed
    blocks           blocks of rows (gates) in another order
    missing_steps    the share of the first, or of the last step left out; or nothing but the share
                     of the last
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..judging.findings import Finding, Mistake
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Differentiable
from ..witnesses.tolerance import Noise, epsilon

EVERYWHERE = "every gradient"
STACKED = (3, 4)  # how many gates a cell may stack
ROUND = 1e-9  # how near a norm must be to two decimals to have been chosen by a person


@dataclass(frozen=True)
class Pair:
    """A gradient as given and as it is in truth; `within` is the error that rounding explains."""

    name: str
    given: Array
    true: Array
    within: float

    def agrees_with(self, value: Array) -> bool:
        """Whether this value is what was given, to within rounding."""
        return same(self.given, value, self.within)

    @property
    def factor(self) -> float | None:
        """See `factor_between`."""
        return factor_between(self.given, self.true, self.within)


def diagnose(problem: Differentiable, answer: Answer, truth: Answer, noise: Noise) -> list[Finding]:
    """The mistakes that explain what was given.

    Where none explains everything, those that explain one gradient.
    """
    pairs = _pairs(answer, truth, noise)
    found = [*_one_factor(problem, pairs), *_clipped(pairs)]
    if found:
        return found
    for pair in pairs:
        if not pair.agrees_with(pair.true):
            found += _of_one(problem, pair, truth)
    return found


def _pairs(answer: Answer, truth: Answer, noise: Noise) -> list[Pair]:
    """The gradients of which entry can be held against entry."""
    pairs: list[Pair] = []
    for name, true in truth.gradients.items():
        given = answer.gradients.get(name)
        if given is None or name in truth.directions or given.shape != true.shape:
            continue
        if np.isfinite(given).all():
            within = noise.limit * noise.total[name]
            pairs.append(Pair(name, np.asarray(given), np.asarray(true), within))
    return pairs


def _found(mistake: Mistake, where: str, text: str) -> Finding:
    return Finding(mistake, where, None, 1.0, text)


def _informative(pairs: list[Pair]) -> list[Pair]:
    """Those whose truth is not zero throughout."""
    return [pair for pair in pairs if pair.true.any()]


def _one_factor(problem: Differentiable, pairs: list[Pair]) -> Iterator[Finding]:
    """The same number times the truth, in every gradient."""
    telling = _informative(pairs)
    factor = _common_factor(telling, closeness(problem))
    if factor is None or factor == 1.0:
        return
    called = name_factor(factor, known_sizes(problem), closeness(problem))
    entries = sum(pair.true.size for pair in telling)
    if entries == 1 and called == _in_digits(factor):
        return  # any number is a factor times any other
    yield _found(Mistake.FACTOR, EVERYWHERE, f"exact up to {called}, in every gradient")
    squares = [float(np.sum(np.square(pair.given))) for pair in telling]
    norm = float(np.sqrt(sum(squares)))
    if 0 < factor < 1 and abs(norm - round(norm, 2)) <= ROUND * norm:
        text = f"exact up to clipping by the global norm at {norm:.6g}"
        yield _found(Mistake.CLIP, EVERYWHERE, text)


def _common_factor(pairs: list[Pair], near: float) -> float | None:
    """The factor of the first pair, where all have one, and all have this one."""
    factors: list[float] = []
    for pair in pairs:
        factor = pair.factor
        if factor is None:
            return None
        factors.append(factor)
    if not factors:
        return None
    first = factors[0]
    together = all(abs(factor - first) <= near * abs(first) for factor in factors)
    return first if together else None


def _clipped(pairs: list[Pair]) -> Iterator[Finding]:
    """The truth cut at ±c, in every gradient, where some entry reaches c and another does too."""
    telling = _informative(pairs)
    if not telling or all(pair.factor is not None for pair in telling):
        return
    sizes = [np.abs(pair.given) for pair in telling]
    bound = max(float(np.max(size, initial=0.0)) for size in sizes)
    reached = sum(int(np.sum(size == bound)) for size in sizes)
    if bound == 0 or reached < 2:
        return
    cut_somewhere = False
    for pair in telling:
        clipped = np.clip(pair.true, -bound, bound)
        cut_somewhere = cut_somewhere or bool((clipped != pair.true).any())
        if not pair.agrees_with(clipped):
            return
    if cut_somewhere:
        yield _found(Mistake.CLIP, EVERYWHERE, f"exact up to clipping at ±{bound:.6g}")


def _of_one(problem: Differentiable, pair: Pair, truth: Answer) -> Iterator[Finding]:
    """What explains one gradient by itself."""
    name, true = pair.name, pair.true
    factor = pair.factor
    if factor is not None and true.size > 1:
        called = name_factor(factor, known_sizes(problem), closeness(problem))
        yield _found(Mistake.FACTOR, name, f"{name} is exact up to {called}")
        return
    square = true.ndim == 2 and true.shape[0] == true.shape[1]
    if square and pair.agrees_with(true.T):
        yield _found(Mistake.TRANSPOSE, name, f"{name} is the transpose of the true gradient")
        return
    yield from _blocks(pair)
    shares = truth.steps.get(name)
    if shares is not None and name in problem.per_step_names and len(shares) > 1:
        for which, value in _partial_sums(shares).items():
            if pair.agrees_with(value):
                text = f"{name} is the sum over the steps with {which}"
                yield _found(Mistake.MISSING_STEPS, name, text)


def _partial_sums(shares: Array) -> Mapping[str, Array]:
    steps = len(shares)
    return {
        "step 1 left out": shares[1:].sum(axis=0),
        f"step {steps} left out": shares[:-1].sum(axis=0),
        f"step {steps} alone": shares[-1],
        "step 1 alone": shares[0],
    }


def _blocks(pair: Pair) -> Iterator[Finding]:
    """Gates stacked on the first axis in another order."""
    for gates in STACKED if pair.true.ndim else ():
        rows = len(pair.true)
        if rows % gates or rows == gates:
            continue
        order = _order_of_blocks(pair, gates)
        if order is not None:
            places = ", ".join(str(at + 1) for at in order)
            text = f"{pair.name} has the right {gates} blocks of rows in the wrong order: {places}"
            yield _found(Mistake.BLOCKS, pair.name, text)


def _order_of_blocks(pair: Pair, gates: int) -> tuple[int, ...] | None:
    """The order in which the true blocks are what was given.

    None where there is none but the right one.
    """
    parts = np.split(pair.true, gates)
    for order in permutations(range(gates)):
        if list(order) == sorted(order):
            continue
        if pair.agrees_with(np.concatenate([parts[at] for at in order])):
            return order
    return None


def same(one: Array, other: Array, within: float) -> bool:
    """Whether no entry differs by more."""
    return bool(np.max(np.abs(one - other), initial=0.0) <= within)


def factor_between(given: Array, true: Array, within: float) -> float | None:
    """The number c with given = c · true to within an error; None where there is none, or c is 0.

    1 where the two are the same to within it.
    """
    norm = float(np.sum(true * true))
    if not norm > 0:
        return None
    factor = float(np.sum(given * true)) / norm
    if factor == 0 or not same(given, factor * true, within * max(1.0, abs(factor))):
        return None
    return 1.0 if same(given, true, within) else factor


def known_sizes(problem: Differentiable) -> dict[str, int]:
    """The sizes by which a gradient is off when a mean stands for a sum, by name."""
    sizes: dict[str, int] = {}
    for letter, (_, size) in zip("TBIHV", problem.sizes(), strict=True):
        if size is not None:
            sizes[letter] = size
    x = problem.constants.get("x", problem.variables.get("x"))
    for axis, size in enumerate(() if x is None else x.shape[:2]):
        if size not in sizes.values():
            sizes[f"x.shape[{axis}]"] = size
    return sizes


def closeness(problem: Differentiable) -> float:
    """How near a measured factor must be to a number to be called by its name."""
    roundoff = epsilon(problem.rounding_dtype)
    return 1e-9 if roundoff < 1e-9 else max(1e-3, 4 * roundoff)


def name_factor(factor: float, sizes: Mapping[str, int], near: float = 1e-9) -> str:
    """'sign', 'the factor T = 12', 'the factor 1/(T·B) = 1/36', 'the factor 0.37'."""

    def close(value: float) -> bool:
        return abs(factor - value) <= near * abs(value)

    if close(-1.0):
        return "sign"
    named = _names_of_sizes(sizes)
    for sign, word in ((1, "the factor "), (-1, "the factor −")):
        for size, names in named.items():
            if size > 1 and close(sign * size):
                return f"{word}{' = '.join(names)} = {size}"
            if size > 1 and close(sign / size):
                inverses = [f"1/({name})" if "·" in name else f"1/{name}" for name in names]
                return f"{word}{' = '.join(inverses)} = 1/{size}"
    return _in_digits(factor)


def _in_digits(factor: float) -> str:
    return f"the factor {factor:.10g}"


def _names_of_sizes(sizes: Mapping[str, int]) -> dict[int, list[str]]:
    """What each number may be called.

    T and B always, another size where no earlier one has its number.
    """
    named: dict[int, list[str]] = {}
    for name, size in sizes.items():
        if size not in named or name in "TB":
            named.setdefault(size, []).append(name)
    steps, batch = sizes.get("T", 1), sizes.get("B", 1)
    if steps > 1 and batch > 1:
        named.setdefault(steps * batch, []).append("T·B")
    return named
