"""Refinement of a channel's latents at encode time, chunk by chunk, for what is heard of them (`hearing.distortion`).

The decoder, the weights and the format are the same at every effort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.coder import Coder
from ...entropy_models.tables import Tables
from ..rate_control import whole_number
from ..refinement import refined_latent
from .ecc import AHEAD, Memory, SpeechNetwork
from .header import FRAME, SAMPLE_RATE, SEGMENT
from .hearing.distortion import SAMPLES_MIN, WEIGHTS, Distortion, worth_kbps
from .segments import Segment
from .spectrum import EDGE, to_samples

STEPS = 0, 2, 4, 6, 8, 10, 12, 16, 22, 30
"""Steps of refinement by effort."""
EFFORT_MAX = len(STEPS) - 1
LEAD = SEGMENT
"""Frames before a chunk that are compared, too: what they sound like depends on the chunk's first ones."""


def steps_of(effort: int | None) -> int:
    """Steps of an effort 0..9; None: none.

    Raises:
        ValueError: there is no such effort.
    """
    return STEPS[whole_number("effort", 0 if effort is None else effort, EFFORT_MAX)]


class Refiner:
    """Refines the chunks of one channel, in order.

    Args:
        tables: with the stream's skip level.
        steps: of descent on each chunk.
    """

    def __init__(self, network: SpeechNetwork, tables: Tables, quality: int, steps: int) -> None:
        self._network, self._tables, self._steps = network, tables, steps
        device = next(network.parameters()).device
        with torch.inference_mode(False):
            self._quality = torch.tensor([quality], device=device)
            self._distance = Distortion(WEIGHTS).to(device)
            self._unit = network.inverse_gain(network.knot_weights(self._quality, torch.float32))[:, 0].detach()
            self._past = torch.zeros(1, 0, network.config.latent_channels, device=device)
            self._sounded = torch.zeros(0, device=device)
        self._worth_kbps = worth_kbps(quality)
        self._heard = np.zeros(0, np.float32)

    @torch.inference_mode(False)
    def refined(self, segments: Sequence[Segment], after: Segment | None) -> Tensor:
        """Latents of a chunk, (1, T, latent).

        Args:
            segments: the chunk's.
            after: the next chunk's first one, as its analysis gave it; None: the sound ends here.
        """
        y = torch.cat([segment.y for segment in segments], dim=1).clone()
        if all(segment.silent for segment in segments):
            return y
        silent = torch.tensor([[segment.silent for segment in segments]], device=y.device)
        past = self._past
        ahead = after.y[:, :AHEAD].clone() if after else y.new_zeros(1, AHEAD, y.shape[2])
        lead = min(LEAD, past.shape[1])
        follows = after is not None and not after.silent
        active = torch.cat([self._sounded, self._mask(segments), y.new_full((AHEAD,), float(follows))])
        mask, shown = active[None, :, None], active[past.shape[1] - lead : len(active) - AHEAD].repeat_interleave(FRAME)
        end = -EDGE if after else None
        heard = np.concatenate([self._heard[len(self._heard) - lead * FRAME :], *(segment.samples for segment in segments)])
        original = torch.from_numpy(heard)[None].to(y.device)[:, :end]
        bits = self._worth_kbps * 1000 * max(SAMPLES_MIN, original.shape[1]) / SAMPLE_RATE

        def distortion(coder: Coder, y: Tensor) -> Tensor:
            y_hat, _ = self._network.coding_pass(coder, y, self._quality, silent)
            whole = torch.cat([past, y_hat, ahead], dim=1)
            spectrum, sounding = self._network.to_spectrum(whole, mask, self._quality, Memory())
            samples = to_samples((spectrum * sounding)[:, 2 * AHEAD :])[:, EDGE:-EDGE]
            samples = (samples[:, (past.shape[1] - lead) * FRAME :] * shown)[:, :end]
            total, _ = self._distance(original, samples, self._quality)
            return bits * total.sum()

        return refined_latent(distortion, y, self._unit, self._tables, self._steps)

    @torch.inference_mode(False)
    def remember(self, segments: Sequence[Segment], y_hat: Tensor) -> None:
        """What a decoder knows of the chunk that was coded last."""
        kept = self._network.behind + LEAD
        self._past = torch.cat([self._past, y_hat.clone()], dim=1)[:, -kept:]
        self._sounded = torch.cat([self._sounded, self._mask(segments)])[-kept:]
        self._heard = np.concatenate([self._heard, *(segment.samples for segment in segments)])[-kept * FRAME :]

    def _mask(self, segments: Sequence[Segment]) -> Tensor:
        """1 on frames that sound, (T,)."""
        frames = torch.arange(SEGMENT, device=self._past.device)
        return torch.cat([(frames < (0 if segment.silent else segment.frames)).to(torch.float32) for segment in segments])
