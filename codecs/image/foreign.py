"""Files that are no picture we read, by their first bytes: named, with what can be done. No Pillow here."""

from __future__ import annotations

from typing import NamedTuple

_CONVERT = "convert it to PNG or TIFF first"


class Foreign(NamedTuple):
    """A kind of file by its beginning."""

    offset: int
    starts: tuple[bytes, ...]
    name: str
    advice: str = _CONVERT
    plugin: str = ""
    """Module of a plugin for Pillow that reads it."""


FOREIGN = (
    Foreign(0, (b"%!PS", b"\xc5\xd0\xd3\xc6"), "a PostScript drawing"),
    Foreign(0, (b"%PDF",), "a PDF document"),
    Foreign(0, (b"<svg",), "an SVG drawing"),
    Foreign(
        4,
        (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftyphevx"),
        "a HEIC picture",
        "pip install pillow-heif reads it",
        "pillow_heif",
    ),
    Foreign(
        0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL picture", "pip install pillow-jxl-plugin reads it", "pillow_jxl"
    ),
    Foreign(4, (b"ftypcrx ",), "a raw file (CR3)"),
    Foreign(0, (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR"), "a raw file"),
    Foreign(0, (b"\0\x05\x16\x07", b"\0\x05\x16\0"), "what macOS keeps beside a file (AppleDouble)", "leave it out"),
)


def foreign(data: bytes) -> Foreign | None:
    """The known foreign kind that a file is of; None: of none."""
    return next((kind for kind in FOREIGN if data.startswith(kind.starts, kind.offset)), None)
