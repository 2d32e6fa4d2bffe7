"""Metadata beside the pixels: texts, IPTC, and what is no longer true of a picture.

XMP is text that anybody wrote. It is edited by patterns, and left out as a whole where they may have missed something.
"""

from __future__ import annotations

import json
import re
import struct

from PIL import Image, JpegImagePlugin, TiffImagePlugin

COMMENT = "Comment"
"""Name of a comment without one."""
_IPTC_TAG, _IPTC_RESOURCE = 33723, 0x0404
_TEXTS_MAX = 1 << 24
_GAIN_MAP = re.compile(rb"hdrgm:|hdr-gain-map", re.I)
_RAW_PROFILE = "Raw profile type "


def iptc_of(image: Image.Image) -> bytes | None:
    """IPTC-IIM records of a JPEG or TIFF: caption, author, place."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        records = image.info.get("photoshop", {}).get(_IPTC_RESOURCE)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        records = image.tag_v2.get(_IPTC_TAG)
    else:
        return None
    return bytes(records) if isinstance(records, bytes) and records else None


def iptc_marker(records: bytes) -> bytes:
    """A JPEG's APP13 segment with IPTC records, or nothing if they are too long for one."""
    body = (
        b"Photoshop 3.0\0"
        + b"8BIM"
        + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(records))
        + records
        + b"\0" * (len(records) % 2)
    )
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body if len(body) + 2 <= 0xFFFF else b""


def texts_of(image: Image.Image) -> bytes | None:
    """Texts of a PNG (prompts, copyright) and comments of others, as a JSON object from names to texts."""
    texts = dict(getattr(image, "text", {})) if image.format == "PNG" else {}
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "replace")
    if isinstance(comment, str) and comment.strip("\0 \n"):
        texts[COMMENT] = comment
    kept = {str(name): str(text) for name, text in texts.items() if "xmp" not in name and not name.startswith(_RAW_PROFILE)}
    return json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace") if kept else None


def parsed_texts(data: bytes | None) -> dict[str, str]:
    """Texts as `texts_of` gives them; empty of anything else."""
    try:
        found = json.loads(data[:_TEXTS_MAX]) if data else {}
    except (ValueError, RecursionError):
        return {}
    return {n: t for n, t in found.items() if isinstance(t, str) and n} if isinstance(found, dict) else {}


def without_gain_map(xmp: bytes | None) -> tuple[bytes | None, bool]:
    """XMP that claims no gain map (Ultra HDR), and whether it did."""
    if not xmp or not _GAIN_MAP.search(xmp):
        return xmp, False
    for pattern in (
        rb"<(Container:Directory)\b.*?</\1\s*>",
        rb"<(hdrgm:\w+)\b[^>]*/>",
        rb"<(hdrgm:\w+)\b.*?</\1\s*>",
        rb"""\s(?:xmlns:hdrgm|hdrgm:\w+)\s*=\s*(?:"[^"]*"|'[^']*')""",
    ):
        xmp = re.sub(pattern, b"", xmp, flags=re.S)
    return (None if _GAIN_MAP.search(xmp) else xmp), True
