"""Effort: how long an encoder refines a picture's symbols, and what for. No torch here.

The decoder, the weights and the format are the same at every effort.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...entropy_models.errors import InputError
from ..rate_control import whole_number

STEPS = 0, 1, 2, 3, 4, 6, 8, 10, 13, 18
"""Steps of `refinement.refined` by effort. After 12 little is left to gain."""
EFFORT_MAX = len(STEPS) - 1
SHARES = {"psnr": 0.0, "both": 0.1, "eyes": 0.5}
"""Share of MS-SSIM in the distortion, by what a picture is tuned for."""
TUNE = "both"
TUNES = {"image-eyes": "eyes"}
"""What an effort is tuned for with weights of a kind that was trained for something else; `TUNE` would undo that."""
TUNED_EFFORT = 5
"""Effort where a tune is asked for, and no effort."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Steps of refinement, and what they aim at."""

    steps: int = 0
    ms_ssim_share: float = SHARES[TUNE]
    """Of the distortion; the rest is squared error."""


def effort_of(effort: int | None = None, tune: str | None = None, model: str | None = None) -> Effort:
    """Effort 0..9, by a number and the name of what to tune for (`SHARES`).

    Args:
        effort: None: 0, and with a tune `TUNED_EFFORT`.
        tune: None: what the model is for.
        model: name of the weights.

    Raises:
        ValueError: there is no such effort or tune, or a tune without any effort.
    """
    if effort is None:
        effort = TUNED_EFFORT if tune else 0
    effort = whole_number("effort", effort, EFFORT_MAX)
    if tune is not None and tune not in SHARES:
        raise InputError(f"tune {tune!r}; need one of {', '.join(SHARES)}")
    if tune and not effort:
        raise InputError(f"tune {tune!r} at effort 0, which refines nothing; need an effort 1..{EFFORT_MAX}")
    kind = (model or "").rpartition("-")[0]
    return Effort(STEPS[effort], SHARES[tune or TUNES.get(kind, TUNE)])
