"""What each of NumPy's functions is, done by torch: tables, and what torch._numpy does not have.

Names are those below `numpy`: "tanh", "linalg.norm". The functions here take and give arrays of
torch._numpy; those of `DISCRETE` are NumPy's own, on the numbers.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

torch_numpy: Any = importlib.import_module("torch._numpy")
of_tensor = torch_numpy.ndarray

TorchArray: TypeAlias = Any  # torch._numpy's array

# Results without a derivative: shapes, truth values, places; and steps, whose derivative is zero.
DISCRETE = frozenset(
    "all allclose any argmax argmin argpartition argsort argwhere array2string array_equal "
    "array_equiv array_repr array_str bincount can_cast common_type count_nonzero digitize "
    "empty_like equal flatnonzero floor floor_divide ceil fix greater greater_equal heaviside "
    "isclose iscomplexobj isfinite isin isinf isnan isneginf isposinf isreal isrealobj isscalar "
    "less less_equal lexsort logical_and logical_not logical_or logical_xor min_scalar_type "
    "ndim nonzero not_equal ones_like result_type rint searchsorted shape shares_memory "
    "may_share_memory sign signbit size spacing trunc unique_values zeros_like linalg.matrix_rank "
    "around round round_ triu_indices_from tril_indices_from nanargmax nanargmin iterable".split()
)

# Functions that take several arrays as one sequence.
SEQUENCES = frozenset(
    "concatenate concat stack hstack vstack dstack column_stack row_stack block choose select "
    "linalg.multi_dot broadcast_arrays".split()
)

# Methods of an array that are the functions of their names.
METHODS = tuple(
    "all any argmax argmin argpartition argsort clip conj conjugate cumprod cumsum diagonal dot "
    "max mean min nonzero prod ptp ravel repeat round searchsorted squeeze std sum swapaxes take "
    "trace var choose compress".split()
)

OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "pow": "power",
    "mod": "remainder",
    "matmul": "matmul",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}
UNARY = {"neg": "negative", "abs": "absolute"}

UFUNC_METHODS = {
    ("add", "reduce"): "sum",
    ("multiply", "reduce"): "prod",
    ("maximum", "reduce"): "max",
    ("minimum", "reduce"): "min",
    ("logaddexp", "reduce"): "_logsumexp",
    ("add", "accumulate"): "cumsum",
    ("multiply", "accumulate"): "cumprod",
}

# The same function by other names.
ALIASES = {
    "absolute": "abs",
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atanh": "arctanh",
    "atan2": "arctan2",
    "pow": "power",
    "concat": "concatenate",
    "permute_dims": "transpose",
    "asanyarray": "asarray",
    "asarray_chkfinite": "asarray",
    "asfortranarray": "asarray",
    "ascontiguousarray": "asarray",
    "cumulative_sum": "cumsum",
    "cumulative_prod": "cumprod",
    "amax": "max",
    "amin": "min",
    "true_divide": "divide",
    "linalg.matmul": "matmul",
    "linalg.outer": "outer",
    "linalg.trace": "trace",
    "linalg.diagonal": "diagonal",
    "linalg.tensordot": "tensordot",
    "linalg.vector_norm": "linalg.norm",
}


def real(name: str) -> Any:
    """NumPy's own; of scipy's ufuncs, which are told by name alone, None."""
    found: Any = np
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def of_torch(name: str) -> Callable[..., Any] | None:
    """torch._numpy's."""
    found: Any = torch_numpy
    for part in ALIASES.get(name, name).split("."):
        found = getattr(found, part, None)
    return found


def _of(function: Callable[..., torch.Tensor]) -> Callable[..., TorchArray]:
    """A function of tensors as one of arrays."""

    @functools.wraps(function)
    def of_arrays(*args: Any, **kwargs: Any) -> TorchArray:
        tensors = [each.tensor if isinstance(each, torch_numpy.ndarray) else each for each in args]
        return of_tensor(function(*tensors, **kwargs))

    return of_arrays


def _floating(value: Any) -> torch.Tensor:
    tensor = value.tensor if isinstance(value, torch_numpy.ndarray) else torch.as_tensor(value)
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.double()


