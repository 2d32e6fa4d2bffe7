"""What `codec info` tells of a video. No numpy, no torch here."""

from __future__ import annotations

import re
from typing import Any

from .. import container, weights
from ..terminal.files import show_size
from .header import SOUND, SPEECH, TAG_BYTES, parse, show_frames, tag_at

_HEAD_BYTES = 1 << 12
_CODEC_ID = re.compile(rb"\x86.A_([A-Z0-9_/.]+)", re.DOTALL)
"""Matroska's element CodecID of a sound track, with the size of its text."""


def describe(stream: container.Stream) -> dict[str, Any]:
    """Size, rate, groups, bits, sound, metadata, model; also of a video cut short or with more behind it.

    Raises:
        BitstreamError: the header is damaged.
    """
    stream, header = parse(stream, salvage=True)
    duration_s = float(header.frames / header.rate)
    extras = {tag_at(stream, index): index for index in range(header.groups, len(stream.entries))}
    sound = next((tag for tag in (SOUND, SPEECH) if tag in extras), None)
    return {
        "width": header.width,
        "height": header.height,
        "frames": header.frames,
        "rate_fps": round(float(header.rate), 4),
        "duration_s": round(duration_s, 4),
        "quality": header.quality,
        "rate_kbps": round(stream.expected_bytes * 8 / duration_s / 1000, 4),
        "bpp": round(stream.expected_bytes * 8 / (header.width * header.height * header.frames), 5),
        "group_frames": header.group,
        "anchor_distance": header.anchor_distance,
        "group_bits": [8 * entry.length for entry in stream.entries[: header.groups]],
        "sound": {SOUND: "copied", SPEECH: "speech"}.get(sound or b"", "none"),
        "sound_codec": _codec_of(stream, extras[sound]) if sound == SOUND else "speech" if sound else None,
        "sound_bytes": stream.entries[extras[sound]].length - TAG_BYTES if sound else 0,
        "metadata": {tag_name(tag): stream.entries[index].length for tag, index in extras.items()},
        "weights": stream.weights.hex(),
        "model": weights.model_of("video", stream.weights),
    }


def rows(facts: dict[str, Any]) -> dict[str, Any]:
    """What `describe` returned, for people."""
    groups, codec, size = facts["group_bits"], facts["sound_codec"], show_size(facts["sound_bytes"])
    sound = {"none": "none", "copied": f"{codec}, {size}, copied", "speech": f"by the speech codec, {size}"}[facts["sound"]]
    sizes = [str(bits // 8) for bits in sorted({min(groups), max(groups)})]
    length = show_frames(min(facts["group_frames"], facts["frames"]))
    return {
        "video": f"{facts['width']}x{facts['height']}, {show_frames(facts['frames'])}, {facts['rate_fps']:g} a second",
        "duration": f"{facts['duration_s']:.2f} s",
        "quality": facts["quality"],
        "rate_kbps": facts["rate_kbps"],
        "bpp": facts["bpp"],
        "groups": f"{len(groups)} of {length}, {' to '.join(sizes)} bytes",
        "order": f"pyramids of {distance}" if (distance := facts["anchor_distance"]) > 1 else "as shown",
        "sound": sound,
        "metadata": ", ".join(f"{tag} {show_size(length)}" for tag, length in facts["metadata"].items()) or "none",
        "weights": weights.shown(facts["model"], facts["weights"]),
    }


def tag_name(tag: bytes) -> str:
    """A tag as text, whatever a damaged file has in its place."""
    return tag.decode("ascii", "backslashreplace")


def _codec_of(stream: container.Stream, index: int) -> str:
    """The codec of a copied sound track, as its Matroska file names it: ``AAC``."""
    offset = stream.entries[index].offset + TAG_BYTES
    found = _CODEC_ID.search(bytes(stream.data[offset : offset + _HEAD_BYTES]))
    return found[1].decode() if found else "not known"
