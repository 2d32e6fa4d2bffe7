"""A group of frames between pixels and symbols: the first on its own, each other with the frame before it as its past.

A frame is of one of three kinds. INTER: motion, which blocks are copied, and the latent of the rest under `StemNetwork`.
INTRA: the latent under the image network, for what nothing before resembles. SAME: the frame before once more.

The picture that is moved is the decoded one as shown, in whole grey levels: rounding takes away most of what differs
between machines in the last bits of float means. Where it tips a pixel over, the frames after it are made of that, up to the
next group.
"""

from __future__ import annotations

from collections.abc import Callable

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
from .motion import code_field, moved
from .motion_search import searched
from .stem import Past, Remembered, StemNetwork

INTRA, INTER, SAME = -1, 0, 1
KINDS = {INTRA: "intra", INTER: "inter", SAME: "same"}
KIND_LEVEL = 8
"""Level of the symbol that tells a frame's kind: scale 0.25, so what is likely costs a twentieth of a bit, others a byte."""
NEW_SHARE = 0.6
"""Error of the moved frame, as a share of the frame's own deviation, from where a frame is tried on its own, too."""


Coded = Callable[[Coder], tuple[Tensor, Past]]
"""A function that codes a frame's latent: the picture that is shown, and what the next frame may know."""


class Picture:
    """A decoded frame, and what the next one may know of it."""

    def __init__(self, pixels: Tensor, past: Past, field: Tensor, copies: Tensor) -> None:
        self.pixels, self.past, self.field, self.copies = pixels, past, field, copies
        """Pixels: uint8 (1, rows, columns, 3), sides whole blocks."""
        self._moved: tuple[Tensor, Tensor] | None = None

    @property
    def signal(self) -> Tensor:
        return to_signal(self.pixels)

    def moved(self, field: Tensor) -> Tensor:
        """`moved` by these vectors; kept, for an encoder looks at it before it codes a frame by it."""
        if self._moved is None or not torch.equal(self._moved[0], field):
            self._moved = field, moved(self.signal, field)
        return self._moved[1]


