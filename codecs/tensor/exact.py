"""Bit-exact words: exponent and highest mantissa bits together under zstd's Huffman tables, other bytes where it pays.

A chunk's raw part, after the number of the coding: the layout (1 byte), then

STORED   the words as they are
PLANES   a plane for each byte of the words, from the highest to the lowest; words of floating-point types are turned left
         by one bit first (of 64 bits: their upper 16 bits), so that the exponent does not share its byte with the sign
HEADS    of bf16, and the upper half of fp32: n - 1 (1 byte), the n values that the 10 bits below the sign take, as
         the first (int16) and a plane of the differences (uint16), a plane of indices into them, sign and lower 5 bits
         (`_packed`), then planes of the lower half, not turned

A plane is a length (4 bytes), and either its bytes, if the length is theirs, or a zstd frame.

Exponent and two mantissa bits have some 4.5 bits of entropy in trained weights, whose fifth mantissa bit and lower ones have
nothing to gain: 10.5 bits of 16, where exponents alone give 10.6, and Huffman's whole bits lose less on the larger alphabet.
"""

from __future__ import annotations

import numpy as np

from ...entropy_models import literals
from ...entropy_models.errors import Corrupt
from ...entropy_models.row_coders import ChunkCoder
from .header import WORDS

STORED, PLANES, HEADS = 0, 1, 2
HEAD_BITS = 10
"""Exponent and two mantissa bits."""
_HEADS_MAX = 256
_BLOCK = 1 << 16
"""Words that are worked on at a time: they stay in the cache, which makes a pass over them ten times as fast."""
_JOINED = 1 << 18
"""Words that are joined at a time: of fewer, numpy's calls take longer than their work."""
_SAMPLE = 1 << 14
_HEADS_WORTH = 512
"""Words below which the values of heads weigh too much."""
_RANDOM_PART = 0.97
"""A byte of mantissa and sign that compresses below this share has patterns that `HEADS` would leave in."""


def code(coder: ChunkCoder, words: np.ndarray | None, dtype: str, count: int, *, heads: bool = True) -> np.ndarray:
    """The coding pass: unsigned words, flat; ``words`` is None for the reader.

    Args:
        coder: of the chunk.
        words: shape (count,), of the unsigned type of that many bytes; not changed.
        dtype: of `WORDS`.
        heads: whether a writer may choose `HEADS` for bf16, which takes 1 % fewer bytes and twice as long.
    """
    kind = np.dtype(f"<u{WORDS[dtype].word}")
    layout = coder.number(_layout_of(words, dtype, heads) if words is not None else 0, "B")
    if layout == STORED:
        return coder.raw(words, (count,), kind.str)
    if layout == HEADS and dtype in ("BF16", "F32"):
        return _code_heads(coder, words, kind, count)
    if layout != PLANES:
        raise Corrupt(f"layout {layout} of {dtype} words")
    if words is not None:
        _code_planes(coder, _turned(words, dtype, 1), kind, count, kind.itemsize)
        return words
    return _turned(_code_planes(coder, None, kind, count, kind.itemsize), dtype, -1)


