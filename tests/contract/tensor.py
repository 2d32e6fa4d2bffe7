"""Cases of the tensor codec: every mode, of tensors of many types and shapes."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from contract.subject import Cases, Golden, Variant
from rdcodec.codecs.tensor import TensorCodec, Tensors, TensorSettings
from rdcodec.codecs.tensor.file_api import base_of
from rdcodec.codecs.tensor.header import MODES
from rdcodec.codecs.tensor.torch_types import NAMES, words_of

TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


def weights(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0.5, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (0.02 * rows * torch.randn(shape, generator=generator)).to(dtype)


def one() -> Tensors:
    return Tensors({"scalar": torch.tensor(1.5, dtype=torch.bfloat16)})


def every_type() -> Tensors:
    floats = {str(dtype): weights(i, 7, 15, dtype=dtype) for i, dtype in enumerate(TYPES)}
    integers = {
        str(dtype): torch.arange(33).to(dtype) for dtype in NAMES if not dtype.is_floating_point and dtype != torch.uint64
    }
    return Tensors(floats | integers | {"empty": torch.zeros(0, 5), "none": torch.zeros(3, 0, dtype=torch.int8)})


def model(rows: int, width: int, dtype: torch.dtype) -> Tensors:
    tensors = {"embedding.weight": weights(1, rows, width, dtype=dtype), "norm.weight": torch.ones(width, dtype=dtype)}
    tensors |= {"position_ids": torch.arange(rows)[None], "layer.weight": weights(2, width, rows, dtype=dtype)}
    tensors["version"] = torch.tensor(2)
    return Tensors(tensors, {"format": "pt"})


def bases() -> dict[str, torch.Tensor]:
    """Near to some tensor of every signal."""
    near = {"scalar": torch.tensor(1.25, dtype=torch.bfloat16), "w": weights(3, 33, 32) * 1.01, "version": torch.tensor(1)}
    near |= {str(dtype): weights(i, 7, 15, dtype=torch.float32).mul(1.01).to(dtype) for i, dtype in enumerate(TYPES)}
    return near | {"embedding.weight": weights(1, 1100, 500)}


def same(a: Tensors, b: Tensors) -> bool:
    return a.metadata == b.metadata and list(a.tensors) == list(b.tensors) and all(
        x.dtype == y.dtype and x.shape == y.shape and np.array_equal(raw(x), raw(y))
        for x, y in zip(a.tensors.values(), b.tensors.values(), strict=True)
    )  # fmt: skip


def raw(tensor: torch.Tensor) -> np.ndarray:
    return words_of(tensor.contiguous(), range(2 * tensor.numel()))


def array(signal: Tensors) -> np.ndarray:
    """All numbers end to end, float32."""
    return np.concatenate([x.to(torch.complex64).real.flatten().numpy() for x in signal.tensors.values()])


def golden_tensors(turn: int = 0) -> Tensors:
    """From integer arithmetic; of another ``turn`` nearly the same."""

    def numbers(*shape: int) -> torch.Tensor:
        n = torch.arange(np.prod(shape))
        wide = (n * 7919 % 2003 + n * 104729 % 1999 + n * 1299709 % 1997) - 3000  # somewhat like a bell
        return ((wide + turn * (n % 3)) / 2**16).reshape(shape)

    tensors = {"a.weight": numbers(33, 40), "b.weight": numbers(40, 31).bfloat16(), "h.weight": numbers(36, 30).half()}
    return Tensors(tensors | {"norm": torch.ones(7) + turn / 8, "ids": torch.arange(9)}, {"format": "pt"})


def settings_of(mode: str, scaling: str = "tensor") -> TensorSettings:
    return TensorSettings(mode=mode, scaling=scaling, base=base_of(golden_tensors().tensors) if mode == "delta" else None)


TENSOR = Cases(
    stream_id=5,
    variants={mode: Variant(load=partial(TensorCodec, TensorSettings(mode=mode))) for mode in ("lossless", "nested")}
    | {"delta": Variant(load=lambda: TensorCodec(TensorSettings(mode="delta", base=base_of(bases()))), alone=False)}
    | {scaling: Variant(load=partial(TensorCodec, settings_of("quantized", scaling))) for scaling in ("channel", "balanced")}
    | {"quantized": Variant(load=partial(TensorCodec, TensorSettings(mode="quantized")), qualities=(20, 60, 80))},
    signals={
        "a scalar": one,
        "every type": every_type,
        "bfloat16": lambda: model(65, 33, torch.bfloat16),
        "float32": lambda: model(129, 70, torch.float32),
        "float16": lambda: model(31, 111, torch.float16),
    },
    small=lambda: Tensors({"w": weights(3, 33, 32), "norm": torch.ones(9)}),
    large=lambda: model(1100, 500, torch.bfloat16),
    same=same,
    array=array,
    golden={
        f"tensor/{mode}": Golden(load=lambda mode=mode: TensorCodec(settings_of(mode)), signal=partial(golden_tensors, 1))
        for mode in MODES
    }
    | {
        f"tensor/{scaling}": Golden(load=partial(TensorCodec, settings_of("quantized", scaling)), signal=golden_tensors)
        for scaling in ("channel", "balanced")
    },
)
