"""Division of an image into tiles, and the seamless way back.

The latent of the whole image is cut into tiles of `TILE` pixels that are coded on their own. Transforms run on a
tile plus a halo as wide as their reach, clipped to the image, so analysis and synthesis give what they
would give on the whole image, in memory bounded by a few tiles. What is coded knows nothing of other tiles; there its
contexts see a mirror image (`beyond`). So there are no lines at borders; in gradients without noise, steps of a level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing here imports torch, so that `codec info` need not
    from torch import Tensor

LATENT_STRIDE = 16
"""Pixels per latent position, each way."""
TILE = 1024
"""Side of a tile in pixels; a multiple of 64, so that hyper-latents do not straddle tiles."""
MARGIN = 4
"""Latent positions that contexts see beyond a tile (`beyond`): a hyper-latent. On photographs 2 do as well; on drawn
gradients 8 do a little better."""
_SIDE = TILE // LATENT_STRIDE

Box = tuple[int, int, int, int]
"""top, left, bottom, right; the ends are exclusive."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Tiles of an image of ``height`` x ``width`` pixels, numbered row by row."""

    height: int
    width: int

    @property
    def rows(self) -> int:
        return -(-self.height // TILE)

    @property
    def columns(self) -> int:
        return -(-self.width // TILE)

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def latent_bounds(self) -> Box:
        return 0, 0, -(-self.height // LATENT_STRIDE), -(-self.width // LATENT_STRIDE)

    def latent_box(self, index: int, halo: int = 0) -> Box:
        """Latent positions of a tile and ``halo`` more on each side, clipped to the image."""
        row, column = divmod(index, self.columns)
        top, left = row * _SIDE, column * _SIDE
        return clip(grown((top, left, top + _SIDE, left + _SIDE), halo), self.latent_bounds)

    def margins(self, index: int) -> tuple[int, int, int, int]:
        """Margins by which a tile's contexts see beyond it: `MARGIN` where another tile lies, nothing at the image's end."""
        top, left, bottom, right = self.latent_box(index)
        _, _, height, width = self.latent_bounds
        above, before, below, after = (MARGIN * there for there in (top > 0, left > 0, bottom < height, right < width))
        return above, before, below, after

    def pixel_box(self, index: int, box: Box | None = None) -> Box:
        """Pixels of a tile inside a box; None: the image."""
        return clip(scaled(self.latent_box(index), LATENT_STRIDE), box or (0, 0, self.height, self.width))

    def showing(self, box: Box) -> list[int]:
        """Numbers of the tiles that share pixels with a box."""
        return [index for index in range(len(self)) if area(self.pixel_box(index, box)) > 0]

    def touching(self, box: Box) -> Iterator[int]:
        """Numbers of the tiles that overlap a box of latent positions."""
        top, left, bottom, right = box
        for row in range(top // _SIDE, -(-bottom // _SIDE)):
            for column in range(left // _SIDE, -(-right // _SIDE)):
                yield row * self.columns + column


def clip(box: Box, bounds: Box) -> Box:
    """Intersection of two boxes."""
    return max(box[0], bounds[0]), max(box[1], bounds[1]), min(box[2], bounds[2]), min(box[3], bounds[3])


def area(box: Box) -> int:
    """Positions in a box; 0 if it is empty or inside out."""
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def inner(box: Box, outer: Box) -> tuple[slice, slice]:
    """Where ``box`` lies inside an array that covers ``outer``."""
    return slice(box[0] - outer[0], box[2] - outer[0]), slice(box[1] - outer[1], box[3] - outer[1])


def scaled(box: Box, factor: int) -> Box:
    """A box of latent positions in pixels."""
    return box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor


def unscaled(box: Box, factor: int) -> Box:
    """The latent positions that a box of pixels touches."""
    return box[0] // factor, box[1] // factor, -(-box[2] // factor), -(-box[3] // factor)


def grown(box: Box, margin: int) -> Box:
    """A box with a margin on every side."""
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def aligned(box: Box, step: int) -> Box:
    """A box grown until its sides lie at multiples of ``step``."""
    top, left, bottom, right = unscaled(box, step)
    return scaled((top, left, bottom, right), step)


class RecentTiles:
    """Latents by tile, in one pass over the image in order of tiles, each with its neighbours.

    Of more than two tile rows and three tiles none is kept, of a single row three tiles.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._known: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._known)

    def start(self, index: int) -> None:
        """Turn to a tile: forget those that neither it nor a later one neighbours on."""
        turn = divmod(index, self._grid.columns)
        for old in [i for i in self._known if self._last_use(i) < turn]:
            del self._known[old]

    def missing(self, box: Box) -> list[int]:
        """The tiles that a box of latent positions touches and that are not known, in order."""
        return [index for index in self._grid.touching(box) if index not in self._known]

    def put(self, index: int, latent: Tensor) -> None:
        """The latent of a tile, (1, rows, columns, channels)."""
        self._known[index] = latent

    def window(self, box: Box) -> Tensor:
        """A window (1, rows, columns, channels) of the latent, put together from the tiles it touches, all known."""
        window: Tensor | None = None
        for index in self._grid.touching(box):
            latent, tile = self._known[index], self._grid.latent_box(index)
            if window is None:
                window = latent.new_zeros(1, box[2] - box[0], box[3] - box[1], latent.shape[-1])
            part = clip(box, tile)
            target, source = inner(part, box), inner(part, tile)
            window[:, target[0], target[1]] = latent[:, source[0], source[1]]
        assert window is not None
        return window

    def _last_use(self, index: int) -> tuple[int, int]:
        """Row and column of the last tile that neighbours on this one."""
        row, column = divmod(index, self._grid.columns)
        return min(row + 1, self._grid.rows - 1), min(column + 1, self._grid.columns - 1)
