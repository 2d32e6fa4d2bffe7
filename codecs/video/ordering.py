"""The encoder's choice of an order for a video's frames, by trial of a few of them.

Pyramids win where things move, by up to half of the bytes. Where hardly anything does, each frame is best made of the one
before, most of it copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from ...entropy_models.coder import Measure
from ...entropy_models.tables import Tables
from ..image.distortion import PEAK, bits_per_square
from .groups import GroupEncoder
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


def chosen_lifts(
    samples: Iterable[Sequence[np.ndarray]],
    header: VideoHeader,
    tables: Tables,
    encoder_of: Callable[[VideoHeader, int], GroupEncoder],
) -> tuple[int, ...]:
    """`LOW_DELAY` or `PYRAMID`, whichever takes fewer bits, those among them that errors are worth.

    Args:
        samples: frames of `tried`, uint8 (height, width, 3).
        encoder_of: an encoder for a group of so many frames.
    """
    costs = dict.fromkeys((LOW_DELAY, PYRAMID), 0.0)
    for frames in samples:
        for lifts in costs:
            costs[lifts] += _bits(frames, replace(header, lifts=lifts), tables, encoder_of)
    return min(costs, key=lambda lifts: costs[lifts])


def _bits(
    frames: Sequence[np.ndarray],
    header: VideoHeader,
    tables: Tables,
    encoder_of: Callable[[VideoHeader, int], GroupEncoder],
) -> float:
    measure, encoder, error = Measure(tables), encoder_of(header, len(frames)), 0.0
    for frame in frames:
        for coded in encoder.code(measure, frame):
            error += float(np.square(coded.shown.astype(np.float32) - frames[coded.number]).sum())
    return float(measure.bits[0]) + bits_per_square(header.quality) * error / PEAK**2
