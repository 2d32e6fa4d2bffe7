"""A video file in memory as a whole: a clip, with what travels with its frames, as the command encodes it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ..contract import Desk
from .clip import Clip
from .extras import extras_from
from .header import TIMES
from .inputs import Input
from .reading import VideoFile
from .timing import pack_times


def read_clip(source: Input, rate: Fraction) -> Clip:
    """All frames of a video, 3 bytes a pixel of memory, with times, tags and sound.

    Args:
        source, rate: as of `VideoFile`.

    Raises:
        OSError, InputError: as `VideoFile`.
    """
    with VideoFile(source, rate=rate) as video:
        form, times = video.format, [int(time) for time in video.times()]
        frames, last = np.empty((len(times), form.height, form.width, 3), np.uint8), 1
        for place, frame in zip(frames, video.frames(), strict=True):
            place[...], last = frame.rgb, frame.duration
        extras, _ = extras_from(video, "copy", Desk())
        extras = {TIMES: pack_times(times, last)} | extras
        return Clip(frames=frames, rate=form.rate, extras=extras, source=form.pack(), notices=tuple(video.notices))
