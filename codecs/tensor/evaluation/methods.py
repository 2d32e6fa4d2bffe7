"""Ways to store the tensors of a safetensors file: ours, general compressors, and the usual quantisers.

Quantisers take what our lossy modes take (`rates.is_quantised`), and keep the rest as it is. They are the published schemes
in plain PyTorch, so their rates and errors are what they are everywhere, but their times are not those of tuned kernels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import safetensors.torch
import torch
import zstandard
from torch import Tensor

from ....entropy_models.errors import UnknownName
from ..codec import TensorCodec
from ..rates import is_quantised
from ..sources import SafetensorsSource
from ..torch_types import tensor_of
from ..writing import TensorSettings, write_stream

State = dict[str, Tensor]
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Levels of NormalFloat4 (QLoRA, 2305.14314, appendix E)."""
_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way, at each of its settings."""

    encode: Callable[[bytes, float], Any]
    """A safetensors file and a setting to what is stored."""
    size: Callable[[Any], int]
    """Its bytes."""
    decode: Callable[[Any], State]
    settings: tuple[float, ...] = (0,)
    lossy: bool = False


def ours(lossy: bool, settings: tuple[float, ...], make: Callable[[float], TensorSettings]) -> Method:
    """A mode of ours, by the settings of each point."""

    def encode(raw: bytes, setting: float) -> bytes:
        file = io.BytesIO()
        write_stream(file, SafetensorsSource(raw), make(setting))
        return file.getvalue()

    def decode(data: bytes) -> State:
        return TensorCodec().decode(data).tensors

    return Method(encode=encode, size=len, decode=decode, settings=settings, lossy=lossy)


def _zstd(raw: bytes, level: float) -> bytes:
    return zstandard.ZstdCompressor(level=int(level)).compress(raw)


def _unzstd(data: bytes) -> State:
    return _opened(bytearray(zstandard.ZstdDecompressor().decompress(data)))


def _opened(raw: bytearray) -> State:
    """Tensors in the memory of a safetensors file, none of which is copied, so that decoders alone are timed."""
    source = SafetensorsSource(memoryview(raw))
    return {
        entry.name: tensor_of(source.words(entry, range(entry.words)), entry.dtype, entry.shape)
        for entry in source.index.entries
    }


def _zipnn(raw: bytes, setting: float) -> tuple[Any, bytes]:
    import zipnn

    source = SafetensorsSource(raw)
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    sizes = {kind: sum(entry.raw_bytes for entry in source.index.entries if entry.dtype == kind) for kind in names}
    coder = zipnn.ZipNN(bytearray_dtype=names[max(sizes, key=lambda kind: sizes[kind])], threads=1)
    return coder, coder.compress(bytearray(raw))  # a copy: it changes what it is given


def _unzipnn(coded: tuple[Any, bytes]) -> State:
    coder, data = coded
    return _opened(coder.decompress(data))


def _grouped(codes_of: Callable[[Tensor], tuple[Tensor, Tensor]], numbers_of: Callable[..., Tensor], group: int) -> Method:
    """A quantiser of groups of so many numbers of a row (0: of whole rows), each with a float16 scale.

    Args:
        codes_of: float32 (groups, group) to codes, uint8 or int8 packed or not, and scales.
        numbers_of: codes and scales to float32 (groups, group).
    """

    def encode(raw: bytes, setting: float) -> list[Any]:
        source, tensors = SafetensorsSource(raw), safetensors.torch.load(raw)
        return [
            (entry.name, tensors[entry.name], *codes_of(_in_groups(tensors[entry.name], group)))
            if is_quantised(entry)
            else (entry.name, tensors[entry.name])
            for entry in source.index.entries
        ]

    def size(coded: list[Any]) -> int:
        return sum(
            line[2].numel() + _SCALE_BYTES * line[3].numel() if len(line) > 2 else line[1].numel() * line[1].element_size()
            for line in coded
        )

    def decode(coded: list[Any]) -> State:
        out = {}
        for name, like, *stored in coded:
            out[name] = numbers_of(*stored).reshape(-1)[: like.numel()].view(like.shape).to(like.dtype) if stored else like
        return out

    return Method(encode=encode, size=size, decode=decode, lossy=True)


def _in_groups(tensor: Tensor, group: int) -> Tensor:
    flat = tensor.float().reshape(-1)
    width = group or tensor.numel() // tensor.shape[0]
    return torch.nn.functional.pad(flat, (0, -len(flat) % width)).view(-1, width)


def _scaled(groups: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Groups over scales that bring the largest number to ``largest``; the scales."""
    scale = (groups.abs().amax(1, keepdim=True) / largest).clamp_min(6e-8).half()
    return groups / scale.float(), scale


def _int8(groups: Tensor) -> tuple[Tensor, Tensor]:
    scaled, scale = _scaled(groups, 127)
    return scaled.round_().clamp_(-127, 127).to(torch.int8), scale


def _from_int8(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * scale.float()


def _int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    scaled, scale = _scaled(groups, 7)
    return _packed((scaled.round_().clamp_(-8, 7) + 8).to(torch.uint8)), scale


def _from_int4(packed: Tensor, scale: Tensor) -> Tensor:
    return (_unpacked(packed).float() - 8) * scale.float()


def _nf4(groups: Tensor) -> tuple[Tensor, Tensor]:
    scaled, scale = _scaled(groups, 1)
    levels = torch.tensor(NF4)
    return _packed(torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)), scale


def _from_nf4(packed: Tensor, scale: Tensor) -> Tensor:
    return torch.tensor(NF4)[_unpacked(packed).int()] * scale.float()


def _packed(codes: Tensor) -> Tensor:
    return codes[:, ::2] << 4 | codes[:, 1::2]


def _unpacked(packed: Tensor) -> Tensor:
    return torch.stack([packed >> 4, packed & 15], 2).flatten(1)


QUANTIZED, BY_CHANNEL, WEIGHTED, BY_BOTH = "quantized", "by channel", "by activations", "by both"
METHODS = {
    "lossless": ours(False, (0,), lambda _: TensorSettings()),
    QUANTIZED: ours(
        True, (40, 45, 50, 55, 60, 65, 70), lambda quality: TensorSettings(mode="quantized", quality=int(quality))
    ),
    BY_CHANNEL: ours(
        True, (45, 50, 55, 60), lambda quality: TensorSettings(mode="quantized", quality=int(quality), scaling="channel")
    ),
    "balanced": ours(
        True, (50, 60), lambda quality: TensorSettings(mode="quantized", quality=int(quality), scaling="balanced")
    ),
    "nested": ours(True, (0,), lambda _: TensorSettings(mode="nested")),
    "zstd": Method(encode=_zstd, size=len, decode=_unzstd, settings=(3,)),
    "zipnn": Method(encode=_zipnn, size=lambda coded: len(coded[1]), decode=_unzipnn),
    "int8": _grouped(_int8, _from_int8, 0),
    "int4 g128": _grouped(_int4, _from_int4, 128),
    "nf4 g64": _grouped(_nf4, _from_nf4, 64),
}
"""By name; ours first."""


def chosen(names: str) -> dict[str, Method]:
    """Methods of a comma-separated list; of an empty one all that run here.

    Raises:
        UnknownName: there is no such method, or it is not installed.
    """
    here = {name: method for name, method in METHODS.items() if name != "zipnn" or find_spec("zipnn")}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in here]:
        raise UnknownName(f"no method {', '.join(unknown)}; there are {', '.join(here)}")
    return {name: here[name] for name in wanted} or here
