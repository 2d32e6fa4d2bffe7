"""Engines: who converts the files of a command. One process, several, or the actors of a Ray cluster (`ray_engine`).

An engine yields every job with its report, in the jobs' order, and holds few of them at a time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any

from rich.progress import Progress

from ..contract import Desk
from ..terminal.console import TRACEBACK
from ..terminal.files import Job, one_line
from .conversion import Conversion, Report, attempt

Done = Iterator[tuple[Job, Report]]
_AHEAD = 32
"""Jobs of one process that may be done before the first of them is told of: one large picture among small ones."""
_AHEAD_COLLECTED = 4
"""The same where outputs are held in memory."""
_STARTS = 3
"""Processes in a row that may die before they have a job."""
_THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"


def one_process(jobs: Iterable[Job], conversion: Conversion, progress: Progress, *, alone: bool = False) -> Done:
    """This process, with all threads; a second bar shows files of many parts, and of one that is ``alone`` that there is
    work. With ``--traceback`` errors are raised."""
    desk = Desk(conversion.device)
    for job in jobs:
        parts = progress.add_task(one_line(job.name), total=None, visible=alone)

        def update(done: int, total: int, parts: Any = parts) -> None:
            progress.update(parts, completed=done, total=total, visible=alone or total > 1, unit=desk.unit)

        desk.progress, desk.unit = update, ""
        try:
            yield job, conversion(job, desk) if TRACEBACK in sys.argv else attempt(conversion, job, desk)
        finally:
            progress.remove_task(parts)


def processes(jobs: Iterable[Job], conversion: Conversion, count: int) -> Done:
    """So many processes of one thread each: on small signals threads of one process wait for each other most of the time.

    A process that dies takes its file with it: that is an error of the file, and the others go on.
    """
    upcoming, waiting = iter(jobs), deque[tuple[Job, Future[Report]]]()
    pool = _pool(conversion, count)
    try:
        while True:
            while len(waiting) < count * (_AHEAD_COLLECTED if conversion.collect else _AHEAD):
                if (job := next(upcoming, None)) is None:
                    break
                waiting.append((job, _submit(pool, job)))
            if not waiting:
                return
            job, future = waiting.popleft()
            try:
                report = future.result()
            except BrokenProcessPool:  # which of the jobs in work broke it cannot be told: each gets a process of its own
                pool.shutdown(wait=False, cancel_futures=True)
                report = _alone(job, conversion)
                pool = _pool(conversion, count)
                waiting = deque((job, old if _is_done(old) else _submit(pool, job)) for job, old in waiting)
            yield job, report
    finally:
        # one that has nothing left to do is waited for: its thread would find its pipe closed when the program ends
        pool.shutdown(wait=not waiting, cancel_futures=True)


def _pool(conversion: Conversion, count: int) -> ProcessPoolExecutor:
    # spawned: the state of a process that has threads, as torch and the progress bar do, is not safe to fork
    return ProcessPoolExecutor(count, get_context("spawn"), initializer=start_worker, initargs=(conversion,))


def _submit(pool: ProcessPoolExecutor, job: Job) -> Future[Report]:
    try:
        return pool.submit(_work, job)
    except BrokenProcessPool as error:
        failed: Future[Report] = Future()
        failed.set_exception(error)
        return failed


def _is_done(future: Future[Report]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _alone(job: Job, conversion: Conversion) -> Report:
    for _ in range(_STARTS):
        with _pool(conversion, 1) as pool:
            try:
                pool.submit(os.getpid).result()
            except BrokenProcessPool:
                continue  # before it had the job
            try:
                return pool.submit(_work, job).result()
            except BrokenProcessPool:
                return Report(error="its process died: killed, or out of memory")
    raise ChildProcessError(f"processes end as they start ({_STARTS} in a row; above is what they said); -j 0 needs none")


_state: tuple[Conversion, Desk] | None = None
"""Of a worker."""


def start_worker(conversion: Conversion) -> None:
    """Make this process one that converts: one thread, codecs loaded once, and no life after its parent's."""
    global _state
    one_thread()
    for name in ("SIGINT", "SIGHUP"):  # the parent's to handle
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state = conversion, Desk(conversion.device)


def one_thread() -> None:
    """Let the numeric libraries of this process use one thread: they are not imported yet, or torch is told."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, which would wait for more jobs for ever."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(job: Job) -> Report:
    assert _state, "start_worker ran"
    conversion, desk = _state
    return attempt(conversion, job, desk)
