"""The recurrent layers of a real model: found in a file of its weights by names and shapes.

torch's recurrent layers name their parameters weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0,
weight_hr_l0, with _l1, … for further layers and _reverse for the way backwards in time; its single
cells leave the suffix out. What stands before is the layer's name in the model. How many blocks of
rows weight_hh has tells the cell: one an RNN, three a GRU, four an LSTM. Nothing else in the file
is read, and no numbers before a case is asked for: of its own tensors then, out of a file that is
mapped into memory and not copied.
"""

import math
import re
import warnings
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    r"^(?P<prefix>(?:.*\.)?)(?P<kind>weight|bias)_(?P<role>ih|hh|hr)"
    r"(?P<suffix>_l[0-9]{1,9}(?:_reverse)?)?$",
    re.DOTALL,
)
CELL_BY_BLOCKS = {1: "rnn", 3: "gru", 4: "lstm"}  # by blocks of rows of weight_hh
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
SHOWN, LONGEST = 6, 80  # names of skipped tensors in the report, and characters of each
STEPS, BATCH = 6, 2
# The numbers of state up to which Jacobians, which are their square at every step, are compared.
LARGEST_STATE = 128
DEEPEST = 64  # dicts in dicts
MOST_COPIED = 1 << 30  # bytes of a file that are read, not mapped
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # as safetensors names them


@dataclass(frozen=True)
class StoredTensor:
    """What a file says of a tensor: its shape, and why it has no numbers for us, if it has none."""

    shape: tuple[int, ...]
    trouble: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the parameters of a module are: in which file, and under which names there.

    names    torch's name in the module, without a prefix → the name in the file
    """

    path: Path
    cell: str
    names: Mapping[str, str]

    def read(self) -> dict[str, Array]:
        """The parameters under this project's names, in float64. Raises BadModelFile."""
        arrays: dict[str, Array] = {}
        with _opened(self.path) as stored:
            for name, where in self.names.items():
                arrays[name] = stored.numbers(where)
        return weights_from_torch(self.cell, arrays)

    def of_run(self, suffix: str) -> "Source":
        """Those of one layer and direction, as of a module of its own."""
        own = {name: where for name, where in self.names.items() if _suffix(name) == suffix}
        return replace(self, names={name.removesuffix(suffix): own[name] for name in own})


@dataclass(frozen=True)
class Layers:
    """One recurrent module of a model.

    name            in the model
    cell, options   as in comparisons.problems.cases
    input_sizes     suffix of each layer and direction → how many numbers it reads
    source          where its parameters are
    notes           what the file does not say, and what was assumed
    """

    name: str
    cell: str
    options: dict[str, Any]
    layers: int
    bidirectional: bool
    input_sizes: Mapping[str, int]
    hidden_size: int
    source: Source
    notes: list[str] = field(default_factory=list[str])

    @property
    def input_size(self) -> int:
        """I, of its first layer."""
        return next(iter(self.input_sizes.values()))

    @property
    def weights(self) -> dict[str, Array]:
        """Its parameters under this project's names, in float64, read from the file."""
        return self.source.read()

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
    with _opened(path) as stored:
        tensors = stored.described()
    found: list[Layers] = []
    skipped: list[str] = []
    for prefix, group in _by_prefix(tensors).items():
        for part in _modules(group):
            try:
                found.append(_layers(path, prefix, part))
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
    names = named_apart([each.name for each in found])
    apart = [replace(each, name=name) for each, name in zip(found, names, strict=True)]
    return ModelFile(path.name, apart, skipped)


def named_apart(names: Sequence[str]) -> list[str]:
    """The names, each once: one that was there before gets a number."""
    found: dict[str, None] = {}
    for name in names:
        apart, number = name, 1
        while apart in found:
            number += 1
            apart = f"{name} ({number})"
        found[apart] = None
    return list(found)


