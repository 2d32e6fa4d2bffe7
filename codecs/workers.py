"""Jobs that need nothing of each other, such as groups of a video, each done by one thread while others do the next ones.

On small signals threads that share one operation wait for each other most of the time. These never do.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread, current_thread
from typing import Any, Generic, NamedTuple, TypeVar

R = TypeVar("R")
Told = Callable[[int], None]
"""A function that is told how many parts of a job are done since the last time."""
Job = Callable[[Told], Iterable[R]]
LOOKED_S = 1.0
"""Seconds after which a thread without a job looks whether anybody is left to give it one."""


class _Stopped(Exception):
    """Nobody waits for the job."""


class _Parts(NamedTuple):
    """So many parts of a job are done."""

    number: int


class _End(NamedTuple):
    """A job has ended, with an error or without."""

    error: BaseException | None


def in_order(jobs: Iterable[Job[R]], workers: int, told: Told, begin: Callable[[], object] = lambda: None) -> Iterator[R]:
    """What jobs give, one job after the other; of the first that is not done yet, each thing as soon as it is there.

    Args:
        jobs: taken one by one by the caller's thread, at most one more than there are workers before the first of them is
            done. Each is called with a function to tell of its parts, which ends it where nobody waits any more.
        workers: jobs that are done at once, by a thread each; with 1 by the caller's thread.
        told: is told of parts in the caller's thread.
        begin: is called by each of several threads before any job is taken.

    Raises:
        Exception: what a job raises, or the taking of it, in its turn.
        RuntimeError: it goes on in a forked process, which has no such threads.
    """
    if workers == 1:
        for job in jobs:
            yield from job(told)
        return
    process, team = os.getpid(), _Team[R](workers, begin)
    try:
        upcoming, head = iter(jobs), 0
        team.take(upcoming)
        while head < team.taken:
            while not isinstance(item := team.next_of(head, told), _End):
                yield item
                if os.getpid() != process:
                    raise RuntimeError("this iterator belongs to another process, which was forked; begin a new one")
            try:
                if item.error:
                    raise item.error
            finally:
                del item  # an error holds what it came by, and that the job
            head += 1
            team.take(upcoming)
    finally:
        team.end()


class _Team(Generic[R]):
    """Threads, their jobs and what these have given. Threads end with the team, or with the thread that it was made in."""

    def __init__(self, workers: int, begin: Callable[[], object]) -> None:
        self.taken = 0
        self._stop = Event()
        self._workers, self._done, self._over = workers, 0, False
        self._jobs: SimpleQueue[tuple[int, Job[R]] | None] = SimpleQueue()
        self._events: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._found: defaultdict[int, deque[Any]] = defaultdict(deque)
        begun: SimpleQueue[BaseException | None] = SimpleQueue()
        try:
            for _ in range(workers):
                Thread(target=self._work, args=(begin, begun, current_thread())).start()
                if error := begun.get():
                    raise error
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Let threads end, waiting for none: a part may last seconds."""
        self._stop.set()
        for _ in range(self._workers):
            self._jobs.put(None)  # who has no job hears of it at once

    def take(self, jobs: Iterator[Job[R]]) -> None:
        """Take jobs until there is one more than threads. An error in that is the next job's."""
        while not self._over and self.taken - self._done <= self._workers:
            try:
                self._jobs.put((self.taken, next(jobs)))
            except StopIteration:
                self._over = True
                return
            except Exception as error:
                self._over = True
                self._found[self.taken].append(_End(error))
            self.taken += 1

    def next_of(self, number: int, told: Told) -> Any:
        """The next thing that a job gives, or its end."""
        while not self._found[number]:
            of, event = self._events.get()
            if isinstance(event, _Parts):
                told(event.number)
            else:
                self._found[of].append(event)
        item = self._found[number].popleft()
        if isinstance(item, _End):
            del self._found[number]
            self._done += 1
        return item

    def _work(self, begin: Callable[[], object], begun: SimpleQueue[BaseException | None], owner: Thread) -> None:
        try:
            begin()
        except BaseException as error:
            begun.put(error)
            return
        begun.put(None)
        while not self._stop.is_set():
            try:
                job = self._jobs.get(timeout=LOOKED_S)
            except Empty:
                if not owner.is_alive():
                    return
                continue
            if job:
                self._do(*job)
            del job

    def _do(self, number: int, job: Job[R]) -> None:
        def tell(parts: int) -> None:
            if self._stop.is_set():
                raise _Stopped
            self._events.put((number, _Parts(parts)))

        try:
            for item in job(tell):
                if self._stop.is_set():
                    return
                self._events.put((number, item))
        except _Stopped:
            return
        except BaseException as error:
            self._events.put((number, _End(error)))
            return
        self._events.put((number, _End(None)))
