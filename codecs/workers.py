"""Jobs that need nothing of each other, such as groups of a video, each done by one thread while others do the next ones.

On small signals threads that share one operation wait for each other most of the time. These never do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

import torch

R = TypeVar("R")
Told = Callable[[int], None]
"""A function that is told how many parts of a job are done since the last time."""


class _Stopped(Exception):
    """Nobody waits for the job."""


def in_order(jobs: Iterable[Callable[[Told], R]], workers: int, told: Told) -> Iterator[R]:
    """What jobs return, in their order.

    Args:
        jobs: taken one after the other by the caller's thread, at most one more than there are workers before the first of
            them is done. Each is called with a function to tell of its parts, which ends it where nobody waits any more.
        workers: jobs that are done at once, by a thread of PyTorch each; with 1 by the caller's thread.
        told: is told of parts in the caller's thread.

    Raises:
        Exception: what a job raises, in its turn.
    """
    if workers == 1:
        for job in jobs:
            yield job(told)
        return
    events, stop = SimpleQueue[int](), threading.Event()

    def tell(parts: int) -> None:
        if stop.is_set():
            raise _Stopped
        events.put(parts)

    upcoming, waiting = iter(jobs), deque[Future[R]]()
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        while True:
            for job in islice(upcoming, workers + 1 - len(waiting)):
                waiting.append(pool.submit(job, tell))
                waiting[-1].add_done_callback(lambda _: events.put(0))
            if not waiting:
                return
            while not waiting[0].done() or not events.empty():
                if parts := events.get():
                    told(parts)
            yield waiting.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what other threads begin with: the pool's have changed it