def _by_prefix(tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """The parameters of recurrent layers, by what stands before their names."""
    groups: dict[str, dict[str, StoredTensor]] = {}
    for name, value in tensors.items():
        match = WEIGHT.match(name)
        if match:
            prefix = match["prefix"]
            groups.setdefault(prefix, {})[name.removeprefix(prefix)] = value
    return groups


def _some(names: list[str]) -> str:
    shown = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names[:SHOWN]]
    return ", ".join(shown) + ", …" * (len(names) > SHOWN)


@contextmanager
def _opened(path: Path) -> "Generator[SafetensorsFile | TorchFile]":
    """The file, open. Raises BadModelFile."""
    if path.suffix not in SUFFIXES:
        raise BadModelFile(f"{path}: a model file ends in {', '.join(SUFFIXES)}")
    try:
        regular = path.is_file()
    except OSError as error:  # a name that is too long
        raise BadModelFile(f"{path}: {error.strerror}") from error
    if not regular:
        what = "this is no regular file" if path.exists() else "there is no such file"
        raise BadModelFile(f"{path}: {what}")
    if path.suffix == ".safetensors":
        with _opened_safetensors(path) as stored:
            yield stored
    else:
        yield TorchFile(path, _load_torch(path))


@dataclass(frozen=True)
class SafetensorsFile:
    """An open .safetensors file."""

    path: Path
    stored: Any

    def described(self) -> dict[str, StoredTensor]:
        """Name → shape of every tensor."""
        return {name: self._described(name) for name in list(self.stored.keys())}

    def _described(self, name: str) -> StoredTensor:
        slices = self.stored.get_slice(name)
        dtype = str(slices.get_dtype())
        trouble = None if dtype in FLOATS else f"holds {dtype}, not floating-point numbers"
        return StoredTensor(tuple(slices.get_shape()), trouble)

    def numbers(self, name: str) -> Array:
        """The tensor in float64. Raises BadModelFile."""
        return _as_array(self.path, name, self.stored.get_tensor)


@contextmanager
def _opened_safetensors(path: Path) -> Generator[SafetensorsFile]:
    from safetensors import SafetensorError, safe_open

    opened: Any = safe_open  # through torch, since NumPy has no bfloat16
    try:
        with opened(path, framework="pt", device="cpu") as stored:
            yield SafetensorsFile(path, stored)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise BadModelFile(f"{path} is no safetensors file: {_first_line(error)}") from error


@dataclass(frozen=True)
class TorchFile:
    """What torch has loaded: dicts of tensors that are mapped into memory."""

    path: Path
    stored: Any

    def described(self) -> dict[str, StoredTensor]:
        """Name → shape of every tensor. Raises BadModelFile where there is no end of dicts."""
        found: dict[str, StoredTensor] = {}
        for name, tensor in _flat(self.path, self.stored):
            told = StoredTensor(_shape(tensor), _trouble(tensor))
            found[name] = told if name not in found else replace(told, trouble="is there twice")
        return found

    def numbers(self, name: str) -> Array:
        """The tensor in float64. Raises BadModelFile."""
        named = dict(_flat(self.path, self.stored))
        return _as_array(self.path, name, named.__getitem__)


def _load_torch(path: Path) -> Any:
    import torch

    try:
        mapped = _can_be_mapped(path)
        with warnings.catch_warnings(action="ignore"):  # of layouts that are skipped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except BadModelFile:
        raise
    except Exception as error:  # a file that is none of torch's may break its unpickler anywhere
        advice = "only tensors in dicts are loaded, never code: save model.state_dict()"
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise BadModelFile(
            f"{path} cannot be loaded with weights_only=True ({advice}): {reason}"
        ) from error


def _can_be_mapped(path: Path) -> bool:
    """Whether the numbers can stay in the file until they are wanted.

    Raises BadModelFile where what has to be read is too much.
    """
    if not zipfile.is_zipfile(path):  # as torch wrote it before 1.6
        _must_be_few(path, path.stat().st_size)
        return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = [each for each in entries if each.compress_type != zipfile.ZIP_STORED]
    pickled = [each for each in entries if each.filename.endswith(".pkl")]
    _must_be_few(path, sum(each.file_size for each in {*packed, *pickled}))
    return not packed


