"""Mutants from a derivation's own source: one expression of it changed, the rest compiled as it
stands.

Each variation is one node of the syntax tree replaced by another, and says where: file, line,
column, the expression and what stands in its place. What is arithmetic on indices (slices, axes)
is left alone, and so are signatures and docstrings.
"""

import ast
import copy
import inspect
import sys
import textwrap
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any

from ..places import ROOT

FACTOR_MISSING, FACTOR_TWICE, TERM_MISSING = "a factor missing", "a factor twice", "a term missing"
SIGN, SLOPE_LEFT_OUT, SLOPE_OF_INPUT = (
    "a sign",
    "a slope left out",
    "the slope of the wrong variable",
)
WRONG_VARIABLE, PERMUTED, TRANSPOSED = (
    "another variable",
    "two parts permuted",
    "a factor transposed",
)
ZERO, CONSTANT = "a returned part zero", "a number off by one"


class NothingToMutate(LookupError):
    """An operator declares a place in `manual/` that is not there: it was renamed, or has gone."""


def must_have(found: Container[str], names: Iterable[str], where: str) -> None:
    """Raises NothingToMutate for the first name that is not there."""
    for name in names:
        if name not in found:
            raise NothingToMutate(f"{where} has no {name!r}, in which mistakes are to be planted")


@dataclass(frozen=True, eq=False)
class Variation:
    """One changed expression: its kind of mistake, where it is, and what replaces it.

    what: "file:line:column: before → after"; file and lines, first and last, are where it stands.
    """

    kind: str
    what: str
    tree: ast.Module
    node: ast.expr
    replacement: ast.expr
    file: str
    lines: tuple[int, int]

    def stands_in(self, executed: Container[tuple[str, int]]) -> bool:
        """Whether it is among the lines that are executed."""
        return any(
            (self.file, number) in executed for number in range(self.lines[0], self.lines[1] + 1)
        )

    def changed(self) -> ast.Module:
        """A copy of the tree with the node replaced."""
        return ast.fix_missing_locations(_with(self.tree, self.node, self.replacement))

    def executed(self, namespace: dict[str, Any]) -> dict[str, Any]:
        """All that the changed source defines, in that namespace."""
        scope = dict(namespace)
        exec(compile(self.changed(), f"<mutant: {self.what}>", "exec"), scope)
        return scope

    def compiled(self, name: str, namespace: dict[str, Any]) -> Any:
        """The function of the changed source that is called `name`."""
        return self.executed(namespace)[name]


@cache
def derivation_file(name: str) -> str | None:
    """The path below the root of a file of `manual/`; None for any other.

    Links are followed: the package may be imported from elsewhere than where it lies.
    """
    if name.startswith("<"):  # no file: compiled from text
        return None
    path = Path(name).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT / "manual") else None


def lines_of(run: Callable[[], Any]) -> set[tuple[str, int]]:
    """The lines of this project, (file, number), that `run` passes through: a change anywhere else
    is no mistake there.
    """
    lines: set[tuple[str, int]] = set()
    before = sys.gettrace()

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        file = derivation_file(frame.f_code.co_filename)
        if file is None:
            return None
        if event == "line":
            lines.add((file, frame.f_lineno))
        return watch

    sys.settrace(watch)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def function_variations(function: Any, names: Sequence[str]) -> Iterator[Variation]:
    """Every variation of one function or method; `names` are what its caches hold, for one in
    place of another.
    """
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    yield from _variations(tree, tree.body[0], _file_of(function), first - 1, names)


def module_variations(module: Any, functions: Sequence[str]) -> Iterator[Variation]:
    """Every variation of some functions of a module; the tree is the whole module's.

    Raises NothingToMutate where one of them is not there.
    """
    must_have(dir(module), functions, str(module.__name__))
    tree = ast.parse(inspect.getsource(module))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            yield from _variations(tree, node, _file_of(module), 0, ())


