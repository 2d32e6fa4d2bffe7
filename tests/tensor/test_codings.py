"""Every coding of tensors, on its own: writer, reader and meter agree, and errors are of the size that the steps allow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from rdcodec.codecs.tensor import fp8, lossless, quantized, turboquant
from rdcodec.codecs.tensor.quantized import FINER_FIRST, FINER_LAST, Steps
from rdcodec.codecs.tensor.spec import TensorSpec, in_type
from rdcodec.entropy_models.fast_rows import FAST_ROW_CODERS
from rdcodec.entropy_models.row_coders import ChunkCoder, RowCoders
from rdcodec.entropy_models.rows import ROW_CODERS
from rdcodec.entropy_models.tables import scale_ratio
from torch import Tensor

EXPONENT = -20


def quantized_rows(coder: ChunkCoder, x: Tensor | None, spec: TensorSpec, steps: Steps | None = None) -> Tensor:
    """`quantized.code` of a tensor instead of its channels."""
    t = None if x is None else x.float().transpose(1, 2).reshape(-1, spec.vectors)
    known = quantized.code(coder, t, spec, (steps or Steps(exponent=EXPONENT)) if x is not None else None)
    return in_type(known, spec.dtype).view(spec.groups, spec.width, spec.vectors).transpose(1, 2)


CODINGS: dict[str, tuple[Callable[..., Tensor], RowCoders]] = {
    "lossless": (lossless.code, ROW_CODERS),
    "fp8": (fp8.code, ROW_CODERS),
    "turboquant": (turboquant.code_fixed, ROW_CODERS),
    "turboquant-ec": (turboquant.code_entropy, ROW_CODERS),
    "quantized": (quantized_rows, FAST_ROW_CODERS),
    "quantized-small": (quantized_rows, ROW_CODERS),
}


def tensor_of(groups: int, vectors: int, width: int, dtype: torch.dtype) -> tuple[Tensor, TensorSpec]:
    """Channels of different scale and mean."""
    g = torch.Generator().manual_seed(groups * vectors * width)
    scale = torch.exp(torch.randn(groups, 1, width, generator=g))
    x = (torch.randn(groups, vectors, width, generator=g) + torch.randn(groups, 1, width, generator=g)) * scale
    ends = {"finer_first": min(2, vectors), "finer_last": min(3, max(vectors - 2, 0))}
    return x.to(dtype), TensorSpec(name="weights", groups=groups, vectors=vectors, width=width, dtype=dtype, **ends)


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (3, 1, 8), (2, 70, 16)])
def test_writer_reader_and_meter_agree(name, shape, dtype):
    (code, coders), (x, spec) = CODINGS[name], tensor_of(*shape, dtype)
    writer, meter = coders.write(), coders.measure()
    known = code(writer, x, spec)
    assert torch.equal(code(meter, x, spec), known) and (known.shape, known.dtype) == (x.shape, dtype)
    meter.finish()
    chunk = writer.chunk()
    reader = coders.read(chunk)
    assert torch.equal(code(reader, None, spec), known)
    reader.finish()
    assert float(meter.bits[0]) / 8 - 1 <= len(chunk) <= 1.01 * float(meter.bits[0]) / 8 + 16
    assert name != "lossless" or torch.equal(known, x)
    assert name == "lossless" or x.numel() == 1 or not torch.equal(known, x)


@pytest.mark.parametrize("steps", [Steps(exponent=EXPONENT), Steps(exponent=EXPONENT, channels_only=True)])
def test_errors_are_at_most_half_a_step_and_smaller_at_the_ends(steps):
    x, spec = tensor_of(2, 70, 16, torch.float32)
    error = (quantized_rows(ROW_CODERS.write(), x, spec, steps) - x).abs().amax((0, 2))
    step = np.exp(EXPONENT * scale_ratio())
    for part, finer in ((error[:2], FINER_FIRST), (error[2:67], 0), (error[67:], FINER_LAST)):
        half = 0.5 * step * np.exp(-finer * scale_ratio())
        assert 0.3 * half < float(part.max()) <= 1.0001 * half


def test_channels_have_steps_of_their_own_where_they_are_given():
    x, spec = tensor_of(2, 70, 16, torch.float32)
    offsets = np.where(np.arange(32) % 2, -9, 0).astype(np.int32)
    known = quantized_rows(ROW_CODERS.write(), x, spec, Steps(exponent=EXPONENT, offsets=offsets))
    error = (known - x)[:, 2:67].abs().amax(1).view(-1).numpy()
    half = 0.5 * np.exp((EXPONENT + offsets) * scale_ratio())
    assert (error <= 1.0001 * half).all() and (error > 0.5 * half).all()


def test_what_cannot_be_coded_is_named():
    x, spec = tensor_of(2, 70, 16, torch.float32)
    for name in ("fp8", "turboquant"):
        with pytest.raises(ValueError, match="weights are not all finite; mode lossless takes them"):
            CODINGS[name][0](ROW_CODERS.write(), x / 0, spec)
    write = partial(quantized_rows, ROW_CODERS.write())
    with pytest.raises(ValueError, match=r"weights hold values up to .*, too far from one for the steps of this mode"):
        write(x, spec, Steps(exponent=601))
    with pytest.raises(ValueError, match=r"weights: the longest vector has norm .*; this mode stores norms in float16"):
        turboquant.code_fixed(ROW_CODERS.write(), 1e30 * x, spec)
