"""Training: Lightning modules, data, losses, recipes, export. Nothing here is needed to encode or decode.

What one codec's training adds to what all share is a folder here and a line of `TRAININGS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..codecs import found
from ..entropy_models.errors import UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Training of one codec. Objects are named ``module:name`` under ``rdcodec.training``, and imported when needed."""

    module: str
    """A subclass of `loop.CodecTraining`."""
    data: str
    """A Lightning data module."""
    export: str
    """A class after `export.Exporter`."""

    def load(self, part: str) -> Any:
        """The object that the field ``part`` names."""
        return found(getattr(self, part), __name__)


TRAININGS = {
    "image": Training(module="image.module:ImageTraining", data="image.data:ImageData", export="image.export:ImageExport"),
    "speech": Training(
        module="speech.module:SpeechTraining", data="speech.data:SpeechData", export="speech.export:SpeechExport"
    ),
    "video": Training(module="video.module:VideoTraining", data="video.data:VideoData", export="video.export:VideoExport"),
}
"""Trainings by the codec's name in `rdcodec.codecs.REGISTRY`."""


def training_of(codec: str) -> Training:
    """The training of the codec of that name.

    Raises:
        UnknownName: there is none; the message lists them.
    """
    if codec not in TRAININGS:
        raise UnknownName(f"no training of {codec!r}; there are {', '.join(TRAININGS)}")
    return TRAININGS[codec]
