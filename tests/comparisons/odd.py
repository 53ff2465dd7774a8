"""Questions as nobody should ask them, made from a seed: odd values in every place of the contracts.

`question(seed)` is a function that asks one. What is odd is drawn from the tables below: values,
names, exceptions, and what a piece of user's code does instead of its work.
"""

import array
import decimal
import fractions
import random
import sys
import warnings
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from bptt_crosscheck import check_cell, check_gradients, check_vjp
from bptt_crosscheck.comparisons.candidates.adapters import from_attributes, from_list, from_update
from bptt_crosscheck.comparisons.errors import BadContract, GradientMismatch

from tests.comparisons.small import Elman


class Exploding:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")

    def __call__(self, *arguments):
        raise RuntimeError("not to be called")

    def __iter__(self):
        raise RuntimeError("not to be gone through")

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array")

    def __len__(self):
        raise RuntimeError("no length")

    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    __hash__ = None


class Silent(Exception):
    """Cannot even say what it is."""

    def __str__(self):
        raise RuntimeError("no text")


class Unreadable(Mapping):
    """A mapping without items."""

    def __len__(self):
        return 1

    def __iter__(self):
        raise RuntimeError("not to be gone through")

    def __getitem__(self, key):
        raise RuntimeError(f"no {key}")


class Unspoken:
    """Has no words for itself."""

    def __repr__(self):
        raise RuntimeError("no words")


class Shaped:
    """Looks like an array from far away."""

    shape = "round"
    dtype = None


