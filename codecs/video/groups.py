"""A group of frames between pixels and symbols: the first on its own, each other with one or two references, in the `order`
of their coding.

A frame is of one of four kinds. INTER: motion, which blocks are copied, and the latent of the rest under `StemNetwork`, with
the nearest reference as its past. INTRA: the latent under the image network, for what nothing else resembles. SAME, NEXT:
the reference before, or after, once more.

The pictures that are moved are decoded ones as shown, in whole grey levels: rounding takes away most of what differs
between machines in the last bits of float means. Where it tips a pixel over, the frames made of it have that, up to the
next group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import copy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.coder import Coder, Measure
from ...entropy_models.errors import Corrupt
from ...entropy_models.tables import Tables
from ..image.dcvc_rt import ImageNetwork
from ..image.effort import Effort
from ..image.refining import refined_coder
from ..image.tile_coder import to_pixels, to_signal
from ..image.tiles import LATENT_STRIDE
from .copies import code_copies, with_copies
from .header import VideoHeader
from .motion import BLOCK, Field, moved
from .motion_search import bit_price, luma, searched
from .order import Place, needed_until, order_of
from .prediction import Motion, blended, code_motion, onward, scaled, searched_shares
from .stem import Past, Remembered, StemNetwork

INTRA, INTER, SAME, NEXT = -1, 0, 1, 2
KINDS = {INTRA: "intra", INTER: "inter", SAME: "same", NEXT: "next"}
KIND_LEVEL = 8
"""Level of the symbol that tells a frame's kind: scale 0.25, so what is likely costs a twentieth of a bit, others a byte."""
MOTION_PRICE = 0.4
"""Times the price of a bit, where motion of a frame between two others is chosen: what it tells, residuals need not."""
NEW_SHARE = 0.6
"""Error of the moved frame, as a share of the frame's own deviation, from where a frame is tried on its own, too."""


Coded = Callable[[Coder], tuple[Tensor, Past]]
"""A function that codes a frame's latent: the picture that is shown, and what the next frame may know."""


class Picture:
    """A decoded frame, and what others may know of it."""

    def __init__(self, place: Place, pixels: Tensor, past: Past, motion: Motion, copies: Tensor) -> None:
        self.place, self.pixels, self.past, self.motion, self.copies = place, pixels, past, motion, copies
        """Pixels: uint8 (1, rows, columns, 3), sides whole blocks."""
        self._moved: tuple[Tensor, Tensor] | None = None

    @property
    def signal(self) -> Tensor:
        return to_signal(self.pixels)

    def shown(self, header: VideoHeader) -> np.ndarray:
        """As a decoder shows it, uint8 (height, width, 3)."""
        return self.pixels[0, : header.height, : header.width].cpu().numpy()

    def forget(self) -> None:
        """What `moved` keeps."""
        self._moved = None

    def moved(self, field: Field) -> Tensor:
        """`moved` by these vectors; kept, for an encoder looks at it before it codes a frame by it."""
        if self._moved is None or not torch.equal(self._moved[0], field):
            self._moved = field, moved(self.signal, field)
        return self._moved[1]