def array(value: Any, dtype: Any = None, copy: bool = True, ndmin: int = 0, **_: Any) -> TorchArray:
    """np.array of an array, or of what was stacked to one: a copy."""
    found = value if dtype is None else value.astype(dtype)
    tensor = found.tensor.clone() if copy else found.tensor
    return of_tensor(tensor.reshape((1,) * (ndmin - tensor.ndim) + tuple(tensor.shape)))


def asarray(value: Any, dtype: Any = None, **_: Any) -> TorchArray:
    """np.asarray of an array: itself."""
    return value if dtype is None or value.dtype == dtype else value.astype(dtype)


def ravel(value: TorchArray, order: str = "C") -> TorchArray:
    """np.ravel: a view where there can be one."""
    tensor = value.tensor if order != "F" else value.tensor.permute(*range(value.ndim)[::-1])
    return of_tensor(tensor.reshape(-1))


def reshape(value: TorchArray, *args: Any, order: str = "C", **kwargs: Any) -> TorchArray:
    """np.reshape(a, shape)."""
    wanted = args[0] if args else kwargs.get("shape", kwargs.get("newshape"))
    given: Any = wanted
    sizes = (given,) if isinstance(given, int) else tuple(int(size) for size in given)
    if order == "F":
        axes = range(value.ndim)[::-1]
        turned = value.tensor.permute(*axes).reshape(sizes[::-1])
        return of_tensor(turned.permute(*range(len(sizes))[::-1]))
    return of_tensor(value.tensor.reshape(sizes))


def clip(value: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> TorchArray:
    """np.clip: by minimum and maximum."""
    least, most = kwargs.get("min", a_min), kwargs.get("max", a_max)
    found = value
    if least is not None:
        found = torch_numpy.maximum(found, least)
    return found if most is None else torch_numpy.minimum(found, most)


def full_like(value: TorchArray, fill_value: Any, dtype: Any = None, **_: Any) -> TorchArray:
    """np.full_like, with a number that may be traced."""
    kind = (dtype or value.dtype).torch_dtype
    filling = fill_value.tensor if isinstance(fill_value, torch_numpy.ndarray) else fill_value
    return of_tensor(torch.as_tensor(filling, dtype=kind).expand(value.shape).clone())


def full(shape: Any, fill_value: TorchArray, dtype: Any = None, **_: Any) -> TorchArray:
    """np.full with a number that is traced."""
    tensor = fill_value.tensor if dtype is None else fill_value.astype(dtype).tensor
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return of_tensor(tensor.expand(sizes).clone())


def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, **_: Any
) -> TorchArray:
    """log Σ e^a."""
    if b is not None:
        raise NotImplementedError("with weights")
    tensor = _floating(a)
    axes = tuple(range(tensor.ndim)) if axis is None else axis
    return of_tensor(torch.logsumexp(tensor, axes, keepdim=keepdims))


def power(x1: Any, x2: Any) -> Any:
    """np.power; of a number as exponent, with its exact derivative."""
    exponent = x2.tensor if isinstance(x2, torch_numpy.ndarray) else torch.as_tensor(x2)
    if exponent.ndim or exponent.requires_grad or not isinstance(x1, torch_numpy.ndarray):
        return torch_numpy.power(x1, x2)
    strong = torch_numpy.ones((), dtype=x2.dtype) if isinstance(x2, torch_numpy.ndarray) else x2
    kind = torch_numpy.result_type(x1, strong).torch_dtype
    return of_tensor(torch.pow(x1.tensor.to(kind), exponent.item()))


def softmax(x: Any, axis: Any = None) -> TorchArray:
    """scipy.special.softmax."""
    tensor = _floating(x)
    if axis is None:
        return of_tensor(torch.softmax(tensor.reshape(-1), 0).reshape(tensor.shape))
    return of_tensor(torch.softmax(tensor, axis))


def log_softmax(x: Any, axis: Any = None) -> TorchArray:
    """scipy.special.log_softmax."""
    tensor = _floating(x)
    if axis is None:
        return of_tensor(torch.log_softmax(tensor.reshape(-1), 0).reshape(tensor.shape))
    return of_tensor(torch.log_softmax(tensor, axis))


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> TorchArray:
    """np.linalg.norm; of all entries, whatever the shape, where neither order nor axis is given."""
    if ord is None and axis is None:
        found = torch.linalg.vector_norm(_floating(x))
        shape = (1,) * x.ndim if keepdims else ()
        return of_tensor(found.reshape(shape))
    return torch_numpy.linalg.norm(x, ord, axis, keepdims)


