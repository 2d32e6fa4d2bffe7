"""What travels with a video's frames, its sound and tags: to chunks and back. No numpy, no torch here."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING

from ...entropy_models.errors import Corrupt
from ..contract import Desk
from .formats import SILENT
from .header import SOUND, SPEECH, TAGS

if TYPE_CHECKING:
    from .reading import VideoFile


def extras_from(video: VideoFile, audio: str, desk: Desk) -> tuple[dict[bytes, bytes], tuple[str, ...]]:
    """What travels with a video's frames, but their times, which are known when all were read; and notices."""
    extras = {TAGS: json.dumps(dict(video.tags), ensure_ascii=False).encode()} if video.tags else {}
    track = None if audio == "none" else video.sound()
    if track is None:
        return extras, ()
    if audio == "copy":
        return extras | {SOUND: track}, ()
    from .speech_track import coded

    speech, notices = coded(track, desk)
    return extras | {SPEECH: speech}, notices


def sound_of(extras: dict[bytes, bytes], suffix: str, span_s: tuple[Fraction, Fraction] | None, desk: Desk) -> bytes | None:
    """The sound track for a video with this suffix, of the part between two times; of a silent one whatever there is."""
    if suffix in SILENT:
        return extras.get(SOUND, extras.get(SPEECH))
    if SPEECH in extras:
        from .speech_track import decoded

        return decoded(extras[SPEECH], suffix, span_s, desk)
    if SOUND in extras and span_s is not None:
        from .sound_track import cut

        return cut(extras[SOUND], *span_s)
    return extras.get(SOUND)


def tags_of(extras: dict[bytes, bytes]) -> dict[str, str]:
    """Tags of the video.

    Raises:
        Corrupt: they are no JSON object of strings.
    """
    try:
        tags = json.loads(extras.get(TAGS, b"{}"))
    except ValueError as error:
        raise Corrupt(f"tags are no JSON: {error}") from None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise Corrupt("tags are no JSON object of strings")
    return tags
