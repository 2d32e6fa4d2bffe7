"""The image codec: pictures to .rdc files and back. The file is specified in `header` and `container`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

import numpy as np
import torch

from ...entropy_models.coder import Measure
from ...entropy_models.errors import BitstreamError, Corrupt, raise_first
from ...entropy_models.tables import Tables
from .. import container, weights
from ..contract import Estimate, Progress, told
from ..device import resolve_device
from ..symbols import LEAST_BYTES, chunk_of, new_writer
from ..torch_state import THREADED_WORK, checked_threads, own_state
from ..weights_file import read_weights
from .architectures import ARCHITECTURES
from .dcvc_rt import ImageNetwork
from .effort import effort_of
from .extras import extra_chunks, with_extras
from .header import STREAM_ID, ImageHeader, checked_crop, header_of, parse
from .layers import Layers, layers_of
from .pictures import Picture, as_picture
from .tile_coder import NO_EFFORT, C, TileDecoder, TileEncoder, learned
from .tiles import Box, inner

Source = Picture | np.ndarray | bytes | str | Path | BinaryIO
"""A picture, a uint8 or uint16 array (height, width) or (height, width, 1..4) with alpha last, or an image file: its bytes,
open, or its path."""
Bytes = bytes | container.Stream | str | Path | BinaryIO
"""A stream: its bytes, parsed or not, or its file, open or by its path."""


class ImageCodec:
    """Variable-rate learned image codec; see `dcvc_rt` for the networks.

    Use ``ImageCodec.load()``. Quality 0..100 covers about 0.1 to 2 bits per pixel on photographs.
    """

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(
        self,
        network: ImageNetwork,
        tables: Tables,
        stream_hash: bytes,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.tables, self.stream_hash, self.device = tables, stream_hash, torch.device(device)
        self.effort, self.threads, self.layers = NO_EFFORT, checked_threads(threads), True

    @classmethod
    def load(
        cls,
        *,
        model: str | None = None,
        stream_hash: bytes | None = None,
        device: str | torch.device = "auto",
        threads: int | None = None,
    ) -> Self:
        """Weights by model name, or by the hash in a stream; else the default model.

        Args:
            device: ``cpu``, ``cuda`` or ``auto`` (CUDA if there is one).
            threads: of the networks on a CPU; None: one for small pictures, else as many as torch has been given.

        Raises:
            KeyError: no such model.
            Unsupported: no such weights.
            ValueError: CUDA asked for and not available, or a damaged weights file.
        """
        line = weights.line_for("image", model=model, stream_hash=stream_hash)
        network, tables = read_weights(weights.verified_bytes(line), ARCHITECTURES)
        return cls(network, tables, line.stream_hash, resolve_device(str(device)), threads)

    def with_effort(self, effort: int | None = None, *, tune: str | None = None) -> Self:
        """This codec with an encoder that refines symbols before it writes them; networks are shared.

        The same decoder and weights read what it writes. Two machines, or numbers of threads, may write other bytes.

        Args:
            effort: 0 (none) to 9; each tile costs so many steps forward and backward as `effort.STEPS` says.
                None: 0, and 5 if a tune is named.
            tune: for ``psnr``, ``eyes`` (half of the distortion MS-SSIM) or ``both`` (a tenth). None: ``both``, and ``eyes``
                with weights that were trained for eyes.

        Raises:
            ValueError: there is no such effort or tune.
        """
        other = copy(self)
        other.effort = effort_of(effort, tune, weights.model_of("image", self.stream_hash))
        return other

    def without_layers(self) -> Self:
        """This codec with an encoder that draws nothing, layers or sketches: latents stand for all of any picture."""
        other = copy(self)
        other.layers = False
        return other

    def encode(self, signal: Source, *, quality: int | None = None, progress: Progress | None = None) -> bytes:
        """Compress one image to the bytes of an .rdc file.

        Args:
            quality: 0..100; None: 60.
            progress: called with (tiles done, tiles in all).

        Raises:
            ValueError: not an image this codec takes, or quality out of range.
        """
        picture = as_picture(signal)
        header, pixels, layers = self._divided(picture, quality)
        packed, tiles = header.pack(), len(header.grid)
        encoder = self._encoder(header, pixels, layers, lambda: new_writer(self.tables, packed))
        chunks = []
        with self._at_work(header):
            for index in told(range(tiles), tiles, progress):
                symbols = b"" if layers.blank(index) else chunk_of(encoder.encode(index))
                chunks.append((container.DATA, layers.beginning(index, packed) + symbols))
        chunks += layers.chunks(packed) + extra_chunks(picture)
        return container.write(stream_id=STREAM_ID, weights=self.stream_hash, signal=packed, chunks=chunks)

    def encode_batch(self, signals: Iterable[Source], *, quality: int | None = None) -> list[bytes]:
        """Encode several images; the very bytes `encode` gives for each.

        They run one after another: float networks may round differently in a batch, and then bytes would differ.
        """
        return [self.encode(signal, quality=quality) for signal in signals]

    def decode(
        self,
        data: Bytes,
        *,
        crop: Box | None = None,
        salvage: bool = False,
        progress: Progress | None = None,
    ) -> Picture:
        """Decompress to pixels, alpha and metadata; ``.array()`` of it is a uint8 array, or uint16.

        Symbols are the same on every machine; pixels may differ by one grey level where float rounding ties.

        Args:
            crop: top, left, bottom, right in pixels; only the tiles it needs are decoded.
            salvage: show an empty latent, nearly grey, for damaged tiles, drop damaged metadata, and say so in ``notices``
                and ``lost_tiles``.
            progress: called with (tiles done, tiles needed).

        Raises:
            BitstreamError: anything wrong with the data that salvage does not cover, or nothing left to salvage.
            ValueError: the crop does not lie in the image.
        """
        stream, header = self._parsed(data, salvage=salvage)
        box = checked_crop(crop, header)
        if not salvage:
            stream.check()
        decoder = TileDecoder(self.network, self.tables, header, stream, salvage=salvage)
        tiles, pixels = header.grid.showing(box), _blank(box, header)
        with self._at_work(header):
            for index in told(tiles, len(tiles), progress):
                part = header.grid.pixel_box(index, box)
                pixels[inner(part, box)] = decoder.decode(index, part)
        notices = [f"{header.tile_name(index)} is lost ({error})" for index, error in decoder.lost.items()]
        if decoder.lost.keys() >= set(tiles):
            raise Corrupt(f"no tile is undamaged; {notices[0]}")
        if len(stream.data) > stream.expected_bytes:
            notices.append(f"{len(stream.data) - stream.expected_bytes} bytes after the last chunk are ignored")
        picture = with_extras(Picture(pixels), stream, header, box, notices if salvage else None)
        return replace(picture, notices=tuple(notices), lost_tiles=tuple(sorted(decoder.lost)))

    def decode_batch(self, streams: Iterable[bytes]) -> list[Picture]:
        """Decode several streams."""
        return [self.decode(data) for data in streams]

    def estimate(self, signal: Source, *, quality: int | None = None) -> Estimate[Picture]:
        """Ideal bits of symbols, bits of what is drawn, and what `decode` will return; no stream. Errors as `encode`."""
        picture = as_picture(signal)
        header, source, layers = self._divided(picture, quality)
        encoder = self._encoder(header, source, layers, lambda: Measure(self.tables))
        whole, bits = (0, 0, header.height, header.width), 8.0 * layers.size
        pixels = _blank(whole, header)
        with self._at_work(header):
            for index in range(len(header.grid)):
                part = inner(header.grid.pixel_box(index), whole)
                if layers.blank(index):
                    pixels[part] = layers.shown[index].pixels[..., : header.channels]
                    continue
                bits += float(encoder.encode(index).bits[0])
                pixels[part] = layers.over(index, encoder.pixels(index))
        return Estimate(bits, replace(picture, pixels=pixels, notices=()))

    def verify(self, data: Bytes) -> list[str]:
        """Check every chunk and decode every symbol, but no pixels. Returns an empty list: nothing is left unchecked.

        Raises:
            BitstreamError: anything wrong with the data; names the first damaged chunk, and how many more there are.
        """
        stream, header = self._parsed(data)
        decoder = TileDecoder(self.network, self.tables, header, stream)
        errors: list[BitstreamError] = []
        for index in range(len(stream.entries)):
            try:
                if index < len(header.grid):
                    with self._at_work(header):
                        decoder.read(index)
                else:
                    stream.chunk(index)
            except BitstreamError as error:
                errors.append(error)
        raise_first(errors, len(stream.entries))
        with_extras(Picture(np.empty((0, 0, 1), np.uint8)), stream, header, (0, 0, 0, 0), None)
        return []

    def measurer(self, signal: Source, *, progress: Progress | None = None) -> Callable[[int], int]:
        """A function from quality to the bytes that `encode` writes at least: some 40 a tile fewer, of drawings up to 700.

        What a tile's correction takes is not in it. Alpha and metadata are compressed once, here.
        """
        picture = as_picture(signal)
        extra = sum(container.ENTRY_BYTES + len(body) for _, body in extra_chunks(picture))

        def measure(quality: int) -> int:
            header, pixels, layers = self._divided(picture, quality)
            tiles = len(header.grid)
            encoder = self._encoder(header, pixels, layers, lambda: Measure(self.tables))
            learned = [index for index in range(tiles) if not layers.blank(index)]
            with self._at_work(header):
                bits = sum(float(encoder.encode_latent(index).bits[0]) for index in told(learned, len(learned), progress))
            fixed = container.table_end(len(header.pack()), tiles) + LEAST_BYTES * len(learned)
            return int(bits / 8) + fixed + layers.size + extra

        return measure

    def _divided(self, picture: Picture, quality: int | None) -> tuple[ImageHeader, np.ndarray, Layers]:
        """The header of a picture, the pixels that latents stand for, and what is drawn."""
        header, pixels, layers = _header(picture, quality), picture.pixels, Layers({}, {})
        if self.layers:
            learn = partial(learned, self.network, self.tables, header.quality)
            with self._at_work(header):
                layers, pixels = layers_of(pixels, header, learn)
        found = replace(header, layers=bool(layers.drawn), together=bool(layers.together), sketches=bool(layers.sketches))
        return found, pixels, layers

    def _at_work(self, header: ImageHeader) -> AbstractContextManager[None]:
        """torch's state for as long as networks run. A tile at a time is worked on."""
        pixels = header.width * header.height
        return own_state(pixels, self.threads) if self.device.type == "cpu" else own_state(THREADED_WORK, self.threads)

    def _encoder(
        self, header: ImageHeader, pixels: np.ndarray, layers: Layers, new_coder: Callable[[], C]
    ) -> TileEncoder[C]:
        blank = [index for index in layers.shown if layers.blank(index)]
        return TileEncoder(self.network, self.tables, header, pixels, new_coder, self.effort, blank)

    def _parsed(self, data: Bytes, *, salvage: bool = False) -> tuple[container.Stream, ImageHeader]:
        if isinstance(data, str | Path):
            content: bytes | container.Stream = Path(data).read_bytes()
        else:
            content = data.read() if hasattr(data, "read") else data
        stream, header = parse(content, salvage=salvage)
        stream.check_weights(self.stream_hash)
        return stream, header


def _header(picture: Picture, quality: int | None) -> ImageHeader:
    return header_of(
        picture.pixels.shape, depth=8 * picture.pixels.itemsize, alpha=picture.alpha is not None, quality=quality
    )


def _blank(box: Box, header: ImageHeader) -> np.ndarray:
    """Pixels of a part of an image, yet to be filled in."""
    return np.empty((box[2] - box[0], box[3] - box[1], header.channels), np.uint8 if header.depth == 8 else np.uint16)
