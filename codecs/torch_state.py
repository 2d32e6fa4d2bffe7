"""The part of torch's state that belongs to the process or to the caller, set for as long as a codec runs, and put back.

Autocast and low precisions of products would move pixels by several levels. Many threads on a small picture wait for each
other: on a busy machine, several times as long as one thread works.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..entropy_models.errors import InputError

THREADED_WORK = 1 << 19
"""Pixels, or as much work of another kind, from which more than one thread pays on a busy machine."""
_LOCK = threading.Lock()
_running = 0
_forked = False
_before: tuple[str, int] | None = None
"""Precision of products and threads, as the caller has them, while something runs."""


def checked_threads(threads: int | None) -> int | None:
    """A number of threads, or None.

    Raises:
        ValueError: not a whole number from 1.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise InputError(f"threads {threads!r}; need a whole number from 1")
    return threads


@contextmanager
def own_state(work: int, threads: int | None = None) -> Iterator[None]:
    """Products in full precision, no autocast, and threads by the amount of work.

    Where several threads of a program run codecs, the first of them sets the process's part and the last one puts it back.

    Args:
        work: pixels, or as much work of another kind; below `THREADED_WORK` one thread does it.
        threads: to use whatever the work; None: by the work, and no more than torch has been given.

    """
    _enter(threads or (1 if work < THREADED_WORK else None))
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        _leave()


def _enter(threads: int | None) -> None:
    global _running, _before
    with _LOCK:
        if not _running:
            _before = torch.get_float32_matmul_precision(), torch.get_num_threads()
            if _before[0] != "highest":
                torch.set_float32_matmul_precision("highest")
        _running += 1
        threads = 1 if _forked else threads
        if threads and threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def _leave() -> None:
    global _running, _before
    with _LOCK:
        _running -= 1
        if not _running and _before is not None:
            precision, threads = _before
            if precision != "highest":
                torch.set_float32_matmul_precision(precision)
            if threads != torch.get_num_threads():
                torch.set_num_threads(threads)


def _after_fork() -> None:
    """A forked child has the parent's OpenMP without its threads, and would wait for them for ever."""
    global _LOCK, _running, _forked
    _LOCK, _running, _forked = threading.Lock(), 0, True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
