"""Video files by suffix: known before numpy and PyAV are loaded."""

from __future__ import annotations

WRITTEN = {
    ".mkv": "FFV1, without loss", ".mp4": "H.264, nearly without loss", ".webm": "VP9, nearly without loss",
    ".y4m": "plain YCbCr", ".gif": "animation of 256 colours a frame", ".png": "pictures, numbered as %05d.png",
}  # fmt: skip
"""Suffixes of files that are written, for people; a folder holds PNG as well."""
SILENT = frozenset({".y4m", ".gif", ".png"})
"""Of these, those without sound."""
READ_ONLY = frozenset({
    ".mov", ".m4v", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2", ".ogv", ".vob", ".mxf",
    ".h264", ".264", ".hevc", ".265", ".apng",
})  # fmt: skip
"""Suffixes of more videos that folders are searched for."""