class Agreeable:
    """Has every attribute, and does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments: None


def endless():
    """A list that holds itself."""
    items = []
    items.append(items)
    return items


def deep():
    """A list in a list in a list …"""
    items = [1.0]
    for _ in range(3000):
        items = [items]
    return items


def framework(name, make):
    """Of a framework that is there; a number where it is not."""
    module = sys.modules.get(name)
    return 1.0 if module is None else make(module)


def of_torch(make):
    return lambda rng: framework("torch", make)


def of_jax(make):
    return lambda rng: framework("jax", make)


def numbers(rng, dtype="f8"):
    """An array of some shape."""
    shape = rng.choice([(), (1,), (2,), (3,), (3, 2), (2, 3), (3, 3), (4, 2), (0,), (0, 3), (1, 1)])
    return np.random.default_rng(rng.randrange(2**31)).normal(size=shape).astype(dtype)


DTYPES = [
    *"f2 f4 f8 >f8 >f4 g c8 c16 i1 i8 u2 u8 >i4 ? O U3 S2 M8[s] m8[s] V8".split(),
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.int4,
]
VALUES = (
    *(lambda rng, dtype=dtype: numbers(rng).astype(dtype) for dtype in DTYPES),
    *(lambda rng: numbers(rng) for _ in range(8)),
    lambda rng: None,
    lambda rng: rng.choice([True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, 1e-320, 10**400, 2**70]),
    lambda rng: rng.choice([float("nan"), float("inf"), 1j, complex("nan"), ..., NotImplemented]),
    lambda rng: rng.choice(["", "abc", "W", "x" * 5000, "a\n\nb", "\x1b[31m", b"x", bytearray(3)]),
    lambda rng: rng.choice([[], (), {}, [1.0], [[1.0], [2.0, 3.0]], {"W": 1.0}, [None], (1, "a")]),
    lambda rng: rng.choice([{1: 2.0}, {None: 1.0}, {(): 1.0}, {"": 1.0}, {"a.b": 1.0}]),
    lambda rng: rng.choice([set(), frozenset({1}), range(3), memoryview(b"ab"), object(), int]),
    lambda rng: rng.choice([np.nan, np.float32(1), np.int8(1), np.str_("a"), np.datetime64("NaT")]),
    lambda rng: rng.choice([np.tanh, len, np, Exploding, Silent("x"), lambda: 0]),
    lambda rng: decimal.Decimal(1),
    lambda rng: fractions.Fraction(1, 3),
    lambda rng: array.array("d", [1.0, 2.0]),
    lambda rng: (value for value in [1.0, 2.0]),
    lambda rng: Exploding(),
    lambda rng: Unreadable(),
    lambda rng: Shaped(),
    lambda rng: Unspoken(),
    lambda rng: Agreeable(),
    lambda rng: endless(),
    lambda rng: deep(),
    lambda rng: numbers(rng)[..., None].T,
    lambda rng: np.asfortranarray(numbers(rng)),
    lambda rng: numbers(rng).reshape(-1)[::-1],
    lambda rng: np.broadcast_to(1.0, (3, 2)),
    lambda rng: numbers(rng) * np.nan,
    lambda rng: numbers(rng) * np.inf,
    lambda rng: numbers(rng) * 1e300,
    lambda rng: np.ma.masked_array(np.ones((3, 2)), mask=np.eye(3, 2)),
    lambda rng: np.ones((3, 2)).view(np.recarray),
    lambda rng: np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
    lambda rng: np.array([[1.0], [1.0, 2.0], None], dtype=object),
    lambda rng: np.empty((3, 2), dtype=object),
    of_torch(lambda torch: torch.ones(3, 2, dtype=torch.float64)),
    of_torch(lambda torch: torch.ones(3, 2, requires_grad=True)),
    of_torch(lambda torch: torch.ones(3, 2, dtype=torch.bfloat16)),
    of_torch(lambda torch: torch.ones(3, 2, device="meta")),
    of_torch(lambda torch: torch.ones(3, 2).to_sparse()),
    of_torch(lambda torch: torch.ones(3, dtype=torch.complex64).conj()),
    of_torch(lambda torch: torch.nn.Parameter(torch.ones(3, 2))),
    of_torch(lambda torch: torch.float32),
    of_torch(lambda torch: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)),
    of_jax(lambda jax: jax.numpy.ones((3, 2))),
    of_jax(lambda jax: jax.numpy.ones((3, 2), "bfloat16")),
    of_jax(lambda jax: jax.random.key(0)),
    of_jax(lambda jax: jax.ShapeDtypeStruct((3, 2), "float32")),
)
NAMES = [
    *"W U b x h h_0 c_0 lengths mask target targets tokens cotangent_h b_y W_y loss state_jacobian "
    "jacobian_product_to_end W@t h@t W_l0 h_reverse h_l0_reverse W_xh dropout_l0 alive d_x params "
    "inputs output output[0] a.b W[0] layers[0].W 0 _0 @t ω Ж 名 lstm {0} %s ' \" \\ None".split(),
    "",
    " ",
    "a b",
    "state h",
    "W,U",
    "['a.b']",
    "\n",
    "\x00",
    "\x1b[31m",
    "⟮x⟯",
    "�",
]
EXCEPTIONS = (
    ValueError("a\n\nb"),
    ValueError(),
    KeyError("W"),
    Silent(),
    SystemExit(3),
    GeneratorExit(),
    StopIteration(),
    RecursionError(),
    MemoryError(),
    BaseException("base"),
    ExceptionGroup("two", [ValueError("one"), ValueError("two")]),
    FileNotFoundError("nowhere"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    BadContract("of theirs"),
    GradientMismatch("of theirs"),
    DeprecationWarning("old"),
    ZeroDivisionError("x" * 5000),
)


def odd(rng):
    """A value that belongs nowhere."""
    return rng.choice(VALUES)(rng)


def places(value, path=()):
    """The paths of everything in a nest."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def replaced(value, path, other):
    """The nest with something else at the path."""
    if not path:
        return other
    if isinstance(value, dict):
        return {
            key: replaced(item, path[1:], other) if key == path[0] else item
            for key, item in value.items()
        }
    items = [
        replaced(item, path[1:], other) if at == path[0] else item for at, item in enumerate(value)
    ]
    return type(value)(items)


def renamed(value, rng):
    """A dict in which a key has another name, or is gone, or has company."""
    if not isinstance(value, dict) or not value:
        return value
    key, name = rng.choice(list(value)), rng.choice(NAMES)
    kind = rng.randrange(3)
    if kind == 0:
        return {name if each == key else each: item for each, item in value.items()}
    if kind == 1:
        return {each: item for each, item in value.items() if each != key}
    return {**value, name: value[key]}


def meddle(rng, arguments):
    """Write into something that was handed over."""
    for argument in arguments:
        if isinstance(argument, dict) and argument:
            key = rng.choice(list(argument))
            kind = rng.randrange(4)
            if kind == 0:
                argument.pop(key)
            elif kind == 1:
                argument[key] = None
            elif kind == 2:
                argument[rng.choice(NAMES)] = 1.0
            elif isinstance(argument[key], np.ndarray) and argument[key].ndim:
                argument[key][...] = 0


