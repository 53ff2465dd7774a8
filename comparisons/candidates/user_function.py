"""A user's function with its parameters and inputs: nested as the user has them outside, flat
named arrays inside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ...reference.unrolled import Unrolled
from .. import user_code
from ..errors import BadContract, BadOption
from ..problems.arrays import Array
from ..problems.convention import Convention
from ..problems.named_arrays import flatten, is_differentiable, rebuild, repeated
from .user_cell import as_array, kind_of

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

    @property
    def numpy_only(self) -> bool:
        """Whether the function takes no namespace."""
        if isinstance(self.function, Unrolled):
            return False
        return user_code.parameter_names(self.function)[:1] != ["xp"]

    @property
    def sequence(self) -> tuple[str, ...]:
        """The inputs whose first axis is time by contract: those of a loss given by its step."""
        return self.function.sequence if isinstance(self.function, Unrolled) else ()

    def leaves(self) -> dict[str, Array]:
        """All arrays of params and inputs by path."""
        return {**flatten(self.params), **flatten(self.inputs)}

    def evaluate(
        self, xp: Any, named: Mapping[str, Any], function: Callable[..., Any] | None = None
    ) -> Any:
        """The function (or another of its kind) at named values, in the namespace xp."""
        if self.setup is not None:
            user_code.call("setup", self.setup)
        namespace = [] if self.numpy_only else [xp]
        params, inputs = rebuild(self.params, named), rebuild(self.inputs, named)
        return (function or self.function)(*namespace, params, inputs)

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
        leaves = _leaves_of(returned)
        if returned is None or not leaves:
            raise BadContract(
                f"{self.role} returns an array or a dict of arrays, not {kind_of(returned)} "
                "without any"
            )
        for path, value in leaves.items():
            as_array(f"{self.role}: {path}", value, None)
        if isinstance(returned, tuple | list):
            return tuple(cast(Sequence[Any], returned))
        return returned

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
        originals = self._in_own_dtypes(named)
        copies = _copies(originals)
        params, inputs = rebuild(self.params, copies), rebuild(self.inputs, copies)
        flat = [flatten(item, "cotangent") for item in more]
        handed = [_copies(arrays) for arrays in flat]
        cotangents: list[Any] = []
        for item, arrays in zip(more, handed, strict=True):
            cotangents.append(rebuild(item, arrays, "cotangent"))
        returned = user_code.call(part, function, params, inputs, *cotangents)
        user_code.unchanged(part, copies, originals)
        for given, original in zip(handed, flat, strict=True):
            user_code.unchanged(part, given, original)
        return self.named_gradients(part, returned)

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
        by_path = _by_path(part, returned, self.params)
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
    found: dict[str, Any] = {}
    if isinstance(value, Mapping):
        for key, item in cast(Mapping[Any, Any], value).items():
            found |= _leaves_of(item, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(cast(Sequence[Any], value)):
            found |= _leaves_of(item, f"{path}[{index}]")
    else:
        found[path] = value
    return found


def _copies(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.array(value) for name, value in arrays.items()}


def _scalar(xp: Any, value: Any) -> Any:
    """The value with shape (): (1,) and (1, 1) are scalars too. Raises BadContract."""
    if value is None or isinstance(value, str | bytes | Mapping | list | tuple | set):
        raise BadContract(f"the loss is a scalar, not {kind_of(value)}")
    shape = getattr(value, "shape", ())
    if any(size != 1 for size in shape):
        raise BadContract(f"the loss is a scalar, not an array of shape {tuple(shape)}")
    return xp.reshape(value, ()) if shape else value


def _by_path(part: str, returned: Any, params: Given) -> dict[str, Any]:
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
    found: dict[str, Any] = {}
    for key, value in cast(Mapping[Any, Any], returned).items():
        if _is_nest(value) and _is_nest(params.get(key)):
            _same_nest(f"{part}: {key}", value, params[key])
            leaves = _leaves_of(value, str(key))
        else:
            leaves = {str(key): value}
        for path, leaf in leaves.items():
            # None stands for a gradient that is not given
            if leaf is not None:
                found[path] = leaf
    return found


def _is_nest(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _same_nest(part: str, value: Any, params: Any) -> None:
    """Raises BadContract where a list of gradients is not as long as the list of parameters it
    stands for.
    """
    if isinstance(value, list | tuple) and isinstance(params, list | tuple):
        values, wanted = cast(Sequence[Any], value), cast(Sequence[Any], params)
        if len(values) != len(wanted):
            raise BadContract(
                f"{part} holds {len(values)} gradients for {len(wanted)} parameters; None stands "
                "for one not given"
            )
        for index, (item, param) in enumerate(zip(values, wanted, strict=True)):
            _same_nest(f"{part}[{index}]", item, param)
