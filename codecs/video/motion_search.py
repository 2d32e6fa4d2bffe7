"""Search for block motion, by the encoder alone: from large blocks to small, as vectors are coded.

At a quarter of the resolution all vectors up to `reach_of` pixels are tried; then, for each size of blocks, the larger
block's vector, the neighbours', the expected one, none, and finer steps around the best. What counts is the absolute
difference of luma and what telling a vector costs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.hyperprior import QUALITY_MAX
from .motion import BLOCK, LARGEST, UNIT, VECTOR_MAX, Field, enlarged, middle, padded

REACH, REACH_MAX = 32, 96
"""Pixels of the first search's farthest vector, at least and at most."""
SPEED = 8
"""Between them, pixels for each frame to the reference."""
COARSE = 4
"""Pixels of the first search's step."""
FIRST_PRICE = 4.0
"""Times the price of a bit, there: far vectors find what looks alike by chance. Counted on fast training clips."""
STEPS_OF_SCALES = ((2 * UNIT, UNIT), (UNIT, UNIT // 2), (UNIT, UNIT // 2, UNIT // 4))
"""Steps tried around the best vectors of blocks of 64, 32 and 16 pixels."""
PIXELS_AT_ONCE = 1 << 21
"""Pixels that are moved at once, at most: some 40 bytes each."""
CHANGE_PRICE = 2.0
"""Times the price, of changes of vectors that are likely as they are."""
PRICE_HIGH, PRICE_LOW = 0.35, 0.02
"""Price of a bit in grey levels of a block's mean difference, at quality 0 and 100; log-linear between."""
LUMA = (0.299, 0.587, 0.114)
GREY_LEVELS = 255


def searched(
    frame: Tensor, reference: Tensor, expected: Field, quality: int, *, changes: bool = False, distance: int = 1
) -> Field:
    """Vectors (1, rows, columns, 2) by which ``reference`` resembles ``frame`` best.

    Args:
        frame, reference: float (1, height, width, 3), -0.5..0.5, sides multiples of `BLOCK`.
        expected: vectors that are worth trying.
        quality: the higher, the cheaper vectors are.
        changes: vectors will be told as changes of what is expected.
        distance: frames from the reference.
    """
    _, rows, columns, _ = expected.shape
    down, right = -rows % LARGEST * BLOCK, -columns % LARGEST * BLOCK
    planes = (luma(x).permute(0, 3, 1, 2) for x in (frame, reference))
    target, source = (F.pad(plane, (0, right, 0, down), mode="replicate") for plane in planes)
    price = bit_price(quality) * (CHANGE_PRICE if changes else 1)
    # of changes, what is expected takes the place of the first search
    first = None if changes else _first(target, source, FIRST_PRICE * price, reach_of(distance))
    expected = padded(expected)
    start = expected if changes else torch.zeros_like(expected)
    parent = torch.zeros_like(middle(middle(expected)))
    for scale, steps in enumerate(STEPS_OF_SCALES):
        blocks = LARGEST >> scale
        shrunk = 1 if blocks == 1 else 2  # larger blocks are compared at half the resolution
        small_target, small_source = (F.avg_pool2d(x, shrunk) for x in (target, source))
        best = _Best(small_target, small_source, parent, _every(start, blocks), price / blocks**2, shrunk)
        if first is not None:
            best.offer(first[blocks])
        best.offer(torch.zeros_like(parent))
        best.offer(_every(expected, blocks))
        best.offer_neighbours()
        for step in steps:
            best.offer_around(step)
        best.offer_neighbours()
        told = best.field - _every(start, blocks)
        parent = enlarged(told) if blocks > 1 else told
    return (parent + start)[:, :rows, :columns]


def bit_price(quality: int) -> float:
    """Price of a bit in a block's mean difference, where pictures are -0.5..0.5."""
    return PRICE_HIGH * (PRICE_LOW / PRICE_HIGH) ** (quality / QUALITY_MAX) / GREY_LEVELS


def _every(field: Field, blocks: int) -> Field:
    """The vectors at the middle of every so many blocks."""
    return field[:, blocks // 2 :: blocks, blocks // 2 :: blocks]


class _Best:
    """The best vector of each block so far, at the price of telling how it differs from its larger block's.

    Args:
        parent: the larger blocks' vectors, as they are told.
        start: what vectors are told as changes of.
        price: of a bit, in mean difference of a block.
        shrunk: by how much planes are smaller than the frame.
    """

    def __init__(self, target: Tensor, source: Tensor, parent: Field, start: Field, price: float, shrunk: int) -> None:
        self._target, self._source, self._price, self._shrunk = target, source, price, shrunk
        parent = (start + parent).clamp(-VECTOR_MAX, VECTOR_MAX)
        self._parent = parent
        self._block = target.shape[2] // parent.shape[1]
        sizes = target.shape[2:]
        places = ((2 * torch.arange(size, device=target.device).to(target.dtype) + 1) / size - 1 for size in sizes)
        self._down, self._right = (place.view(-1, self._block) for place in places)
        self._unit = 2 / (UNIT * shrunk * target.new_tensor(sizes))  # a vector's in the coordinates of `grid_sample`
        self.field = parent
        self._cost = self._costs(parent)

    def offer(self, fields: Field) -> None:
        """Take vectors where they are better, of several fields (n, rows, columns, 2) the best."""
        at_once = max(1, PIXELS_AT_ONCE // self._target.numel())
        for some in fields.clamp(-VECTOR_MAX, VECTOR_MAX).split(at_once):
            if len(some) > 1 or not torch.equal(some, self.field):
                self._offer(some)

    def _offer(self, fields: Field) -> None:
        cost, best = self._costs(fields).min(0, keepdim=True)
        field = fields.gather(0, best[..., None].expand(*best.shape, 2))
        better = cost < self._cost
        self.field = torch.where(better[..., None], field, self.field)
        self._cost = torch.where(better, cost, self._cost)

    def offer_around(self, step: int) -> None:
        """The eight vectors around the best."""
        steps = [(down, right) for down in (-step, 0, step) for right in (-step, 0, step) if down or right]
        self.offer(self.field + self.field.new_tensor(steps)[:, None, None])

    def offer_neighbours(self) -> None:
        """The vectors of the four neighbours."""
        for axis in (1, 2):
            for shift in (-1, 1):
                self.offer(self.field.roll(shift, axis))

    def _costs(self, fields: Field) -> Tensor:
        """Mean absolute difference of each block and its vector's price, (n, rows, columns)."""
        source = self._source.expand(len(fields), -1, -1, -1)
        moved = F.grid_sample(source, self._places(fields), mode="bilinear", padding_mode="border", align_corners=False)
        return F.avg_pool2d(moved.sub_(self._target).abs_(), self._block)[:, 0] + self._price * _bits(fields - self._parent)

    def _places(self, fields: Field) -> Tensor:
        """Where pixels' vectors point to, (n, height, width, 2), right and down as `F.grid_sample` counts: one plane after
        the other in memory, most of whose rows are alike."""
        count, rows, columns, _ = fields.shape
        down, right = (fields * self._unit).unbind(-1)
        places = fields.new_empty(count, 2, rows, self._block, columns * self._block)
        places[:, 0] = (right[..., None] + self._right).view(count, rows, 1, -1)
        of_blocks = down[:, :, None] + self._down[..., None]
        places[:, 1] = of_blocks[..., None].expand(*of_blocks.shape, self._block).flatten(-2)
        return places.flatten(2, 3).permute(0, 2, 3, 1)


def reach_of(distance: int) -> int:
    """Pixels of the farthest vector into a reference so many frames away."""
    return min(max(REACH, SPEED * distance), REACH_MAX)


def _bits(vectors: Tensor) -> Tensor:
    """About what vectors cost to tell, (..., 2) to (...)."""
    return (torch.log2(1 + vectors.abs()).mul(2).add(2) * (vectors != 0)).sum(-1)


def luma(picture: Tensor) -> Tensor:
    """Of a picture (1, height, width, 3), one channel."""
    return (picture @ picture.new_tensor(LUMA))[..., None]


def _first(target: Tensor, source: Tensor, price: float, farthest: int) -> dict[int, Field]:
    """The best vectors in steps of `COARSE` pixels, compared at so much lower a resolution; by blocks in a block's side."""
    small_target, small_source = (F.avg_pool2d(x, COARSE) for x in (target, source))
    reach = farthest // COARSE
    height, width = small_target.shape[2:]
    wide = F.pad(small_source, (reach, reach, reach, reach), mode="replicate")
    across = wide.unfold(3, width, 1).permute(3, 1, 2, 0, 4).flatten(2, 3)  # one for each step to the right
    steps = torch.arange(-reach, reach + 1, device=target.device, dtype=target.dtype)
    least: dict[int, Tensor] = {}
    fields: dict[int, Field] = {}
    for number, down in enumerate(steps):
        errors = (across[:, :, number : number + height] - small_target).abs_()
        vectors = torch.stack([down.expand_as(steps), steps], dim=-1) * COARSE * UNIT
        side = BLOCK // COARSE
        for blocks in (1, 2, LARGEST):
            errors = F.avg_pool2d(errors, side)
            side = 2
            priced = errors[:, 0] + price / blocks**2 * _bits(vectors)[:, None, None]
            error, best = priced.min(0, keepdim=True)
            vector = vectors[best]
            if blocks not in least:
                least[blocks], fields[blocks] = error, vector
                continue
            better = error < least[blocks]
            least[blocks] = torch.where(better, error, least[blocks])
            fields[blocks] = torch.where(better[..., None], vector, fields[blocks])
    return fields
