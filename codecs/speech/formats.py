"""Sound files by suffix and by their first bytes: known before numpy, soundfile and PyAV are loaded."""

from __future__ import annotations

import re

WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3", ".aiff": "AIFF"}
"""Suffixes of files that are written, with libsndfile's names of their formats: Vorbis in ``.ogg``, Opus in ``.opus``."""
RAW = ".pcm"
"""Suffix of 16-bit samples, little-endian, channels beside each other, without a header."""
READ_ONLY = frozenset({
    ".oga", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".voc", ".m4a", ".m4b", ".aac", ".amr", ".3gp",
    ".weba", ".wma", ".mka", ".mp2", ".ac3",
})  # fmt: skip
"""Suffixes of more sounds that folders are searched for. Of videos, which are not among them, the sound is taken."""
_STARTS = (
    b"fLaC", b"OggS", b"ID3", b".snd", b"dns.", b"caff", b"NIST_1A", b"Creative Voice File", b"riff\x2e\x91\xcf\x11",
    b"#!AMR", b"FLV\x01", b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x0b\x77",
)  # fmt: skip
_IFF = {
    b"RIFF": (b"WAVE", b"AVI "), b"RIFX": (b"WAVE",), b"RF64": (b"WAVE",), b"BW64": (b"WAVE",),
    b"FORM": (b"AIFF", b"AIFC", b"8SVX"),
}  # fmt: skip
STILLS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
"""Brands of MP4 files that hold pictures without sound."""
_MPEG_AUDIO = re.compile(
    rb"\xff(?:([\xe2\xe3\xf2-\xf5\xfa-\xfd])[\x10-\xef].{1,2880}?\xff\1[\x10-\xef]|([\xf0\xf1\xf8\xf9].).{3,8188}?\xff\2)",
    re.DOTALL,
)
"""Two headers alike: of MPEG layers II and III (bit rate given), or of AAC frames."""
_MPEG_HEADER = re.compile(rb"\xff(?:[\xe2\xe3\xf2-\xf5\xfa-\xfd][\x10-\xef]|[\xf0\xf1\xf8\xf9].)", re.DOTALL)
_TWO_FRAMES = 8192
"""Bytes that hold two headers; of fewer, one is enough."""
TRANSPORT_PACKET = 188
"""Bytes of a packet of an MPEG transport stream."""


def looks_like_sound(data: bytes) -> bool:
    """Whether a file is a sound, or a video that may have one, judged by its first bytes.

    >>> looks_like_sound(b"RIFF....WAVEfmt "), looks_like_sound(b"RIFF....WEBPVP8 "), looks_like_sound(b"....ftypM4A ")
    (True, False, True)
    """
    if data.startswith(_STARTS) or data[8:12] in _IFF.get(bytes(data[:4]), ()):
        return True
    if data[4:8] == b"ftyp":
        return data[8:12] not in STILLS
    if data[4:8] in (b"moov", b"mdat", b"wide"):
        return True
    packets = data[: 3 * TRANSPORT_PACKET : TRANSPORT_PACKET]
    pattern = _MPEG_AUDIO if len(data) >= _TWO_FRAMES else _MPEG_HEADER
    return packets == b"GGG" or pattern.match(data) is not None