DISTORTED = (
    lambda value: value * 2,
    lambda value: -value,
    lambda value: value * 0,
    lambda value: value * np.nan,
    lambda value: value * np.inf,
    lambda value: value / 3 + 1e-9,
    lambda value: value + 1.0,
    lambda value: np.asarray(value).T,
    lambda value: np.asarray(value).astype("f4"),
    lambda value: np.asarray(value).astype("f2").astype("f8"),
    lambda value: np.asarray(value).astype(ml_dtypes.bfloat16),
    lambda value: np.asarray(value).astype(">f8"),
    lambda value: np.asarray(value).astype("g"),
    lambda value: np.asarray(value).tolist(),
    lambda value: np.asarray(value)[None],
    lambda value: np.clip(value, -0.5, 0.5),
    lambda value: np.asarray(value).ravel()[:1],
    lambda value: np.asarray(value)[::-1] if np.ndim(value) else value,
    lambda value: np.full_like(value, 1e200),
    lambda value: np.asarray(value, dtype=object),
)


def distorted(returned, rng):
    """With one number or array in it another."""
    ends = [path for path in places(returned) if isinstance(at(returned, path), float | np.ndarray)]
    if not ends:
        return returned
    path = rng.choice(ends)
    return replaced(returned, path, rng.choice(DISTORTED)(at(returned, path)))


def at(value, path):
    """What stands at a path."""
    for key in path:
        value = value[key]
    return value


def spoilt(function, rng):
    """The function, doing something else instead, beside, or only sometimes."""
    seed, kind, late = rng.randrange(2**31), rng.randrange(14), rng.randrange(6)
    calls = []

    def other(*arguments):
        calls.append(1)
        own = random.Random(seed)
        if late and len(calls) <= late - 1:
            return function(*arguments)
        if kind == 0:
            raise own.choice(EXCEPTIONS)
        if kind == 1:
            return odd(own)
        if kind == 2:
            meddle(own, arguments)
        if kind == 3:
            warnings.warn("odd", stacklevel=1)
            print("said")
        if kind == 4 and arguments and arguments[0] is np:
            return odd(own)
        if kind == 5 and arguments and arguments[0] is not np:
            return own.choice([odd(own), None])
        returned = function(*arguments)
        if kind == 6 and isinstance(returned, dict | list | tuple):
            return replaced(returned, own.choice(list(places(returned))), odd(own))
        if kind == 7:
            return renamed(returned, own)
        if kind >= 8 and not (arguments and callable(getattr(arguments[0], "tanh", None))):
            return distorted(returned, own)
        return returned

    return other


def of_signature(function, count):
    """With its own positional parameters, the first called xp where it takes three."""
    if count == 3:
        return lambda xp, params, inputs: function(xp, params, inputs)
    return lambda params, inputs: function(params, inputs)


OPTIONS = {
    "seed": lambda rng: rng.choice(
        [0, 1, 7, True, -1, 1.5, "0", None, 2**70, 10**5000, np.int64(3), []]
    ),
    "references": lambda rng: rng.choice(
        [
            "torch",
            ["torch"],
            "differences",
            "complex step",
            "torch,differences",
            "forward",
            "proof",
            [],
            "",
            "torch,",
            [1],
            [None],
            5,
            "no such",
            ("torch", "torch"),
            {"torch": 1},
            ...,
        ]
    ),
    "device": lambda rng: rng.choice(["cpu", "cpu", "cuda:99", "", "meta", None, 5, "no such"]),
    "rtol": lambda rng: rng.choice([None, 0, 1e-6, -1, float("nan"), "a", 1j, [], 10**400]),
    "atol": lambda rng: rng.choice([None, 0, 1e-6, -1, float("inf"), "a", 1j, np.ones(2)]),
}
CELL_OPTIONS = {
    "dtype": lambda rng: rng.choice(
        ["float64", "float32", "float16", "bfloat16", "f8", None, 5, [], np.float32, ""]
    ),
    **dict.fromkeys(
        ("steps", "batch", "input_size", "hidden_size"),
        lambda rng: rng.choice(
            [1, 2, 3, 0, -1, 10**9, 10**400, 10**5000, True, 1.5, "2", None, np.int8(2)]
        ),
    ),
}
CONVENTIONS = {
    "sign": [-1, 1, 0, "a", None, float("nan"), [], True],
    "scale": [0.5, "1/T", "1/B", "1/(T·B)", "T", "1/(T*B)", "", "1/Q", "/", "1/0", None, 0, []],
    "clip_value": [5, 0, -1, None, "a", float("inf"), 1e-3, [1]],
    "clip_norm": [5, 0, -1, None, "a", 1e-3, True, np.ones(2)],
    "truncation": [1, 0, -1, 1.5, None, "a"],
    "precision": ["float32", "bfloat16", "float16", "float64", "f4", None, 5, [], "float8"],
    "rtol": [1e-3, -1, None, "a"],
    "nonsense": [1],
}


