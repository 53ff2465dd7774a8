"""Tensors of torch and jax as arrays, and back; no framework is imported that is not there."""

import sys
from typing import Any, cast

import numpy as np

from .arrays import BFLOAT16, Array


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor of torch or an array of jax."""
    return _is_torchs(value) or _is_jaxs(value)


def _is_torchs(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_jaxs(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def array_of(value: Any) -> Array:
    """The numbers of a tensor, taken off its graph and its device; of anything else what NumPy
    makes of it.

    Raises whatever the framework raises where there are none: a tracer, a tensor without data.
    """
    if not _is_torchs(value):
        return np.asarray(value)
    plain = value.detach().cpu().resolve_conj().resolve_neg()
    if str(plain.dtype) == "torch.bfloat16":
        return plain.float().numpy().astype(BFLOAT16)
    return plain.numpy()


def as_given(like: Any, array: Array) -> Any:
    """The numbers as what the user gave in their place: a tensor of that framework, dtype and
    device, or an array of that byte order; else the array itself.
    """
    if _is_torchs(like):
        torch = sys.modules["torch"]
        numbers = array.astype(np.float32) if array.dtype == BFLOAT16 else np.array(array)
        tensor = torch.from_numpy(numbers).to(device=like.device, dtype=like.dtype)
        return tensor.requires_grad_(like.requires_grad)
    if _is_jaxs(like):
        return sys.modules["jax"].numpy.asarray(array, dtype=like.dtype)
    if isinstance(like, np.ndarray) and not cast(Array, like).dtype.isnative:
        return array.astype(array.dtype.newbyteorder("S"))
    return array
