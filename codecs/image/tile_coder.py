"""A picture's tiles between pixels, latents and symbols.

Tiles are coded one after another. What a tile shows depends on the latents around it, so before its correction is solved,
and before it is shown, the neighbours' latents are coded, too; each latent once. A tile's symbols are its latent's and
then its correction's, in a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.coder import Coder, Measure, Write
from ...entropy_models.errors import BitstreamError, Corrupt
from ...entropy_models.layers import space_to_depth
from ...entropy_models.relaxed import gaussian_bits
from ...entropy_models.tables import Tables
from ..container import Stream
from ..symbols import reading
from . import drawn, sketch
from .choice import Learned
from .dcvc_rt import PATCH, ImageNetwork
from .drawn import Layer
from .effort import Effort
from .header import ImageHeader, header_of
from .refining import refined_coder
from .tiles import LATENT_STRIDE, Box, RecentTiles, aligned, clip, grown, inner, scaled, unscaled

C = TypeVar("C", Write, Measure)
NO_EFFORT = Effort()


def to_signal(pixels: Tensor) -> Tensor:
    """uint8 or uint16 in full range to float -0.5..0.5."""
    return pixels.to(torch.float32) / torch.iinfo(pixels.dtype).max - 0.5


def to_pixels(signal: Tensor, depth: int = 8) -> Tensor:
    """Float to uint8 or uint16, rounded to nearest and clamped."""
    peak = (1 << depth) - 1
    levels = (signal.float() + 0.5).mul_(peak).round_().clamp_(0, peak)
    return levels.to(torch.uint8 if depth == 8 else torch.uint16)


class _Tiles:
    """What both directions share: the tiles of one picture, and the latents around the one in work."""

    def __init__(self, network: ImageNetwork, tables: Tables, header: ImageHeader) -> None:
        self.network, self.tables, self.header, self.grid = network, tables, header, header.grid
        self.device = next(network.parameters()).device
        self._quality = torch.tensor([header.quality], device=self.device)
        self._recent = RecentTiles(self.grid)

    @torch.inference_mode()
    def coding_pass(self, coder: Coder, y: Tensor, index: int) -> Tensor:
        """`ImageNetwork.coding_pass` of one tile."""
        return self.network.coding_pass(coder, y, self._quality, self.grid.margins(index))

    def blank(self, index: int) -> Tensor:
        """An empty latent of a tile's shape, which is all that a reader has to tell of it."""
        top, left, bottom, right = self.grid.latent_box(index)
        shape = 1, bottom - top, right - left, self.network.config.latent_channels
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    @torch.inference_mode()
    def _features(self, window: Box) -> Tensor:
        """What the last layer of the synthesis gets, for a window of latent positions whose tiles are known."""
        return self.network.features(self._recent.window(window), self._quality)

    @torch.inference_mode()
    def _shown(self, features: Tensor, correction: Tensor | None, window: Box, part: Box) -> np.ndarray:
        """The pixels of ``part`` of a tile (rows, columns, channels), from the features of a window around it."""
        signal = self.network.from_features(features, self._quality, correction)
        rows, columns = inner(part, scaled(window, LATENT_STRIDE))
        signal = signal[0, rows, columns]
        if self.header.channels == 1:
            signal = signal.mean(-1, keepdim=True)
        return to_pixels(signal, self.header.depth).cpu().numpy()