def _must_be_few(path: Path, read: int) -> None:
    if read > MOST_COPIED:
        most = f"at most {MOST_COPIED:,} are read"
        raise BadModelFile(f"{path} expands to {read:,} bytes in memory, {most}: save it anew")


def _flat(path: Path, stored: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of nested dicts, names joined by dots; each dict once; nothing else.

    Raises BadModelFile where there is no end of them.
    """
    import torch

    pending: list[tuple[tuple[str, ...], Any]] = [((), stored)]
    seen: set[int] = set()
    while pending:
        names, value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield ".".join(names), value
        if not isinstance(value, Mapping):
            continue
        inside = cast(Mapping[Any, Any], value)
        if id(inside) in seen:
            continue
        if len(names) > DEEPEST:
            raise BadModelFile(f"{path} holds dicts in dicts, more than {DEEPEST} deep")
        seen.add(id(inside))
        named = [((*names, str(key)), each) for key, each in inside.items() if _can_be_name(key)]
        pending += reversed(named)


def _can_be_name(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.is_nested else tuple(tensor.shape)


def _trouble(tensor: Any) -> str | None:
    """Why a tensor has no numbers that could be checked; None where it has."""
    import torch

    if tensor.is_nested or tensor.layout is not torch.strided:
        return "is sparse or nested: a dense one is wanted"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype}): floating-point numbers are wanted"
    if tensor.device.type == "meta":
        return "is on the device meta: it holds no numbers"
    if not tensor.dtype.is_floating_point:
        return f"holds {tensor.dtype}, not floating-point numbers"
    try:
        torch.empty(1, dtype=tensor.dtype).double()
    except (RuntimeError, NotImplementedError) as error:
        return f"holds {tensor.dtype}: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return f"{str(error).partition(chr(10))[0]:.160}"


def _as_array(path: Path, name: str, tensor_of: Any) -> Array:
    """A tensor in float64. Raises BadModelFile where it cannot be had: the file has changed."""
    try:
        tensor = tensor_of(name).detach().resolve_conj().resolve_neg()
        return np.asarray(tensor.double().numpy())
    except Exception as error:
        raise BadModelFile(f"{path}: {name} cannot be read: {_first_line(error)}") from error


def _suffix(name: str) -> str:
    """What stands after the parameter's name: _l0, _l1_reverse, or nothing for a single cell's."""
    return cast(re.Match[str], WEIGHT.match(name))["suffix"] or ""


def _modules(group: Mapping[str, StoredTensor]) -> list[dict[str, StoredTensor]]:
    """Of the tensors under one prefix, those of a layer (with suffixes), then a single cell's."""
    layer = {name: value for name, value in group.items() if _suffix(name)}
    cell = {name: value for name, value in group.items() if name not in layer}
    return [part for part in (layer, cell) if part]


def _layers(path: Path, prefix: str, tensors: dict[str, StoredTensor]) -> Layers:
    """The module that these are the parameters of. Raises ValueError where shapes do not say."""
    suffixes = sorted({_suffix(name) for name in tensors}, key=_order)
    first = "_l0" if any(suffixes) else ""
    _must_be_whole(suffixes)
    for name in (f"weight_ih{first}", f"weight_hh{first}"):
        if name not in tensors:
            raise ValueError(f"{name} is missing")
    for name, tensor in tensors.items():
        _must_have_numbers(name, tensor)
    _must_not_be_too_many(tensors)
    W_hh, W_hr = tensors[f"weight_hh{first}"].shape, tensors.get(f"weight_hr{first}")
    hidden_size = W_hh[1] if W_hr is None else W_hr.shape[-1]
    kind = _kind(W_hh, W_hr, hidden_size, first)
    _must_have_shapes(kind.cell, tensors)
    state = hidden_size + W_hh[1] if kind.cell == "lstm" else hidden_size
    notes = list(kind.notes)
    if state > LARGEST_STATE:
        compared = f"its Jacobians are not compared (up to {LARGEST_STATE} they are)"
        notes.append(f"a state of {state} numbers: {compared}")
    return Layers(
        name=prefix.rstrip(".") or CELL_BY_BLOCKS[W_hh[0] // hidden_size],
        cell=kind.cell,
        options=kind.options,
        layers=len({suffix.removesuffix("_reverse") for suffix in suffixes}),
        bidirectional=any(suffix.endswith("_reverse") for suffix in suffixes),
        input_sizes={suffix: tensors[f"weight_ih{suffix}"].shape[1] for suffix in suffixes},
        hidden_size=hidden_size,
        source=Source(path, kind.cell, {name: prefix + name for name in tensors}),
        notes=notes,
    )


def _order(suffix: str) -> tuple[int, bool]:
    """Of suffixes: by layer, forwards before backwards."""
    number = suffix.removeprefix("_l").removesuffix("_reverse")
    return (int(number or 0), suffix.endswith("_reverse"))


def _must_be_whole(suffixes: Sequence[str]) -> None:
    """Raises ValueError where a layer below another is not there."""
    there = {suffix.removesuffix("_reverse") for suffix in suffixes}
    for number in range(len(there)):
        if any(suffixes) and f"_l{number}" not in there:
            raise ValueError(f"weight_ih_l{number} is missing")


def _must_have_numbers(name: str, tensor: StoredTensor) -> None:
    """Raises ValueError for a tensor of which nothing could be read, or of no matrix's shape."""
    if tensor.trouble is not None:
        raise ValueError(f"{name} {tensor.trouble}")
    if name.startswith("weight") and len(tensor.shape) != 2:
        raise ValueError(f"{name} has {len(tensor.shape)} axes: it is a matrix")
    if 0 in tensor.shape:
        raise ValueError(f"{name} of shape {tensor.shape} has no entries")


def _must_not_be_too_many(tensors: Mapping[str, StoredTensor]) -> None:
    """Raises ValueError for more numbers than are compared in one step."""
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if numbers > LARGEST:
        raise ValueError(f"{numbers:,} numbers are too many to compare, at most {LARGEST:,} are")


def _must_have_shapes(cell: str, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises ValueError where one is missing or has a wrong shape."""
    nothing: dict[str, Array] = {}
    for name, tensor in tensors.items():
        nothing[name] = np.broadcast_to(np.False_, tensor.shape)
    weights_from_torch(cell, nothing)


@dataclass(frozen=True)
class LayerKind:
    """A cell with its options, and what had to be assumed."""

    cell: str
    options: dict[str, Any]
    notes: tuple[str, ...] = ()


ASSUMED_TANH = (
    "the file does not say which nonlinearity the RNN has: tanh, torch's default, is taken"
)


def _kind(
    W_hh: tuple[int, ...], W_hr: StoredTensor | None, hidden_size: int, suffix: str
) -> LayerKind:
    """The cell, by blocks of rows. Raises ValueError where it is none."""
    blocks, rest = divmod(W_hh[0], hidden_size)
    if rest or blocks not in CELL_BY_BLOCKS:
        shape = f"weight_hh{suffix} of shape {W_hh}"
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
    """A case, and where those of its weights are that are given; the others are drawn."""

    case: Case
    source: Source | None = None

    @property
    def weights(self) -> dict[str, Array]:
        """Those that are given, read from their file. Raises BadModelFile."""
        return {} if self.source is None else self.source.read()


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
        yield CaseAtWeights(whole, layers.source)
    for suffix, input_size in layers.input_sizes.items():
        run = replace(
            whole,
            name=layers.name if alone else layers.name + suffix,
            layers=1,
            bidirectional=False,
            input_size=input_size,
        )
        loss = SOFTMAX if alone else PROJECTION
        jacobians = state_size(run) <= LARGEST_STATE
        case = replace(run, loss=loss, jacobians=jacobians)
        yield CaseAtWeights(case, layers.source.of_run(suffix))
