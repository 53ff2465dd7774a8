"""A user's function with its parameters and inputs: nested as the user has them outside, flat
named arrays inside.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from ...reference.unrolled import Unrolled
from ...reference.worlds import World
from .. import user_code
from ..errors import BadContract, BadOption, CannotFollow
from ..problems.arrays import Array
from ..problems.convention import Convention
from ..problems.named_arrays import (
    Keys,
    Step,
    flatten,
    is_differentiable,
    leaves_in,
    names_in,
    path_of,
    rebuild,
    repeated,
)
from ..problems.tensors import array_of, as_given
from .user_cell import as_array, kind_of
from .user_nests import must_be_readable

Given = Mapping[str, Any]


@dataclass(frozen=True)
class UserFunction:
    """A user's function with its parameters and inputs, flattened to named arrays; `role` is what
    messages call it.
    """

    role: str
    function: Callable[..., Any]
    params: Given
    inputs: Given
    setup: Callable[[], Any] | None
    seed: int

    def __post_init__(self) -> None:
        for what, given in (("params", self.params), ("inputs", self.inputs)):
            if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise BadContract(f"{what} is a dict of name → array, not {kind_of(given)}")
            must_be_readable(what, given)
        if not callable(self.function):
            raise BadContract(f"{self.role} is a function, not {kind_of(self.function)}")
        if self.setup is not None and not callable(self.setup):
            raise BadContract(f"setup is a function, not {kind_of(self.setup)}")
        names = user_code.parameter_names(self.function)
        if len(names) == 3 and names[0] != "xp":
            raise BadContract(
                f"{self.role} takes (xp, params, inputs), the first one called xp, or (params, "
                f"inputs), not {names}"
            )
        clash = set(flatten(self.params)) & set(flatten(self.inputs))
        if clash:
            raise BadContract(
                f"{', '.join(sorted(clash))} is both among params and among inputs: rename one"
            )
        for what, given in (("params", self.params), ("inputs", self.inputs)):
            twice = repeated(given)
            if twice:
                raise BadContract(f"{what}: {', '.join(twice)} names two arrays: rename one")
        if not any(is_differentiable(value) for value in flatten(self.params).values()):
            raise BadContract("params holds no array of real floating-point numbers")

    @cached_property
    def numpy_only(self) -> bool:
        """Whether the function takes no namespace."""
        if isinstance(self.function, Unrolled):
            return False
        return user_code.parameter_names(self.function)[:1] != ["xp"]

    @property
    def sequence(self) -> tuple[str, ...]:
        """The inputs whose first axis is time by contract: those of a loss given by its step."""
        return self.function.sequence if isinstance(self.function, Unrolled) else ()

    @cached_property
    def _names(self) -> tuple[Mapping[Keys, str], Mapping[Keys, str]]:
        """The names of the leaves of params and of inputs, which stay what they are."""
        return names_in(self.params), names_in(self.inputs)

    def leaves(self) -> dict[str, Array]:
        """All arrays of params and inputs by path; none wider than float64."""
        wide = {**flatten(self.params), **flatten(self.inputs)}
        return {path: _not_wider(value) for path, value in wide.items()}

    def _as_given(self, named: Mapping[str, Array]) -> dict[str, Any]:
        """Copies of the values as what the user gave: tensors, byte orders, dtypes."""
        given = {**leaves_in(self.params), **leaves_in(self.inputs)}
        return {path: as_given(given.get(path), np.array(value)) for path, value in named.items()}

    def copied(self, world: World | None = None) -> "UserFunction":
        """The same on copies of all that its code reaches, in that world or one of its own."""
        world, new = world or World(), copy.copy(self)
        for name in ("function", "setup"):
            object.__setattr__(new, name, world.copy(getattr(self, name)))
        return new

    def aside(self, code: Any) -> "tuple[UserFunction, Any]":
        """Copies of this and of other code of the user's, which share what the originals do."""
        world = World()
        return self.copied(world), world.copy(code)

    def evaluate(
        self, xp: Any, named: Mapping[str, Any], function: Callable[..., Any] | None = None
    ) -> Any:
        """The function (or another of its kind) at named values, in the namespace xp."""
        if self.setup is not None:
            user_code.call("setup", self.setup)
        namespace = [] if self.numpy_only else [xp]
        of_params, of_inputs = self._names
        params = rebuild(self.params, named, names=of_params)
        inputs = rebuild(self.inputs, named, names=of_inputs)
        return user_code.evaluated(self.role, function or self.function, *namespace, params, inputs)

    def numpy(self, named: Mapping[str, Array], function: Callable[..., Any] | None = None) -> Any:
        """The same in NumPy, on copies; what goes wrong inside is said of the user's function."""
        copies = _copies(named)
        result = user_code.call(self.role, self.evaluate, np, copies, function)
        user_code.unchanged(self.role, copies, named)
        return result

    def objective(self, convention: Convention) -> Callable[[Any, Mapping[str, Any]], Any]:
        """scalar(xp, named): the loss; or the function whose gradient is the truncated one."""
        function = self.function
        if convention.truncation is not None:
            if not isinstance(function, Unrolled):
                raise BadOption(
                    "convention: truncation needs the loss as an Unrolled: only then are its "
                    "steps known"
                )
            function = function.truncated(convention.truncation)
        return lambda xp, named: _scalar(xp, self.evaluate(xp, named, function))

    def must_not_be_truncated(self, convention: Convention) -> None:
        """Raises BadOption: without a loss there are no steps to cut."""
        if convention.truncation is not None:
            raise BadOption(
                "convention: truncation needs a loss given as an Unrolled; a function without "
                "loss has no steps to cut"
            )

    def outputs(self) -> Any:
        """What the function returns at the given point, in NumPy.

        Raises BadContract unless it is an array or a dict of them.
        """
        returned = self.numpy(self.leaves())
        must_be_readable(self.role, {"": returned}, of_numbers=False)
        leaves = _leaves_of(returned)
        if returned is None or not leaves:
            raise BadContract(
                f"{self.role} returns an array or a dict of arrays, not {kind_of(returned)} "
                "without any"
            )
        for path, value in leaves.items():
            as_array(f"{self.role}: {path}", value, None)
        return tuple(cast(Any, returned)) if isinstance(returned, list) else returned

    def numpy_outputs(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """What the function returns in NumPy, by path."""
        return _leaves_of(self.evaluate(np, named))

    def inner_product(
        self, cotangents: Mapping[str, Array]
    ) -> Callable[[Any, Mapping[str, Any]], Any]:
        """scalar(xp, named) = Σ ⟨cotangent, output⟩."""

        def scalar(xp: Any, named: Mapping[str, Any]) -> Any:
            outputs = _leaves_of(self.evaluate(xp, named))
            products: list[Any] = []
            for path, cotangent in cotangents.items():
                if path not in outputs:
                    raise CannotFollow(f"{self.role} does not return {path} here")
                weights = xp.asarray(np.array(cotangent))
                products.append(xp.sum(outputs[path] * weights))
            return sum(products[1:], start=products[0])

        return scalar

    def call(
        self, part: str, function: Callable[..., Any], named: Mapping[str, Array], more: list[Any]
    ) -> dict[str, Array]:
        """The user's gradients by path, each checked for its key, type and shape."""
        if self.setup is not None:
            user_code.call("setup", self.setup)
        if not callable(function):
            raise BadContract(f"{part} is a function, not {kind_of(function)}")
        originals = self._in_own_dtypes(named)
        copies = self._as_given(originals)
        params, inputs = rebuild(self.params, copies), rebuild(self.inputs, copies)
        flat = [flatten(item, "cotangent") for item in more]
        handed = [_copies(arrays) for arrays in flat]
        cotangents: list[Any] = []
        for item, arrays in zip(more, handed, strict=True):
            cotangents.append(rebuild(item, arrays, "cotangent"))
        returned = user_code.call(part, function, params, inputs, *cotangents)
        after = {path: array_of(value) for path, value in copies.items()}
        user_code.unchanged(part, after, originals)
        for given, original in zip(handed, flat, strict=True):
            user_code.unchanged(part, given, original)
        return self.named_gradients(part, returned)

    def value_of(
        self, part: str, function: Callable[..., Any], named: Mapping[str, Array]
    ) -> float:
        """The number that function(params, inputs) returns at named values, on copies."""
        if self.setup is not None:
            user_code.call("setup", self.setup)
        originals = self._in_own_dtypes(named)
        copies = _copies(originals)
        params, inputs = rebuild(self.params, copies), rebuild(self.inputs, copies)
        returned = user_code.call(part, function, params, inputs)
        user_code.unchanged(part, copies, originals)
        return self.as_number(part, returned)

    def as_number(self, part: str, returned: Any) -> float:
        """What `part` returned as a number. Raises BadContract."""
        if returned is None:
            raise BadContract(f"{part} returns a number, not None")
        array = as_array(part, returned, None)
        if array.size != 1:
            raise BadContract(f"{part} returns a scalar, not an array of shape {array.shape}")
        return float(array.reshape(()))

    def parameter_paths(self) -> list[str]:
        """The paths of the params that have a gradient."""
        params = flatten(self.params)
        return [path for path, value in params.items() if is_differentiable(value)]

    def _in_own_dtypes(self, named: Mapping[str, Array]) -> dict[str, Array]:
        """The values in the dtypes that the user gave.

        Other than float64 they are only where the code is asked for its own rounding: they stay.
        """
        leaves = self.leaves()
        own: dict[str, Array] = {}
        for name, value in named.items():
            is_double = value.dtype == np.float64
            own[name] = value.astype(leaves[name].dtype) if is_double else value
        return own

    def named_gradients(self, part: str, returned: Any) -> dict[str, Array]:
        """What `part` returned, by path. Raises BadContract."""
        leaves = self.leaves()
        by_path = _by_path(part, returned, self.params, self.inputs)
        unknown = [path for path in by_path if path not in leaves]
        if unknown:
            raise BadContract(
                f"{part} returned {', '.join(unknown)}, which names no param and no input; there "
                f"are {', '.join(leaves)}"
            )
        for path in by_path:
            if not is_differentiable(leaves[path]):
                kind = leaves[path].dtype
                raise BadContract(
                    f"{part} returned a gradient for {path}, which holds {kind}: give it as "
                    "floating-point numbers"
                )
        gradients: dict[str, Array] = {}
        for path, value in by_path.items():
            gradients[path] = as_array(f"{part}: {path}", value, leaves[path].shape)
        if not gradients:
            raise BadContract(
                f"{part} returned no gradient; its keys name params: "
                f"{', '.join(flatten(self.params))}"
            )
        return gradients


def _leaves_of(value: Any, path: str = "output") -> dict[str, Any]:
    """Outputs by path, of whatever framework they are."""
    return leaves_in(value, path)


def _not_wider(value: Array) -> Array:
    """The array, in float64 or complex128 where it is wider: no framework has longdouble."""
    if value.dtype.kind not in "fc":
        return value
    widest = np.dtype(np.float64 if value.dtype.kind == "f" else np.complex128)
    return value.astype(widest) if value.dtype.itemsize > widest.itemsize else value


def _copies(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.array(value) for name, value in arrays.items()}


def _scalar(xp: Any, value: Any) -> Any:
    """The value with shape (): (1,) and (1, 1) are scalars too. Raises BadContract."""
    if isinstance(value, int | float | complex):
        return value
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple):
        raise BadContract(f"the loss is a scalar, not {kind_of(value)}")
    sizes = cast(tuple[int, ...], shape)
    if any(size != 1 for size in sizes):
        raise BadContract(f"the loss is a scalar, not an array of shape {tuple(sizes)}")
    return xp.reshape(value, ()) if sizes else value


