"""The entry points: check_cell, check_gradients, check_vjp. docs/your-derivation.md explains the
contracts and every message.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from .. import output, user_code
from ..candidates.user_cell import UserCell
from ..candidates.user_function import Given, UserFunction
from ..errors import BadOption, CandidateFailed, CannotFollow, NotDecidable, QuestionError
from ..problems.arrays import Array
from ..problems.axes import LayoutLike
from ..problems.convention import Convention, convention_of
from ..problems.named_arrays import flatten, rebuild
from ..witnesses.engines import computing_on
from . import lower_inside
from .case_report import CaseReport
from .cell_cases import cell_cases
from .environment import report_of
from .function_cases import (
    Derivation,
    FunctionTrial,
    Scalar,
    axes_of,
    function_cases,
    must_apply,
    output_trials,
)
from .own_loss import OwnLoss
from .report_data import Report
from .setting import LARGEST, References, Setting
from .users_names import in_users_names

OF_A_CELL = "TBI"  # the axes of x in a check of a cell

ConventionLike: TypeAlias = Convention | Mapping[str, Any] | None


def check_cell(
    cell: Any,
    *,
    steps: int = 12,
    batch: int = 3,
    input_size: int = 4,
    hidden_size: int = 5,
    seed: int = 0,
    dtype: str = "float64",
    references: References = None,
    device: str = "cpu",
    rtol: float | None = None,
    atol: float | None = None,
    timeout: float | None = None,
    layout: LayoutLike = None,
    raise_exception: bool = True,
) -> Report:
    """Whether step_backward is the derivative of step: over a sequence, and at every step alone.

    `cell` has parameter_shapes, state_shapes, step(xp, …) and step_backward. It is tried under
    random cotangents on every state at every step, on each state alone, and on the final states
    alone, from a random initial state, against torch and jax (or the `references` named)
    differentiating its own step, on the `device`. Errors are judged by measured rounding noise, or
    by rtol and atol where they are given. `dtype` is what the cell is run in: "float64", or
    "float32" or "float16", in which it may err by a small multiple of what the frameworks err by
    in it. The true gradient is always that in float64. `timeout`: seconds after which a call of the
    cell that has not returned is ended (comparisons/time_limit.py); no limit unless given.

    Raises GradientMismatch where a gradient is wrong and a QuestionError where none can be judged,
    unless raise_exception is False: then the report says so.
    """
    sizes = {"steps": steps, "batch": batch, "input_size": input_size, "hidden_size": hidden_size}
    setting = Setting(seed, references, device, dtype, timeout)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid(sizes)
        _must_be_of_a_cell(layout)
        declared = convention_of(None, rtol, atol)
        whole = {name: int(size) for name, size in sizes.items()}  # NumPy's integers overflow
        mine = UserCell(cell, whole["input_size"], whole["hidden_size"])
        return in_users_names(cell_cases(mine, whole, setting, declared))

    return _report(cases, setting, raise_exception)


def check_gradients(
    gradients: Callable[[Any, Any], Any],
    loss: Callable[..., Any],
    params: Given,
    inputs: Given,
    *,
    references: References = None,
    device: str = "cpu",
    seed: int = 0,
    convention: ConventionLike = None,
    setup: Callable[[], Any] | None = None,
    own_loss: Callable[..., Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    timeout: float | None = None,
    layout: LayoutLike = None,
    raise_exception: bool = True,
) -> Report:
    """Whether gradients(params, inputs) is the derivative of the loss.

    loss(xp, params, inputs) -> scalar, in array-API operations, is differentiated by torch and
    jax; loss(params, inputs), any NumPy code, by torch as well, where the code can be run on it
    as it stands, by complex step where it follows, and by differences. gradients returns a dict
    whose keys name params, or inputs it also differentiates; or a tuple or list in the order of
    params; nests as params does. What it does not return is listed as not given. `setup` runs
    before every evaluation. `convention` declares what the code means to return (see
    comparisons/problems/convention.py). own_loss(params, inputs), or own_loss() after the gradients
    were asked for, is the loss that the code under test itself computes: it must have the value of
    the loss, as must a loss given to from_torch or from_jax. `timeout` is as in check_cell.
    `layout` declares the axes of x, a letter each, "TBI", "BTI" or "BTHD", or those of any array by
    name; undeclared, the axis that is time is found by moving slices (see
    comparisons/checking/time_axes.py).

    Raises as check_cell does.
    """
    setting = Setting(seed, references, device, timeout=timeout)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid()
        function = UserFunction("loss", loss, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)
        own = OwnLoss(function, declared, gradients, own_loss)

        def given_of(user: UserFunction, derivation: Any) -> Derivation:
            return lambda named: user.call("gradients", derivation, named, [])

        def scalar_of(user: UserFunction) -> Scalar:
            return user.objective(declared)

        axes = axes_of(function, layout)
        rounding = getattr(gradients, "rounding", None)
        noise: Mapping[str, float] = {}
        if rounding is not None:
            noise = rounding(params)
        derivation = own.watched
        trial = FunctionTrial("gradients", function, scalar_of, derivation, given_of, axes)
        trial = replace(trial, extra_noise=noise, own=own)
        yield from function_cases(trial, setting, declared)

    return _report(cases, setting, raise_exception)


def check_vjp(
    vjp: Callable[[Any, Any, Any], Any],
    function: Callable[..., Any],
    params: Given,
    inputs: Given,
    *,
    references: References = None,
    device: str = "cpu",
    seed: int = 0,
    convention: ConventionLike = None,
    setup: Callable[[], Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    timeout: float | None = None,
    layout: LayoutLike = None,
    raise_exception: bool = True,
) -> Report:
    """Whether vjp(params, inputs, cotangents) is function(xp, params, inputs)'s.

    That is, its vector-Jacobian product.

    The function returns an array, or a dict of arrays; cotangents come in the same form: random on
    all outputs together, then on each output alone with zeros on the others. Everything else is as
    in check_gradients.
    """
    setting = Setting(seed, references, device, timeout=timeout)

    def cases() -> Iterator[CaseReport]:
        setting.must_be_valid()
        user = UserFunction("function", function, params, inputs, setup, seed)
        declared = convention_of(convention, rtol, atol)
        user.must_not_be_truncated(declared)
        axes = axes_of(user, layout)
        must_apply(declared, user, axes)
        setting.engines(user.numpy_only)
        outputs = user.outputs()
        undecided: list[NotDecidable] = []
        by_path = flatten(outputs, "output")
        inside = lower_inside.note_of_outputs(user.role, by_path, user.leaves())
        arrays_in = declared.computes_in.arrays if declared.computes_in else "float64"
        for number, (name, cotangents) in enumerate(output_trials(outputs, seed, arrays_in)):
            in_form = rebuild(outputs, cotangents, "output")

            def given_of(user: UserFunction, derivation: Any, in_form: Any = in_form) -> Derivation:
                return lambda named: user.call("vjp", derivation, named, [in_form])

            def scalar_of(
                user: UserFunction, cotangents: Mapping[str, Array] = cotangents
            ) -> Scalar:
                return user.inner_product(cotangents)

            what, is_first = f"vjp, {name}", number == 0
            trial = FunctionTrial(what, user, scalar_of, vjp, given_of, axes, is_first)
            try:
                for case in function_cases(trial, setting, declared):
                    yield replace(case, notes=[*case.notes, *inside])
                    inside = []
            except NotDecidable as error:
                undecided.append(error)
        if undecided:
            raise undecided[0]

    return _report(cases, setting, raise_exception)


def _report(
    cases: Callable[[], Iterator[CaseReport]], setting: Setting, raise_exception: bool
) -> Report:
    """Run the cases; raise, or tell in the report, what is wrong with a gradient or question."""
    done: list[CaseReport] = []
    errors: list[QuestionError] = []
    try:
        setting.must_name_a_device()
        asked = setting.engines()[0] if setting.device != "cpu" else ()
        with (
            output.kept(),
            np.errstate(all="ignore"),
            computing_on(setting.device, asked),
        ):
            user_code.limited(setting.time_limit(), lambda: done.extend(cases()))
            setting.all_that_were_named()
    except QuestionError as error:
        error.args = tuple(user_code.printable(str(each)) for each in error.args)
        errors.append(error)
    except CannotFollow as error:
        told = user_code.printable(str(error))
        errors.append(CandidateFailed(f"asked again, the code under test is another: {told}"))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        errors.append(_failed_later(error))
    report = replace(
        report_of(done, _as_told(setting.seed), _as_told(setting.dtype)), errors=errors
    )
    if raise_exception:
        report.raise_for_failure()
    return report


def _as_told(option: Any) -> Any:
    """The option as a report may hold it: a text or an integer, or what it looks like."""
    value: Any = option
    is_whole = isinstance(option, int | np.integer)
    if is_whole and abs(int(value)) <= LARGEST:
        return int(value)
    return value if isinstance(value, str) else user_code.spelled(value)


def _failed_later(error: BaseException) -> CandidateFailed:
    """The error for code that failed when a reference asked it once more.

    Raises the error itself where it does not come out of the user's code.
    """
    for each in (error, error.__cause__):
        if each is not None and user_code.comes_from_outside(each):
            where = user_code.at_line(each.__traceback__)
            what = user_code.describe(each)
            return CandidateFailed(f"asked again, the code under test raised {what}{where}")
    raise error


def _must_be_of_a_cell(layout: LayoutLike) -> None:
    """Raises BadOption for any layout but the one in which a cell is run."""
    if layout is None or layout == OF_A_CELL:
        return
    raise BadOption(
        f"layout: a cell is run over x of axes {OF_A_CELL!r}, its step sees (B, I); {layout!r} can "
        "be said of functions alone"
    )
