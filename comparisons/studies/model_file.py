"""The recurrent layers of a real model: found in a file of its weights by names and shapes.

torch's recurrent layers name their parameters weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0,
weight_hr_l0, with _l1, … for further layers and _reverse for the way backwards in time; its single
cells leave the suffix out. What stands before is the layer's name in the model. How many blocks of
rows weight_hh has tells the cell: one an RNN, three a GRU, four an LSTM. Nothing else in the file
is read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..candidates.built_in_cells import weights_from_torch
from ..candidates.draw import LARGEST, must_fit, numbers_in, state_size
from ..errors import BadModelFile, BadOption
from ..problems.arrays import Array
from ..problems.cases import PROJECTION, SOFTMAX, Case

WEIGHT = re.compile(
    r"^(?P<prefix>(?:.*\.)?)(?P<kind>weight|bias)_(?P<role>ih|hh|hr)(?P<suffix>_l\d+(?:_reverse)?)?$"
)
CELL_BY_BLOCKS = {1: "rnn", 3: "gru", 4: "lstm"}  # by blocks of rows of weight_hh
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
SHOWN = 6  # names of skipped tensors in the report
STEPS, BATCH = 6, 2
# The numbers of state up to which Jacobians, which are their square at every step, are compared.
LARGEST_STATE = 128


@dataclass(frozen=True)
class Layers:
    """One recurrent module of a model.

    name            in the model
    cell, options   as in comparisons.problems.cases
    weights         its parameters under this project's names, in float64
    notes           what the file does not say, and what was assumed
    """

    name: str
    cell: str
    options: dict[str, Any]
    layers: int
    bidirectional: bool
    input_size: int
    hidden_size: int
    weights: Mapping[str, Array]
    notes: list[str] = field(default_factory=list[str])

    def case(self) -> Case:
        """All of its layers under a random head."""
        return Case(
            self.name,
            self.cell,
            self.options,
            reduction="mean",
            layers=self.layers,
            bidirectional=self.bidirectional,
            input_size=self.input_size,
            hidden_size=self.hidden_size,
        )

    def sentence(self) -> str:
        """Name, cell and sizes."""
        ways = ", both directions" if self.bidirectional else ""
        sizes = f"input size {self.input_size}, hidden size {self.hidden_size}"
        return (
            f"{self.name}: {self.cell}, {self.layers} layer{'s' * (self.layers > 1)}{ways}, {sizes}"
        )


@dataclass(frozen=True)
class ModelFile:
    """What was found in a file of weights, and what was skipped, in words."""

    name: str
    found: list[Layers]
    skipped: list[str]

    def remarks(self) -> list[str]:
        """What was found, assumed and skipped, a line each."""
        lines = [f"{self.name}: found {each.sentence()}" for each in self.found]
        assumed = [
            f"{self.name}: {each.name}: {note}" for each in self.found for note in each.notes
        ]
        return [*lines, *assumed, *(f"{self.name}: skipped {reason}" for reason in self.skipped)]


def read(path: Path) -> ModelFile:
    """The recurrent layers of a .safetensors file, or of a state_dict saved by torch.

    Raises BadModelFile for a file that cannot be read, or that holds no recurrent layer.
    """
    tensors = _tensors(path)
    found: list[Layers] = []
    skipped: list[str] = []
    for prefix, group in _by_prefix(tensors).items():
        for part in _modules(group):
            try:
                found.append(_layers(prefix, part))
            except ValueError as error:
                skipped.append(f"{prefix.rstrip('.') or 'the layer without a name'}: {error}")
    others = [name for name in tensors if not WEIGHT.match(name)]
    if not found:
        instead = _some(others) or "it is empty"
        nothing = f"none of its {len(tensors)} tensors is called weight_hh_l0 ({instead})"
        raise BadModelFile(f"{path} holds no recurrent layer: {'; '.join(skipped) or nothing}")
    if others:
        plural = "s" * (len(others) > 1)
        skipped.append(f"{len(others)} other tensor{plural}: {_some(others)}")
    return ModelFile(path.name, found, skipped)


def _by_prefix(tensors: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """The parameters of recurrent layers, by what stands before their names."""
    groups: dict[str, dict[str, Array]] = {}
    for name, value in tensors.items():
        match = WEIGHT.match(name)
        if match:
            prefix = match["prefix"]
            groups.setdefault(prefix, {})[name.removeprefix(prefix)] = value
    return groups


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)


def _tensors(path: Path) -> dict[str, Array]:
    """All floating-point tensors by name. Raises BadModelFile."""
    if not path.is_file():
        raise BadModelFile(f"{path}: there is no such file")
    if path.suffix not in SUFFIXES:
        raise BadModelFile(f"{path}: a model file ends in {', '.join(SUFFIXES)}")
    load = _load_safetensors if path.suffix == ".safetensors" else _load_torch
    return {name: _as_array(value) for name, value in _flat("", load(path))}


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    opened: Any = safe_open  # through torch, since NumPy has no bfloat16
    try:
        with opened(path, framework="pt", device="cpu") as stored:
            return {name: stored.get_tensor(name) for name in list(stored.keys())}
    except (SafetensorError, OSError) as error:
        raise BadModelFile(f"{path} is no safetensors file: {error}") from error


def _load_torch(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none of torch's may break its unpickler anywhere
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.160}"
        advice = "only tensors in dicts are loaded, never code: save model.state_dict()"
        raise BadModelFile(
            f"{path} cannot be loaded with weights_only=True ({advice}): {reason}"
        ) from error


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    """(name, floating-point tensor) of nested dicts, names joined by dots; nothing else."""
    if isinstance(value, Mapping):
        for key, inner in cast(Mapping[Any, Any], value).items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif hasattr(value, "is_floating_point") and value.is_floating_point():
        yield prefix, value


def _as_array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().to("cpu").double().numpy())


def _suffix(name: str) -> str:
    """What stands after the parameter's name: _l0, _l1_reverse, or nothing for a single cell's."""
    return cast(re.Match[str], WEIGHT.match(name))["suffix"] or ""


def _modules(group: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Of the tensors under one prefix, those of a layer (with suffixes), then a single cell's."""
    layer = {name: value for name, value in group.items() if _suffix(name)}
    cell = {name: value for name, value in group.items() if name not in layer}
    return [part for part in (layer, cell) if part]


