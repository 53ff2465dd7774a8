"""What mistake would turn the true gradient into the wrong one that was given.

Each explanation is tried on the numbers: it is named only when it reproduces every entry to within
what rounding explains, and not by accident. Of a truth that is zero to rounding, and of what is
given as zero, nothing is said.

    factor           the same number times the truth, in every gradient: a sign, a mean for a sum,
                     the 2 of a square
    clip             the truth cut at ±c, or scaled down to a norm: diagnosis/of_clipping.py
    transpose        a square matrix gradient transposed
    blocks           blocks of rows (gates) in another order
    missing_steps    the share of the first, or of the last step left out; or nothing but the share
                     of the last
    another          the true gradient of another variable
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np

from ..judging.findings import Finding, Mistake
from ..judging.judge import project
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Differentiable
from ..witnesses.tolerance import Noise, epsilon
from . import of_clipping
from .of_clipping import Sight
from .pairs import ACCIDENT, Pair, common_factor, is_certain, largest

EVERYWHERE = "every gradient"
STACKED = (3, 4)  # how many gates a cell may stack


def diagnose(problem: Differentiable, answer: Answer, truth: Answer, noise: Noise) -> list[Finding]:
    """The mistakes that explain what was given.

    Where none explains everything, those that explain one gradient.
    """
    pairs = _pairs(answer, truth, noise)
    found: list[Finding] = []
    if _has_all(pairs, answer, truth):
        found = _of_all(problem, pairs)
    if found:
        return found
    for pair in pairs:
        if not pair.is_right and pair.is_given:
            found += _of_one(problem, pair, truth, pairs)
    return found


def factor_of_all(answer: Answer, truth: Answer, noise: Noise) -> float | None:
    """The number that every given gradient is off by; None where there is none."""
    pairs = _pairs(answer, truth, noise)
    return common_factor(pairs) if _has_all(pairs, answer, truth) else None


def _has_all(pairs: Sequence[Pair], answer: Answer, truth: Answer) -> bool:
    """Whether every given gradient can be held against the truth."""
    return len(pairs) == len(truth.gradients.keys() & answer.gradients.keys())


def _pairs(answer: Answer, truth: Answer, noise: Noise) -> list[Pair]:
    """The gradients that can be held against each other, entry by entry or along directions."""
    pairs: list[Pair] = []
    for name, true in truth.gradients.items():
        given, directions = answer.gradients.get(name), truth.directions.get(name)
        within = noise.limit * noise.total[name]
        if given is None or not np.isfinite(given).all():
            continue
        if directions is not None and given.shape == directions.shape[1:]:
            if name not in truth.uncertainty:
                within *= directions[0].size ** 0.5
            along = project(given, directions)
            pairs.append(Pair(name, along, true, within, entries=False, whole=given))
        elif directions is None and given.shape == true.shape:
            pairs.append(Pair(name, np.asarray(given), np.asarray(true), within))
    return pairs


def _found(mistake: Mistake, where: str, text: str) -> Finding:
    return Finding(mistake, where, None, 1.0, text)


def _sight(problem: Differentiable) -> Sight:
    return Sight(epsilon(problem.rounding_dtype))


def _of_all(problem: Differentiable, pairs: list[Pair]) -> list[Finding]:
    """What explains every gradient at once."""
    found = [*_one_factor(problem, pairs)] or [*_clipped(problem, pairs)]
    if found:
        return found
    sight = _sight(problem)
    for by_norm in of_clipping.BY_NORM:
        found = [*by_norm(pairs, sight)]
        if found:
            return found
    return []


def _one_factor(problem: Differentiable, pairs: list[Pair]) -> Iterator[Finding]:
    """The same number times the truth, in every gradient, or a norm scaled down."""
    factor = common_factor(pairs)
    if factor is None or factor == 1.0:
        return
    telling = [pair for pair in pairs if pair.is_seen]
    near = closeness(problem)
    called = name_factor(factor, known_sizes(problem), near)
    is_named = called != _in_digits(factor)
    if not is_named and not is_certain(telling, factor):
        return  # any number is a factor times any other
    sight = _sight(problem)
    norm = of_clipping.norm_reached(telling, factor, sight)
    if norm is None or is_named or sight.norm(abs(factor)) is not None:
        yield _found(Mistake.FACTOR, EVERYWHERE, f"exact up to {called}, in every gradient")
    if norm is not None:
        sign = "sign and " if factor < 0 else ""
        text = f"exact up to {sign}clipping all gradients together to the global {norm}"
        yield _found(Mistake.CLIP, EVERYWHERE, text)


def _clipped(problem: Differentiable, pairs: list[Pair]) -> Iterator[Finding]:
    """The truth, times a number that has a name, cut at ±c in every gradient."""
    cut = of_clipping.by_value(pairs, _sight(problem), _named_factors(problem))
    if cut is not None:
        besides = f"{cut[0]} and " if cut[0] else ""
        text = f"exact up to {besides}clipping at ±{cut[1]:.6g}"
        yield _found(Mistake.CLIP, EVERYWHERE, text)


def _named_factors(problem: Differentiable) -> dict[str, float]:
    """What a factor is called → the factor, for those that have a name."""
    sizes = known_sizes(problem)
    named: dict[str, float] = {"sign": -1.0}
    for size in _names_of_sizes(sizes):
        for factor in (1 / size, -1 / size, size, -size):
            if size > 1:
                named[name_factor(factor, sizes)] = factor
    return named


def _of_one(
    problem: Differentiable, pair: Pair, truth: Answer, pairs: Sequence[Pair]
) -> Iterator[Finding]:
    """What explains one gradient by itself."""
    name, true = pair.name, pair.true
    clipping = of_clipping.of_one(pair, _sight(problem))
    factor = pair.factor
    if factor is not None and true.size > 1 and is_certain([pair], factor):
        called = name_factor(factor, known_sizes(problem), closeness(problem))
        if clipping is None or called != _in_digits(factor):
            yield _found(Mistake.FACTOR, name, f"{name} is exact up to {called}")
            return
    if clipping is not None:
        yield _found(Mistake.CLIP, name, clipping)
        return
    if not pair.entries:
        return
    square = true.ndim == 2 and true.shape[0] == true.shape[1]
    if square and pair.agrees_with(true.T):
        yield _found(Mistake.TRANSPOSE, name, f"{name} is the transpose of the true gradient")
        return
    yield from _blocks(pair)
    yield from _of_another(pair, pairs)
    shares = truth.steps.get(name)
    if shares is not None and name in problem.per_step_names and len(shares) > 1:
        for which, value in _partial_sums(shares).items():
            if largest(value) > pair.within and pair.agrees_with(value):
                text = f"{name} is the sum over the steps with {which}"
                yield _found(Mistake.MISSING_STEPS, name, text)


def _of_another(pair: Pair, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """The true gradient of another variable of the same shape."""
    for other in pairs:
        alike = other.entries and other is not pair and other.true.shape == pair.true.shape
        within = max(pair.within, other.within)
        if not alike or not np.max(np.abs(pair.given - other.true), initial=0.0) <= within:
            continue
        if largest(other.true) > within / ACCIDENT:
            text = f"{pair.name} is given the gradient of {other.name}"
            yield _found(Mistake.ANOTHER, pair.name, text)


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
