"""Ray: the files of a command converted by the actors of a cluster, through Ray Data."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ...entropy_models.errors import MissingPackage
from ..contract import Desk
from ..terminal.files import Job
from .conversion import Conversion, Report, attempt
from .engines import Done, one_thread

_ROUNDS = 8, 1, 1
"""Jobs that are sent to an actor at a time, in each round. What a node or actor that is lost had is done in the next one,
where what kills its process stands alone; what is written twice is the same."""
_RETRIES = 3
"""Of Ray within a round, which a node that is gone uses up in seconds, and a file that kills its process again and again."""


def cluster(jobs: Sequence[Job], conversion: Conversion, count: int | None, gpus: float | None) -> Done:
    """Actors of one thread each, on the cluster that RAY_ADDRESS names, else one that runs here, else one made for this run.

    Args:
        count: actors at most; None: one for each CPU of the cluster.
        gpus: share of a GPU that each gets.

    Raises:
        MissingPackage: Ray is not installed.
    """
    ray, left = _ray(), dict(enumerate(jobs))
    if ours := not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    try:
        for together in _ROUNDS:
            if left:
                for number, report in _round(ray, left, conversion, count, gpus, together):
                    if job := left.pop(number, None):
                        yield job, report
    finally:
        if ours:
            ray.shutdown()
    for job in left.values():
        yield job, Report(error="its process died: killed, or out of memory")


def _round(
    ray: Any, left: dict[int, Job], conversion: Conversion, count: int | None, gpus: float | None, together: int
) -> Iterator[tuple[int, Report]]:
    """Numbers and reports of the jobs that are left, but for what is lost."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    context.execution_options.preserve_order = True
    context.max_errored_blocks = -1
    rows = [{"number": number, "job": pickle.dumps(job)} for number, job in left.items()]
    actors = min(count or max(1, int(ray.cluster_resources().get("CPU", 1))), len(rows))
    with warnings.catch_warnings():  # of what ends with Ray 2.64, which the extra does not take
        warnings.simplefilter("ignore")
        done = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // together)).map(
            Actor,
            fn_constructor_args=[conversion],
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            num_cpus=1,
            num_gpus=gpus,
            ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
        )
    for row in done.iter_rows():
        yield row["number"], pickle.loads(row["report"])


class Actor:
    """Converts jobs on the cluster; its codecs are loaded once."""

    def __init__(self, conversion: Conversion) -> None:
        one_thread()
        self._conversion, self._desk = conversion, Desk(conversion.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        report = attempt(self._conversion, pickle.loads(row["job"]), self._desk)
        return {"number": row["number"], "report": pickle.dumps(report)}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackage(f"--engine ray needs more packages ({error}): pip install 'rdcodec[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what is lost is done again, without pages of traceback
    return ray
