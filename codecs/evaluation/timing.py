"""Times that can be compared: what is compared runs in turns, in one process, and a figure is the median of its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median

Call = Callable[[], object]


def interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    figure: Callable[[Iterable[float]], float] = median,
) -> dict[str, float]:
    """Seconds of each call: in each round all of them run once, so that a busy spell of the machine meets them alike.

    Args:
        rounds: that count; one before them warms up.
        clock: wall time, or ``time.process_time`` where neighbours on the machine would disturb it.
        figure: of a call's runs; ``min`` for the time that it takes undisturbed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: figure(values[1:]) for name, values in seconds.items()}