class TileEncoder(_Tiles, Generic[C]):
    """Codes a picture's tiles, in order, each with a coder of its own.

    Args:
        pixels: of the header's depth (height, width, 1 or 3).
        new_coder: makes it.
        effort: spent on each tile's symbols. A tile is refined without its neighbours' symbols: in their place stand
            unrounded latents, so that tiles may be coded in any order, and alone.
        blank: numbers of tiles that are drawn, so that their latents are zeros and not coded.
    """

    def __init__(
        self,
        network: ImageNetwork,
        tables: Tables,
        header: ImageHeader,
        pixels: np.ndarray,
        new_coder: Callable[[], C],
        effort: Effort = NO_EFFORT,
        blank: Collection[int] = (),
    ) -> None:
        super().__init__(network, tables, header)
        self._effort, self._blank = effort, blank
        self._pixels = pixels
        self._new_coder: Callable[[], C] = new_coder
        self._coders: dict[int, C] = {}
        self._in_work: tuple[Tensor, Tensor | None] | None = None

    def encode_latent(self, index: int) -> C:
        """The coder of a tile that has coded its latent and nothing else; of no tile's neighbours is anything known."""
        return self._code(index)[0]

    def encode(self, index: int) -> C:
        """The coder of a tile, which has coded all of it. Codes the latents around it that are not coded yet."""
        self._recent.start(index)
        for near in self._recent.missing(self._window(index)):
            self._coders[near], latent = self._code(near)
            self._recent.put(near, latent)
        coder, self._in_work = self._coders.pop(index), None
        if self.network.correction is not None:
            features = self._features(self._window(index))
            self._in_work = features, self.network.correction.code(coder, self._solution(features, index))
        return coder

    def pixels(self, index: int) -> np.ndarray:
        """The pixels that a decoder shows of the tile that was encoded last (rows, columns, channels)."""
        window = self._window(index)
        features, correction = self._in_work or (self._features(window), None)
        return self._shown(features, correction, window, self.grid.pixel_box(index))

    @torch.inference_mode()
    def latent(self, index: int) -> Tensor:
        """Latent of one tile, (1, rows, columns, channels), from its pixels and as many around them as analysis sees."""
        return self._own(self.network.to_latent(self._signal(self._window(index)), self._quality), index)

    def _code(self, index: int) -> tuple[C, Tensor]:
        """A new coder that has coded the latent of a tile, and that latent, decoded."""
        coder = self._new_coder()
        if index in self._blank:
            return coder, self.blank(index)
        if not self._effort.steps:
            return coder, self.coding_pass(coder, self.latent(index), index)
        refining, y = self._refined(coder, index)
        return coder, self.coding_pass(refining, y, index)

    @torch.inference_mode(False)
    def _refined(self, coder: Coder, index: int) -> tuple[Coder, Tensor]:
        """A coder of the symbols that are refined for a tile's pixels, and the tile's latent."""
        with torch.no_grad():
            around = self.network.to_latent(self._signal(self._window(index)), self._quality)
            shown = self._signal(self.grid.latent_box(index))
        y = self._own(around, index)
        top, left, bottom, right = self.grid.pixel_box(index)
        high, wide = bottom - top, right - left
        rows, columns = inner(scaled(self.grid.latent_box(index), LATENT_STRIDE), scaled(self._window(index), LATENT_STRIDE))

        def decoded(coder: Coder) -> Tensor:
            window = around.clone()
            self._own(window, index)[:] = self.network.coding_pass(coder, y, self._quality, self.grid.margins(index))
            image = self.network.to_image(window, self._quality)[:, rows, columns][:, :high, :wide]
            return image.mean(-1, keepdim=True).expand(-1, -1, -1, 3) if self.header.channels == 1 else image

        part = shown[:, :high, :wide]
        return refined_coder(coder, decoded, part, self.header.quality, self.tables, self._effort), y

    def _own(self, window: Tensor, index: int) -> Tensor:
        """A tile's part of the latent of its window."""
        rows, columns = inner(self.grid.latent_box(index), self._window(index))
        return window[:, rows, columns]

    def _window(self, index: int) -> Box:
        """The latent positions that a tile's pixels depend on, and the other way round."""
        return self.grid.latent_box(index, self.network.config.halo)

    def _signal(self, window: Box) -> Tensor:
        """The pixels of a window of latent positions, as `to_latent` takes them; the last ones repeat beyond the image."""
        top, left, bottom, right = scaled(window, LATENT_STRIDE)
        part = torch.from_numpy(self._pixels[top:bottom, left:right].copy()).to(self.device)
        signal = to_signal(part.expand(-1, -1, 3)).permute(2, 0, 1)[None]
        below, beyond = bottom - top - part.shape[0], right - left - part.shape[1]
        return F.pad(signal, (0, beyond, 0, below), mode="replicate").permute(0, 2, 3, 1)

    @torch.inference_mode()
    def _solution(self, features: Tensor, index: int) -> Tensor:
        """The correction of a tile, as `Correction.code` takes it, from the features of the window around it."""
        network, correction, box = self.network, self.network.correction, self.grid.latent_box(index)
        assert correction is not None
        stride = LATENT_STRIDE // PATCH
        rows, columns = inner(scaled(box, stride), scaled(self._window(index), stride))
        features = features[:, rows, columns]
        given, target = network.synthesis.patch(features), space_to_depth(self._signal(box), PATCH)
        top, left, bottom, right = self.grid.pixel_box(index)
        high, wide = -(-(bottom - top) // PATCH), -(-(right - left) // PATCH)  # other patches lie outside the image
        features, given, target = (part[:, :high, :wide] for part in (features, given, target))
        knot_weights, grey = network.knot_weights(self._quality, features.dtype), self.header.channels == 1
        return correction.solve(features, given, target, knot_weights, self.tables, grey=grey)


class _BlockBits(Measure):
    """Measure that also tells about which block of a picture costs how much."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.map = np.zeros((1, 1))

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        coded = super().code(residual, level, active, side=side)
        if not side and coded.dim() == 4:
            counted = level >= self.tables.skip_level if active is None else (level >= self.tables.skip_level) & active
            bits = gaussian_bits(coded, level.expand(coded.shape)) * counted
            self.map = self.map + bits.sum(-1)[0].double().cpu().numpy()
        return coded


def learned(network: ImageNetwork, tables: Tables, quality: int, pixels: np.ndarray) -> Learned:
    """What the learned codec makes of pixels that are one tile: bits of its blocks, and what is shown."""
    header = header_of(pixels.shape, alpha=False, quality=quality)
    encoder = TileEncoder(network, tables, header, pixels, lambda: _BlockBits(tables))
    coder = encoder.encode(0)
    assert isinstance(coder, _BlockBits), "what it was given"
    left = coder.bits[0] - coder.map.sum()  # side information and correction
    return Learned(coder.map + left / coder.map.size, encoder.pixels(0))


class TileDecoder(_Tiles):
    """Reads a picture's tiles from a stream, in order.

    Args:
        salvage: a damaged tile is noted down in ``lost`` and has an empty latent, nearly grey; else it raises.
    """

    def __init__(
        self, network: ImageNetwork, tables: Tables, header: ImageHeader, stream: Stream, *, salvage: bool = False
    ) -> None:
        super().__init__(network, tables, header)
        self._stream, self._salvage = stream, salvage
        self._beside: dict[int, tuple[Tensor | None, Layer | None]] = {}
        self._together: Layer | BitstreamError | None = None
        self.lost: dict[int, BitstreamError] = {}

    def decode(self, index: int, part: Box) -> np.ndarray:
        """Pixels of a part of a tile (rows, columns, channels). Reads the latents around it that are not read yet.

        Raises:
            BitstreamError: a damaged tile, by name.
        """
        config = self.network.config
        around = aligned(grown(unscaled(part, LATENT_STRIDE), config.halo), config.alignment)
        window = clip(around, self.grid.latent_bounds)
        self._recent.start(index)
        for near in self._recent.missing(window):
            latent, correction, layer = self._read_or_blank(near)
            self._beside[near] = correction, layer
            self._recent.put(near, latent)
        correction, layer = self._beside.pop(index)
        layer = layer and layer.part(*inner(part, self.grid.pixel_box(index)))
        if layer and layer.whole:
            return layer.pixels[..., : self.header.channels]
        shown = self._shown(self._features(window), correction, window, part)
        return layer.over(shown) if layer else shown

    def read(self, index: int) -> tuple[Tensor, Tensor | None, Layer | None]:
        """Latent, correction and drawn layer of one tile.

        Raises:
            BitstreamError: the tile is damaged; says which it is.
        """
        try:
            return self._read(index)
        except BitstreamError as error:
            raise type(error)(f"{self.header.tile_name(index)}: {error}") from None

    @torch.inference_mode()
    def _read(self, index: int) -> tuple[Tensor, Tensor | None, Layer | None]:
        correction, head = self.network.correction, self.header.pack()
        layer, chunk = self._layer(index, head)
        if layer and layer.whole and not chunk:
            return self.blank(index), None, layer
        with reading(self.tables, head, chunk) as reader:
            latent = self.coding_pass(reader, self.blank(index), index)
            return latent, None if correction is None else correction.code(reader, correction.none()), layer

    def _layer(self, index: int, head: bytes) -> tuple[Layer | None, bytes]:
        """What is drawn of a tile, over its sketch, and what of its chunk are symbols."""
        chunk, box, layer = self._stream.chunk(index), self.grid.pixel_box(index), None
        height, width = box[2] - box[0], box[3] - box[1]
        if self.header.together:
            layer = self._layer_of_all(head).part(*inner(box, (0, 0, self.header.height, self.header.width)))
        elif self.header.layers:
            layer, chunk = drawn.read(chunk, head, height, width, self.header.depth)
        if self.header.sketches:
            found, chunk = sketch.read(chunk, head, height, width)
            layer = found.under(layer) if found else layer
        return layer, chunk

    def _layer_of_all(self, head: bytes) -> Layer:
        """The layer of the whole picture. It is read once, even if it cannot be."""
        if self._together is None:
            try:
                chunk, size = self._stream.chunk(len(self.grid)), (self.header.height, self.header.width)
                layer, rest = drawn.read(chunk, head, *size, self.header.depth)
                if layer is None or rest:
                    raise Corrupt(f"a chunk of {len(chunk)} bytes for a drawn layer, with {len(rest)} after it")
                self._together = layer
            except BitstreamError as error:
                self._together = error
        if isinstance(self._together, BitstreamError):
            raise self._together
        return self._together

    def _read_or_blank(self, index: int) -> tuple[Tensor, Tensor | None, Layer | None]:
        if not self._salvage:
            return self.read(index)
        try:
            return self._read(index)
        except BitstreamError as error:
            self.lost[index] = error
            return self.blank(index), None, None
