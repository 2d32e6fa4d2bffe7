"""The image codec: pictures to .rdc files and back. The file is specified in `header` and `container`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.coder import WORD_BYTES, Measure, Read, Write
from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated, Unsupported
from ...entropy_models.layers import space_to_depth
from ...entropy_models.tables import Tables
from .. import container, weights
from ..weights_file import read_weights
from .architectures import ARCHITECTURES
from .dcvc_rt import PATCH, ImageNetwork
from .extras import extra_chunks, with_extras
from .header import CHECK, PIXELS_MAX, SIDE_MAX, STREAM_ID, ImageHeader, checked_crop, parse
from .pictures import Picture, as_picture
from .tiles import LATENT_STRIDE, Box, RecentTiles, area, clip, gather, grown, inner, scaled, unscaled

CORRECTION_BYTES = 24
"""What a tile's correction usually takes at least; none takes nothing."""
Progress = Callable[[int, int], None]
"""A function that is called with (tiles done, tiles in all)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate of what encoding would cost and give, without a stream."""

    bits: float
    """Ideal bits of the symbols; headers are not in it."""
    pixels: np.ndarray
    """The reconstruction `ImageCodec.decode` will return, without alpha."""


class ImageCodec:
    """Variable-rate learned image codec; see `dcvc_rt` for the networks.

    Use ``ImageCodec.load()``. Quality 0..100 covers about 0.1 to 2 bits per pixel on photographs.
    """

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(self, network: ImageNetwork, tables: Tables, stream_hash: bytes, device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.tables, self.stream_hash, self.device = tables, stream_hash, torch.device(device)

    @classmethod
    def load(cls, *, model: str | None = None, stream_hash: bytes | None = None, device: str = "auto") -> ImageCodec:
        """Weights by model name, or by the hash in a stream; else the default model.

        Args:
            device: ``cpu``, ``cuda`` or ``auto`` (CUDA if there is one).

        Raises:
            KeyError: no such model.
            Unsupported: no such weights.
            ValueError: CUDA asked for and not available, or a damaged weights file.
        """
        line = weights.line_of_stream("image", stream_hash) if stream_hash else weights.line_named("image", model)
        network, tables = read_weights(weights.verified_bytes(line), ARCHITECTURES)
        return cls(network, tables, line.stream_hash, resolve_device(device))

    def encode(self, image: np.ndarray | str | Path | Picture, quality: int = 60, progress: Progress | None = None) -> bytes:
        """Compress one image to the bytes of an .rdc file.

        Args:
            image: uint8 array (height, width), (height, width, 1|3|4), a file's path, or a `Picture`.
            quality: 0..100.

        Raises:
            ValueError: not an image this codec takes, or quality out of range.
        """
        picture = as_picture(image)
        header = self._header(picture, quality)
        seed = zlib.crc32(header.pack())
        chunks = []
        writers: dict[int, Write] = {}

        def compute(index: int) -> Tensor:
            writers[index] = Write(self.tables)
            writers[index].checks[0] = seed
            return self._coding_pass(writers[index], self._latent(picture.pixels, header, index), header, index)

        latents = RecentTiles(header.grid, compute)
        for index in range(len(header.grid)):
            latents(index)  # weights without corrections ask for no neighbours
            self._code_correction(writers[index], latents, picture.pixels, header, index)
            writer = writers.pop(index)
            chunks.append((container.DATA, CHECK.pack(writer.checks[0]) + writer.close()[0]))
            if progress:
                progress(index + 1, len(header.grid))
        chunks += extra_chunks(picture)
        return container.write(stream_id=STREAM_ID, weights=self.stream_hash, signal=header.pack(), chunks=chunks)

    def encode_batch(self, images: Iterable[np.ndarray | str | Path | Picture], quality: int = 60) -> list[bytes]:
        """Encode several images; the very bytes `encode` gives for each.

        They run one after another: float networks may round differently in a batch, and then bytes would differ.
        """
        return [self.encode(image, quality) for image in images]

    def decode(self, data: bytes | container.Stream) -> np.ndarray:
        """Decompress to uint8 (height, width) for grey, (height, width, 3) for RGB, one channel more with alpha.

        Symbols are the same on every machine; pixels may differ by one grey level where float rounding ties.

        Raises:
            BitstreamError: anything wrong with the data.
        """
        return self.decode_picture(data).array()

    def decode_batch(self, streams: Iterable[bytes]) -> list[np.ndarray]:
        """Decode several streams."""
        return [self.decode(data) for data in streams]

    def decode_picture(
        self,
        data: bytes | container.Stream,
        *,
        crop: Box | None = None,
        salvage: bool = False,
        progress: Progress | None = None,
    ) -> Picture:
        """Decompress to pixels, alpha and metadata.

        Args:
            crop: top, left, bottom, right in pixels; only the tiles it needs are decoded.
            salvage: show an empty latent, nearly grey, for damaged tiles, drop damaged metadata, and say so in ``notices``
                and ``lost_tiles``.

        Raises:
            BitstreamError: anything wrong with the data that salvage does not cover, or nothing left to salvage.
            ValueError: the crop does not lie in the image.
        """
        stream, header = self._parsed(data, salvage=salvage)
        notices: list[str] = []
        lost: set[int] = set()
        box = checked_crop(crop, header)

        corrections: dict[int, Tensor | None] = {}

        def compute(index: int) -> Tensor:
            try:
                latent, corrections[index] = self._read(stream.chunk(index), header, index)
                return latent
            except BitstreamError as error:
                if not salvage:
                    raise _of_tile(error, header, index) from None
                notices.append(f"{header.tile_name(index)} is lost ({error})")
                lost.add(index)
                return self._blank(header, index)

        if not salvage:
            stream.check()
        picture = Picture(self._pixels(RecentTiles(header.grid, compute), corrections.get, header, box, progress))
        if lost.issuperset(_wanted(header, box)):
            raise Corrupt(f"no tile is undamaged; {notices[0]}")
        if len(stream.data) > stream.expected_bytes:
            notices.append(f"{len(stream.data) - stream.expected_bytes} bytes after the last chunk are ignored")
        picture = with_extras(picture, stream, header, box, notices if salvage else None)
        return replace(picture, notices=(*picture.notices, *notices), lost_tiles=tuple(sorted(lost)))

    @torch.inference_mode()
    def verify(self, data: bytes | container.Stream) -> None:
        """Check every chunk and decode every symbol, but no pixels.

        Raises:
            BitstreamError: anything wrong with the data; names the first damaged chunk, and how many more there are.
        """
        stream, header = self._parsed(data)
        errors: list[BitstreamError] = []
        for index in range(len(stream.entries)):
            try:
                body = stream.chunk(index)
                if index < len(header.grid):
                    self._read(body, header, index)
            except BitstreamError as error:
                errors.append(_of_tile(error, header, index) if index < len(header.grid) else error)
        if errors:
            more = f" (and {len(errors) - 1} more of {len(stream.entries)} chunks)" if len(errors) > 1 else ""
            raise type(errors[0])(f"{errors[0]}{more}")
        with_extras(Picture(np.empty((0, 0, 1), np.uint8)), stream, header, (0, 0, 0, 0), None)

    def estimate(self, image: np.ndarray | str | Path | Picture, quality: int = 60) -> Estimate:
        """Ideal bits and reconstruction, without a stream."""
        picture = as_picture(image)
        header = self._header(picture, quality)
        measure = Measure(self.tables)

        def compute(index: int) -> Tensor:
            return self._coding_pass(measure, self._latent(picture.pixels, header, index), header, index)

        def correct(index: int) -> Tensor | None:
            return self._code_correction(measure, latents, picture.pixels, header, index)

        latents = RecentTiles(header.grid, compute)
        whole = (0, 0, header.height, header.width)
        pixels = self._pixels(latents, correct, header, whole, None)
        return Estimate(float(measure.bits[0]), pixels)

    def measure_bytes(
        self, image: np.ndarray | str | Path | Picture, quality: int, *, extra_bytes: int | None = None
    ) -> int:
        """Size of the file `encode` would write, within some 100 bytes a tile (drawings 700), without stream and synthesis.

        Args:
            image: as `encode` takes it.
            quality: 0..100.
            extra_bytes: what `extra_bytes` returned for this picture; None: it is called.
        """
        picture = as_picture(image)
        header = self._header(picture, quality)
        measure = Measure(self.tables)
        for index in range(len(header.grid)):
            self._coding_pass(measure, self._latent(picture.pixels, header, index), header, index)
        tiles = len(header.grid)
        each = CHECK.size + WORD_BYTES + (CORRECTION_BYTES if self.network.correction else 0)
        overhead = container.table_end(len(header.pack()), tiles) + each * tiles
        return int(measure.bits[0] / 8) + overhead + (self.extra_bytes(picture) if extra_bytes is None else extra_bytes)

    def extra_bytes(self, picture: Picture) -> int:
        """Bytes of the alpha and metadata chunks, the same at every quality; compresses the alpha plane."""
        return sum(container.ENTRY_BYTES + len(body) for _, body in extra_chunks(picture))

    def _parsed(self, data: bytes | container.Stream, *, salvage: bool = False) -> tuple[container.Stream, ImageHeader]:
        stream, header = parse(data, salvage=salvage)
        if stream.weights != self.stream_hash:
            raise Unsupported(f"the stream needs weights {stream.weights.hex()}, loaded are {self.stream_hash.hex()}")
        return stream, header

    # One tile ---------------------------------------------------------------------------------------

    def _header(self, picture: Picture, quality: int) -> ImageHeader:
        if not isinstance(quality, int | np.integer) or not 0 <= quality <= 100:
            raise InputError(f"quality {quality!r}; need a whole number 0..100")
        height, width, channels = picture.pixels.shape
        if max(height, width) > SIDE_MAX or height * width > PIXELS_MAX:
            raise InputError(f"{width}x{height} pixels; at most {PIXELS_MAX} in all and {SIDE_MAX} a side")
        return ImageHeader(
            width=width, height=height, quality=int(quality), channels=channels, alpha=picture.alpha is not None
        )

    def _quality(self, header: ImageHeader) -> Tensor:
        return torch.tensor([header.quality], device=self.device)

    @torch.inference_mode()
    def _latent(self, pixels: np.ndarray, header: ImageHeader, index: int) -> Tensor:
        """Latent of one tile, from its pixels and as much around them as analysis sees."""
        box = header.grid.latent_box(index)
        window = header.grid.latent_box(index, self.network.config.halo)
        y = self.network.to_latent(self._signal(pixels, window), self._quality(header))
        rows, columns = inner(box, window)
        return y[:, rows, columns]

    def _signal(self, pixels: np.ndarray, window: Box) -> Tensor:
        """The pixels of a window of latent positions, as `to_latent` takes them; the last ones repeat beyond the image."""
        top, left, bottom, right = scaled(window, LATENT_STRIDE)
        part = torch.from_numpy(pixels[top:bottom, left:right].copy()).to(self.device)
        signal = to_signal(part.expand(-1, -1, 3)).permute(2, 0, 1)[None]
        below, beyond = bottom - top - part.shape[0], right - left - part.shape[1]
        return F.pad(signal, (0, beyond, 0, below), mode="replicate").permute(0, 2, 3, 1)

    @torch.inference_mode()
    def _code_correction(
        self, coder: Write | Measure, latents: Callable[[int], Tensor], pixels: np.ndarray, header: ImageHeader, index: int
    ) -> Tensor | None:
        """Solve and code the correction of one tile; its neighbours are coded by now, and go into it as in `_pixels`."""
        network, correction = self.network, self.network.correction
        if correction is None:
            return None
        box = header.grid.latent_box(index)
        window = header.grid.latent_box(index, network.config.halo)
        latent = gather(latents, header.grid, window)
        knot_weights = network.knot_weights(self._quality(header), latent.dtype)
        stride = LATENT_STRIDE // PATCH
        rows, columns = inner(scaled(box, stride), scaled(window, stride))
        features = network.synthesis.features(latent, knot_weights)[:, rows, columns]
        given, target = network.synthesis.patch(features), space_to_depth(self._signal(pixels, box), PATCH)
        top, left, *_ = scaled(box, LATENT_STRIDE)
        high, wide = -(-(header.height - top) // PATCH), -(-(header.width - left) // PATCH)  # others lie outside
        features, given, target = (part[:, :high, :wide] for part in (features, given, target))
        solution = correction.solve(features, given, target, knot_weights, self.tables, grey=header.channels == 1)
        return correction.code(coder, solution)

    @torch.inference_mode()
    def _coding_pass(self, coder: Write | Read | Measure, y: Tensor, header: ImageHeader, index: int) -> Tensor:
        fineness = header.grid.fineness(index)
        finer = None if fineness is None else torch.tensor(fineness, device=self.device)[..., None]
        return self.network.coding_pass(coder, y, self._quality(header), finer)

    @torch.inference_mode()
    def _read(self, chunk: bytes, header: ImageHeader, index: int) -> tuple[Tensor, Tensor | None]:
        """Latent and correction of one tile."""
        if len(chunk) < CHECK.size:
            raise Truncated(f"a tile of {len(chunk)} bytes")
        reader = Read(self.tables, [chunk[CHECK.size :]])
        reader.checks[0] = zlib.crc32(header.pack())
        correction = self.network.correction
        try:
            latent = self._coding_pass(reader, self._blank(header, index), header, index)
            symbols = None if correction is None else correction.code(reader, correction.none())
        except ValueError as error:  # symbols that no encoder writes
            raise error if isinstance(error, BitstreamError) else Corrupt(str(error)) from None
        reader.close()
        (check,) = CHECK.unpack_from(chunk)
        if check != reader.checks[0]:
            raise Corrupt(f"symbols have checksum {reader.checks[0]:08x}, the tile says {check:08x}")
        return latent, symbols

    def _blank(self, header: ImageHeader, index: int) -> Tensor:
        top, left, bottom, right = header.grid.latent_box(index)
        return torch.zeros(1, bottom - top, right - left, self.network.config.latent_channels, device=self.device)

    @torch.inference_mode()
    def _pixels(
        self,
        latents: Callable[[int], Tensor],
        correction_of: Callable[[int], Tensor | None],
        header: ImageHeader,
        box: Box,
        progress: Progress | None,
    ) -> np.ndarray:
        """Synthesis of the part ``box`` (pixels) of the image, uint8 (rows, columns, channels).

        ``correction_of`` is asked for a tile when ``latents`` has given it.
        """
        grid, halo = header.grid, self.network.config.halo
        out = np.empty((box[2] - box[0], box[3] - box[1], header.channels), np.uint8)
        wanted = _wanted(header, box)
        for done, index in enumerate(wanted):
            part = clip(scaled(grid.latent_box(index), LATENT_STRIDE), box)
            window = clip(grown(unscaled(part, LATENT_STRIDE), halo), grid.latent_bounds)
            latent = gather(latents, grid, window)
            signal = self.network.to_image(latent, self._quality(header), correction_of(index))
            rows, columns = inner(part, scaled(window, LATENT_STRIDE))
            signal = signal[0, rows, columns]
            if header.channels == 1:
                signal = signal.mean(-1, keepdim=True)
            target = inner(part, box)
            out[target[0], target[1]] = to_pixels(signal).cpu().numpy()
            if progress:
                progress(done + 1, len(wanted))
        return out


def _of_tile(error: BitstreamError, header: ImageHeader, index: int) -> BitstreamError:
    """An error like this one that names its tile."""
    return type(error)(f"{header.tile_name(index)}: {error}")


def _wanted(header: ImageHeader, box: Box) -> list[int]:
    """The tiles that share pixels with ``box``."""
    boxes = [scaled(header.grid.latent_box(index), LATENT_STRIDE) for index in range(len(header.grid))]
    return [index for index, tile in enumerate(boxes) if area(clip(tile, box)) > 0]


def to_signal(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float -0.5..0.5."""
    return pixels.to(torch.float32) / 255 - 0.5


def to_pixels(signal: Tensor) -> Tensor:
    """Float to uint8, rounded to nearest and clamped."""
    return ((signal.float() + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


def resolve_device(device: str) -> str:
    """``auto`` to a device that is there; ``cpu``, ``cuda`` and ``cuda:N`` stay as they are.

    Raises:
        ValueError: another name, or CUDA is asked for and not available.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device, re.ASCII)
    if not match:
        raise InputError(f"device {device!r}; need auto, cpu, cuda or cuda:N")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if match[1] and int(match[1]) >= torch.cuda.device_count():
        raise InputError(f"device {device}; torch sees {torch.cuda.device_count()} CUDA devices here, counted from 0")
    return device