class References(NamedTuple):
    """What a frame between others, or after one, is made of."""

    place: Place
    """Of the frame."""
    before: Picture
    after: Picture | None

    @property
    def nearest(self) -> Picture:
        return self.before if self.after is None or self.place.nearest == self.place.before else self.after

    @property
    def expected_field(self) -> Field:
        """Vectors into the reference before, as they are expected: those of the anchor before, or a part of the way between
        both references, of which the one that was coded later tells it."""
        number, before, after, _ = self.place
        if before is None or after is None or self.after is None:
            return self.before.motion.before
        whole, part = after - before, number - before
        if self.after.place.before == before:
            return scaled(self.after.motion.before, part, whole)
        if self.before.place.after == after and self.before.motion.after is not None:
            return scaled(self.before.motion.after, -part, whole)
        return torch.zeros_like(self.before.motion.before)

    def predicted(self, motion: Motion) -> Tensor:
        """The frame as motion tells it."""
        before = self.before.moved(motion.before)
        if self.after is None or motion.after is None or motion.shares is None:
            return before
        return blended(before, self.after.moved(motion.after), motion.shares)

    def searched(self, frame: Tensor, quality: int, bits: Callable[[Motion], float]) -> Motion:
        """The encoder's choice of motion for a frame.

        Args:
            bits: what telling a motion costs.
        """
        expected = self.expected_field
        if self.after is None:
            assert self.place.before is not None
            distance = self.place.number - self.place.before
            return Motion(searched(frame, self.before.signal, expected, quality, distance=distance))
        before = searched(frame, self.before.signal, expected, quality, changes=True)
        on = onward(before, self.place)
        after = searched(frame, self.after.signal, on, quality, changes=True)
        target, of_before, of_after = (luma(x) for x in (frame, self.before.signal, self.after.signal))
        moved_before = moved(of_before, before)
        tried = (
            (expected, onward(expected, self.place), moved(of_before, expected)),
            (before, on, moved_before),
            (before, after, moved_before),
        )
        found: list[tuple[float, Motion]] = []
        for into_before, into_after, picture in tried:
            pictures = picture, moved(of_after, into_after)
            shares = searched_shares(target, *pictures, quality)
            motion = Motion(into_before, into_after, shares)
            error = (blended(*pictures, shares) - target).abs().sum() / BLOCK**2
            found.append((float(error) + MOTION_PRICE * bit_price(quality) * bits(motion), motion))
        return min(found, key=lambda each: each[0])[1]