def block(arrays: Any) -> TorchArray:
    """np.block of nested lists."""

    def joined(part: Any, axis: int) -> TorchArray:
        if not isinstance(part, list):
            return torch_numpy.atleast_2d(part)
        rows = [joined(item, axis + 1) for item in part]
        return torch_numpy.concatenate(rows, axis=axis)

    nested = any(isinstance(item, list) for item in arrays)
    return joined(arrays, -2) if nested else joined(arrays, -1)


def select(condlist: Any, choicelist: Any, default: Any = 0) -> TorchArray:
    """np.select: the first that holds."""
    found = default
    for condition, choice in zip(condlist[::-1], choicelist[::-1], strict=True):
        found = torch_numpy.where(condition, choice, found)
    return found


def ptp(a: Any, axis: Any = None, keepdims: bool = False, **_: Any) -> TorchArray:
    """np.ptp."""
    most = torch_numpy.max(a, axis=axis, keepdims=keepdims)
    return most - torch_numpy.min(a, axis=axis, keepdims=keepdims)


def trapezoid(y: Any, x: Any = None, dx: float = 1.0, axis: int = -1) -> TorchArray:
    """np.trapezoid."""
    tensor = _floating(y)
    if x is None:
        return of_tensor(torch.trapezoid(tensor, dx=dx, dim=axis))
    return of_tensor(torch.trapezoid(tensor, _floating(x), dim=axis))


def delete(arr: TorchArray, obj: Any, axis: Any = None) -> TorchArray:
    """np.delete."""
    flat = of_tensor(arr.tensor.reshape(-1)) if axis is None else arr
    along = 0 if axis is None else axis
    index = obj.tensor.numpy() if isinstance(obj, torch_numpy.ndarray) else obj
    kept = np.delete(np.arange(flat.shape[along]), index)
    return of_tensor(flat.tensor.index_select(along, torch.from_numpy(kept)))


def insert(arr: TorchArray, obj: Any, values: Any, axis: Any = None) -> TorchArray:
    """np.insert before one index."""
    if not isinstance(obj, int):
        raise NotImplementedError("at several places")
    flat = of_tensor(arr.tensor.reshape(-1)) if axis is None else arr
    along = 0 if axis is None else axis
    at = obj + flat.shape[along] if obj < 0 else obj
    before, after = flat.tensor.split([at, flat.shape[along] - at], along)
    given = torch_numpy.asarray(values).tensor.to(before.dtype)
    if given.ndim < flat.ndim:
        shape = list(flat.shape)
        shape[along] = 1 if axis is not None else given.numel()
        given = given.expand(shape) if axis is not None else given.reshape(shape)
    return of_tensor(torch.cat([before, given, after], along))


def rollaxis(a: TorchArray, axis: int, start: int = 0) -> TorchArray:
    """np.rollaxis."""
    axes = list(range(a.ndim))
    moved = axes.pop(axis)
    place = start % (a.ndim + 1) if start < 0 else start
    axes.insert(place - 1 if moved < place else place, moved)
    return of_tensor(a.tensor.permute(axes))


def polyval(p: Any, x: Any) -> TorchArray:
    """np.polyval by Horner's rule."""
    total: Any = 0.0
    for coefficient in p:
        total = total * x + coefficient
    return total


def _nan_to(value: float, function: Callable[..., Any]) -> Callable[..., Any]:
    def of(a: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = _floating(a)
        filled = torch.where(torch.isnan(tensor), value, tensor)
        return function(of_tensor(filled), *args, **kwargs)

    return of


def matrix_transpose(x: TorchArray) -> TorchArray:
    """np.matrix_transpose."""
    return of_tensor(x.tensor.mT)


def vecdot(x1: Any, x2: Any, axis: int = -1) -> Any:
    """np.vecdot of real numbers."""
    return torch_numpy.sum(x1 * x2, axis=axis)


def matvec(x1: Any, x2: Any) -> Any:
    """np.matvec."""
    return torch_numpy.matmul(x1, x2[..., None])[..., 0]


def vecmat(x1: Any, x2: Any) -> Any:
    """np.vecmat of real numbers."""
    return torch_numpy.matmul(x1[..., None, :], x2)[..., 0, :]


def astype(x: TorchArray, dtype: Any, **_: Any) -> Any:
    """np.astype."""
    return x.astype(dtype)


def unstack(x: TorchArray, axis: int = 0) -> Any:
    """np.unstack."""
    return tuple(of_tensor(part) for part in torch.unbind(x.tensor, axis))


def nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, **kwargs: Any) -> TorchArray:
    """np.nan_to_num."""
    del copy
    limits = {name: kwargs.get(name) for name in ("posinf", "neginf")}
    return of_tensor(torch.nan_to_num(_floating(x), nan=nan, **limits))