def conventions(rng):
    """A convention with a key or two; or something else altogether."""
    if rng.random() < 0.2:
        return odd(rng)
    keys = rng.sample(list(CONVENTIONS), rng.choice([1, 1, 2]))
    return {key: rng.choice(CONVENTIONS[key]) for key in keys}


def options(rng, table):
    """One option or two, odd ones more often than not."""
    told = {"references": "torch"}
    if rng.random() < 0.15:
        told["references"] = rng.choice(["torch,jax", "differences", "complex step"])
    for name in rng.sample(list(table), rng.choice([0, 0, 0, 0, 0, 1, 1, 2])):
        told[name] = table[name](rng)
    return told


class Cell(Elman):
    """An Elman cell whose names are drawn."""

    def __init__(self, weight="W", state="h"):
        self.weight, self.state = weight, state

    def parameter_shapes(self, input_size, hidden_size):
        return {self.weight: (hidden_size, input_size), "U": (hidden_size, hidden_size)}

    def state_shapes(self, hidden_size):
        return {self.state: (hidden_size,)}

    def step(self, xp, params, state, x):
        own = {"W": params[self.weight], "U": params["U"]}
        new, cache = super().step(xp, own, {"h": state[self.state]}, x)
        return {self.state: new["h"]}, cache

    def step_backward(self, params, cache, d_state):
        own = {"W": params[self.weight], "U": params["U"]}
        d_params, d_x, before = super().step_backward(own, cache, {"h": d_state[self.state]})
        return {self.weight: d_params["W"], "U": d_params["U"]}, d_x, {self.state: before["h"]}

    def initialise(self, rng, input_size, hidden_size, batch):
        return {"U": np.eye(hidden_size)}


class Scalars(Elman):
    """c′ = tanh(g c + Σ x V + b), of states in two axes, a number among the parameters."""

    def parameter_shapes(self, input_size, hidden_size):
        return {"g": (), "W_xh": (input_size, hidden_size), "b": hidden_size}

    def state_shapes(self, hidden_size):
        return {"c": (hidden_size, 1), "n": ()}

    def step(self, xp, params, state, x):
        net = params["g"] * state["c"][:, :, 0] + x @ params["W_xh"] + params["b"]
        c = xp.tanh(net)
        return {"c": c[:, :, None], "n": 0.5 * state["n"]}, (x, state["c"], c)

    def step_backward(self, params, cache, d_state):
        x, before, c = cache
        delta = (1 - c**2) * d_state["c"][:, :, 0]
        d_params = {
            "g": np.sum(delta * before[:, :, 0]),
            "W_xh": x.T @ delta,
            "b": np.sum(delta, axis=0),
        }
        d_c = (params["g"] * delta)[:, :, None]
        return d_params, delta @ params["W_xh"].T, {"c": d_c, "n": 0.5 * d_state["n"]}

    def initialise(self, rng, input_size, hidden_size, batch):
        return {"W_xh": np.ones((input_size, hidden_size)), "g": 1, "n_0": np.zeros(batch)}


METHODS = ("parameter_shapes", "state_shapes", "step", "step_backward", "initialise")


def of_a_cell(rng):
    """check_cell of something."""
    told = {"steps": 2, "batch": 2, "input_size": 2, "hidden_size": 3}
    told |= options(rng, OPTIONS | CELL_OPTIONS)
    cell = Cell(rng.choice(NAMES), "h") if rng.random() < 0.5 else Cell("W", rng.choice(NAMES))
    if rng.random() < 0.3:
        cell = Scalars()
    for name in rng.sample(METHODS, rng.choice([0, 1, 1, 1, 2])):
        own = getattr(cell, name)
        setattr(cell, name, spoilt(own, rng) if rng.random() < 0.9 else odd(rng))
    if rng.random() < 0.05:
        cell = odd(rng)
    return lambda: check_cell(cell, raise_exception=False, **told)


def squares(xp, params, inputs):
    """½ Σ W² + 2 Σ U x."""
    return 0.5 * xp.sum(params["W"] ** 2) + 2 * xp.sum(params["U"] * inputs["x"])


def of_squares(params, inputs):
    return {"W": params["W"] * 1.0, "U": 2 * inputs["x"] + 0 * params["U"]}


def sharp(xp, params, inputs):
    """Σ |W| + Σ U exp(x)."""
    return xp.sum(xp.abs(params["W"])) + xp.sum(params["U"] * xp.exp(inputs["x"]))