class GroupPass:
    """The coding pass of a group, frame by frame in the order of coding. The only description of its bitstream.

    Args:
        frames: of the group; None: as many as the header says.
        pixels: numbers of the frames whose pixels are decoded, with all that they refer to; of others symbols alone, without
            any transform, for levels do not depend on pictures. None: all.
    """

    def __init__(
        self,
        image: ImageNetwork,
        stem: StemNetwork,
        header: VideoHeader,
        *,
        frames: int | None = None,
        pixels: Collection[int] | None = None,
    ) -> None:
        self._image, self._stem, self._header, self._pixels = image, stem, header, pixels
        self._device = next(image.parameters()).device
        self._rows, self._columns = (-(-side // LATENT_STRIDE) for side in (header.height, header.width))
        self._places = order_of(header.group if frames is None else frames, header.anchor_distance)
        self._needed_until = needed_until(self._places)
        self._done = 0
        self._rests = False
        self._pictures: dict[int, Picture] = {}  # those that more frames refer to, and the last; never changed, but replaced

    @property
    def place(self) -> Place:
        """The frame that was coded last; KeyError before the first."""
        if not self._done:
            raise KeyError("no frame was coded yet")
        return self._places[self._done - 1]

    @property
    def picture(self) -> Picture:
        """The frame that was coded last; KeyError before the first."""
        return self._pictures[self.place.number]

    @property
    def coming(self) -> Place | None:
        """The frame that is coded next; None after the last."""
        return self._places[self._done] if self._done < len(self._places) else None

    @property
    def references(self) -> References | None:
        """Those of the frame that is coded next; None: it is the first of the group."""
        place = self.coming
        if place is None or place.before is None:
            return None
        after = None if place.after is None else self._pictures[place.after]
        return References(place, self._pictures[place.before], after)

    @torch.inference_mode(False)
    @torch.no_grad()
    def code(self, coder: Coder, kind: int = INTER, frame: Tensor | None = None, motion: Motion | None = None) -> int:
        """Code the next frame; its kind.

        Args:
            kind: of the frame; a reader reads it.
            frame: (1, rows, columns, 3), -0.5..0.5, sides whole blocks; None: for a reader.
            motion: of an INTER frame; None: for a reader.
        """
        place, references = self.coming, self.references
        assert place is not None
        if references is None:
            kind = INTRA
        else:
            told = torch.full((1, 1), float(self._turned(kind)), device=self._device)
            kind = self._turned(int(coder.code(told, torch.full_like(told, KIND_LEVEL))))
            if kind not in KINDS or (kind == NEXT and references.after is None):
                raise Corrupt(f"a frame of kind {kind}; there are {', '.join(map(str, KINDS))}, the last between two others")
            self._rests = kind in (SAME, NEXT)
        blank = self._pixels is not None and place.number not in self._pixels
        if references is None or kind == INTRA:
            picture = self._intra(coder, place, frame, blank)
        elif kind == INTER:
            picture = self._inter(coder, frame, motion, references, blank)
        else:
            picture = references.before if kind == SAME or references.after is None else references.after
        for reference in (references.before, references.after) if references else ():
            if reference is not None:
                reference.forget()
        self._done += 1
        kept = {number: of for number, of in self._pictures.items() if self.awaits(number)}
        self._pictures = kept | {place.number: picture}
        return kind

    def awaits(self, number: int) -> bool:
        """Whether a frame, or one that refers to it, is yet to be coded."""
        return self._needed_until[number] >= self._done

    def trial(self) -> GroupPass:
        """A pass that goes on from here, without effort."""
        return copy(self)

    def _turned(self, kind: int) -> int:
        """A kind as it is coded, and back: what repeats goes on to repeat, so then that is what costs next to nothing."""
        return SAME - kind if self._rests and kind in (INTER, SAME) else kind

    def _intra(self, coder: Coder, place: Place, frame: Tensor | None, blank: bool) -> Picture:
        quality = self._header.quality_of(place.depth, intra=True)
        qualities = self._tensor(quality)
        y = self._empty() if frame is None else self._image.to_latent(frame, qualities)

        def coded(coder: Coder) -> tuple[Tensor, Past]:
            remembered = Remembered(coder)
            y_hat = self._image.coding_pass(remembered, y, qualities)
            return torch.empty(0) if blank else self._image.to_image(y_hat, qualities), remembered.past(y_hat)

        if frame is not None:
            coder = self.chosen(coder, coded, frame, quality)
        picture, past = coded(coder)
        still = torch.zeros(1, self._rows, self._columns, 2, dtype=torch.float32, device=self._device)
        return Picture(place, to_pixels(picture), past, Motion(still), torch.ones_like(still[..., 0]))

    def _inter(
        self, coder: Coder, frame: Tensor | None, motion: Motion | None, references: References, blank: bool
    ) -> Picture:
        place, nearest = references.place, references.nearest
        quality = self._header.quality_of(place.depth)
        qualities = self._tensor(quality)
        motion = code_motion(coder, motion, references.expected_field, place)
        predicted = torch.empty(0) if blank else references.predicted(motion)
        expected = None if blank else self._latent(predicted, qualities)
        y, copies = self._empty(), torch.zeros_like(nearest.copies)
        if frame is not None:
            assert expected is not None
            y = self._latent(frame, qualities)
            copies = self._stem.worth_copying(y, expected, qualities)
        copies = code_copies(coder, copies, nearest.copies)

        def coded(coder: Coder) -> tuple[Tensor, Past]:
            remembered = Remembered(coder)
            y_hat = self._stem.coding_pass(remembered, y, qualities, expected, nearest.past, copies > 0)
            past = remembered.past(y_hat)
            if blank:
                return predicted, past
            return self.joined(self._image.to_image(y_hat, qualities), predicted, past, copies, qualities), past

        if frame is not None and not copies.all():
            coder = self.chosen(coder, coded, frame, quality)
        picture, past = coded(coder)
        return Picture(place, to_pixels(picture), past, motion, copies)

    def chosen(self, coder: Coder, coded: Coded, frame: Tensor, quality: int) -> Coder:
        """The coder for a frame's latent; an encoder with effort chooses its symbols here."""
        return coder

    def joined(self, coded: Tensor, moved: Tensor, past: Past, copies: Tensor, quality: Tensor) -> Tensor:
        """The picture that is shown, of what the synthesis makes of a frame's latent and the moved references."""
        return with_copies(self._stem.fused(coded, moved, past, quality), moved, copies)

    def _latent(self, picture: Tensor, quality: Tensor) -> Tensor:
        return self._stem.to_synthesis(self._image.to_latent(picture, quality), quality)

    def _empty(self) -> Tensor:
        shape = 1, self._rows, self._columns, self._image.config.latent_channels
        return torch.zeros(shape, dtype=torch.float32, device=self._device)

    def _tensor(self, quality: int) -> Tensor:
        return torch.tensor([quality], device=self._device)


class RefinedPass(GroupPass):
    """An encoder's pass that refines each frame's symbols: for the frame itself, not for those that are made of it.

    Args:
        tables: of the stem, which both networks' symbols are coded with.
    """

    def __init__(
        self,
        image: ImageNetwork,
        stem: StemNetwork,
        header: VideoHeader,
        *,
        tables: Tables,
        effort: Effort,
        frames: int | None = None,
    ) -> None:
        super().__init__(image, stem, header, frames=frames)
        self._tables, self._effort = tables, effort

    def trial(self) -> GroupPass:
        other = copy(self)
        other._effort = Effort()
        return other

    def chosen(self, coder: Coder, coded: Coded, frame: Tensor, quality: int) -> Coder:
        if not self._effort.steps:
            return coder
        shown = ..., slice(self._header.height), slice(self._header.width), slice(None)

        def decoded(coder: Coder) -> Tensor:
            return coded(coder)[0][shown]

        return refined_coder(coder, decoded, frame[shown], quality, self._tables, self._effort)


class CodedFrame(NamedTuple):
    """A frame that an encoder has coded."""

    number: int
    """In its group."""
    kind: int
    picture: Picture
    header: VideoHeader

    @property
    def shown(self) -> np.ndarray:
        """As a decoder shows it, uint8 (height, width, 3)."""
        return self.picture.shown(self.header)

    @property
    def copies(self) -> np.ndarray:
        """Blocks of 16x16 pixels that are made of its references alone, bool (rows, columns)."""
        copied = self.picture.copies[0].cpu().numpy() > 0
        return copied if self.kind == INTER else np.full_like(copied, self.kind != INTRA)


class GroupEncoder:
    """Chooses kinds and motion of a group's frames, and codes them.

    Args:
        group: makes the pass that codes them.
        frames: of the group; None: as many as the header says.
        told: is called with 1 after each frame.
    """

    def __init__(
        self,
        image: ImageNetwork,
        stem: StemNetwork,
        tables: Tables,
        header: VideoHeader,
        group: Callable[..., GroupPass] = GroupPass,
        *,
        frames: int | None = None,
        told: Callable[[int], None] | None = None,
    ) -> None:
        self._tables, self._header, self._told = tables, header, told
        self._device = next(image.parameters()).device
        self.group = group(image, stem, header, frames=frames)
        self._came = 0
        self._sources: dict[int, np.ndarray] = {}

    @torch.inference_mode(False)
    @torch.no_grad()
    def code(self, coder: Coder, pixels: np.ndarray) -> list[CodedFrame]:
        """Take the next frame as they are shown, uint8 (height, width, 3), and code all that can be coded now."""
        self._sources[self._came] = pixels.copy()  # a camera may fill the same array with its next frame
        self._came += 1
        found = []
        while (place := self.group.coming) is not None and place.number < self._came:
            kind = self._code(coder, place)
            found.append(CodedFrame(place.number, kind, self.group.picture, self._header))
            self._sources = {number: of for number, of in self._sources.items() if self.group.awaits(number)}
            if self._told:
                self._told(1)
        return found

    def _code(self, coder: Coder, place: Place) -> int:
        pixels, references = self._sources[place.number], self.group.references
        for kind, number in (SAME, place.before), (NEXT, place.after):
            if number is not None and np.array_equal(pixels, self._sources[number]):
                return self.group.code(coder, kind)
        frame = self._signal(pixels)
        if references is None:
            return self.group.code(coder, INTRA, frame)
        motion = references.searched(frame, self._header.quality_of(place.depth), partial(self._motion_bits, references))
        error = (references.predicted(motion) - frame).abs().mean()
        kind = INTER
        if error > NEW_SHARE * (frame - frame.mean((1, 2), keepdim=True)).abs().mean():
            kind = min((INTER, INTRA), key=lambda kind: self._bits(kind, frame, motion))
        return self.group.code(coder, kind, frame, motion)

    def _bits(self, kind: int, frame: Tensor, motion: Motion) -> float:
        """Bits of a frame as one kind."""
        measure = Measure(self._tables)
        self.group.trial().code(measure, kind, frame, motion)
        return float(measure.bits[0])

    def _motion_bits(self, references: References, motion: Motion) -> float:
        measure = Measure(self._tables)
        code_motion(measure, motion, references.expected_field, references.place)
        return float(measure.bits[0])

    def _signal(self, pixels: np.ndarray) -> Tensor:
        """A frame as a transform takes it; the last pixels repeat beyond it."""
        height, width = pixels.shape[:2]
        signal = to_signal(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)).permute(2, 0, 1)[None]
        below, right = -height % LATENT_STRIDE, -width % LATENT_STRIDE
        return F.pad(signal, (0, right, 0, below), mode="replicate").permute(0, 2, 3, 1)
