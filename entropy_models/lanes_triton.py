"""`lanes` decoded by a Triton kernel: a program for each body, a thread for each lane.

Bodies of one number of lanes are decoded in one launch, so that a device is full where there are hundreds of them: those of
all layers of some blocks. With ``TRITON_INTERPRET=1`` in the environment the kernel runs on a CPU, step by step, as a test.
Nothing else imports Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .lanes import Lanes, check_end, check_states, decoding_table


@triton.jit
def _kernel(
    states: Any,
    words: Any,
    levels: Any,
    table: Any,
    out: Any,
    ends: Any,
    left: Any,
    first_word: Any,
    first_byte: Any,
    LANES: tl.constexpr,  # noqa: N803
) -> None:
    """One body: ``first_word`` and ``first_byte`` hold where each body's begin, and where the last one's end."""
    body = tl.program_id(0)
    lane = tl.arange(0, LANES)
    x = tl.load(states + body * LANES + lane).to(tl.uint32, bitcast=True)
    word, last_word = tl.load(first_word + body), tl.load(first_word + body + 1)
    begin, end = tl.load(first_byte + body), tl.load(first_byte + body + 1)
    for step in range(begin, end, LANES):
        at = step + lane
        active = at < end
        level = tl.load(levels + at, mask=active, other=0).to(tl.uint32)
        entry = tl.load(table + (level << 12 | x & 4095)).to(tl.uint32, bitcast=True)
        tl.store(out + at, (entry & 255).to(tl.uint8), mask=active)
        y = ((entry >> 8 & 4095) + 1) * (x >> 12) + (entry >> 20)
        hungry = active & (y < 65536)
        taken = hungry.to(tl.int32)
        mine = word + tl.cumsum(taken, 0) - taken
        more = tl.load(words + mine, mask=hungry & (mine < last_word), other=0).to(tl.uint32) & 65535
        x = tl.where(active, tl.where(hungry, y << 16 | more, y), x)
        word += tl.sum(taken, 0)
    tl.store(ends + body * LANES + lane, x.to(tl.int32, bitcast=True))
    tl.store(left + body, last_word - word)


@cache
def _table(device: torch.device) -> Tensor:
    return torch.from_numpy(decoding_table().view(np.int32).copy()).to(device)


def decode_many(bodies: Sequence[tuple[Lanes, np.ndarray]], device: torch.device | str) -> list[Tensor]:
    """What `lanes.decode` gives of each (body, levels of its bytes), uint8, on a device.

    Raises:
        Corrupt: as `lanes.decode`, of any body.
    """
    device, out = torch.device(device), [torch.empty(0, dtype=torch.uint8)] * len(bodies)
    widths = {len(coded.states) for coded, _ in bodies}
    for width in sorted(widths):
        which = [i for i, (coded, _) in enumerate(bodies) if len(coded.states) == width]
        for i, body in zip(which, _decoded([bodies[i] for i in which], width, device), strict=True):
            out[i] = body
    return out


def _decoded(bodies: list[tuple[Lanes, np.ndarray]], width: int, device: torch.device) -> Sequence[Tensor]:
    """`decode_many` of bodies of one number of lanes."""
    for coded, _ in bodies:
        check_states(coded.states)
    states = _joined([coded.states for coded, _ in bodies], np.uint32).view(np.int32)
    words = _joined([coded.words for coded, _ in bodies], np.uint16).view(np.int16)
    levels = _joined([level for _, level in bodies], np.uint8)
    counts = [len(level) for _, level in bodies]
    first_word, first_byte = _starts([len(coded.words) for coded, _ in bodies]), _starts(counts)
    out = torch.empty(len(levels), dtype=torch.uint8, device=device)
    ends = torch.empty(len(states), dtype=torch.int32, device=device)
    left = torch.empty(len(bodies), dtype=torch.int32, device=device)
    words = np.append(words, np.int16(0))  # of no words a device has no address
    given = [torch.from_numpy(x).to(device) for x in (states, words, levels)]
    places = [torch.from_numpy(x).to(device) for x in (first_word, first_byte)]
    _kernel[(len(bodies),)](*given, _table(device), out, ends, left, *places, LANES=width)
    check_end(ends.cpu().numpy().view(np.uint32), int(left.abs().sum()))
    return out.split(counts)


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False)


def _starts(counts: list[int]) -> np.ndarray:
    """Where each of several runs begins, and the last ends; int32, as their sum must fit."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