def _file_of(thing: Any) -> str:
    path = Path(inspect.getsourcefile(thing) or "?").resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _variations(
    tree: ast.Module, function: ast.AST, file: str, offset: int, names: Sequence[str]
) -> Iterator[Variation]:
    arithmetic = list(_arithmetic(function))
    local = _locals(function)
    changes = [
        (node, change) for node in arithmetic for change in _replacements(node, names, local)
    ]
    updates = [node for node in ast.walk(function) if isinstance(node, ast.AugAssign)]
    changes += [(node.value, change) for node in updates for change in _of_update(node)]
    for node, (kind, replacement) in changes:
        line, last = node.lineno + offset, (node.end_lineno or node.lineno) + offset
        what = (
            f"{file}:{line}:{node.col_offset + 1}: {ast.unparse(node)} → {ast.unparse(replacement)}"
        )
        yield Variation(kind, what, tree, node, replacement, file, (line, last))


def _with(tree: ast.Module, node: ast.AST, replacement: ast.expr) -> ast.Module:
    """A copy of the tree with the node replaced."""
    node._planted = replacement  # pyright: ignore[reportAttributeAccessIssue]
    try:
        copied = copy.deepcopy(tree)
    finally:
        del node._planted  # pyright: ignore[reportAttributeAccessIssue]
    return _Plant().visit(copied)


class _Plant(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> Any:
        planted = getattr(node, "_planted", None)
        return planted if planted is not None else self.generic_visit(node)


def _arithmetic(function: ast.AST) -> Iterator[ast.expr]:
    """The expressions of the body that are neither indices, nor axes, nor text."""
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.keyword | ast.Raise):
            continue
        if isinstance(node, ast.expr):
            yield node
        if isinstance(node, ast.Subscript):
            pending = [node.value, *pending]
        elif isinstance(node, ast.AnnAssign):
            pending = [*([node.value] if node.value else []), *pending]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("reshape", "split", "range", "eye", "zeros_like")
        ):
            pending = [
                *([node.func.value] if isinstance(node.func, ast.Attribute) else []),
                *pending,
            ]
        else:
            pending = [*ast.iter_child_nodes(node), *pending]


