"""What travels with a video's frames, its sound and tags: to chunks and back. No numpy, no torch here."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING

from ...entropy_models.errors import BitstreamError, Corrupt, InputError
from ..contract import Desk
from .formats import SILENT
from .header import METADATA, SOUND, SPEECH, TAGS, TIMES, lost_notice

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


def readable(extras: dict[bytes, bytes], frames: int, desk: Desk, lost: list[str] | None = None) -> dict[bytes, bytes]:
    """The extras of so many frames that can be read to their ends: of a copied sound every packet, of speech every symbol.

    Args:
        lost: gets a notice of each other; None: the first raises.

    Raises:
        BitstreamError: one cannot be read; names it.
    """
    found = dict(extras)
    for tag in (tag for tag in extras if tag in METADATA):
        try:
            _read(tag, extras[tag], frames, desk)
        except (BitstreamError, InputError) as error:
            why = str(error).removeprefix(f"{METADATA[tag]}: ")
            if lost is None:
                kind = type(error) if isinstance(error, BitstreamError) else Corrupt
                raise kind(f"{METADATA[tag]}: {why}") from None
            lost.append(lost_notice(tag, why))
            del found[tag]
    return found


def _read(tag: bytes, body: bytes, frames: int, desk: Desk) -> None:
    """Read an extra to its end; BitstreamError or InputError where that cannot be done."""
    if tag == TIMES:
        from .timing import unpack_times

        _, durations = unpack_times(body, frames)
        if (durations[:-1] < 1).any():
            raise Corrupt("two frames at one time")
    elif tag == TAGS:
        tags_of({tag: body})
    elif tag == SOUND:
        from .sound_track import check

        check(body)
    else:
        from .speech_track import verify

        verify(body, desk)


def tags_of(extras: dict[bytes, bytes]) -> dict[str, str]:
    """Tags of the video.

    Raises:
        Corrupt: they are no JSON object of strings.
    """
    try:
        tags = json.loads(extras.get(TAGS, b"{}"))
    except ValueError as error:
        raise Corrupt(f"tags: no JSON, {error}") from None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise Corrupt("tags: no JSON object of strings")
    return tags
