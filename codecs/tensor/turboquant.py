"""TurboQuant (2504.19874), MSE variant, section 3.1: norm, random rotation, Lloyd-Max codes.

    g = |x|,  u = x / g,  y = R u,  code each coordinate with the b-bit Lloyd-Max quantiser of N(0, 1/d)
    x_hat = g R' y_hat

R is orthogonal, drawn from a fixed seed for each width. The norm is a float16, so the published rate is b + 16 / d
bits per element. ``turboquant-ec`` stores the same codes under an order-0 table, which the paper skips for speed. The
second stage (QJL) is left out, as by nearly all who built it: softmax amplifies its variance.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import InputError
from ...entropy_models.row_coders import ChunkCoder
from .spec import FLOAT16_MAX, TensorSpec, finite, in_type

SEED = 2504
_NORM_MAX, _NORM_MIN = FLOAT16_MAX, 2.0**-14


@cache
def rotation(width: int) -> Tensor:
    """Haar-distributed orthogonal matrix, float32, shape (width, width)."""
    gaussian = np.random.RandomState(SEED + width).standard_normal((width, width))
    q, r = np.linalg.qr(gaussian)
    return torch.from_numpy((q * np.sign(np.diag(r))).astype(np.float32))


@cache
def codebook(bits: int) -> tuple[Tensor, Tensor]:
    """Lloyd-Max centroids (2^bits) and the boundaries between them for N(0, 1), float32, by Lloyd's iteration."""
    count = 1 << bits
    centroids = [(2 * i + 1 - count) * 3.0 / count for i in range(count)]
    for _ in range(4000):
        edges = [-math.inf, *((a + b) / 2 for a, b in pairwise(centroids)), math.inf]
        moved = [(_density(a) - _density(b)) / max(_below(b) - _below(a), 1e-30) for a, b in pairwise(edges)]
        change = max(abs(a - b) for a, b in zip(moved, centroids, strict=True))
        centroids = moved
        if change < 1e-9:
            break
    c = torch.tensor(centroids)
    return c, (c[1:] + c[:-1]) / 2


def _density(t: float) -> float:
    return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)


def _below(t: float) -> float:
    return 0.5 * (1 + math.erf(t / math.sqrt(2)))


def code_fixed(coder: ChunkCoder, x: Tensor | None, spec: TensorSpec) -> Tensor:
    """The coding pass at the published rate: ``bits`` per coordinate, packed."""
    norm, index = _quantise(x, spec)
    norm = coder.raw(norm, (spec.groups * spec.vectors,), "<f2")
    packed = None
    if index is not None:
        packed = np.packbits(np.unpackbits(index[:, None], axis=1, count=spec.bits, bitorder="little"))
    packed = coder.raw(packed, ((spec.size * spec.bits + 7) // 8,), "u1")
    unpacked = np.unpackbits(packed, count=spec.size * spec.bits).reshape(-1, spec.bits)
    return _dequantise(norm, np.packbits(unpacked, axis=1, bitorder="little")[:, 0], spec)


def code_entropy(coder: ChunkCoder, x: Tensor | None, spec: TensorSpec) -> Tensor:
    """The coding pass with entropy-coded codes: the same reconstruction, fewer bytes."""
    norm, index = _quantise(x, spec)
    norm = coder.raw(norm, (spec.groups * spec.vectors,), "<f2")
    return _dequantise(norm, coder.symbols(index, (spec.size,)), spec)


def _quantise(x: Tensor | None, spec: TensorSpec) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Norms, float16, one per vector; codes, uint8, flat."""
    if x is None:
        return None, None
    y = finite(x, spec).reshape(-1, spec.width)
    norm = torch.linalg.vector_norm(y, dim=1)
    longest = float(norm.max()) if norm.numel() else 0.0
    if longest > _NORM_MAX or 0 < longest < _NORM_MIN:
        raise InputError(
            f"{spec.name}: the longest vector has norm {longest:.3g}; this mode stores "
            f"norms in float16, {_NORM_MIN:.2g} to {_NORM_MAX:.0f}; modes quantized and lossless take it"
        )
    unit = y / norm.clamp_min(1e-20)[:, None]
    turned = unit @ rotation(spec.width).to(y.device).T * math.sqrt(spec.width)
    index = torch.bucketize(turned, codebook(spec.bits)[1].to(y.device))
    return norm.cpu().numpy().astype("<f2"), index.to(torch.uint8).cpu().numpy().reshape(-1)


def _dequantise(norm: np.ndarray, index: np.ndarray, spec: TensorSpec) -> Tensor:
    centroids = codebook(spec.bits)[0]
    # a code beyond the table can only come from a forged chunk
    y = centroids[torch.from_numpy(np.minimum(index, len(centroids) - 1).astype(np.int64))].view(-1, spec.width)
    x = y @ rotation(spec.width) * (torch.from_numpy(norm.astype(np.float32)) / math.sqrt(spec.width))[:, None]
    return in_type(x, spec.dtype).view(spec.shape)