def pad(array: TorchArray, pad_width: Any, mode: str = "constant", **kwargs: Any) -> TorchArray:
    """np.pad with a constant."""
    if mode != "constant":
        raise NotImplementedError(f"mode {mode}")
    widths = np.broadcast_to(np.asarray(pad_width), (array.ndim, 2))
    flat = [int(width) for pair in widths[::-1] for width in pair]
    value = kwargs.get("constant_values", 0)
    return of_tensor(torch.nn.functional.pad(array.tensor, flat, value=value))


SUPPLEMENTS: dict[str, Callable[..., Any]] = {
    "array": array,
    "asarray": asarray,
    "asanyarray": asarray,
    "ascontiguousarray": asarray,
    "asfortranarray": asarray,
    "astype": astype,
    "block": block,
    "clip": clip,
    "copy": array,
    "delete": delete,
    "erf": _of(torch.special.erf),
    "erfc": _of(torch.special.erfc),
    "expit": _of(torch.special.expit),
    "gammaln": _of(torch.special.gammaln),
    "xlogy": _of(torch.special.xlogy),
    "log_expit": _of(torch.nn.functional.logsigmoid),
    "log_softmax": log_softmax,
    "logit": _of(torch.special.logit),
    "logsumexp": logsumexp,
    "_logsumexp": logsumexp,
    "ndtr": _of(torch.special.ndtr),
    "softmax": softmax,
    "full": full,
    "full_like": full_like,
    "insert": insert,
    "rollaxis": rollaxis,
    "linalg.matrix_transpose": matrix_transpose,
    "linalg.norm": norm,
    "linalg.vector_norm": norm,
    "matrix_transpose": matrix_transpose,
    "matvec": matvec,
    "nan_to_num": nan_to_num,
    "nanmax": _nan_to(-np.inf, torch_numpy.max),
    "nanmin": _nan_to(np.inf, torch_numpy.min),
    "nanprod": _nan_to(1.0, torch_numpy.prod),
    "nansum": _nan_to(0.0, torch_numpy.sum),
    "pad": pad,
    "polyval": polyval,
    "power": power,
    "pow": power,
    "float_power": power,
    "ptp": ptp,
    "ravel": ravel,
    "reshape": reshape,
    "select": select,
    "trapezoid": trapezoid,
    "unstack": unstack,
    "vecdot": vecdot,
    "vecmat": vecmat,
}


def _copyto(target: Any, source: Any, casting: str = "same_kind", where: Any = True) -> None:
    del casting
    if where is True:
        target[...] = source
        return
    chosen = np.broadcast_to(np.asarray(where), target.shape)
    shaped = source if np.ndim(source) == 0 else np.broadcast_to(source, target.shape)[chosen]
    target[chosen] = shaped


def _fill_diagonal(target: Any, value: Any, wrap: bool = False) -> None:
    if wrap or target.ndim != 2:
        raise NotImplementedError("np.fill_diagonal of this kind")
    along = np.arange(min(target.shape))
    target[along, along] = value


def _put(target: Any, indices: Any, values: Any, **_: Any) -> None:
    target.put(indices, values)


def _place(target: Any, mask: Any, values: Any) -> None:
    target[np.asarray(mask, dtype=bool)] = values


# What NumPy does to its first argument, a traced array.
IN_PLACE: dict[str, Callable[..., None]] = {
    "copyto": _copyto,
    "fill_diagonal": _fill_diagonal,
    "place": _place,
    "put": _put,
    "putmask": _place,
}
