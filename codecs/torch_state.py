"""The part of torch's state that belongs to the process or to the caller, set for as long as a codec runs, and put back.

Autocast and low precisions of products would move pixels by several levels. Many threads on a small picture wait for each
other: on a busy machine, several times as long as one thread works.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..entropy_models.errors import InputError

THREADED_WORK = 1 << 19
"""Pixels, or as much work of another kind, from which more than one thread pays on a busy machine."""
WORKERS_MAX = 8
"""Pieces of work at once, at most: what Python itself does of each, some tenth, is done by one at a time."""
_LOCK = threading.Lock()
_running = 0
_forked = False
_precision = "highest"
"""Of products, as the caller has it, while something runs."""
R = TypeVar("R")


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
    Each thread has a number of threads of its own.

    Args:
        work: pixels, or as much work of another kind; below `THREADED_WORK` one thread does it.
        threads: to use whatever the work; None: by the work, and no more than torch has been given.

    """
    threads = 1 if _forked else threads or (1 if work < THREADED_WORK else None)
    had = torch.get_num_threads()
    _enter()
    try:
        if threads and threads != had:
            set_own_threads(threads)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        if had != torch.get_num_threads():
            set_own_threads(had)
        _leave()


def workers(work: int, threads: int | None = None) -> int:
    """How many pieces of so much work are better done at once, by one thread each, than one by one by all of them.

    Args:
        work, threads: as `own_state` has them.
    """
    return 1 if work >= THREADED_WORK or _forked else min(threads or torch.get_num_threads(), WORKERS_MAX)


def set_own_threads(count: int) -> None:
    """Give this thread so many. `torch.set_num_threads` gives them to all threads that begin later, too."""
    with _LOCK:
        torch.get_num_threads()  # a thread that never asked would take the others' number at its first operation
        try:
            others = _elsewhere(torch.get_num_threads)
        except RuntimeError:  # no thread can be started
            torch.set_num_threads(count)
            return
        try:
            torch.set_num_threads(count)
        finally:
            _elsewhere(lambda: torch.set_num_threads(others))


def _elsewhere(call: Callable[[], R]) -> R:
    """What a call returns in a new thread."""
    found: list[R] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def _enter() -> None:
    global _running, _precision
    with _LOCK:
        if not _running:
            _precision = torch.get_float32_matmul_precision()
            if _precision != "highest":
                torch.set_float32_matmul_precision("highest")
        _running += 1


def _leave() -> None:
    global _running
    with _LOCK:
        _running -= 1
        if not _running and _precision != "highest":
            torch.set_float32_matmul_precision(_precision)


def _after_fork() -> None:
    """A forked child has the parent's OpenMP without its threads, and would wait for them for ever."""
    global _LOCK, _running, _forked
    _LOCK, _running, _forked = threading.Lock(), 0, True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
