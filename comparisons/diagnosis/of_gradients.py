"""What mistake would turn the true gradient into the wrong one that was given.

Each explanation is tried on the numbers: it is named only when it reproduces every entry to within what rounding explains.

    factor           the same number times the truth, in every gradient: a sign, a mean for a sum, the 2 of a square
    clip             the truth cut at ±c, or scaled down to a global norm
    transpose        a square matrix gradient transposed
    blocks           blocks of rows (gates) in another order
    missing_steps    the share of the first, or of the last step left out; or nothing but the share of the last
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np

from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import Differentiable
from ..witnesses.tolerance import LIMIT, Noise, epsilon


def diagnose(problem: Differentiable, answer: Answer, truth: Answer, noise: Noise) -> list[dict[str, Any]]:
    """Explanations as in the report's schema: mistake, where, source (null here), explains (1.0), text."""
    names = [name for name, value in truth.gradients.items() if _comparable(answer.gradients.get(name), value, truth, name)]
    found = list(_everywhere(problem, answer, truth, noise, names))
    if not found:
        for name in names:
            if not _same(answer.gradients[name], truth.gradients[name], noise.total[name]):
                found += _of_one(problem, name, answer, truth, noise)
    return [{"mistake": mistake, "where": where, "source": None, "explains": 1.0, "text": text} for mistake, where, text in found]


Finding = tuple[str, str, str]


def _comparable(given: Array | None, true: Array, truth: Answer, name: str) -> bool:
    """Whether entry can be held against entry."""
    return given is not None and name not in truth.directions and given.shape == true.shape and bool(np.isfinite(given).all())


def _same(one: Array, other: Array, noise: float) -> bool:
    return bool(np.max(np.abs(one - other), initial=0.0) <= LIMIT * noise)


def _everywhere(problem: Differentiable, answer: Answer, truth: Answer, noise: Noise, names: list[str]) -> Iterator[Finding]:
    """What explains all gradients together: a common factor, clipping."""
    informative = [name for name in names if truth.gradients[name].any()]
    if not informative:
        return
    factors = [factor_between(answer.gradients[name], truth.gradients[name], noise.total[name]) for name in informative]
    if all(factor is not None for factor in factors):
        first, near = float(factors[0] or 0.0), closeness(problem)
        entries = sum(truth.gradients[name].size for name in informative)
        telling = entries > 1 or name_factor(first, known_sizes(problem), near) != f"the factor {first:.10g}"
        if telling and first != 1.0 and all(abs(float(factor or 0.0) - first) <= near * abs(first) for factor in factors):
            yield "factor", "every gradient", f"exact up to {name_factor(first, known_sizes(problem), near)}, in every gradient"
            norm = float(np.sqrt(sum(float(np.sum(np.square(answer.gradients[name]))) for name in informative)))
            if 0 < first < 1 and abs(norm - round(norm, 2)) <= 1e-9 * norm:
                yield "clip", "every gradient", f"exact up to clipping by the global norm at {norm:.6g}"
        return
    bound = max(float(np.max(np.abs(answer.gradients[name]), initial=0.0)) for name in informative)
    reached = sum(int(np.sum(np.abs(answer.gradients[name]) == bound)) for name in informative)
    if bound == 0 or reached < 2:
        return
    clipped = {name: np.clip(truth.gradients[name], -bound, bound) for name in informative}
    if any((clipped[name] != truth.gradients[name]).any() for name in informative) and all(
        _same(answer.gradients[name], clipped[name], noise.total[name]) for name in informative
    ):
        yield "clip", "every gradient", f"exact up to clipping at ±{bound:.6g}"


def _of_one(problem: Differentiable, name: str, answer: Answer, truth: Answer, noise: Noise) -> Iterator[Finding]:
    """What explains one gradient by itself."""
    given, true = np.asarray(answer.gradients[name]), np.asarray(truth.gradients[name])
    level = noise.total[name]
    factor = factor_between(given, true, level)
    if factor is not None and true.size > 1:
        yield "factor", name, f"{name} is exact up to {name_factor(factor, known_sizes(problem), closeness(problem))}"
        return
    if true.ndim == 2 and true.shape[0] == true.shape[1] and _same(given, true.T, level):
        yield "transpose", name, f"{name} is the transpose of the true gradient"
        return
    yield from _blocks(name, given, true, level)
    shares = truth.steps.get(name)
    if shares is not None and name in problem.per_step_names and len(shares) > 1:
        for text, value in _partial_sums(shares).items():
            if _same(given, value, level):
                yield "missing_steps", name, f"{name} is the sum over the steps with {text}"


def _partial_sums(shares: Array) -> Mapping[str, Array]:
    steps = len(shares)
    return {
        "step 1 left out": shares[1:].sum(axis=0),
        f"step {steps} left out": shares[:-1].sum(axis=0),
        f"step {steps} alone": shares[-1],
        "step 1 alone": shares[0],
    }


def _blocks(name: str, given: Array, true: Array, level: float) -> Iterator[Finding]:
    """Gates stacked on the first axis in another order."""
    for gates in (3, 4) if true.ndim else ():
        if len(true) % gates or len(true) == gates:
            continue
        parts = np.split(true, gates)
        for order in permutations(range(gates)):
            if list(order) != sorted(order) and _same(given, np.concatenate([parts[i] for i in order]), level):
                places = ", ".join(str(i + 1) for i in order)
                yield "blocks", name, f"{name} has the right {gates} blocks of rows in the wrong order: {places}"
                return


def factor_between(given: Array, true: Array, noise: float) -> float | None:
    """The number c with given = c · true to within rounding; None where there is none, where c is 0, or c is 1."""
    norm = float(np.sum(true * true))
    if not norm > 0:
        return None
    factor = float(np.sum(given * true)) / norm
    if factor == 0 or not _same(given, factor * true, noise * max(1.0, abs(factor))):
        return None
    return 1.0 if _same(given, true, noise) else factor


def known_sizes(problem: Differentiable) -> dict[str, int]:
    """The sizes by which a gradient is off when a mean stands for a sum, by name."""
    sizes = {letter: size for letter, (_, size) in zip("TBIHV", problem.sizes(), strict=True) if size is not None}
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
    close: Callable[[float], bool] = lambda value: abs(factor - value) <= near * abs(value)  # noqa: E731
    if close(-1.0):
        return "sign"
    named: dict[int, list[str]] = {}
    for name, size in sizes.items():
        if size not in named or name in "TB":
            named.setdefault(size, []).append(name)
    if "T" in sizes and "B" in sizes and sizes["T"] > 1 and sizes["B"] > 1:
        named.setdefault(sizes["T"] * sizes["B"], []).append("T·B")
    for sign, word in ((1, "the factor "), (-1, "the factor −")):
        for size, names in named.items():
            if size > 1 and close(sign * size):
                return f"{word}{' = '.join(names)} = {size}"
            if size > 1 and close(sign / size):
                return f"{word}{' = '.join(f'1/({name})' if '·' in name else f'1/{name}' for name in names)} = 1/{size}"
    return f"the factor {factor:.10g}"
