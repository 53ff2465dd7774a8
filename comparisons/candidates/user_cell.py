"""A cell from outside, held to its contract at every call.

The contract (docs/your-derivation.md): parameter_shapes(input_size, hidden_size),
state_shapes(hidden_size), step(xp, params, state, x) -> (new_state, cache), step_backward(params,
cache, d_state) -> (d_params, d_x, d_state_prev).

Each step is run again just before its backward, so that a cache that lives on the cell itself is
the right one; and each call gets copies of its own, so that writing into them cannot spoil
another.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np

from .. import user_code
from ..errors import BadContract
from ..problems.arrays import Array, Arrays, is_real

METHODS = ("parameter_shapes", "state_shapes", "step", "step_backward")
Shapes = dict[str, tuple[int, ...]]


class UserCell:
    """The cell as the time loop wants it.

    Raises BadContract, naming the method and what is wrong with what it returned.
    """

    def __init__(self, cell: Any, input_size: int, hidden_size: int) -> None:
        if isinstance(cell, type):
            raise BadContract(f"pass a cell, not its class: {cell.__name__}(…)")
        missing = [name for name in METHODS if not callable(getattr(cell, name, None))]
        if missing:
            raise BadContract(
                f"a cell has the methods {', '.join(METHODS)}; {_name(cell)} lacks "
                f"{', '.join(missing)}"
            )
        self.cell = cell
        self.order: Literal["C", "F"] = "C"
        self.name = _name(cell)
        self.parameters = self._shapes("parameter_shapes", input_size, hidden_size)
        self.states = self._shapes("state_shapes", hidden_size)
        clash = set(self.parameters) & {"x", *(f"{name}_0" for name in self.states)}
        if clash:
            raise BadContract(
                f"{self.name}.parameter_shapes: {', '.join(clash)} already names the input or an "
                "initial state"
            )

    def in_fortran_order(self) -> "UserCell":
        """The same, its methods given arrays whose first index runs fastest in memory."""
        turned = copy.copy(self)
        turned.order = "F"
        return turned

    def parameter_shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """As the cell said when it was first asked."""
        del input_size, hidden_size
        return self.parameters

    def state_shapes(self, hidden_size: int) -> Shapes:
        """As the cell said when it was first asked."""
        del hidden_size
        return self.states

    def step(self, xp: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """(new state, what step_backward needs to run the step again)."""
        recipe = (params, state, x)  # what the step is run again from: the cell has copies alone
        return self._forward(xp, recipe)[0], recipe

    def step_backward(
        self, params: Any, cache: Any, d_state: Any
    ) -> tuple[dict[str, Array], Array, dict[str, Array]]:
        """The cell's own, on the cache of a step run just before."""
        _, cache_of_cell = self._forward(np, cache)
        _, state, x = cache
        part = f"{self.name}.step_backward"
        weights, cotangents = _copies(params, self.order), _copies(d_state, self.order)
        returned = user_code.call(part, self.cell.step_backward, weights, cache_of_cell, cotangents)
        user_code.unchanged(part, {**weights, **cotangents}, {**params, **d_state})
        d_params, d_x, previous = tuple_of(part, returned, 3, "(d_params, d_x, d_state_prev)")
        shapes = {name: np.shape(params[name]) for name in self.parameters}
        return (
            self._arrays("step_backward: d_params", d_params, shapes),
            as_array(f"{part}: d_x", d_x, x.shape),
            self._arrays("step_backward: d_state_prev", previous, _shapes_of(state)),
        )

    def initialise(
        self, rng: "np.random.Generator", input_size: int, hidden_size: int, batch: int
    ) -> dict[str, Array]:
        """What the cell wants to draw itself, of its parameters and of its initial states ("n_0");
        {} where it says nothing.
        """
        draw = getattr(self.cell, "initialise", None)
        if draw is None:
            return {}
        part = f"{self.name}.initialise"
        drawn = user_code.call(part, draw, rng, input_size, hidden_size, batch)
        known = self.parameters | {
            f"{name}_0": (batch, *shape) for name, shape in self.states.items()
        }
        if not isinstance(drawn, Mapping) or not set(cast(Mapping[Any, Any], drawn)) <= set(known):
            raise BadContract(
                f"{part} returns a dict with keys among {', '.join(known)}; not {drawn!r:.200}"
            )
        named = cast(Mapping[str, Any], drawn)
        return {
            name: as_array(f"{part}: {name}", value, known[name]) for name, value in named.items()
        }

    def differentiable_step(self, xp: Any, params: Any, state: Any, x: Any) -> Any:
        """step without its cache, for the references: nothing is copied or checked."""
        part = f"{self.name}.step"
        return user_code.evaluated(part, self.cell.step, xp, dict(params), dict(state), x)[0]

    def _forward(self, xp: Any, recipe: Any) -> tuple[dict[str, Array], Any]:
        params, state, x = recipe
        part = f"{self.name}.step"
        weights, before = _copies(params, self.order), _copies(state, self.order)
        inputs = np.array(x, order=self.order)
        returned = user_code.call(part, self.cell.step, xp, weights, before, inputs)
        given = {**weights, **before, "x": inputs}
        user_code.unchanged(part, given, {**params, **state, "x": x})
        new_state, cache = tuple_of(part, returned, 2, "(new_state, cache)")
        return self._arrays("step: new_state", new_state, _shapes_of(state)), cache

    def _shapes(self, method: str, *sizes: int) -> Shapes:
        part = f"{self.name}.{method}"
        returned = user_code.call(part, getattr(self.cell, method), *sizes)
        if not isinstance(returned, Mapping) or not returned:
            raise BadContract(f"{part} returns a dict of name → shape, not {kind_of(returned)}")
        shapes: Shapes = {}
        for name, shape in cast(Mapping[Any, Any], returned).items():
            sized = (shape,) if isinstance(shape, int) else shape
            if not isinstance(sized, tuple | list) or not all(
                isinstance(size, int) and size > 0 for size in cast(tuple[Any], sized)
            ):
                raise BadContract(
                    f"{part}: the shape of {name!r} is a tuple of positive integers, not {shape!r}"
                )
            shapes[str(name)] = tuple(int(size) for size in cast(tuple[int], sized))
        return shapes

    def _arrays(
        self, part: str, given: Any, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        if not isinstance(given, Mapping):
            raise BadContract(
                f"{self.name}.{part} must be a dict with the keys {', '.join(shapes)}; it is "
                f"{kind_of(given)}"
            )
        named = cast(Mapping[Any, Any], given)
        missing = [name for name in shapes if name not in named]
        extra = [str(name) for name in named if name not in shapes]
        wrong: list[str] = []
        if missing:
            wrong.append(f"lacks {', '.join(missing)}")
        if extra:
            wrong.append(f"has the unknown {', '.join(extra)}")
        if wrong:
            raise BadContract(
                f"{self.name}.{part} {' and '.join(wrong)}; its keys are {', '.join(shapes)}"
            )
        arrays: dict[str, Array] = {}
        for name, shape in shapes.items():
            arrays[name] = as_array(f"{self.name}.{part}[{name!r}]", named[name], shape)
        return arrays


def as_array(part: str, value: Any, shape: tuple[int, ...] | None) -> Array:
    """The value as a real floating-point array.

    Raises BadContract, naming `part`, for anything else and for another shape.
    """
    if type(value) is np.ndarray and value.dtype.kind == "f" and value.shape == shape:
        return np.array(value)
    if value is None or isinstance(value, str | bytes | Mapping):
        raise BadContract(f"{part} is an array, not {kind_of(value)}")
    try:
        array = np.asarray(value)
    except (Exception, RecursionError) as error:
        raise BadContract(f"{part} cannot be made an array: {user_code.describe(error)}") from error
    if array.dtype.kind not in "iub" and not is_real(array.dtype):
        raise BadContract(
            f"{part} is an array of real numbers, not of {array.dtype} ({kind_of(value)})"
        )
    if shape is not None and array.shape != shape:
        raise BadContract(f"{part} has the shape {array.shape}, where {shape} belongs")
    return np.array(array, dtype=array.dtype if is_real(array.dtype) else np.float64)


def kind_of(value: Any) -> str:
    """'a list', 'None', 'a str'."""
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0] in "aeio" or name == "ndarray" else "a"
    return f"{article} {name}"


def _name(cell: Any) -> str:
    return cell.__name__ if isinstance(cell, type) else type(cell).__name__


def tuple_of(part: str, returned: Any, count: int, meaning: str) -> tuple[Any, ...]:
    """What `part` returned as a tuple of `count`.

    Raises BadContract, naming `meaning`, what it should be.
    """
    if not isinstance(returned, tuple | list) or len(cast(tuple[Any], returned)) != count:
        length = (
            f" of {len(cast(tuple[Any], returned))}" if isinstance(returned, tuple | list) else ""
        )
        raise BadContract(f"{part} returns {meaning}, not {kind_of(returned)}{length}")
    return tuple(cast(tuple[Any], returned))


def _shapes_of(arrays: Arrays) -> Shapes:
    return {name: value.shape for name, value in arrays.items()}


def _copies(arrays: Arrays, order: Literal["C", "F"] = "C") -> dict[str, Array]:
    return {name: np.array(value, order=order) for name, value in arrays.items()}
