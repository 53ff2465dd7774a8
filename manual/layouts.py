"""Weights and gradients in the layouts of torch, ONNX and Keras, and back.

One layer in one direction, or a network of torch's.

This project's layout of a layer with I inputs, H hidden units and, where the LSTM is projected, P
outputs:

    rnn     W_xh (H, I),   W_hh (H, H),   b_h (H,)
    lstm    W_xh (4H, I),  W_hh (4H, H),  b_h (4H,);  projected: W_hh (4H, P), W_hr (P, H);  peepholes: p_i, p_f, p_o (H,)
    gru     W_xh (3H, I),  W_hh (3H, H),  b_x (3H,),  b_hh (3H,);  z keeps the old state: h = (1 − z) n + z h_{t−1}

The others, with g the candidate of the LSTM and n that of the GRU (c and h in ONNX and Keras); all
have the same meaning of z:

    format   input, recurrent weight                  LSTM     GRU    biases                          besides
    project  W_xh (·, I), W_hh (·, H)                 i f g o  r z n  rnn, lstm: b_h; gru: b_x, b_hh  W_hr; p_i, p_f, p_o
    torch    weight_ih (·, I), weight_hh (·, H)       i f g o  r z n  bias_ih, bias_hh                weight_hr (P, H)
    ONNX     W (D, ·, I), R (D, ·, H)                 i o f g  z r n  B (D, 2·) = Wb, Rb              P (D, 3H) = p_i, p_o, p_f
    Keras    kernel (I, ·), recurrent_kernel (H, ·)   i f g o  z r n  bias (·,), a reset_after GRU's (2, ·)

Biases. With b_in added to the product with x and b_rec to that with the state (torch's bias_ih and
bias_hh, ONNX's Wb and Rb, the two rows of Keras' GRU), where a format has both:

    rnn, lstm:  b_h = b_in + b_rec;            back:  b_in = b_h,  b_rec = 0                   (1)
    gru:        b_x = b_in,  b_hh = b_rec;     back the same                                   (2)
    Keras' gru with reset_after=False has one bias:  b_x = bias,  b_hh = 0;  back:  bias = b_x + b_hh   (3)

(3) loses nothing that counts: in that form only the sum occurs. A bias that the format leaves out
(bias=False) is zero.

GRU forms. The weights do not tell where the reset is: ONNX' linear_before_reset=0 (its default) and
Keras' reset_after=False are `manual.cells.gru.GRU("before")`, 1 and True (Keras' default) are
GRU("after"), torch has "after" alone.

Gradients. Let v be the arrays of the other format and w = A v ours. Then L(A v) has the gradient dv
= Aᵀ dw. Reordering blocks and transposing move every number to one place, so Aᵀ = A⁻¹: a gradient
goes through the same moves as its weight, in either direction. The sums in (1) and (3) are the
exception, for Aᵀ of a sum copies:

    (1)  db_in = db_rec = db_h         (3)  dbias = db_x = db_hh                                (4)

so two equal gradients become one and are not added, and one becomes two where the weights had a
zero. `gradients=True` does (4). A bias that is left out has a gradient all the same, so none is
made up: the name is left out of the result.

Sources: torch.nn.RNN, LSTM and GRU ("Variables"; weight_hr: LSTM with proj_size); the ONNX
operators RNN, LSTM and GRU (W[iofc], P[iof], W[zrh], "linear_before_reset");
keras.layers.SimpleRNN, LSTM and GRU (the cells' `build` and `call`). Orders only: cuDNN,
cudnnGetRNNWeightParams (linLayerID); haste, LSTM (the forget bias is block 2) and
GRU.to_native_weights; MIOpen, miopenGetRNNLayerParamOffset (paramID), which torch's
permute_wei_for_miopen follows.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .arrays import Array, Arrays

Tensors: TypeAlias = Mapping[str, npt.ArrayLike]
Gates: TypeAlias = str | tuple[str, ...]

ORDERS: dict[str, dict[str, str]] = {
    "project": {"rnn": "h", "lstm": "ifgo", "gru": "rzn"},
    "torch": {"rnn": "h", "lstm": "ifgo", "gru": "rzn"},
    "onnx": {"rnn": "h", "lstm": "iofg", "gru": "zrn"},
    "keras": {"rnn": "h", "lstm": "ifgo", "gru": "zrn"},
    "cudnn": {"rnn": "h", "lstm": "ifgo", "gru": "rzn"},
    "haste": {"lstm": "igfo", "gru": "zrn"},
    "miopen": {"rnn": "h", "lstm": "ifog", "gru": "zrn"},
}

# Symbols: GH gates times hidden size, P what is fed back (H, unless projected), I any size.
SHAPES: dict[str, dict[str, str]] = {
    "project": {
        "W_xh": "GH I", "W_hh": "GH P", "W_hr": "P H",
        "b_h": "GH", "b_x": "GH", "b_hh": "GH",
        "p_i": "H", "p_f": "H", "p_o": "H",
    },
    "torch": {
        "weight_ih": "GH I", "weight_hh": "GH P", "weight_hr": "P H",
        "bias_ih": "GH", "bias_hh": "GH",
    },
    "onnx": {"W": "GH I", "R": "GH P", "B": "2GH", "P": "3H"},
    "keras": {"kernel": "I GH", "recurrent_kernel": "P GH", "bias": "GH"},
}  # fmt: skip
WEIGHTS = {
    "project": ("W_xh", "W_hh"),
    "torch": ("weight_ih", "weight_hh"),
    "onnx": ("W", "R"),
    "keras": ("kernel", "recurrent_kernel"),
}
BIASES = {"rnn": ("b_h",), "lstm": ("b_h",), "gru": ("b_x", "b_hh")}
CALLED = {"rnn": "an RNN", "lstm": "an LSTM", "gru": "a GRU"}
PROJECTION = "W_hr"
PEEPHOLES = ("p_i", "p_f", "p_o")
PEEPHOLES_OF_ONNX = ("p_i", "p_o", "p_f")

# Names of one layer in one direction: layer 1 backwards has the suffix _l1_reverse.
SUFFIX = r"(?P<suffix>_l\d+(?:_reverse)?)"
TORCH_NAME = re.compile(rf"(?:weight|bias)_(?:ih|hh|hr){SUFFIX}")
PROJECT_NAME = re.compile(rf"(?:{'|'.join(SHAPES['project'])}){SUFFIX}?")


class _Layer(NamedTuple):
    """What every format has: weights (GH, ·) and biases (GH,) in the order of the format."""

    W: Array
    R: Array
    b_in: Array | None
    b_rec: Array | None


def reorder(stacked: npt.ArrayLike, given: Gates, wanted: Gates, axis: int = 0) -> Array:
    """The equal blocks of an axis, which are those of the gates `given`, in the order `wanted`.

    A new array of the same shape.

    Gates are single letters, as in reorder(W, "iofc", "ifco"), or any names in tuples. Raises
    ValueError where the two do not name the same gates once each, or the axis does not divide into
    as many blocks.
    """
    array = np.asarray(stacked)
    if not given or len(set(given)) != len(given) or sorted(given) != sorted(wanted):
        raise ValueError(f"the gates {', '.join(given)} are not {', '.join(wanted)} in another order")
    if not -array.ndim <= axis < array.ndim or array.shape[axis] % len(given):
        raise ValueError(f"the shape {array.shape} has no axis {axis} of {len(given)} equal blocks")
    blocks = dict(zip(given, np.split(array, len(given), axis=axis), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis=axis)


# torch.


def from_torch(cell: str, tensors: Tensors, suffix: str = "_l0", prefix: str = "", *, gradients: bool = False) -> Arrays:
    """One layer's parameters in this project's layout, from a state_dict of torch's.

    Their names have no suffix; the state_dict is one of nn.RNN, nn.LSTM or nn.GRU.

    cell is "rnn", "lstm" or "gru"; names are prefix + "weight_ih" + suffix, with (GH, I), and so
    on; "_l1_reverse" is layer 1 backwards, and "" serves nn.LSTMCell. With weight_hr the result has
    W_hr. gradients=True takes gradients, by (4). Raises ValueError for an unknown cell, a weight
    that is not there, a wrong shape, and two bias gradients of one b_h that differ.
    """
    named = {base: f"{prefix}{base}{suffix}" for base in SHAPES["torch"]}
    given = _taken("torch", cell, tensors, named)
    if "weight_hr" in given and cell != "lstm":
        raise ValueError(f"{named['weight_hr']}: {CALLED[cell]} has no projection")
    layer = _Layer(given["weight_ih"], given["weight_hh"], given.get("bias_ih"), given.get("bias_hh"))
    projection = {PROJECTION: given["weight_hr"].copy()} if "weight_hr" in given else {}
    return {
        **_to_project("torch", cell, layer, gradients, (named["bias_ih"], named["bias_hh"])),
        **projection,
    }


def to_torch(cell: str, params: Tensors, suffix: str = "_l0", prefix: str = "", *, gradients: bool = False) -> Arrays:
    """The state_dict of one layer, names as in `from_torch`, from its parameters without suffix.

    Biases by (1) and (2), or (4).

    Raises ValueError for an unknown cell, a name that is missing (gradients may lack all biases) or
    that torch has nothing for, and a wrong shape.
    """
    named = {base: base for base in SHAPES["project"]}
    return _to_torch(cell, params, named, suffix, prefix, gradients)


def network_from_torch(cell: str, tensors: Tensors, prefix: str = "", *, gradients: bool = False) -> Arrays:
    """All parameters of all layers and directions, from a state_dict.

    Their names are "W_xh_l0", "W_xh_l0_reverse", "W_xh_l1", ….

    A single layer in one direction has no suffix. Names that do not start with the prefix or are no
    weights of a layer are passed over. Raises ValueError as `from_torch` does, for the first layer
    and direction that is not whole, and for none.
    """
    found: set[str] = set()
    for name in _under(tensors, prefix):
        match = TORCH_NAME.fullmatch(name[len(prefix) :])
        if match:
            found.add(match["suffix"])
    # Where there is no layer at all, it is said that weight_ih_l0 is missing.
    suffixes = _all_suffixes(found) or ["_l0"]
    if suffixes == ["_l0"]:
        return from_torch(cell, tensors, "_l0", prefix, gradients=gradients)
    done: Arrays = {}
    for suffix in suffixes:
        layer = from_torch(cell, tensors, suffix, prefix, gradients=gradients)
        done |= {name + suffix: value for name, value in layer.items()}
    return done


def network_to_torch(cell: str, params: Tensors, prefix: str = "", *, gradients: bool = False) -> Arrays:
    """The state_dict of a network, from parameters with the suffixes of `network_from_torch`.

    A network of one layer in one direction has no suffix.

    Raises ValueError as `to_torch` does, for a name that is no parameter of a layer, and for a
    layer that is not whole.
    """
    suffix_of: dict[str, str] = {}
    for name in params:
        match = PROJECT_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name} is no parameter of a layer")
        suffix_of[name] = match["suffix"] or ""
    bare = [name for name, suffix in suffix_of.items() if not suffix]
    if len(bare) == len(params):
        return to_torch(cell, params, prefix=prefix, gradients=gradients)
    if bare:
        raise ValueError(f"{bare[0]} has no suffix such as _l0, and other names have")
    done: Arrays = {}
    for suffix in _all_suffixes(set(suffix_of.values())):
        layer = {name: params[name] for name, own in suffix_of.items() if own == suffix}
        named = {base: base + suffix for base in SHAPES["project"]}
        done |= _to_torch(cell, layer, named, suffix, prefix, gradients)
    return done


def _to_torch(cell: str, params: Tensors, named: Mapping[str, str], suffix: str, prefix: str, gradients: bool) -> Arrays:
    layer, others = _from_project("torch", cell, params, named, {PROJECTION}, gradients)
    arrays = {
        "weight_ih": layer.W,
        "weight_hh": layer.R,
        "bias_ih": layer.b_in,
        "bias_hh": layer.b_rec,
    }
    arrays["weight_hr"] = others.get(PROJECTION)
    return {f"{prefix}{base}{suffix}": value for base, value in arrays.items() if value is not None}


def _under(tensors: Tensors, prefix: str) -> Iterable[str]:
    return (name for name in tensors if name.startswith(prefix))


def _all_suffixes(found: set[str]) -> list[str]:
    """Every layer up to the last, in both directions if one has both.

    What is missing is then missed by name.
    """
    layers = max((int(suffix.split("_")[1][1:]) for suffix in found), default=-1) + 1
    directions = ("", "_reverse") if any(suffix.endswith("_reverse") for suffix in found) else ("",)
    return [f"_l{k}{direction}" for k in range(layers) for direction in directions]


# ONNX.


def from_onnx(cell: str, tensors: Tensors, direction: int = 0, *, gradients: bool = False) -> Arrays:
    """One direction's parameters in this project's layout, from an ONNX operator's inputs.

    The operator is RNN, LSTM or GRU.

    tensors are W (D, GH, I), R (D, GH, H) and, where there, B (D, 2GH) and P (D, 3H); D is
    num_directions, and direction 1 of "bidirectional" is the reverse one. With P the result has
    p_i, p_f and p_o. gradients=True takes gradients, by (4). Raises ValueError for an unknown cell,
    a direction or a weight that is not there, a wrong shape, and two bias gradients that differ.
    """
    slices: Arrays = {}
    for name in SHAPES["onnx"].keys() & tensors.keys():
        array = np.asarray(tensors[name])
        if array.ndim == 0 or not 0 <= direction < len(array):
            raise ValueError(f"{name} has the shape {array.shape}: no direction {direction}")
        slices[name] = array[direction]
    given = _taken("onnx", cell, slices, {base: base for base in SHAPES["onnx"]})
    if "P" in given and cell != "lstm":
        raise ValueError(f"P: {CALLED[cell]} has no peepholes")
    b_in, b_rec = np.split(given["B"], 2) if "B" in given else (None, None)
    params = _to_project("onnx", cell, _Layer(given["W"], given["R"], b_in, b_rec), gradients, ("Wb in B", "Rb in B"))
    if "P" in given:
        p_ifo = np.split(reorder(given["P"], PEEPHOLES_OF_ONNX, PEEPHOLES), 3)
        params |= {name: value.copy() for name, value in zip(PEEPHOLES, p_ifo, strict=True)}
    return params


def to_onnx(cell: str, *directions: Tensors, gradients: bool = False) -> Arrays:
    """The operator's W, R, B and, of peepholes, P, from the parameters of D = 1 or 2 directions.

    W (D, GH, I), R (D, GH, H), B (D, 2GH) and P (D, 3H).

    B is left out where gradients are and have no biases. Raises ValueError for an unknown cell, a
    name that is missing or that ONNX has nothing for, a wrong shape, and directions that do not fit
    each other.
    """
    if len(directions) not in (1, 2):
        raise ValueError(f"{len(directions)} directions: an ONNX operator has 1 or 2")
    slices = [_to_onnx(cell, params, gradients) for params in directions]
    first, last = slices[0], slices[-1]
    for name in first | last:
        shapes = [array[name].shape if name in array else "nothing" for array in (first, last)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} of the two directions: {shapes[0]} and {shapes[1]}")
    return {name: np.stack([one[name] for one in slices]) for name in first}


def _to_onnx(cell: str, params: Tensors, gradients: bool) -> Arrays:
    layer, others = _from_project("onnx", cell, params, {base: base for base in SHAPES["project"]}, set(PEEPHOLES), gradients)
    arrays = {"W": layer.W, "R": layer.R}
    if layer.b_in is not None and layer.b_rec is not None:
        arrays["B"] = np.concatenate([layer.b_in, layer.b_rec])
    if others:
        arrays["P"] = np.concatenate([others[name] for name in PEEPHOLES_OF_ONNX])
    return arrays


# Keras.


def from_keras(cell: str, tensors: Tensors, *, gradients: bool = False) -> Arrays:
    """A layer's parameters in this project's layout, from a Keras layer's.

    The layer is a keras.layers.SimpleRNN, LSTM or GRU.

    tensors are kernel (I, GH), recurrent_kernel (H, GH) and, where there, bias (GH,), which
    get_weights() lists in this order. A GRU's bias is (2, GH) for reset_after=True, (GH,) for
    False: that tells the form. gradients=True takes gradients, by (4). Raises ValueError for an
    unknown cell, a weight that is not there, and a wrong shape.
    """
    both = cell == "gru" and np.ndim(tensors.get("bias", 0)) == 2
    symbols = SHAPES["keras"] | ({"bias": "2 GH"} if both else {})
    given = _taken("keras", cell, tensors, {base: base for base in symbols}, symbols)
    bias = given.get("bias")
    b_in, b_rec = (bias[0], bias[1]) if bias is not None and both else (bias, None)
    if cell == "gru" and gradients and not both:
        b_rec = b_in  # (4)
    layer = _Layer(given["kernel"].T, given["recurrent_kernel"].T, b_in, b_rec)
    return _to_project("keras", cell, layer, gradients, ("bias", "bias"))


def to_keras(cell: str, params: Tensors, *, reset: str = "after", gradients: bool = False) -> Arrays:
    """kernel (I, GH), recurrent_kernel (H, GH) and bias (GH,) of the Keras layer.

    Of a GRU with reset "after" bias is (2, GH).

    reset counts for a GRU alone: "before" is Keras' reset_after=False, biases by (3), gradients by
    (4). Raises ValueError for an unknown cell or reset, a name that is missing or that Keras has
    nothing for, a wrong shape, and, for gradients and "before", two bias gradients that differ.
    """
    if reset not in ("after", "before"):
        raise ValueError(f"reset is 'after' or 'before' the product, not {reset!r}")
    layer, _ = _from_project("keras", cell, params, {base: base for base in SHAPES["project"]}, set(), gradients)
    arrays = {"kernel": layer.W.T.copy(), "recurrent_kernel": layer.R.T.copy()}
    if layer.b_in is None or layer.b_rec is None:
        return arrays
    if cell == "gru" and reset == "after":
        return {**arrays, "bias": np.stack([layer.b_in, layer.b_rec])}
    return {  # (1), (3), (4)
        **arrays,
        "bias": _one_bias(layer.b_in, layer.b_rec, gradients, ("b_x", "b_hh")),
    }


# What the formats share.


def _to_project(format: str, cell: str, layer: _Layer, gradients: bool, biases: tuple[str, str]) -> Arrays:
    """W_xh, W_hh and the biases, new arrays.

    `biases` are the names of b_in and b_rec in messages.
    """
    given, wanted = ORDERS[format][cell], ORDERS["project"][cell]
    W, R = reorder(layer.W, given, wanted), reorder(layer.R, given, wanted)
    params = {"W_xh": np.ascontiguousarray(W), "W_hh": np.ascontiguousarray(R)}
    halves = (layer.b_in, layer.b_rec)
    if not gradients:
        halves = tuple(np.zeros(len(W), W.dtype) if half is None else half for half in halves)
    ordered = [None if half is None else reorder(half, given, wanted) for half in halves]
    if BIASES[cell] == ("b_h",):
        ordered = [_joined(ordered[0], ordered[1], gradients, biases)]  # (1), (4)
    named = zip(BIASES[cell], ordered, strict=True)
    return params | {name: bias for name, bias in named if bias is not None}  # (2)


def _from_project(
    format: str,
    cell: str,
    params: Tensors,
    named: Mapping[str, str],
    possible: set[str],
    gradients: bool,
) -> tuple[_Layer, Arrays]:
    """The layer in the order of the format, and those of `possible` that it has besides.

    All new arrays.
    """
    given = _taken("project", cell, params, named)
    allowed = {*WEIGHTS["project"], *BIASES[cell], *(possible if cell == "lstm" else ())}
    foreign = params.keys() - {named[base] for base in allowed}
    if foreign:
        raise ValueError(f"{min(foreign)}: {format} has nothing like it in {CALLED[cell]}")
    for names, without in ((BIASES[cell], gradients), (PEEPHOLES, True)):
        missing = [name for name in names if name not in given]
        if missing and not (without and len(missing) == len(names)):
            raise ValueError(f"{named[missing[0]]} is missing")
    order = ORDERS["project"][cell], ORDERS[format][cell]
    moved = {name: reorder(given[name], *order) for name in allowed & given.keys() - possible}
    names = BIASES[cell]
    b_in = moved.get(names[0])
    if len(names) == 2:
        b_rec = moved.get(names[1])
    elif b_in is None:
        b_rec = None
    else:
        b_rec = b_in.copy() if gradients else np.zeros_like(b_in)  # (4), (1)
    others = {name: given[name].copy() for name in possible & given.keys()}
    return _Layer(moved["W_xh"], moved["W_hh"], b_in, b_rec), others


def _joined(b_in: Array | None, b_rec: Array | None, gradients: bool, named: tuple[str, str]) -> Array | None:
    """The one bias of two, of which either may be left out."""
    if b_in is None or b_rec is None:
        return b_rec if b_in is None else b_in
    return _one_bias(b_in, b_rec, gradients, named)


def _one_bias(b_in: Array, b_rec: Array, gradients: bool, named: tuple[str, str]) -> Array:
    """Their sum; of gradients the first, if the second agrees to half of the digits."""
    if not gradients:
        return b_in + b_rec
    error = np.max(np.abs(b_in - b_rec), initial=0)
    norm = np.max(np.abs(b_in), initial=0)
    half_of_the_digits = np.sqrt(np.finfo(np.result_type(b_in, np.float16)).eps)
    if not error <= half_of_the_digits * norm:  # NaN is no agreement
        both = f"the gradients {named[0]} and {named[1]}"
        raise ValueError(f"{both} differ by up to {error:.3g}: they are of one sum")
    return b_in


def _taken(
    format: str,
    cell: str,
    tensors: Tensors,
    named: Mapping[str, str],
    symbols: Mapping[str, str] | None = None,
) -> Arrays:
    """base → array for each base whose name is in tensors, shapes checked.

    `named` is base → name.
    """
    if cell not in ORDERS[format]:
        raise ValueError(f"no cell is called {cell!r}; there are {', '.join(ORDERS[format])}")
    for base in WEIGHTS[format]:
        if named[base] not in tensors:
            there = ", ".join([*tensors][:6]) or "nothing"
            more = ", …" if len(tensors) > 6 else ""
            raise ValueError(f"{named[base]} is missing; there is {there}{more}")
    given = {base: np.asarray(tensors[name]) for base, name in named.items() if name in tensors}
    _check_shapes(format, cell, given, named, symbols or SHAPES[format])
    return given


def _check_shapes(format: str, cell: str, given: Arrays, named: Mapping[str, str], symbols: Mapping[str, str]) -> None:
    recurrent = WEIGHTS[format][1]  # it alone tells the sizes: I is free, biases may be left out
    shape = given[recurrent].shape
    stacked = symbols[recurrent].split().index("GH")
    gates = len(ORDERS[format][cell])
    if len(shape) != 2:
        raise ValueError(f"{named[recurrent]} has {len(shape)} axes: it is a matrix")
    total, fed_back = shape[stacked], shape[1 - stacked]
    if total % gates:
        count = f"{total} {('rows', 'columns')[stacked]}"
        wanted = f"{CALLED[cell]}'s is a multiple of {gates}"
        raise ValueError(f"{named[recurrent]} has {count}: {wanted}")
    hidden = total // gates
    projected = not given.keys().isdisjoint((PROJECTION, "weight_hr"))
    sizes = {
        "GH": total,
        "2GH": 2 * total,
        "H": hidden,
        "3H": 3 * hidden,
        "P": fed_back if projected else hidden,
        "2": 2,
    }
    for base, array in given.items():
        expected = tuple(sizes.get(symbol, "I") for symbol in symbols[base].split())
        if not _fits(array.shape, expected):
            told = str(expected).replace("'", "")  # as a shape is told, (8, I)
            whose = f"{CALLED[cell]} of hidden size {hidden}"
            raise ValueError(f"{named[base]} has the shape {array.shape}: {whose} has {told}")


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    """Whether the shape is the expected one, in which a letter stands for any size."""
    if len(shape) != len(expected):
        return False
    pairs = zip(shape, expected, strict=True)
    return all(isinstance(wanted, str) or size == wanted for size, wanted in pairs)