def _layers(prefix: str, tensors: dict[str, Array]) -> Layers:
    """The module that these are the parameters of. Raises ValueError where shapes do not say."""
    suffixes = {_suffix(name) for name in tensors}
    first = "_l0" if any(suffixes) else ""
    for name in (f"weight_ih{first}", f"weight_hh{first}"):
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        if tensors[name].ndim != 2:
            raise ValueError(f"{name} has {tensors[name].ndim} axes: it is a matrix")
    W_ih, W_hh = tensors[f"weight_ih{first}"], tensors[f"weight_hh{first}"]
    W_hr = tensors.get(f"weight_hr{first}")
    hidden_size = W_hh.shape[1] if W_hr is None else W_hr.shape[-1]
    kind = _kind(W_hh, W_hr, hidden_size, first)
    state = hidden_size + W_hh.shape[1] if kind.cell == "lstm" else hidden_size
    notes = list(kind.notes)
    if state > LARGEST_STATE:
        compared = f"its Jacobians are not compared (up to {LARGEST_STATE} they are)"
        notes.append(f"a state of {state} numbers: {compared}")
    return Layers(
        name=prefix.rstrip(".") or CELL_BY_BLOCKS[W_hh.shape[0] // hidden_size],
        cell=kind.cell,
        options=kind.options,
        layers=len({suffix.removesuffix("_reverse") for suffix in suffixes}),
        bidirectional=any(suffix.endswith("_reverse") for suffix in suffixes),
        input_size=W_ih.shape[1],
        hidden_size=hidden_size,
        weights=weights_from_torch(kind.cell, tensors),
        notes=notes,
    )


@dataclass(frozen=True)
class LayerKind:
    """A cell with its options, and what had to be assumed."""

    cell: str
    options: dict[str, Any]
    notes: tuple[str, ...] = ()


ASSUMED_TANH = (
    "the file does not say which nonlinearity the RNN has: tanh, torch's default, is taken"
)


def _kind(W_hh: Array, W_hr: Array | None, hidden_size: int, suffix: str) -> LayerKind:
    """The cell, by blocks of rows. Raises ValueError where it is none."""
    blocks, rest = divmod(W_hh.shape[0], hidden_size)
    if rest or blocks not in CELL_BY_BLOCKS:
        shape = f"weight_hh{suffix} of shape {W_hh.shape}"
        raise ValueError(f"{shape} is that of no RNN, GRU or LSTM")
    cell = CELL_BY_BLOCKS[blocks]
    if W_hr is not None and cell != "lstm":
        owner = "a GRU" if cell == "gru" else "an RNN"
        raise ValueError(f"weight_hr{suffix}: a projection in {owner}; only an LSTM has one")
    if cell == "rnn":
        return LayerKind("rnn", {"activation": "tanh"}, (ASSUMED_TANH,))
    if cell == "gru":
        return LayerKind("gru", {"reset": "after"})
    if W_hr is None:
        return LayerKind("lstm", {})
    return LayerKind("projected-lstm", {"projection_size": W_hr.shape[0]})


@dataclass(frozen=True)
class CaseAtWeights:
    """A case, and those of its weights that are given; the others are drawn."""

    case: Case
    weights: Mapping[str, Array] = field(default_factory=dict[str, Array])


def cases_of(layers: Layers, sizes: Mapping[str, int]) -> Iterator[CaseAtWeights]:
    """All layers of a module under a random head, then each run by itself, with its Jacobians.

    sizes are steps and batch, where they are wanted otherwise than STEPS and BATCH; fewer steps
    where the weights are many. Raises BadOption for weights that are too many, and for sizes that
    are the file's to say.
    """
    if set(sizes) & {"input_size", "hidden_size"}:
        raise BadOption(
            "input_size and hidden_size are the model file's: they are not to be given as well"
        )
    whole = layers.case()
    affordable = LARGEST // (numbers_in(whole) + 1)
    whole = replace(whole, steps=max(1, min(STEPS, affordable)), batch=BATCH)
    whole = replace(whole, **sizes)
    alone = whole.layers == 1 and not whole.bidirectional
    must_fit(whole)
    if not alone:
        yield CaseAtWeights(whole, layers.weights)
    for suffix, own in _runs(layers.weights).items():
        run = replace(
            whole,
            name=layers.name + suffix,
            layers=1,
            bidirectional=False,
            input_size=own["W_xh"].shape[1],
        )
        loss = SOFTMAX if alone else PROJECTION
        jacobians = state_size(run) <= LARGEST_STATE
        yield CaseAtWeights(replace(run, loss=loss, jacobians=jacobians), own)


def _runs(weights: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Suffix of a layer and direction → its weights, under names without it."""
    found: dict[str, dict[str, Array]] = {}
    for first in weights:
        if first.startswith("W_xh"):
            suffix = first.removeprefix("W_xh")
            own = [name for name in weights if name.endswith(suffix)]
            found[suffix] = {name.removesuffix(suffix): weights[name] for name in own}
    return found
