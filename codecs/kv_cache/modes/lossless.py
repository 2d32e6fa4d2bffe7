"""Mode lossless: a tensor's words as `tensor.exact` codes them, in the order in which the cache holds them.

Exponents go under zstd's Huffman tables, which decode in half a nanosecond a byte; the bits below them are as good as
random. Tables that took some of those in as well would save 1 %, and cost half the speed.
Every bit pattern survives: NaN with its payload, infinities, -0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....entropy_models.row_coders import ChunkCoder
from ...tensor import exact
from .place import Place

_WORDS = {torch.bfloat16: ("BF16", torch.int16), torch.float16: ("F16", torch.int16), torch.float32: ("F32", torch.int32)}
"""Name in `tensor.header.WORDS` and integer type of the same width."""


def code(coder: ChunkCoder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor, shape (heads, tokens, dim)."""
    name, integer = _WORDS[place.dtype]
    words = None
    if x is not None:
        words = x.contiguous().view(integer).cpu().numpy().reshape(-1)
        words = words.view(words.dtype.str.replace("i", "u"))
    known = exact.code(coder, words, name, place.size, heads=False)
    known = known if known.flags.writeable else known.copy()  # bytes of the file, which a tensor must not change
    return torch.from_numpy(known.view(known.dtype.str.replace("u", "i"))).view(place.dtype).reshape(place.shape)