def of_sharp(params, inputs):
    ones = params["U"] * 0 + 1
    return {"W": np.sign(params["W"]), "U": np.exp(inputs["x"]) * ones}


def flat(xp, params, inputs):
    """0, or what is left of it."""
    return 0 * xp.sum(params["W"]) + xp.sum(inputs["x"])


def of_flat(params, inputs):
    return [params["W"] * 0, params["U"] * 0]


LOSSES = ((squares, of_squares), (squares, of_squares), (sharp, of_sharp), (flat, of_flat))


def outputs(xp, params, inputs):
    """Two outputs."""
    return {"a": params["W"] * inputs["x"], "loss": [params["U"] * 2.0]}


def of_outputs(params, inputs, cotangents):
    return {"W": cotangents["a"] * inputs["x"], "U": 2.0 * cotangents["loss"][0]}


GIVEN = (
    lambda value: value.astype(">f8"),
    lambda value: value.astype(">f4"),
    lambda value: value.astype("f4"),
    lambda value: value.astype("f2"),
    lambda value: value.astype("g"),
    lambda value: value.astype(ml_dtypes.bfloat16),
    lambda value: np.asfortranarray(value),
    lambda value: value[::-1] if value.ndim else value,
    lambda value: value * 0,
    lambda value: value * 1e200,
    lambda value: value.astype(">i4"),
    lambda value: value.tolist(),
    lambda value: framework("torch", lambda torch: torch.tensor(value)),
    lambda value: framework("torch", lambda torch: torch.tensor(value, requires_grad=True)),
    lambda value: framework("jax", lambda jax: jax.numpy.asarray(value)),
)


def nests(rng):
    """params and inputs, something in them odd."""
    made = np.random.default_rng(rng.randrange(2**31))
    shapes = rng.choice(
        [((3, 2), (3, 2)), ((3, 2), (3, 2)), ((), (4,)), ((0, 3), (2,)), ((9, 10), ())]
    )
    params = {"W": made.normal(size=shapes[0]), "U": made.normal(size=shapes[1])}
    inputs = {"x": made.normal(size=shapes[1])}
    for nest in (params, inputs):
        if rng.random() < 0.3:
            name = rng.choice([*nest])
            nest[name] = rng.choice(GIVEN)(np.asarray(nest[name]))
    for nest in (params, inputs):
        if rng.random() < 0.35:
            nest[rng.choice([*nest, *NAMES])] = odd(rng)
    if rng.random() < 0.15:
        params["layers"] = [{"W": odd(rng), rng.choice(NAMES): 1.0}, odd(rng)]
    if rng.random() < 0.04:
        params = odd(rng)
    if rng.random() < 0.04:
        inputs = odd(rng)
    return params, inputs


def of_a_function(rng, check, function, backward):
    """check_gradients or check_vjp of something."""
    params, inputs = nests(rng)
    told = options(rng, OPTIONS)
    if rng.random() < 0.25:
        told["convention"] = conventions(rng)
    if rng.random() < 0.1:
        told["setup"] = rng.choice([odd(rng), spoilt(lambda: None, rng)])
    given = function
    if rng.random() < 0.25:
        given = lambda params, inputs: function(np, params, inputs)  # noqa: E731
        if rng.random() < 0.7:
            told["references"] = rng.choice(["differences", "complex step", None])
    count = 3 if given is function else 2
    if rng.random() < 0.3:
        given = of_signature(spoilt(given, rng), count)
    derived = spoilt(backward, rng) if rng.random() < 0.5 else backward
    if rng.random() < 0.08 and check is check_gradients:
        derived = adapted(rng, derived)
    if rng.random() < 0.03:
        given = odd(rng)
    if rng.random() < 0.03:
        derived = odd(rng)
    return lambda: check(derived, given, params, inputs, raise_exception=False, **told)


def adapted(rng, derived):
    """The derivation by way of an adapter, not always the right way."""
    kind = rng.randrange(3)
    if kind == 0:
        return from_list(derived, rng.choice([["W", "U"], ["W"], [], ["no such", "U"]]))
    if kind == 1:
        return from_update(derived, rng.choice([1.0, 0.0, -1, 1e-300]))
    return from_attributes(derived, rng.choice([Agreeable(), Elman()]), {"W": "dW"})


def question(seed):
    """The question of this seed, to be asked by calling it."""
    rng = random.Random(seed)
    kind = rng.randrange(10)
    if kind < 4:
        return of_a_cell(rng)
    if kind < 8:
        return of_a_function(rng, check_gradients, *rng.choice(LOSSES))
    return of_a_function(rng, check_vjp, outputs, of_outputs)
