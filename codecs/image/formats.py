"""Formats of image files that are written, and names that a demonstration writes: known before Pillow is loaded."""

from __future__ import annotations

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PGM",
}  # fmt: skip
"""Suffixes, with Pillow's names of their formats, and PGM for its PPM in grey."""
READ_ONLY = frozenset({".gif", ".jp2", ".ico"})
"""Suffixes of more images that folders are searched for."""
QUALITIES = (15, 40, 70)
"""Qualities of the demonstration."""
ORIGINAL, SHEET = "original.png", "sheet.png"
SHOWN = ORIGINAL, SHEET, *(f"q{quality}{end}" for quality in QUALITIES for end in (".rdc", ".png", "_equal_bytes.jpg"))
"""Files that a demonstration writes."""