class GroupPass:
    """The coding pass of a group, frame by frame. The only description of its bitstream.

    Args:
        blank: decode symbols alone: pictures are empty, and no transform runs. Levels do not depend on pictures.
    """

    def __init__(self, image: ImageNetwork, stem: StemNetwork, header: VideoHeader, *, blank: bool = False) -> None:
        self._image, self._stem, self._header, self.blank = image, stem, header, blank
        self._device = next(image.parameters()).device
        self._quality, self._intra_quality = (
            torch.tensor([quality], device=self._device) for quality in (header.quality, header.intra_quality)
        )
        self._rows, self._columns = (-(-side // LATENT_STRIDE) for side in (header.height, header.width))
        self._rests = False
        self.picture: Picture | None = None
        """The frame that was coded last; None before the first of a group."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def code(self, coder: Coder, kind: int = INTER, frame: Tensor | None = None, field: Tensor | None = None) -> int:
        """Code the next frame; its kind.

        Args:
            kind: of the frame; a reader reads it.
            frame: (1, rows, columns, 3), -0.5..0.5, sides whole blocks; None: for a reader.
            field: motion of an INTER frame; None: for a reader.
        """
        before = self.picture
        if before is None:
            kind = INTRA
        else:
            told = torch.full((1, 1), float(self._turned(kind)), device=self._device)
            kind = self._turned(int(coder.code(told, torch.full_like(told, KIND_LEVEL))))
            if kind not in (INTRA, INTER, SAME):
                raise Corrupt(f"a frame of kind {kind}; there are {INTRA}, {INTER} and {SAME}")
            self._rests = kind == SAME
        if kind == INTRA:
            self.picture = self._intra(coder, frame)
        elif kind == INTER:
            assert before is not None
            self.picture = self._inter(coder, frame, field, before)
        return kind

    def _turned(self, kind: int) -> int:
        """A kind as it is coded, and back: what repeats goes on to repeat, so then that is what costs next to nothing."""
        return SAME - kind if self._rests and kind in (INTER, SAME) else kind

    def _intra(self, coder: Coder, frame: Tensor | None) -> Picture:
        quality = self._intra_quality
        y = self._empty() if frame is None else self._image.to_latent(frame, quality)

        def coded(coder: Coder) -> tuple[Tensor, Past]:
            remembered = Remembered(coder)
            y_hat = self._image.coding_pass(remembered, y, quality)
            return self._synthesis(y_hat, quality), remembered.past(y_hat)

        if frame is not None:
            coder = self.chosen(coder, coded, frame, self._header.intra_quality)
        picture, past = coded(coder)
        still = self._still()
        return Picture(to_pixels(picture), past, still, torch.ones_like(still[..., 0]))

    def _inter(self, coder: Coder, frame: Tensor | None, field: Tensor | None, before: Picture) -> Picture:
        # vectors as changes since the frame before, if that tells them in fewer bits, is for the encoder to see
        wanted, changes = (self._still(), False) if field is None else (field, changes_pay(field, before.field))
        field = code_field(coder, wanted, before.field, changes=changes)
        expected = self._empty() if self.blank else self._latent(before.moved(field))
        y, copies = expected, torch.zeros_like(before.copies)
        if frame is not None:
            y = self._latent(frame)
            copies = self._stem.worth_copying(y, expected, self._quality)
        copies = code_copies(coder, copies, before.copies)

        def coded(coder: Coder) -> tuple[Tensor, Past]:
            remembered = Remembered(coder)
            y_hat = self._stem.coding_pass(remembered, y, self._quality, expected, before.past, copies > 0)
            past, picture = remembered.past(y_hat), self._synthesis(y_hat, self._quality)
            return picture if self.blank else self.joined(picture, before.moved(field), past, copies), past

        if frame is not None and not copies.all():
            coder = self.chosen(coder, coded, frame, self._header.quality)
        picture, past = coded(coder)
        return Picture(to_pixels(picture), past, field, copies)

    def chosen(self, coder: Coder, coded: Coded, frame: Tensor, quality: int) -> Coder:
        """The coder for a frame's latent; an encoder with effort chooses its symbols here."""
        return coder

    def joined(self, coded: Tensor, moved: Tensor, past: Past, copies: Tensor) -> Tensor:
        """The picture that is shown, of what the synthesis makes of a frame's latent and the moved frame before it."""
        return with_copies(self._stem.fused(coded, moved, past, self._quality), moved, copies)

    def _latent(self, picture: Tensor) -> Tensor:
        return self._stem.to_synthesis(self._image.to_latent(picture, self._quality), self._quality)

    def _synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        return torch.empty(0) if self.blank else self._image.to_image(y_hat, quality)

    def _empty(self) -> Tensor:
        shape = 1, self._rows, self._columns, self._image.config.latent_channels
        return torch.zeros(shape, device=self._device)

    def _still(self) -> Tensor:
        return torch.zeros(1, self._rows, self._columns, 2, device=self._device)


class RefinedPass(GroupPass):
    """An encoder's pass that refines each frame's symbols: for the frame itself, not for those that follow.

    Args:
        tables: of the stem, which both networks' symbols are coded with.
    """

    def __init__(self, image: ImageNetwork, stem: StemNetwork, header: VideoHeader, tables: Tables, effort: Effort) -> None:
        super().__init__(image, stem, header)
        self._tables, self._effort = tables, effort

    def chosen(self, coder: Coder, coded: Coded, frame: Tensor, quality: int) -> Coder:
        shown = ..., slice(self._header.height), slice(self._header.width), slice(None)

        def decoded(coder: Coder) -> Tensor:
            return coded(coder)[0][shown]

        return refined_coder(coder, decoded, frame[shown], quality, self._tables, self._effort)


class GroupEncoder:
    """Chooses kinds and motion of a group's frames, and codes them.

    Args:
        group: makes the pass that codes them.
    """

    def __init__(
        self,
        image: ImageNetwork,
        stem: StemNetwork,
        tables: Tables,
        header: VideoHeader,
        group: Callable[[ImageNetwork, StemNetwork, VideoHeader], GroupPass] = GroupPass,
    ) -> None:
        self._image, self._stem, self._tables, self._header = image, stem, tables, header
        self._device = next(image.parameters()).device
        self.group = group(image, stem, header)
        self._source: np.ndarray | None = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def code(self, coder: Coder, pixels: np.ndarray) -> int:
        """Code the next frame, uint8 (height, width, 3); its kind."""
        before, same = self.group.picture, self._source is not None and np.array_equal(pixels, self._source)
        self._source = pixels.copy()  # a camera may fill the same array with its next frame
        if same:
            return self.group.code(coder, SAME)
        frame = self._signal(pixels)
        if before is None:
            return self.group.code(coder, INTRA, frame)
        field = searched(frame, before.signal, before.field, self._header.quality)
        error = (before.moved(field) - frame).abs().mean()
        kind = INTER
        if error > NEW_SHARE * (frame - frame.mean((1, 2), keepdim=True)).abs().mean():
            kind = min((INTER, INTRA), key=lambda kind: self._bits(kind, frame, field, before))
        return self.group.code(coder, kind, frame, field)

    @property
    def shown(self) -> np.ndarray:
        """The frame that was coded last as a decoder shows it."""
        return shown(self.group, self._header)

    def _bits(self, kind: int, frame: Tensor, field: Tensor, before: Picture) -> float:
        """Bits of a frame as one kind."""
        trial, measure = GroupPass(self._image, self._stem, self._header), Measure(self._tables)
        trial.picture = before
        trial.code(measure, kind, frame, field)
        return float(measure.bits[0])

    def _signal(self, pixels: np.ndarray) -> Tensor:
        """A frame as a transform takes it; the last pixels repeat beyond it."""
        height, width = pixels.shape[:2]
        signal = to_signal(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)).permute(2, 0, 1)[None]
        below, right = -height % LATENT_STRIDE, -width % LATENT_STRIDE
        return F.pad(signal, (0, right, 0, below), mode="replicate").permute(0, 2, 3, 1)


def shown(group: GroupPass, header: VideoHeader) -> np.ndarray:
    """The frame that a pass has coded last, uint8 (height, width, 3)."""
    assert group.picture is not None
    return group.picture.pixels[0, : header.height, : header.width].cpu().numpy()


def changes_pay(field: Tensor, before: Tensor) -> bool:
    """Whether vectors as changes since the frame before are likely to take fewer bits."""
    if not before.any():
        return False
    costs = []
    for vectors in (field, field - before):
        across = [vectors.diff(dim=axis).abs() for axis in (1, 2)]
        costs.append(sum(float(torch.log2(1 + difference).sum()) for difference in across))
    return costs[1] < costs[0]
