"""Formats of sound files, by suffix and by their first bytes: known before numpy, soundfile and PyAV are loaded."""

from __future__ import annotations

WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3", ".aiff": "AIFF"}
"""Suffixes of files that are written, with libsndfile's names of their formats: Vorbis in ``.ogg``, Opus in ``.opus``."""
READ_ONLY = frozenset({
    ".oga", ".aif", ".au", ".caf", ".w64", ".m4a", ".m4b", ".aac", ".amr", ".3gp", ".weba", ".wma", ".mka", ".mp2", ".ac3",
})  # fmt: skip
"""Suffixes of more sounds that folders are searched for; not videos, whose sound is taken when one is named."""
_STARTS = (
    b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"NIST_1A", b"riff\x2e\x91\xcf\x11", b"RF64", b"#!AMR",
    b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x0b\x77",
)  # fmt: skip
"""First bytes of files that hold sound: FLAC, Ogg, MP3 with tags, AIFF, ..., Matroska and WebM, ASF, AC-3."""


def looks_like_sound(data: bytes) -> bool:
    """Whether a file's first bytes are those of a sound, or of a video, whose sound may be meant."""
    head = bytes(data[:16])
    if head.startswith(_STARTS):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WAVE"
    if head[4:8] == b"ftyp":
        return head[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    # MPEG layers and AAC in ADTS: eleven set bits, then a version and a layer that exist
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x18 != 0x08 and head[2] & 0xF0 != 0xF0
