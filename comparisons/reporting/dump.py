"""Jacobian products and their like to a file, and back as a labelled dataset.

`write` makes one `<case>.npz` per case, under a temporary name first and renamed when complete: a
killed run leaves no half file under a good name. `load` gives an xarray.Dataset. The layout
(dimensions in brackets; S is the size of the whole state):

    state_jacobian            [step, batch, state, state_prev]     ∂s_t/∂s_{t−1}
    jacobian_product_to_end   [origin, batch, state, state_prev]   ∂s_T/∂s_k, k = 0..T−1
    singular_values           [origin, batch, rank]                of that product, largest first
    product_norm              [t, k, batch]                        ‖∂s_t/∂s_k‖₂, NaN for k > t
    growth_rates              [batch, rank]                        Lyapunov exponents per step
    delta                     [step, batch, unit]                  ∂L/∂z_t (where the cell tells its
                                                                   net input)
    d_state                   [t, batch, state]                    ∂L/∂s_t, t = 0..T
    contribution_norm/<W>     [t, k]                               ‖(∂⁺s_k/∂W)ᵀ (∂s_t/∂s_k)ᵀ
                                                                   ∂L_t/∂s_t‖; the terms sum to
                                                                   ∂L/∂W
    gradient/<name>           as the parameter or input            the candidate's gradient
    <reference>/…             the same, as the reference has it: state_jacobian,
                              jacobian_product_to_end, singular_values, d_state
    l0/…, l0_reverse/…        of several layers or directions each run by itself, in the order of
                              its own steps: a reverse direction's step 1 is at the last x. Without
                              contribution_norm; of references d_state alone
    meta                      JSON: schema, case, sizes, seed, dtype, versions, notation
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from ..candidates.built_in_cells import CellCandidate
from ..candidates.trajectory import walk
from ..checking.environment import environment
from ..problems.answer import Answer
from ..problems.arrays import Array
from ..problems.problem import PRODUCT_TO_END, STATE_JACOBIAN, Problem
from ..witnesses.engines import Engine
from .files import complete_or_absent, prepare_folder

if TYPE_CHECKING:
    import xarray

SCHEMA = 1
LONGEST, DIGITS = 200, 16  # characters of a file's name, and of the digest in it

DIMENSIONS: dict[str, tuple[str, ...]] = {
    STATE_JACOBIAN: ("step", "batch", "state", "state_prev"),
    PRODUCT_TO_END: ("origin", "batch", "state", "state_prev"),
    "singular_values": ("origin", "batch", "rank"),
    "product_norm": ("t", "k", "batch"),
    "growth_rates": ("batch", "rank"),
    "delta": ("step", "batch", "unit"),
    "d_state": ("t", "batch", "state"),
    "contribution_norm": ("t", "k"),
}

NOTATION = (
    "s_t: the whole state at step t, steps 1..T, s_0 the initial one; "
    "J[i, j] = d s_t[i] / d s_{t-1}[j] (numerator layout); "
    "jacobian_product_to_end at origin k = d s_T / d s_k = J_T ... J_{k+1}; "
    "d_state at t = d L / d s_t"
)


def write(
    folder: Path, problem: Problem, candidate: CellCandidate, engines: Iterable[Engine]
) -> Path:
    """The path of the file written for this problem. Raises BadTarget when it cannot be written."""
    prepare_folder(folder)
    problem = replace(
        problem, jacobians=problem.suffixes == [""] and "lengths" not in problem.constants
    )
    arrays = dict(walk(problem, candidate))
    for engine in engines:
        if engine.tells_steps and engine.reason_not(problem) is None:
            arrays |= {
                f"{engine.name}/{name}": value
                for name, value in _told(problem, engine.answer(problem)).items()
            }
    meta = {
        "schema": SCHEMA,
        "case": problem.name,
        "cell": problem.cell,
        **dict(problem.sizes()),
        "state": list(problem.state_sizes),
        "environment": environment(problem.seed, problem.dtype.name),
        "notation": NOTATION,
    }
    return _save(path_of(folder, problem.name), {**arrays, "meta": np.array(json.dumps(meta))})


def path_of(folder: Path, case: str) -> Path:
    """Where the dump of a case of this name is."""
    return folder / f"{file_name(case)}.npz"


def file_name(case: str) -> str:
    """The case's name as a URL would have it: another for every name, whatever is in it.

    What is too long for a file ends in a digest of the whole.
    """
    quoted = quote(case, safe="", errors="surrogatepass")
    if len(quoted) <= LONGEST:
        return quoted
    digest = hashlib.sha256(quoted.encode()).hexdigest()[:DIGITS]
    return f"{quoted[: LONGEST - DIGITS - 1]}~{digest}"


def _told(problem: Problem, answer: Answer) -> dict[str, Array]:
    told: dict[str, Array] = {}
    for suffix in problem.suffixes:
        prefix = f"{suffix.lstrip('_')}/" if suffix else ""
        names = [f"{name}{suffix}_0" for name in problem.of_one_run(problem.state_sizes)]
        d_state = np.concatenate([answer.steps[name] for name in names], axis=-1)
        # A direction that runs backwards in time has its own step 1 at the last x.
        told[f"{prefix}d_state"] = d_state[::-1] if suffix.endswith("_reverse") else d_state
    if problem.jacobians:
        product = answer.gradients[PRODUCT_TO_END]
        told |= {STATE_JACOBIAN: answer.gradients[STATE_JACOBIAN], PRODUCT_TO_END: product}
        told["singular_values"] = np.linalg.svd(product, compute_uv=False)
    return told


def _save(path: Path, arrays: Mapping[str, Array]) -> Path:
    with complete_or_absent(path) as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return path


def load(path: str | Path) -> "xarray.Dataset":
    """The file as an xarray.Dataset with named dimensions, the meta data in its `attrs`.

    Steps, t, k and origin carry their numbers.

    Raises OSError if there is no such file, ValueError if it is not a dump of this schema.
    """
    import xarray

    arrays = _read(Path(path))
    meta: dict[str, Any] = json.loads(str(arrays.pop("meta")))
    if meta["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {meta['schema']}; this version reads {SCHEMA}")
    variables = {name: (_dimensions(name, value), value) for name, value in arrays.items()}
    last = int(meta["steps"])
    numbers = {
        "step": np.arange(1, last + 1),
        "origin": np.arange(last),
        "t": np.arange(last + 1),
        "k": np.arange(last + 1),
    }
    return xarray.Dataset(variables, coords=numbers, attrs=meta)


def _read(path: Path) -> dict[str, Array]:
    """The arrays of a dump. Raises OSError, or ValueError where the file is none."""
    no_dump = f"{path} is no dump of Jacobian products"
    with path.open("rb") as stream:
        try:
            stored = np.load(stream, allow_pickle=False)
            arrays: dict[str, Array] = {name: stored[name] for name in stored.files}
        except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{no_dump}: {error}") from error
    try:
        meta = json.loads(str(arrays["meta"]))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{no_dump}: it has no 'meta' that can be read") from error
    if not isinstance(meta, dict) or "schema" not in meta:
        raise ValueError(f"{no_dump}: its 'meta' has no schema")
    return arrays


def _dimensions(name: str, value: Array) -> tuple[str, ...]:
    for part in name.split("/"):
        if part in DIMENSIONS:
            return DIMENSIONS[part]
    return tuple(f"{name} axis {axis}" for axis in range(value.ndim))
