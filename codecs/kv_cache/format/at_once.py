"""Layers coded at once, each run of them by one thread.

Layers do not depend on each other, so threads never wait for one another: on a busy machine they take their share of it,
where the threads of one operation would all wait for the slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from ...torch_state import checked_threads, own_state, set_own_threads
from ..modes.table import MODES
from .header import BlockHeader

T = TypeVar("T")


def layers_at_once(code: Callable[[range], T], layers: range, head: BlockHeader, threads: int | None) -> list[T]:
    """What ``code`` returns of runs of successive layers, in order.

    Args:
        code: of layers that need no others.
        layers: all that are wanted.
        head: of their block.
        threads: runs that are coded at once; None: one, by as many of PyTorch's threads as its tensors are large.

    Raises:
        ValueError: no number of threads.
    """
    runs = _runs(layers, 1 if MODES[head.mode].needs_earlier_layers else checked_threads(threads) or 1)

    def work(run: range) -> T:
        with torch.inference_mode():  # a twentieth of the time: PyTorch keeps no books for gradients
            return code(run)

    with own_state(head.heads * head.count * max(head.key_dim, head.value_dim), threads and 1):
        if len(runs) == 1:
            return [work(runs[0])]
        with ThreadPoolExecutor(len(runs), initializer=set_own_threads, initargs=(1,)) as pool:
            return list(pool.map(work, runs))


def _runs(layers: range, count: int) -> list[range]:
    """``layers`` in at most ``count`` runs of nearly equal length, at least one."""
    count = max(1, min(count, len(layers)))
    ends = [len(layers) * i // count for i in range(count + 1)]
    return [layers[first:last] for first, last in zip(ends, ends[1:], strict=False)]
