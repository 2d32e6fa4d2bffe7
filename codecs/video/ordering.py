"""The encoder's choice of an order for a video's frames, by trial of a few of them.

Pyramids win where things move, by up to half of the bytes. Where hardly anything does, each frame is best made of the one
before, most of it copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle

import numpy as np

from ..image.distortion import PEAK, bits_per_square
from ..workers import Told
from .group_work import Coding, GroupWork
from .header import LOW_DELAY, PYRAMID, VideoHeader

FRAMES = 9
"""Frames that are tried, from the beginning of a group."""
PLACES = 3
"""Groups that are tried at most."""
GROUPS_EACH = 5
"""One is tried for so many."""


def tried(header: VideoHeader) -> list[range]:
    """Numbers of the frames to be tried; none if there is nothing to choose."""
    whole = range(max(1, header.frames // header.group))  # groups, but a short one at the end
    count = min(PLACES, -(-len(whole) // GROUPS_EACH))
    places = [whole[len(whole) * (2 * i + 1) // (2 * count)] for i in range(count)]
    found = [header.frames_of(place)[:FRAMES] for place in places]
    return [frames for frames in found if len(frames) > 2]


def chosen_lifts(samples: Iterable[Sequence[np.ndarray]], codec: Coding, header: VideoHeader) -> tuple[int, ...]:
    """`LOW_DELAY` or `PYRAMID`, whichever takes fewer bits, those among them that errors are worth.

    Args:
        samples: frames of `tried`, uint8 (height, width, 3).
    """
    orders = LOW_DELAY, PYRAMID
    works = [GroupWork(codec, replace(header, lifts=lifts), PLACES * len(orders)) for lifts in orders]
    jobs = (partial(_bits, work, frames, header.quality) for frames in samples for work in works)
    costs = dict.fromkeys(orders, 0.0)
    for lifts, cost in zip(cycle(orders), works[0].done(jobs)):  # noqa: B905 - the orders begin anew
        costs[lifts] += cost
    return min(costs, key=lambda lifts: costs[lifts])


def _bits(work: GroupWork, frames: Sequence[np.ndarray], quality: int, told: Told) -> Iterator[float]:
    for bits, shown in work.estimated(frames, told):
        error = sum(float(np.square(a.astype(np.float32) - b).sum()) for a, b in zip(shown, frames, strict=True))
        yield bits + bits_per_square(quality) * error / PEAK**2
