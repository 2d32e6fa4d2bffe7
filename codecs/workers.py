"""Jobs that need nothing of each other, such as groups of a video, each done by one thread while others do the next ones.

On small signals threads that share one operation wait for each other most of the time. These never do.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from queue import SimpleQueue
from threading import Barrier, Event
from typing import Any, NamedTuple, TypeVar

R = TypeVar("R")
Told = Callable[[int], None]
"""A function that is told how many parts of a job are done since the last time."""
Job = Callable[[Told], Iterable[R]]


class _Stopped(Exception):
    """Nobody waits for the job."""


class _Parts(NamedTuple):
    """Of a job, that are done."""

    number: int


class _End(NamedTuple):
    """Of a job."""

    error: BaseException | None


def in_order(jobs: Iterable[Job[R]], workers: int, told: Told, begin: Callable[[], object] = lambda: None) -> Iterator[R]:
    """What jobs give, one job after the other; of the first that is not done yet, each thing as soon as it is there.

    Args:
        jobs: taken one by one by the caller's thread, at most one more than there are workers before the first of them is
            done. Each is called with a function to tell of its parts, which ends it where nobody waits any more.
        workers: jobs that are done at once, by a thread each; with 1 by the caller's thread.
        told: is told of parts in the caller's thread.
        begin: is called by each thread before any job is taken.

    Raises:
        Exception: what a job raises, in its turn.
        RuntimeError: it goes on in a forked process, which has no such threads.
    """
    if workers == 1:
        for job in jobs:
            yield from job(told)
        return
    events: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    found: defaultdict[int, deque[Any]] = defaultdict(deque)
    upcoming, taken, process, stop = enumerate(jobs), 0, os.getpid(), Event()
    pool = ThreadPoolExecutor(workers, initializer=begin)
    begun = Barrier(workers)
    try:
        list(pool.map(lambda _: begun.wait(), range(workers)))
        for head in count():
            for number, job in islice(upcoming, workers + 1 - (taken - head)):
                pool.submit(_run, job, number, events, stop)
                taken = number + 1
            if head == taken:
                return
            while True:
                while not found[head]:
                    number, event = events.get()
                    if isinstance(event, _Parts):
                        told(event.number)
                    else:
                        found[number].append(event)
                item = found[head].popleft()
                if isinstance(item, _End):
                    break
                yield item
                if os.getpid() != process:
                    raise RuntimeError("this iterator belongs to another process, which was forked; begin a new one")
            del found[head]
            if item.error:
                raise item.error
    finally:
        stop.set()
        if os.getpid() == process:
            pool.shutdown(wait=False, cancel_futures=True)  # a part may last seconds


def _run(job: Job[R], number: int, events: SimpleQueue[tuple[int, Any]], stop: Event) -> None:
    """Do a job, and tell of all that happens."""

    def tell(parts: int) -> None:
        if stop.is_set():
            raise _Stopped
        events.put((number, _Parts(parts)))

    error: BaseException | None = None
    try:
        for item in job(tell):
            if stop.is_set():
                return
            events.put((number, item))
    except _Stopped:
        return
    except BaseException as caught:
        error = caught
    events.put((number, _End(error)))
