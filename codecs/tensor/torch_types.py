"""Words of a piece to torch tensors and back, and the names of types."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import InputError, Unsupported
from .header import WORDS

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16,
    "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
    "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
"""torch's types of the names in safetensors; it has none of 4 and 6 bits."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def name_of(tensor: Tensor, label: str) -> str:
    """Name of a tensor's type; InputError for one that safetensors does not have."""
    if tensor.layout != torch.strided:
        raise InputError(f"{label}: a tensor of layout {tensor.layout}; need torch.strided (dense)")
    if tensor.is_meta:
        raise InputError(f"{label}: a tensor on device meta, which holds no numbers")
    if tensor.dtype not in NAMES or tensor.is_quantized:
        raise InputError(
            f"{label}: {tensor.dtype}, which safetensors does not have; need one of {', '.join(NAMES.values())}"
        )
    return NAMES[tensor.dtype]


def words_of(tensor: Tensor, span: range) -> np.ndarray:
    """Words of a contiguous tensor on the CPU: a view of its memory, of unsigned words."""
    flat = tensor.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat.resolve_conj()).reshape(-1)
    size = flat.element_size()
    return flat[span.start : span.stop].view(torch.uint8).numpy().view(f"<u{size}")


def tensor_of(words: np.ndarray, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor that shares the memory of its words; InputError for a type that torch does not have."""
    if dtype not in DTYPES:
        raise Unsupported(f"type {dtype}, which torch does not have; `codec decode` writes it to safetensors")
    return torch.from_numpy(words.view(np.uint8)).view(DTYPES[dtype]).reshape(shape)


def floats_of(words: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of words of type F16, BF16, F32 or F64; infinite where F64 lies beyond it."""
    if dtype == "BF16":
        return (words.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):
        return words.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32, copy=False)


def words_from(values: np.ndarray, dtype: str) -> np.ndarray:
    """Words of float32 numbers in type F16, BF16, F32 or F64; what it cannot hold becomes its largest number."""
    if dtype == "F32":
        return values.view("<u4")
    kind = DTYPES[dtype]
    limit = torch.finfo(kind).max
    bounded = torch.from_numpy(values)
    if limit < 3e38:
        bounded = bounded.clamp(-limit, limit)
    return bounded.to(kind).view(torch.uint8).numpy().view(f"<u{WORDS[dtype].word}")
