"""One case as plain, frozen data: named read-only arrays and the names of the equations that join
them.

A `Problem` is what the candidate and every engine receive. Its `variables` are the arrays for
which gradients are compared (the parameters, x unless it is tokens, the initial states h_0, …);
its `constants` are the rest (tokens, targets, masks, cotangents). An `Answer` is what each of them
gives back, under the same names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from .arrays import Array, Arrays, frozen, is_real
from .axes import BATCH, TIME, Layout, Letters

STATE_JACOBIAN = "state_jacobian"
PRODUCT_TO_END = "jacobian_product_to_end"
OFFSET = "@t"  # suffix of the variables that move one step's weights or states alone


class Differentiable:
    """What tolerance and engines need to know of any problem: a scalar function of named arrays.

    Subclasses are frozen dataclasses with at least name, variables, constants, seed, precision,
    accumulate.
    """

    name: str
    variables: Arrays
    constants: Arrays
    seed: int
    precision: str | None
    accumulate: str | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the floating-point variables."""
        return np.result_type(*(value.dtype for value in self.variables.values()))

    @property
    def rounding_dtype(self) -> np.dtype[Any]:
        """The precision that the candidate works in: the declared one, or that of the variables."""
        return np.dtype(self.precision or self.dtype)

    @property
    def accumulation_dtype(self) -> np.dtype[Any]:
        """The precision that the candidate adds up in: that of its arrays, or the declared one."""
        return np.dtype(self.accumulate or self.rounding_dtype)

    @property
    def accumulated_terms(self) -> int:
        """n of the noise floor: how many terms are summed on the way to a gradient."""
        return sum(value.size for value in (*self.variables.values(), *self.constants.values()))

    @property
    def per_step_names(self) -> tuple[str, ...]:
        """The variables that have an offset of their own at every step."""
        return ()

    @property
    def steps(self) -> int | None:
        """T, where the problem has steps."""
        return None

    @property
    def batch(self) -> int | None:
        """B, where the problem has rows."""
        return None

    def first_step(self, name: str) -> int:
        """The number of the step that index 0 of a per-step array stands for."""
        del name
        return 1

    def runs_backwards(self, name: str) -> bool:
        """Whether a gradient is that of a run backwards in time, so that the walk back goes from
        step 1 to T.
        """
        del name
        return False

    def letters(self, name: str) -> Letters:
        """What the axes of a variable, or of a state, stand for; () where nothing is known."""
        del name
        return ()

    @property
    def axes_told(self) -> dict[str, list[str]]:
        """Array → letters of its axes, where they are not those of the formulas."""
        return {}

    def slice_axis(self, name: str) -> int | None:
        """Along which axis of a variable it is judged slice by slice; None where that goes by the
        steps of the formulas.
        """
        del name
        return None

    def in_time(self, name: str) -> bool:
        """Whether the slices by which a quantity is judged are steps of time."""
        del name
        return True

    def with_variables(self, variables: Mapping[str, Array]) -> Self:
        """The same problem at other values; names left out keep theirs."""
        return replace(self, variables=frozen({**self.variables, **variables}))  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """The same problem with every floating-point array in `dtype`."""

        def cast(arrays: Arrays) -> Arrays:
            told: dict[str, Array] = {}
            for name, value in arrays.items():
                told[name] = value.astype(dtype) if is_real(value.dtype) else value
            return frozen(told)

        return replace(self, variables=cast(self.variables), constants=cast(self.constants))  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]

    def in_precision(self, dtype: npt.DTypeLike) -> Self:
        """The same problem for a candidate that works in `dtype`: every number rounded to it, and
        kept in float64.
        """
        name = np.dtype(dtype).name
        rounded = self.rounded_to(dtype)
        return replace(rounded, precision=None if name == "float64" else name)  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]

    def rounded_to(self, dtype: npt.DTypeLike) -> Self:
        """The same problem, every number rounded to `dtype` and kept in float64."""
        return self.astype(dtype).astype(np.float64)

    def lowered(self) -> Self:
        """The same problem in the precision that the candidate works in; itself where that is the
        arrays' own.

        Every number is rounded to the precision of its arrays, and kept in the one it adds up in.
        """
        if self.rounding_dtype == self.dtype and self.accumulation_dtype == self.dtype:
            return self
        rounded = self.astype(self.rounding_dtype)
        return rounded.astype(self.accumulation_dtype) if self.accumulate else rounded

    def in_fortran_order(self) -> Self:
        """The same numbers, the first index running fastest in memory, as in what transposes and
        kernels hand out.
        """

        def turned(arrays: Arrays) -> Arrays:
            return frozen({name: np.array(value, order="F") for name, value in arrays.items()})

        return replace(self, variables=turned(self.variables), constants=turned(self.constants))  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]

    def sizes(self) -> Iterator[tuple[str, int | None]]:
        """(name, value) of T, B, I, H, V as they stand in reports; None for what the problem does
        not have.
        """
        yield from (
            (name, None) for name in ("steps", "batch", "input_size", "hidden_size", "output_size")
        )