def _layout_of(words: np.ndarray, dtype: str, heads: bool) -> int:
    """The layout to write words in."""
    if (dtype == "BF16" and not heads) or dtype not in ("BF16", "F32") or len(words) < _HEADS_WORTH:
        return PLANES
    upper = _upper(words[max(len(words) - _SAMPLE, 0) // 2 :][:_SAMPLE])
    sample = (upper & 0xFF).astype(np.uint8)
    patterns = len(literals.compress(sample)) <= _RANDOM_PART * len(sample)
    return PLANES if patterns or len(_heads(_upper(words))) > _HEADS_MAX else HEADS


def _upper(words: np.ndarray) -> np.ndarray:
    """Upper halves of words of 32 bits, or words of 16."""
    return words if words.itemsize == 2 else (words >> 16).astype(np.uint16)


def _heads(upper: np.ndarray) -> np.ndarray:
    """The heads there are among upper halves of words, rising; with those in between that are not, if that makes no more
    than `_HEADS_MAX`, as they cost nothing and a reader adds faster than it looks up."""
    blocks = [upper[start : start + _BLOCK] >> 5 & 0x3FF for start in range(0, len(upper), _BLOCK)]
    low, high = int(min(block.min() for block in blocks)), int(max(block.max() for block in blocks))
    if high - low < _HEADS_MAX:
        return np.arange(low, high + 1)
    return np.flatnonzero(sum(np.bincount(block, minlength=1 << HEAD_BITS) for block in blocks))


def _turned(words: np.ndarray, dtype: str, by: int) -> np.ndarray:
    """Words turned left by a bit, or back; those of types that are not turned are themselves."""
    bits = 8 * words.itemsize
    if not WORDS[dtype].floating or bits < 16:
        return words
    if bits == 64:  # the upper 16 bits alone, as trailing zeros of a mantissa are to stay together
        upper = _turned((words >> np.uint64(48)).astype(np.uint16), "F16", by).astype(np.uint64)
        return words & np.uint64((1 << 48) - 1) | upper << np.uint64(48)
    left = by % bits
    turned = words << left
    turned |= words >> (bits - left)
    return turned


def _code_planes(coder: ChunkCoder, words: np.ndarray | None, kind: np.dtype, count: int, planes: int) -> np.ndarray:
    """The lowest ``planes`` bytes of words, from the highest of these on."""
    if kind.itemsize == planes == 2:
        return _code_two_planes(coder, words, count)
    out = np.zeros(count, kind) if planes < kind.itemsize else np.empty(count, kind)
    parts = out.view(np.uint8).reshape(count, kind.itemsize)
    given = None if words is None else np.ascontiguousarray(words).view(np.uint8).reshape(count, kind.itemsize)
    repetitive = kind.itemsize > 2
    for i in reversed(range(planes)):
        parts[:, i] = code_plane(coder, None if given is None else given[:, i], count, repetitive)
    return out


def _code_two_planes(coder: ChunkCoder, words: np.ndarray | None, count: int) -> np.ndarray:
    """`_code_planes` of words of 16 bits, three times as fast: every other byte is slow to reach."""
    if words is None:
        high, low = code_plane(coder, None, count), code_plane(coder, None, count)
        out = np.multiply(high, np.uint16(256), dtype=np.uint16)
        out += low
        return out
    high = np.empty(count, np.uint8)
    np.right_shift(words, 8, out=high, casting="unsafe")
    code_plane(coder, high, count)
    low = words.astype(np.uint8)
    sample = low[max(count - _SAMPLE, 0) // 2 :][:_SAMPLE]
    if len(literals.compress(sample)) < len(sample):
        code_plane(coder, low, count)
    else:  # not a frame that would be as long
        coder.raw(low, (coder.number(count, "I"),), "u1")
    return words


def code_plane(coder: ChunkCoder, plane: np.ndarray | None, count: int, repetitive: bool = False) -> np.ndarray:
    """Bytes, uint8 (count,); ``repetitive``: a writer looks for repetitions as well, where they are likely."""
    frame = np.zeros(0, np.uint8)
    if plane is not None:
        plane = np.ascontiguousarray(plane)
        found = literals.compress(plane)
        if repetitive and len(found) < count:
            found = min(found, literals.compress_repetitive(plane), key=len)
        frame = np.frombuffer(found, np.uint8) if len(found) < count else plane
    size = coder.number(len(frame), "I")
    if size > count:
        raise Corrupt(f"a plane of {count} bytes in {size}")
    body = coder.raw(frame, (size,), "u1")
    if plane is not None:
        return plane
    return body if size == count else literals.decompress(body.data, count)


def _code_heads(coder: ChunkCoder, words: np.ndarray | None, kind: np.dtype, count: int) -> np.ndarray:
    """The layout `HEADS`."""
    upper = None if words is None else _upper(words)
    values = None if upper is None else _heads(upper)
    size = coder.number(0 if values is None else len(values) - 1, "B") + 1
    first = coder.number(0 if values is None else int(values[0]), "h")
    gaps = None if values is None else np.diff(values).astype("<u2").view(np.uint8)
    gaps = code_plane(coder, gaps, 2 * (size - 1), repetitive=True).view("<u2")
    values = np.cumsum(np.append(first, gaps), dtype=np.int64)
    if first < 0 or values[-1] >> HEAD_BITS or not gaps.all():
        raise Corrupt(f"{size} heads from {first} to {values[-1]} that do not rise")
    symbols, rest = (None, None) if upper is None else _split(upper, values)
    symbols = code_plane(coder, symbols, count)
    packed = coder.raw(None if rest is None else _packed(rest), (_packed_size(count),), "u1")
    if kind.itemsize == 2:
        return words if words is not None else _joined(symbols, packed, values)
    low = _code_planes(coder, words, kind, count, kind.itemsize - 2)
    if words is not None:
        return words
    _joined(symbols, packed, values, low.view(np.uint16)[1::2])
    return low


def _split(upper: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of heads, and the bits below them with the sign as the highest; uint8."""
    index = np.zeros(1 << HEAD_BITS, np.uint8)
    index[values] = np.arange(len(values), dtype=np.uint8)
    contiguous = values[-1] - values[0] == len(values) - 1
    symbols, rest = np.empty(len(upper), np.uint8), np.empty(len(upper), np.uint8)
    for start in range(0, len(upper), _BLOCK):
        block, out = upper[start : start + _BLOCK], symbols[start : start + _BLOCK]
        head = block >> 5 & 0x3FF
        if contiguous:
            np.subtract(head, values[0], out=out, dtype=np.uint16, casting="unsafe")
        else:
            np.take(index, head, out=out, mode="clip")
        rest[start : start + _BLOCK] = (block >> 10 & 32) | (block & 31)
    return symbols, rest


def _joined(symbols: np.ndarray, packed: np.ndarray, values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Inverse of `_split` and `_packed`, uint16, into ``out`` if it is given.

    Raises:
        Corrupt: an index beyond the heads, or bits beyond the last number are set.
    """
    if symbols.max(initial=0) >= len(values):
        raise Corrupt(f"head {symbols.max()} of {len(values)}")
    count, quarter = len(symbols), len(packed) // 3
    out = np.empty(count, np.uint16) if out is None else out
    each = min(_JOINED // 4, -(-quarter // 8) * 8)
    rest, heads, low = np.zeros((4, each), np.uint8), np.zeros((4, each), np.uint16), np.empty((4, each), np.uint16)
    gaps = None if values[-1] - values[0] == len(values) - 1 else values.astype(np.uint16)
    for start in range(0, quarter, each):
        rest[:3, : quarter - start] = packed.reshape(3, quarter)[:, start : start + each]
        _unpack(rest)
        spans = [range(at, min(at + each, (i + 1) * quarter, count)) for i in range(4) for at in [i * quarter + start]]
        for i, span in enumerate(spans):
            given = symbols[span.start : span.stop]
            heads[i, : len(span)] = given if gaps is None else gaps.take(given)
            if rest[i, len(span) : quarter - start].any():
                raise Corrupt("bits are set after a piece's last number")
        # products and sums modulo 2^16, which are faster than shifts: bits 0 to 4 of the rest stay, bit 5 becomes bit 15
        heads *= 32
        heads += np.uint16(32 * values[0] if gaps is None else 0)
        np.copyto(low, rest)
        heads += low
        low &= 32
        low *= (1 << 10) - 1
        for i, span in enumerate(spans):
            np.add(heads[i, : len(span)], low[i, : len(span)], out=out[span.start : span.stop])
    return out


def _packed_size(count: int) -> int:
    return 3 * (-(-count // 4))


def _packed(rest: np.ndarray) -> np.ndarray:
    """Numbers of 6 bits in 3/4 of the bytes: those of three quarters, with those of the last in their upper bits."""
    quarter = -(-len(rest) // 4)
    whole = np.zeros(4 * quarter, np.uint8)
    whole[: len(rest)] = rest
    a, b, c, last = whole.reshape(4, quarter)
    return np.concatenate([a | last << 6, b | last >> 2 << 6, c | last >> 4 << 6])


def _unpack(rest: np.ndarray) -> None:
    """Inverse of `_packed` in place, (4, columns): the last row is made of the others' upper bits, eight bytes at a time."""
    a, b, c, last = rest.view(np.uint64)
    np.bitwise_or((a >> 6) & _repeated(0x03), (b >> 4) & _repeated(0x0C), out=last)
    last |= (c >> 2) & _repeated(0x30)
    rest[:3] &= 63


def _repeated(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101010101010101)
