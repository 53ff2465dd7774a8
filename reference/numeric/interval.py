"""Proof: the equations run on intervals that enclose the exact real numbers, as dual numbers.

Every floating-point weight is an exact real number. Arb's ball arithmetic (Johansson 2017, "Arb:
efficient arbitrary-precision midpoint-radius interval arithmetic") computes with balls that contain
the exact result of every operation on every point of its arguments, rounding included. Run on dual
numbers

    (v, v̇):   f(v, v̇) = (f(v), f′(v) v̇),    (a, ȧ)(b, ḃ) = (a b, ȧ b + a ḃ)                   (1)

the forward equations yield a ball that provably contains the exact derivative of the loss along a
direction, for the given weights: one direction is one entry of a gradient, or a random vector of ±1
with which a large gradient is multiplied. Nothing is rounded away, nothing is approximated, and
nobody's autodiff is believed: (1) is a dozen rules, below.

Where a comparison (the branch of a select, the largest of some numbers) is undecided because the
two balls overlap, or the result is not tight enough, the whole is computed again with twice the
bits. A tie that is exact stays undecided for ever, unless both sides are exact: at a kink there is
no derivative to enclose.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar

import flint
import numpy as np
from flint import arb, arb_mat

from ..arrays import Array, Named
from ..equations.parts import ScalarFunction

FIRST_BITS, MOST_BITS = 128, 4096
TIGHT = 2.0**-80  # radius over midpoint that is wanted of every derivative: float64's is 2^-53
# Below float64's smallest number: a derivative that is zero, as far as anybody can tell.
NOTHING = arb(2) ** -1080
# Up to so many entries are enclosed one by one; above, along so many random directions.
ENTRIES, DIRECTIONS = (
    150,
    8,
)


class Undecided(ArithmeticError):
    """Two balls overlap, and a branch of the equations depends on which is the larger."""


class NotEnclosed(ValueError):
    """An operation that has no rule here, a kink, or a result that is not finite."""


def _each(function: Callable[..., Any], *arrays: Any) -> Any:
    """function of every entry: an object array of balls."""
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)


def _balls(values: Any) -> Any:
    """Exact balls of floating-point numbers."""
    return _each(
        lambda value: value if isinstance(value, arb) else arb(float(value)),
        np.asarray(values, dtype=object),
    )


class Dual:
    """An array of dual balls: `value` and `tangent` are object arrays of the same shape.

    Tangent None is zero everywhere.
    """

    __array_ufunc__ = None  # NumPy's operators leave it to this class
    dtype = np.dtype(np.float64)  # what it stands for

    def __init__(self, value: Any, tangent: Any = None) -> None:
        self.value = np.asarray(value, dtype=object)
        self.tangent = None if tangent is None else np.asarray(tangent, dtype=object)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.ndim

    def rearranged(self, move: Callable[[Any], Any]) -> "Dual":
        """The same entries elsewhere, or added up.

        For functions that are linear and the same for every entry.
        """
        return Dual(move(self.value), None if self.tangent is None else move(self.tangent))

    def through(self, function: Callable[[Any], Any], slope: Callable[[Any, Any], Any]) -> "Dual":
        """f by (1), with slope(v, f(v)) = f′(v)."""
        value = _each(function, self.value)
        return Dual(
            value, None if self.tangent is None else _each(slope, self.value, value) * self.tangent
        )

    def detach(self) -> "Dual":
        """The same numbers, held fixed."""
        return Dual(self.value)

    @property
    def T(self) -> "Dual":  # noqa: N802 - as arrays call it
        """All axes in reverse order."""
        return self.rearranged(np.transpose)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, key: Any) -> "Dual":
        return self.rearranged(lambda entries: entries[key])

    def __neg__(self) -> "Dual":
        return self.rearranged(lambda entries: -entries)

    def __add__(self, other: Any) -> "Dual":
        other = dual(other)
        shape = np.broadcast_shapes(self.shape, other.shape)
        tangents = [
            np.broadcast_to(each.tangent, shape)
            for each in (self, other)
            if each.tangent is not None
        ]
        return Dual(
            self.value + other.value, sum(tangents[1:], start=tangents[0]) if tangents else None
        )

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Dual":
        return self + -dual(other)

    def __rsub__(self, other: Any) -> "Dual":
        return dual(other) + -self

    def __mul__(self, other: Any) -> "Dual":
        return _product(self, dual(other), lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Dual":
        return self * dual(other).through(lambda v: 1 / v, lambda v, f: -f * f)

    def __rtruediv__(self, other: Any) -> "Dual":
        return dual(other) / self

    def __pow__(self, power: int) -> "Dual":
        if not isinstance(power, int) or power < 1:
            raise NotEnclosed(f"a power of {power!r}: whole ones from 1 on have a rule")
        return self.through(lambda v: v**power, lambda v, f: power * v ** (power - 1))

    def __matmul__(self, other: Any) -> "Dual":
        return _product(self, dual(other), _matmul)

    def __rmatmul__(self, other: Any) -> "Dual":
        return dual(other) @ self

    def __gt__(self, other: Any) -> Array:
        return _each(_greater, self.value, dual(other).value).astype(bool)

    def __ge__(self, other: Any) -> Array:
        return ~_each(_greater, dual(other).value, self.value).astype(bool)

    def __lt__(self, other: Any) -> Array:
        return dual(other) > self

    def __le__(self, other: Any) -> Array:
        return dual(other) >= self

    def __float__(self) -> float:
        raise NotEnclosed("float() takes a number out of the equations, and its derivative is lost")


def dual(value: Any) -> Dual:
    """The value, a constant if it is no Dual."""
    return value if isinstance(value, Dual) else Dual(_balls(value))


def _product(one: Dual, other: Dual, times: Callable[[Any, Any], Any]) -> Dual:
    """A bilinear product by (1)."""
    tangents = [] if one.tangent is None else [times(one.tangent, other.value)]
    tangents += [] if other.tangent is None else [times(one.value, other.tangent)]
    return Dual(
        times(one.value, other.value), sum(tangents[1:], start=tangents[0]) if tangents else None
    )


def _matmul(one: Any, other: Any) -> Any:
    """one @ other for object arrays; by Arb's own matrix product where the second is a matrix."""
    if other.ndim != 2 or one.ndim < 1:
        return np.matmul(one, other)
    rows = one.reshape(-1, one.shape[-1])
    if not len(rows):
        return np.matmul(one, other)
    matrix: Any = arb_mat
    product = matrix(*rows.shape, rows.ravel().tolist()) * matrix(
        *other.shape, other.ravel().tolist()
    )
    found = np.empty(len(rows) * other.shape[1], dtype=object)
    found[:] = product.entries()
    return found.reshape(*one.shape[:-1], other.shape[1])


