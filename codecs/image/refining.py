"""Refinement of a picture's symbols at encode time (`codecs.refinement`), for squared error and MS-SSIM; also of a video's
frames."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...entropy_models.coder import Coder
from ...entropy_models.tables import Tables
from ..refinement import Replay, refined
from .distortion import distortion_bits
from .effort import Effort


def refined_coder(
    coder: Coder, decoded: Callable[[Coder], Tensor], picture: Tensor, quality: int, tables: Tables, effort: Effort
) -> Replay:
    """A coder that codes, with another one, the symbols that were found for a picture.

    Args:
        coder: the other one.
        decoded: runs the coding pass with a coder and returns what is shown, of ``picture``'s shape, with gradients.
        picture: float (1, rows, columns, 3), -0.5..0.5.
        quality: 0..100, whose trade of rate and distortion it is.
        effort: with steps.
    """

    def distortion(coder: Coder) -> Tensor:
        return distortion_bits(decoded(coder), picture, quality, effort.ms_ssim_share)

    return Replay(coder, refined(distortion, tables, effort.steps))
