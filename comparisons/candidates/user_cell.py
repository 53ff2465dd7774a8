"""A cell from outside, held to its contract at every call.

The contract (docs/your-derivation.md): parameter_shapes(input_size, hidden_size),
state_shapes(hidden_size), step(xp, params, state, x) -> (new_state, cache), step_backward(params,
cache, d_state) -> (d_params, d_x, d_state_prev).

Each step is run again just before its backward, so that a cache that lives on the cell itself is
the right one; and each call gets copies of its own, so that writing into them cannot spoil
another.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from ...reference.worlds import World
from .. import user_code
from ..errors import BadContract, CannotFollow
from ..problems.arrays import BFLOAT16, Array, Arrays, is_real
from ..problems.names import Role, a_name, marked
from ..problems.tensors import array_of

LARGEST = 10**12  # size of an axis
MOST_TOLD = 12  # names that a message lists
METHODS = ("parameter_shapes", "state_shapes", "step", "step_backward")
Shapes = dict[str, tuple[int, ...]]
Names = dict[str, str]  # what the user calls it → what we call it


class UserCell:
    """The cell as the time loop wants it.

    Outside it parameters and states have names of ours (comparisons.problems.names); the cell's
    own methods are handed, and return, the names that it declared, these alone and in that order.

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
        self.gives_d_x: bool | None = None  # not known before step_backward was asked
        weights = self._shapes("parameter_shapes", input_size, hidden_size)
        states = self._shapes("state_shapes", hidden_size)
        self.weights: Names = {name: marked(Role.PARAMETER, name) for name in weights}
        self.parts: Names = {name: marked(Role.STATE, name) for name in states}
        self.parameters: Shapes = _ours(weights, self.weights)
        self.states: Shapes = _ours(states, self.parts)

    def aside(self) -> "UserCell":
        """The same on a copy of the user's cell, for those of whom nothing is to stay in it."""
        new = copy.copy(self)
        new.cell = World().copy(self.cell)
        return new

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
        weights = _users(params, self.weights)
        cotangents = _users(d_state, self.parts)
        own, total = _copies(weights, self.order), _copies(cotangents, self.order)
        asked = self.cell.step_backward
        returned = user_code.call(part, asked, dict(own), cache_of_cell, dict(total))
        user_code.unchanged(part, own, weights)
        user_code.unchanged(part, total, cotangents)
        d_params, d_x, previous = tuple_of(part, returned, 3, "(d_params, d_x, d_state_prev)")
        shapes = _shapes_of(weights)
        d_weights = self._arrays("step_backward: d_params", d_params, shapes)
        d_x = self._d_x(part, d_x, x)
        shapes = _shapes_of(_users(state, self.parts))
        d_previous = self._arrays("step_backward: d_state_prev", previous, shapes)
        return _ours(d_weights, self.weights), d_x, _ours(d_previous, self.parts)

    def _d_x(self, part: str, d_x: Any, x: Array) -> Array:
        """The gradient of x; zeros that nobody reads where step_backward gives None for it."""
        gives = d_x is not None
        if self.gives_d_x not in (None, gives):
            raise BadContract(f"{part}: d_x is an array at one step, and None at another")
        self.gives_d_x = gives
        if not gives:
            return np.zeros_like(x)
        return _beside_others(as_array(f"{part}: d_x", d_x, x.shape))

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
        named = _mapping(part, drawn)
        known = self._drawable(batch)
        unknown = [name for name in named if name not in known]
        if unknown:
            among = ", ".join(known)
            raise BadContract(
                f"{part} returned {_listed(unknown)}; it returns a dict with keys among {among}"
            )
        found: dict[str, Array] = {}
        for name, value in named.items():
            ours, shape = known[name]
            found[ours] = as_array(f"{part}: {name}", value, shape)
        return found

    def _drawable(self, batch: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What `initialise` may return: the user's name → ours, and the shape.

        A parameter goes before an initial state of the same name.
        """
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, ours in self.weights.items():
            found[name] = ours, self.parameters[ours]
        for name, ours in self.parts.items():
            found.setdefault(f"{name}_0", (f"{ours}_0", (batch, *self.states[ours])))
        return found

    def differentiable_step(self, xp: Any, params: Any, state: Any, x: Any) -> Any:
        """step without its cache, for the references: nothing is copied.

        Raises CannotFollow where it does not return the states.
        """
        weights, before = _users(params, self.weights), _users(state, self.parts)
        returned = user_code.evaluated(f"{self.name}.step", self.cell.step, xp, weights, before, x)
        try:
            new_state = returned[0]
            return {ours: new_state[name] for name, ours in self.parts.items()}
        except (TypeError, KeyError, IndexError) as error:
            raise CannotFollow(
                f"{self.name}.step returns (new_state, cache), not {kind_of(returned)}, here"
            ) from error

    def _forward(self, xp: Any, recipe: Any) -> tuple[dict[str, Array], Any]:
        params, state, x = recipe
        part = f"{self.name}.step"
        weights, before = _users(params, self.weights), _users(state, self.parts)
        own, own_state = _copies(weights, self.order), _copies(before, self.order)
        inputs = np.array(x, order=self.order)
        returned = user_code.call(part, self.cell.step, xp, dict(own), dict(own_state), inputs)
        user_code.unchanged(part, own, weights)
        user_code.unchanged(part, own_state, before)
        user_code.unchanged(part, {"x": inputs}, {"x": x})
        new_state, cache = tuple_of(part, returned, 2, "(new_state, cache)")
        arrays = self._arrays("step: new_state", new_state, _shapes_of(before))
        return _ours(arrays, self.parts), cache

    def _shapes(self, method: str, *sizes: int) -> Shapes:
        part = f"{self.name}.{method}"
        returned = user_code.call(part, getattr(self.cell, method), *sizes)
        if not isinstance(returned, Mapping) or not returned:
            raise BadContract(f"{part} returns a dict of name → shape, not {kind_of(returned)}")
        shapes: Shapes = {}
        for key, shape in _mapping(part, returned).items():
            name = a_name(part, key)
            sized = cast(Any, shape if isinstance(shape, tuple | list) else (shape,))
            if not all(_is_size(size) for size in sized):
                raise BadContract(
                    f"{part}: the shape of {name!r} is a tuple of positive integers, not "
                    f"{user_code.spelled(shape)}"
                )
            shapes[name] = tuple(int(size) for size in sized)
        return shapes

    def _arrays(
        self, part: str, given: Any, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        if not isinstance(given, Mapping):
            raise BadContract(
                f"{self.name}.{part} must be a dict with the keys {', '.join(shapes)}; it is "
                f"{kind_of(given)}"
            )
        named = _mapping(f"{self.name}.{part}", given)
        missing = [name for name in shapes if name not in named]
        extra = [name for name in named if name not in shapes]
        wrong: list[str] = []
        if missing:
            wrong.append(f"lacks {', '.join(missing)}")
        if extra:
            wrong.append(f"has the unknown {_listed(extra)}")
        if wrong:
            raise BadContract(
                f"{self.name}.{part} {' and '.join(wrong)}; its keys are {', '.join(shapes)}"
            )
        arrays: dict[str, Array] = {}
        for name, shape in shapes.items():
            array = as_array(f"{self.name}.{part}[{name!r}]", named[name], shape)
            arrays[name] = _beside_others(array)
        return arrays


def as_array(part: str, value: Any, shape: tuple[int, ...] | None) -> Array:
    """The value as a real floating-point array.

    Raises BadContract, naming `part`, for anything else and for another shape.
    """
    if type(value) is np.ndarray and value.dtype.kind == "f" and value.shape == shape:
        return np.array(value, dtype=value.dtype.newbyteorder("="))
    if value is None or isinstance(value, str | bytes | Mapping):
        raise BadContract(f"{part} is an array, not {kind_of(value)}")
    if isinstance(value, np.ma.MaskedArray):
        raise BadContract(f"{part} is a masked array: fill it")
    try:
        array = array_of(value)
    except (Exception, RecursionError) as error:
        raise BadContract(f"{part} cannot be made an array: {user_code.describe(error)}") from error
    if array.dtype.kind not in "iub" and not is_real(array.dtype):
        raise BadContract(
            f"{part} is an array of real numbers, not of {array.dtype} ({kind_of(value)})"
        )
    if shape is not None and array.shape != shape:
        raise BadContract(f"{part} has the shape {array.shape}, where {shape} belongs")
    real = array.dtype if is_real(array.dtype) else np.dtype(np.float64)
    return np.array(array, dtype=real.newbyteorder("="))


def _beside_others(array: Array) -> Array:
    """The array, bfloat16 in float32: NumPy cannot add it to what is in float16."""
    return array.astype(np.float32) if array.dtype == BFLOAT16 else array


def kind_of(value: Any) -> str:
    """'a list', 'None', 'a str'."""
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0] in "aeio" or name == "ndarray" else "a"
    return f"{article} {name}"


def _is_size(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(0 < cast(Any, value) <= LARGEST)


def _listed(names: Sequence[Any]) -> str:
    """The first of them, as they are printed."""
    told = [
        f"{name}" if isinstance(name, str) else user_code.spelled(name)
        for name in names[:MOST_TOLD]
    ]
    return ", ".join(told) + (", …" if len(names) > MOST_TOLD else "")


def _mapping(part: str, given: Any) -> dict[Any, Any]:
    """What a user's mapping holds. Raises BadContract where it is none, or cannot be read."""
    if not isinstance(given, Mapping):
        raise BadContract(f"{part} returns a dict, not {kind_of(given)}")
    try:
        return dict(cast(Mapping[Any, Any], given))
    except Exception as error:
        why = user_code.describe(error)
        raise BadContract(f"{part}: the dict cannot be read: {why}") from error


def _users(named: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """What we have under our names, under the user's: these alone, in the order declared."""
    return {name: named[ours] for name, ours in names.items()}


def _ours(named: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """What the user has under the declared names, under ours."""
    return {ours: named[name] for name, ours in names.items()}


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