def _locals(function: ast.AST) -> list[str]:
    """The names that the function binds, in order: a variable taken for another is taken for the
    next of these.
    """
    stored = [
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    return list(
        dict.fromkeys(
            name
            for name in stored
            if name not in ("size", "width", "name", "gate", "k", "t", "rows", "eye")
        )
    )


def _replacements(
    node: ast.expr, names: Sequence[str], local: Sequence[str]
) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.BinOp):
        yield from _of_operation(node)
    elif isinstance(node, ast.Call) and len(node.args) == 2:
        yield from _of_ufunc(node)
    elif (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and not isinstance(node.operand, ast.Constant)
    ):
        yield SIGN, node.operand
    elif isinstance(node, ast.Subscript):
        yield from _of_entry(node, names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from _of_name(node, local)
    elif isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
        yield from _of_list(node)
    elif isinstance(node, ast.Dict):
        yield from _of_dict(node)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield CONSTANT, ast.Constant(node.value + 1)


def _of_operation(node: ast.BinOp) -> Iterator[tuple[str, ast.expr]]:
    left, right, op = node.left, node.right, node.op
    if isinstance(op, ast.Mult | ast.Div):
        yield FACTOR_MISSING, left
        yield FACTOR_MISSING, right
        yield FACTOR_TWICE, ast.BinOp(node, op, right)
        yield FACTOR_TWICE, ast.BinOp(left, ast.Mult(), node)
    elif isinstance(op, ast.Add | ast.Sub):
        subtracts = isinstance(op, ast.Sub)
        yield TERM_MISSING, ast.UnaryOp(ast.USub(), right) if subtracts else right
        yield (SLOPE_LEFT_OUT if _is_one(left) and subtracts else TERM_MISSING), left
        yield SIGN, ast.BinOp(left, ast.Add() if subtracts else ast.Sub(), right)
        if (
            _is_one(left)
            and subtracts
            and isinstance(right, ast.BinOp)
            and isinstance(right.op, ast.Mult)
        ):
            inverse = ast.parse(f"1 - np.arctanh({ast.unparse(right.left)}) ** 2", mode="eval").body
            yield SLOPE_OF_INPUT, inverse
    elif isinstance(op, ast.MatMult):
        yield TRANSPOSED, ast.BinOp(left, op, _transposed(right))
        yield TRANSPOSED, ast.BinOp(_transposed(left), op, right)
        yield TRANSPOSED, ast.BinOp(right, op, left)


def _of_ufunc(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """np.add(a, b, out=c) and its like: the operations of a sequence form."""
    (one, other), name = node.args, ast.unparse(node.func)

    def called(function: str, *arguments: ast.expr) -> ast.Call:
        return ast.Call(ast.parse(function, mode="eval").body, list(arguments), node.keywords)

    if name == "np.multiply":
        yield FACTOR_MISSING, called(name, one, ast.Constant(1))
        yield FACTOR_MISSING, called(name, ast.Constant(1), other)
        yield FACTOR_TWICE, called(name, ast.BinOp(one, ast.Mult(), one), other)
    elif name in ("np.add", "np.subtract"):
        yield TERM_MISSING, called(name, one, ast.Constant(0))
        yield (
            (SLOPE_LEFT_OUT if _is_one(one) else TERM_MISSING),
            called(name, ast.Constant(0), other),
        )
        yield SIGN, called("np.subtract" if name == "np.add" else "np.add", one, other)
    elif name == "np.dot":
        yield TRANSPOSED, called(name, one, _transposed(other))


def _of_update(node: ast.AugAssign) -> Iterator[tuple[str, ast.expr]]:
    """What stands on the right of a += b, a -= b, a *= b."""
    if isinstance(node.op, ast.Mult | ast.Div):
        yield FACTOR_MISSING, ast.Constant(1)
        yield FACTOR_TWICE, ast.BinOp(node.value, ast.Mult(), node.value)
    elif isinstance(node.op, ast.Add | ast.Sub):
        yield TERM_MISSING, ast.Constant(0)
        yield SIGN, ast.UnaryOp(ast.USub(), node.value)


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 1


def _transposed(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return node.value
    return ast.Attribute(node, "T", ast.Load())


def _of_entry(node: ast.Subscript, names: Sequence[str]) -> Iterator[tuple[str, ast.expr]]:
    """cache["i"] → cache["f"], and every other name."""
    if (
        isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and ast.unparse(node.value) == "cache"
    ):
        for name in names:
            if name != node.slice.value:
                yield WRONG_VARIABLE, ast.Subscript(node.value, ast.Constant(name), ast.Load())


def _of_name(node: ast.Name, local: Sequence[str]) -> Iterator[tuple[str, ast.expr]]:
    if node.id in local and len(local) > 1:
        yield WRONG_VARIABLE, ast.Name(local[(local.index(node.id) + 1) % len(local)], ast.Load())
    elif node.id == "GATES":
        for one, other in combinations(range(3), 2):
            swapped = (
                f"[GATES[{{{one}: {other}, {other}: {one}}}.get(k, k)] for k in range(len(GATES))]"
            )
            yield PERMUTED, ast.parse(swapped, mode="eval").body


def _of_list(node: ast.List | ast.Tuple) -> Iterator[tuple[str, ast.expr]]:
    for one, other in combinations(range(len(node.elts)), 2):
        elements = list(node.elts)
        elements[one], elements[other] = elements[other], elements[one]
        yield PERMUTED, type(node)(elements, ast.Load())


def _of_dict(node: ast.Dict) -> Iterator[tuple[str, ast.expr]]:
    for at, value in enumerate(node.values):
        values = list(node.values)
        values[at] = ast.BinOp(ast.Constant(0), ast.Mult(), value)
        yield ZERO, ast.Dict(node.keys, values)
