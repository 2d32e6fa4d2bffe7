"""Pillow reads and writes .rdc pictures after ``import rdcodec.pillow``: this folder is installed under that name.

>>> import rdcodec.pillow
>>> from PIL import Image
>>> Image.new("RGB", (8, 8), "teal").save(file := io.BytesIO(), "RDC", quality=60)
>>> with Image.open(file) as image:
...     image.format, image.mode, image.size
('RDC', 'RGB', (8, 8))

Opening reads header and metadata; pixels are decoded when they are first asked for. ``save`` takes ``quality`` (0..100),
``model``, and Pillow's own ``icc_profile``, ``exif`` and ``xmp``. What it changes about a picture is a warning.
"""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile
from rdcodec.codecs import container
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.extras import with_extras
from rdcodec.codecs.image.header import STREAM_ID, ImageHeader, parse
from rdcodec.codecs.image.pictures import Picture, as_picture, eight_bits
from rdcodec.entropy_models.errors import BitstreamError, Unsupported

FORMAT = "RDC"
MODES = {(1, False): "L", (1, True): "LA", (3, False): "RGB", (3, True): "RGBA"}
"""Pillow's modes of 8 bits by channels and alpha."""
DEEP = "I;16"
"""Its one mode of 16 bits: opaque grey."""
_INFO = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}


class RdcImageFile(ImageFile.ImageFile):
    """An .rdc picture as Pillow's image."""

    format = FORMAT
    format_description = "rdcodec picture"

    def _open(self) -> None:
        assert self.fp, "ImageFile has opened it"
        data = self.fp.read()
        try:
            stream, header = parse(data)
            extras = with_extras(Picture(np.empty((0, 0, 1), np.uint8)), stream, header, (0, 0, 0, 0), None)
        except Unsupported as error:
            raise SyntaxError(str(error)) from None  # not ours: Pillow asks the next one
        except BitstreamError as error:
            raise OSError(str(error)) from None
        self._stream: container.Stream | None = stream
        self._size, self._mode = (header.width, header.height), mode_of(header)
        self.info |= {key: value for name, key in _INFO.items() if (value := getattr(extras, name))}
        self.info["quality"] = header.quality
        self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]

    def load(self) -> Any:
        """Decode the pixels, once; OSError where they are damaged."""
        if self.tile and self._stream:
            try:
                picture = _codec(stream_hash=self._stream.weights).decode(self._stream)
            except BitstreamError as error:
                raise OSError(str(error)) from None
            if self.fp and self._exclusive_fp:
                self.fp.close()
            pixels = picture.array() if self.mode == DEEP else eight_bits(picture.array())
            self.fp, self._stream = io.BytesIO(np.ascontiguousarray(pixels).tobytes()), None
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Nothing: the pixels are all there."""


def mode_of(header: ImageHeader) -> str:
    """The mode a picture is opened in; colours of 16 bits become 8, for Pillow has no mode for them."""
    mode = MODES[header.channels, header.alpha]
    return DEEP if header.depth > 8 and mode == "L" else mode


def accepts(prefix: bytes) -> bool:
    """Whether a file's first bytes are those of an .rdc picture."""
    return prefix.startswith(container.MAGIC) and prefix[6:8] == STREAM_ID.to_bytes(2, "little")


def save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Pillow's image to an .rdc file; what Pillow keeps beside the pixels goes along."""
    given = image.encoderinfo
    copy = image.copy()
    for key in _INFO.values():
        if key in given:
            value = given[key]
            copy.info[key] = value.tobytes() if isinstance(value, Image.Exif) else value
    if "exif" in given:
        copy.getexif().load(copy.info["exif"])
    picture = as_picture(copy)
    for notice in picture.notices:
        warnings.warn(notice, stacklevel=3)
    file.write(_codec(model=given.get("model")).encode(picture, quality=given.get("quality")))


@cache
def _codec(*, model: str | None = None, stream_hash: bytes | None = None) -> ImageCodec:
    return ImageCodec.load(model=model, stream_hash=stream_hash)


Image.register_open(FORMAT, RdcImageFile, accepts)
Image.register_save(FORMAT, save)
Image.register_extension(FORMAT, ".rdc")
Image.register_mime(FORMAT, "image/x-rdc")