def _by_path(part: str, returned: Any, params: Given, inputs: Given) -> dict[str, Any]:
    """{path: value} of a dict, nested or by path, or of a sequence in the order of params."""
    if isinstance(returned, tuple | list):
        values = cast(Sequence[Any], returned)
        if len(values) != len(params):
            raise BadContract(
                f"{part} returned {len(values)} gradients for {len(params)} params "
                f"({', '.join(map(str, params))})"
            )
        returned = dict(zip(params, values, strict=True))
    if not isinstance(returned, Mapping):
        raise BadContract(
            f"{part} returns a dict of name → gradient, or a sequence in the order of params, not "
            f"{kind_of(returned)}"
        )
    known, names = {**inputs, **params}, {**names_in(inputs), **names_in(params)}
    found: dict[str, Any] = {}
    for key, value in cast(Mapping[Any, Any], returned).items():
        for keys, leaf in _beside(part, value, known.get(key), (Step(key),)):
            path = names.get(keys) or path_of(keys)
            if path in found:
                raise BadContract(f"{part} returned two gradients for {path}")
            # None stands for a gradient that is not given
            if leaf is not None:
                found[path] = leaf
    return found


def _beside(part: str, value: Any, given: Any, keys: Keys) -> Iterator[tuple[Keys, Any]]:
    """(keys, gradient) of what was returned for a nest, or for a single array.

    An array may stand for a list of as many. Raises BadContract where a list is not as long as
    the one it stands for.
    """
    if not isinstance(given, Mapping | list | tuple):
        yield keys, value
    elif isinstance(given, Mapping):
        named, nest = cast(Mapping[Any, Any], value), cast(Mapping[Any, Any], given)
        if not isinstance(value, Mapping):
            yield keys, value
            return
        for key, item in named.items():
            yield from _beside(part, item, nest.get(key), (*keys, Step(key)))
    elif _is_sequence(value):
        values, nest = cast(Sequence[Any], value), cast(Sequence[Any], given)
        if len(values) != len(nest):
            raise BadContract(
                f"{part}: {path_of(keys)} holds {len(values)} gradients for {len(nest)} parameters;"
                " None stands for one not given"
            )
        for index, (item, below) in enumerate(zip(values, nest, strict=True)):
            yield from _beside(part, item, below, (*keys, Step(index, is_index=True)))
    else:
        yield keys, value


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