def _greater(one: arb, other: arb) -> bool:
    if one > other:
        return True
    if one <= other:
        return False
    raise Undecided(f"{one} and {other} overlap")


class Balls:
    """The array namespace: what the equations may call as xp.

    Plain arrays (tokens, masks) stay NumPy's.
    """

    def __getattr__(self, name: str) -> Any:
        raise NotEnclosed(f"xp.{name} has no rule for dual balls")

    def exp(self, x: Any) -> Dual:
        """e^x."""
        return dual(x).through(arb.exp, lambda v, f: f)

    def log(self, x: Any) -> Dual:
        """Natural logarithm."""
        return dual(x).through(arb.log, lambda v, f: 1 / v)

    def log1p(self, x: Any) -> Dual:
        """log(1 + x)."""
        return dual(x).through(arb.log1p, lambda v, f: 1 / (1 + v))

    def sqrt(self, x: Any) -> Dual:
        """Square root."""
        return dual(x).through(arb.sqrt, lambda v, f: 1 / (2 * f))

    def sin(self, x: Any) -> Dual:
        """Sine."""
        return dual(x).through(arb.sin, lambda v, f: arb.cos(v))

    def cos(self, x: Any) -> Dual:
        """Cosine."""
        return dual(x).through(arb.cos, lambda v, f: -arb.sin(v))

    def tanh(self, x: Any) -> Dual:
        """Hyperbolic tangent.

        1/cosh² for its slope, which keeps its digits where tanh is near 1.
        """
        return dual(x).through(arb.tanh, lambda v, f: arb.sech(v) ** 2)

    def logaddexp(self, x: Any, y: Any) -> Dual:
        """log(e^x + e^y) = y + log(1 + e^(x−y))."""
        return dual(y) + self.log1p(self.exp(dual(x) - dual(y)))

    def abs(self, x: Any) -> Dual:
        """Absolute value; undecided at 0."""
        return self.where(dual(x) > 0, x, -dual(x))

    def where(self, condition: Array, x: Any, y: Any) -> Dual:
        """x where the condition is true, y elsewhere."""
        x, y = dual(x), dual(y)
        value = np.where(condition, x.value, y.value)
        if x.tangent is None and y.tangent is None:
            return Dual(value)
        zero = np.broadcast_to(_balls(0.0), value.shape)
        return Dual(
            value,
            np.where(
                condition, *(zero if each.tangent is None else each.tangent for each in (x, y))
            ),
        )

    def matmul(self, x: Any, y: Any) -> Dual:
        """x @ y."""
        return dual(x) @ y

    def matrix_transpose(self, x: Dual) -> Dual:
        """The last two axes exchanged."""
        return x.rearranged(lambda entries: np.swapaxes(entries, -1, -2))

    def reshape(self, x: Any, shape: Any) -> Any:
        """The same entries in another shape."""
        return (
            x.rearranged(lambda entries: np.reshape(entries, shape))
            if isinstance(x, Dual)
            else np.reshape(x, shape)
        )

    def sum(self, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        """Sum along an axis, or of all."""
        if not isinstance(x, Dual):
            return np.sum(x, axis=axis, keepdims=keepdims)
        return x.rearranged(lambda entries: np.sum(entries, axis=axis, keepdims=keepdims))

    def mean(self, x: Dual, axis: int | None = None) -> Dual:
        """Mean along an axis, or of all."""
        count = x.value.size if axis is None else x.shape[axis]
        return self.sum(x, axis) / float(count)

    def max(self, x: Dual, axis: int, keepdims: bool = False) -> Dual:
        """The middle of the largest's ball along an axis, as a constant.

        For a shift that cancels, and for nothing else.
        """
        largest = np.max(
            _each(lambda ball: float(ball.mid()), x.value).astype(np.float64),
            axis=axis,
            keepdims=keepdims,
        )
        return Dual(_balls(largest))

    def stack(self, parts: Any, axis: int = 0) -> Dual:
        """Along a new axis."""
        return self._joined(np.stack, [dual(part) for part in parts], axis)

    def concat(self, parts: Any, axis: int = 0) -> Any:
        """Along an axis that there is."""
        return self._joined(np.concatenate, [dual(part) for part in parts], axis)

    def _joined(self, join: Any, parts: list[Dual], axis: int) -> Dual:
        value = join([part.value for part in parts], axis=axis)
        if all(part.tangent is None for part in parts):
            return Dual(value)
        zero = _balls(0.0)
        filled = [
            np.broadcast_to(zero, part.shape) if part.tangent is None else part.tangent
            for part in parts
        ]
        return Dual(value, join(filled, axis=axis))

    def flip(self, x: Any, axis: int) -> Any:
        """Backwards along an axis."""
        return (
            x.rearranged(lambda entries: np.flip(entries, axis=axis))
            if isinstance(x, Dual)
            else np.flip(x, axis=axis)
        )

    def expand_dims(self, x: Any, axis: int) -> Any:
        """With an axis of length one."""
        return (
            x.rearranged(lambda entries: np.expand_dims(entries, axis))
            if isinstance(x, Dual)
            else np.expand_dims(x, axis)
        )

    def zeros_like(self, x: Any) -> Any:
        """Zeros of its shape."""
        return (
            Dual(np.broadcast_to(_balls(0.0), x.shape)) if isinstance(x, Dual) else np.zeros_like(x)
        )

    def ones_like(self, x: Any) -> Any:
        """Ones of its shape."""
        return (
            Dual(np.broadcast_to(_balls(1.0), x.shape)) if isinstance(x, Dual) else np.ones_like(x)
        )

    def zeros(self, shape: Any, **kind: Any) -> Array:
        """Zeros."""
        return np.zeros(shape, **kind)

    def ones(self, shape: Any, **kind: Any) -> Array:
        """Ones."""
        return np.ones(shape, **kind)

    def asarray(self, x: Any, **kind: Any) -> Any:
        """The array itself."""
        return x if isinstance(x, Dual) else np.asarray(x, **kind)

    def arange(self, *bounds: int) -> Array:
        """Consecutive integers."""
        return np.arange(*bounds)

    def astype(self, x: Any, dtype: Any) -> Any:
        """A mask as numbers; what is balls already stays."""
        return x if isinstance(x, Dual) else np.asarray(x).astype(dtype)

    def isdtype(self, dtype: Any, kind: Any) -> bool:
        """As NumPy's."""
        return bool(np.isdtype(dtype, kind))


BALLS = Balls()


def scan(body: Any, state: Named, per_step: Named) -> dict[str, Any]:
    """The time loop: `body` at every step in turn; states stacked over steps."""
    states: list[Any] = []
    for t in range(len(per_step["x"])):
        state = body(state, {name: value[t] for name, value in per_step.items()})
        states.append(state)
    return {name: BALLS.stack([each[name] for each in states]) for name in states[0]}


@dataclass(frozen=True)
class Enclosure:
    """Balls that contain the exact numbers.

    Of shape (K,) along directions (K, shape), or of the variable's own shape.

    bits is the precision at which they were tight enough.
    """

    balls: Array
    directions: Array | None
    bits: int

    def middle(self) -> Array:
        """The midpoints, rounded to float64."""
        return _each(lambda ball: float(ball.mid()), self.balls).astype(np.float64)

    def distance(self, found: Array) -> Array:
        """An upper bound of |found − exact|, provable, rounded up to float64.

        `found` is multiplied with the directions exactly.
        """
        if not np.isfinite(found).all():
            return np.full(self.balls.shape, np.inf)
        with Precision(max(self.bits, FIRST_BITS)):
            exact = _each(arb, np.asarray(found, dtype=np.float64))
            if self.directions is not None:
                exact = _signed_sums(exact.reshape(-1), self.directions)
            return _each(_distance, exact, self.balls).astype(np.float64)


def _signed_sums(entries: Array, directions: Array) -> Array:
    """The inner product of the entries, balls, with each direction of ±1: (K,)."""
    sums: list[arb] = []
    for direction in directions:
        total = arb(0)
        for sign, entry in zip(direction.reshape(-1), entries, strict=True):
            total = total + int(sign) * entry
        sums.append(total)
    return np.array(sums)


def _distance(found: arb, exact: arb) -> float:
    """At least |found − exact|: float() rounds to nearest, and the factor makes up for it."""
    return float(abs(found - exact).upper()) * (1 + 2.0**-52)


class Precision:
    """Arb's working precision in bits, restored when the last one leaves.

    It has one for all threads: meanwhile that is the highest that any of them asks for.
    """

    lock = Lock()
    asked: ClassVar[list[int]] = []
    before = 0

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def __enter__(self) -> None:
        with self.lock:
            if not self.asked:
                Precision.before = flint.ctx.prec
            self.asked.append(self.bits)
            flint.ctx.prec = max(self.asked)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.asked.remove(self.bits)
            flint.ctx.prec = max(self.asked, default=self.before)


def directional(
    function: ScalarFunction, variables: Named, constants: Named, tangents: Named, bits: int
) -> tuple[arb, arb]:
    """(value, derivative along `tangents`) as balls at this precision.

    Raises Undecided, NotEnclosed.
    """
    with Precision(bits):
        named = {
            name: Dual(_balls(value), _balls(tangents[name]) if name in tangents else None)
            for name, value in variables.items()
        }
        fixed = {
            name: dual(value) if np.asarray(value).dtype.kind == "f" else value
            for name, value in constants.items()
        }
        result, _ = function(BALLS, scan, named, fixed)
        result = dual(result)
        zero = np.broadcast_to(_balls(0.0), result.shape)
        return result.value.item(), (zero if result.tangent is None else result.tangent).item()


def enclosures(
    function: ScalarFunction,
    variables: Named,
    constants: Named,
    seed: int = 0,
    names: tuple[str, ...] | None = None,
    entries: int = ENTRIES,
    directions: int = DIRECTIONS,
) -> tuple[float, dict[str, Enclosure]]:
    """(the value, an Enclosure of the gradient for every variable named).

    Up to `entries` entries in all every entry is enclosed; else `directions` random inner products
    of each gradient with ±1. Raises NotEnclosed where the equations use an operation without a
    rule, stand at a kink, or overflow.
    """
    asked = tuple(variables) if names is None else names
    whole = sum(np.asarray(variables[name]).size for name in asked) <= entries
    rng = np.random.default_rng([seed, 3])
    told: dict[str, Enclosure] = {}
    value, bits = arb(0), FIRST_BITS
    for name in asked:
        shape = np.shape(variables[name])
        ways = _units(shape) if whole else rng.choice([-1.0, 1.0], size=(directions, *shape))
        balls: list[arb] = []
        for way in ways:
            value, derivative, bits = _tight(function, variables, constants, {name: way}, bits)
            balls.append(derivative)
        found = np.array(balls, dtype=object)
        told[name] = Enclosure(
            found.reshape(shape) if whole else found, None if whole else np.asarray(ways), bits
        )
    return float(value.mid()), told


def _units(shape: tuple[int, ...]) -> Iterator[Array]:
    """One array for each entry, 1 there and 0 elsewhere."""
    for at in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[at] = 1.0
        yield unit


def _tight(
    function: ScalarFunction, variables: Named, constants: Named, tangents: Named, bits: int
) -> tuple[arb, arb, int]:
    """(value, derivative, bits).

    At the first precision, from `bits` on, at which the derivative's ball is tight.
    """
    why = ""
    while bits <= MOST_BITS:
        try:
            value, derivative = directional(function, variables, constants, tangents, bits)
        except Undecided as undecided:
            why = f"a branch is undecided at {bits} bits, as at a kink: {undecided}"
        else:
            if (
                derivative.rad() <= TIGHT * abs(derivative.mid())
                or abs(derivative).upper() < NOTHING
            ):
                return value, derivative, bits
            why = (
                "the result overflows"
                if not derivative.is_finite()
                else f"not tight at {bits} bits: {derivative}"
            )
        bits *= 2
    raise NotEnclosed(why)