@dataclass(frozen=True)
class Problem(Differentiable):
    """A cell unrolled over a sequence and read by a readout.

    cell, options              the equation's name and its options; `step` in their place for a
                               cell from outside
    readout, readout_options   what turns s_1..s_T into a scalar: "softmax-cross-entropy",
                               "squared-error", "projection"
    parameter_names            the cell's own parameters (the readout's are among the variables too)
    state_sizes                name → size of each part of the state, in the order of s_t
    variables, constants       named read-only arrays; x is (T, B, I), or integer tokens (T, B)
                               among the constants
    jacobians                  whether ∂s_t/∂s_{t−1} and their products are compared as well
    precision, accumulate      in which the candidate works, where that is less than the arrays'
                               own, and in which it adds up, where that is more than the former
    layers, bidirectional      how many layers of the cell there are, and whether each runs
                               backwards in time as well; with more than one run, parameters and
                               states have suffixes, "_l0", "_l0_reverse", "_l1", …
    output_names               the parts of the cell's state that a layer hands on
    window, chunk              where the gradient meant is a truncated one: each loss goes back at
                               most `window` steps, or the
                               gradient stops at the border of every `chunk` of steps
    """

    name: str
    cell: str
    options: Mapping[str, Any]
    readout: str
    readout_options: Mapping[str, Any]
    parameter_names: tuple[str, ...]
    state_sizes: Mapping[str, int]
    input_size: int
    hidden_size: int
    variables: Arrays
    constants: Arrays
    seed: int
    jacobians: bool = True
    step: Callable[..., Any] | None = None
    loss_label: str = ""
    precision: str | None = None
    accumulate: str | None = None
    layers: int = 1
    bidirectional: bool = False
    output_names: tuple[str, ...] = ("h",)
    window: int | None = None
    chunk: int | None = None

    @property
    def suffixes(self) -> list[str]:
        """Of every run of the cell, from the lowest layer up."""
        if self.layers == 1 and not self.bidirectional:
            return [""]
        ways = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{way}" for layer in range(self.layers) for way in ways]

    def of_one_run(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names without suffix."""
        first = self.suffixes[0]
        return tuple(name.removesuffix(first) for name in names if name.endswith(first))

    @property
    def x(self) -> Array:
        """(T, B, I), or integer tokens (T, B)."""
        return self.variables["x"] if "x" in self.variables else self.constants["x"]

    @property
    def steps(self) -> int:
        """T."""
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        """B."""
        return self.x.shape[1]

    @property
    def output_size(self) -> int | None:
        """V, or None without a head."""
        return len(self.variables["b_y"]) if "b_y" in self.variables else None

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The variables that training moves: the cell's parameters and the readout's."""
        fixed = {"x", *(f"{name}_0" for name in self.state_sizes)}
        fixed |= {name + OFFSET for name in (*self.parameter_names, *self.state_sizes)}
        return tuple(name for name in self.variables if name not in fixed)

    @property
    def accumulated_terms(self) -> int:
        """T (B + H + I)."""
        return self.steps * (self.batch + self.hidden_size + self.input_size)

    @property
    def per_step_names(self) -> tuple[str, ...]:
        """The cell's parameters."""
        return self.parameter_names

    def first_step(self, name: str) -> int:
        """0 for ∂L/∂s_t and ∂s_T/∂s_k, 1 for all others; the initial state of a reverse direction
        is that of step T + 1.
        """
        if name == PRODUCT_TO_END:
            return 0
        initial = {f"{state}_0" for state in self.state_sizes}
        return 0 if name in initial and not self.runs_backwards(name) else 1

    def runs_backwards(self, name: str) -> bool:
        """Of the parameters and states of a reverse direction."""
        return self.bidirectional and "_reverse" in name

    def letters(self, name: str) -> Letters:
        """Of x (T, B, I), or tokens (T, B), and of the states (T, B, ·)."""
        if name == "x":
            return (TIME, BATCH, "I")[: self.x.ndim]
        return (TIME, BATCH, "") if name.startswith("state ") else ()

    @property
    def initial_state(self) -> Array:
        """s_0 (B, S)."""
        return np.concatenate([self.variables[f"{name}_0"] for name in self.state_sizes], axis=-1)

    @property
    def can_be_cut_short(self) -> bool:
        """Whether its first steps by themselves are a problem of the same kind.

        One run of a cell, all rows of the same length, under cotangents.
        """
        cut = self.window is not None or self.chunk is not None or "lengths" in self.constants
        return self.readout == "projection" and self.suffixes == [""] and not cut

    def of_first_steps(self, steps: int) -> "Problem":
        """The problem of the first steps alone, where it `can_be_cut_short`."""
        timed = {"x", *(f"cotangent_{state}" for state in self.state_sizes)}

        def cut(arrays: Arrays) -> Arrays:
            told: dict[str, Array] = {}
            for name, value in arrays.items():
                told[name] = value[:steps] if name in timed else value
            return frozen(told)

        name = f"{self.name}, first {steps} of {self.steps} steps"
        return replace(
            self, name=name, variables=cut(self.variables), constants=cut(self.constants)
        )

    def sizes(self) -> Iterator[tuple[str, int | None]]:
        """(name, value) of T, B, I, H, V as they stand in reports."""
        yield from (("steps", self.steps), ("batch", self.batch), ("input_size", self.input_size))
        yield from (("hidden_size", self.hidden_size), ("output_size", self.output_size))


Scalar: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class FunctionProblem(Differentiable):
    """A scalar function of named arrays that is not taken apart into steps.

    function(xp, named) -> scalar        of variables and constants together
    copied(world) -> function            the same on copies of all that the user's code reaches,
                                         made in a reference.worlds.World
    numpy_only                           whether it is NumPy code, which torch and jax as they are
                                         cannot run
    extra_noise                          absolute error by variable that the way of reading out the
                                         gradient adds
    windowed(K) -> function              the one whose gradient goes back at most K steps, where the
                                         steps of the function are known
    truncated                            whether states are held fixed in it, so that its gradient
                                         is no difference of its values
    layout() -> Layout                   what the axes stand for; asked only where it is wanted,
                                         since finding it out takes runs of the function
    sliced                               the inputs among the variables. They are judged step by
                                         step along time; where none of their axes is known to be
                                         time, slice by slice along the first, if that has T slices,
                                         or as many as x's
    levels                               variable → the precision in which its own gradient is
                                         judged, where that is shorter than `precision`
    """

    name: str
    function: Callable[[Any, Mapping[str, Any]], Any]
    variables: Arrays
    constants: Arrays
    seed: int
    numpy_only: bool = False
    precision: str | None = None
    accumulate: str | None = None
    levels: Mapping[str, str] = field(default_factory=dict[str, str])
    extra_noise: Mapping[str, float] = field(default_factory=dict[str, float])
    copied: Callable[[Any], Callable[[Any, Mapping[str, Any]], Any]] | None = None
    windowed: Callable[[int], Scalar] | None = None
    truncated: bool = False
    layout: Callable[[], Layout] = Layout
    sliced: tuple[str, ...] = ()
    cell: str = "function"
    loss_label: str = ""

    def of(self, made: Callable[[Scalar], Scalar]) -> "FunctionProblem":
        """The problem of another function, made from this one; of copies of it likewise."""
        copied = self.copied
        if copied is None:
            return replace(self, function=made(self.function))

        def made_of_copies(world: Any) -> Scalar:
            return made(copied(world))

        return replace(self, function=made(self.function), copied=made_of_copies)

    @property
    def jacobians(self) -> bool:
        """A function without steps has none."""
        return False

    @property
    def steps(self) -> int | None:
        """T by the layout."""
        return self.layout().size(TIME)

    @property
    def batch(self) -> int | None:
        """B by the layout."""
        return self.layout().size(BATCH)

    @property
    def slice_axes(self) -> dict[str, int]:
        """Input → along which axis it is judged slice by slice: time, where that is known."""
        layout, found = self.layout(), dict[str, int]()
        length = self.steps
        if length is None and self.x is not None and self.x.ndim:
            length = len(self.x)
        for name in self.sliced:
            value = self.variables[name]
            axis = layout.axis(name, TIME)
            if axis is None and value.shape[:1] == (length,):
                axis = 0
            if axis is not None and value.shape[axis] > 1:
                found[name] = axis
        return found

    @property
    def axes_told(self) -> dict[str, list[str]]:
        """By the layout."""
        return {name: list(letters) for name, letters in self.layout().letters.items()}

    def letters(self, name: str) -> Letters:
        """By the layout."""
        return self.layout().of(name)

    def slice_axis(self, name: str) -> int | None:
        """By the layout, or the first."""
        return self.slice_axes.get(name)

    def in_time(self, name: str) -> bool:
        """By the layout."""
        return TIME in self.layout().of(name)

    def runs_backwards(self, name: str) -> bool:
        """Whether the steps of a variable are read from the last to the first."""
        return name in self.layout().backwards

    @property
    def x(self) -> Array | None:
        """The input called x."""
        return self.variables.get("x", self.constants.get("x"))

    def sizes(self) -> Iterator[tuple[str, int | None]]:
        """T and B, where the layout tells them."""
        yield from (("steps", self.steps), ("batch", self.batch))
        yield from ((name, None) for name in ("input_size", "hidden_size", "output_size"))


AnyProblem: TypeAlias = Problem | FunctionProblem
