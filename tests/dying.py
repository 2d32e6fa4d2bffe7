"""Conversions and workers that kill their process, for tests of what becomes of the other files. No tests here."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from rdcodec.codecs.cli.conversion import Conversion, Report
from rdcodec.codecs.contract import Desk
from rdcodec.codecs.terminal.files import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Dying(Conversion):
    """Dies of files whose names begin with ``bad``; tells the threads that OpenMP has of others."""

    def __call__(self, job: Job, desk: Desk) -> Report:
        if job.name.startswith("bad"):
            os.kill(os.getpid(), signal.SIGKILL)
        return Report(line=os.environ["OMP_NUM_THREADS"])


def dead(conversion: Conversion) -> None:
    """A worker that ends as it starts."""
    os._exit(1)
