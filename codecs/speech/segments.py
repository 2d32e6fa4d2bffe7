"""One channel's samples to latents of segments and back, piece by piece: a file runs through the same calls as a live
stream, one segment at a time, so both give the same numbers to the last bit.

    samples ─▶ SegmentAnalysis ─▶ latent, silent ─▶ coding pass ─▶ y_hat ─▶ SegmentSynthesis ─▶ samples
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .ecc import AHEAD, Memory, SpeechNetwork
from .header import FRAME, SEGMENT, SEGMENT_SAMPLES
from .spectrum import EDGE, HOP, to_samples, to_spectrum

LATE = AHEAD * FRAME + EDGE
"""Samples of look-ahead of either transform, 90 ms: the analysis waits for them, the synthesis is late by them."""
FADE = HOP
"""Samples over which sound goes to silence, or comes from it, where something was lost."""


class Segment(NamedTuple):
    """A segment that can be coded."""

    y: Tensor
    """Latent, float (1, SEGMENT, latent); zero beyond the signal's end."""
    silent: bool
    """Whether all its samples are zero."""
    samples: np.ndarray
    """float32 (SEGMENT_SAMPLES,); zero beyond the signal's end."""
    frames: int
    """Of the segment that belong to the signal."""


class _Pieces:
    """What both directions share."""

    def __init__(self, network: SpeechNetwork, quality: int) -> None:
        self._network = network
        self._device = next(network.parameters()).device
        self._quality = torch.tensor([quality], device=self._device)
        self._memory = Memory()
        self._done = 0  # segments

    def _mask(self, frames: int, known: int) -> Tensor:
        """Mask of so many frames, the first ``known`` of which are the signal's."""
        return (torch.arange(frames, device=self._device) < known).to(torch.float32)[None, :, None]


class SegmentAnalysis(_Pieces):
    """Latents of a channel's segments, in order."""

    def __init__(self, network: SpeechNetwork, quality: int) -> None:
        super().__init__(network, quality)
        self._taken = 0
        self._samples = np.zeros(EDGE, np.float32)  # from EDGE before the next segment on

    def push(self, samples: np.ndarray) -> list[Segment]:
        """The segments that are complete now.

        Args:
            samples: float32 (n,) at 16 kHz, any number of them.
        """
        self._taken += len(samples)
        self._samples = np.concatenate([self._samples, samples])
        done = []
        while len(self._samples) >= EDGE + SEGMENT_SAMPLES + LATE:
            done.append(self._next(SEGMENT + AHEAD))
        return done

    def finish(self) -> list[Segment]:
        """The segments that are left; nothing can be pushed any more."""
        frames = -(-self._taken // FRAME)
        left = range(self._done, -(-frames // SEGMENT))
        self._samples = np.pad(self._samples, (0, len(left) * SEGMENT_SAMPLES + LATE))
        return [self._next(frames - segment * SEGMENT) for segment in left]

    @torch.inference_mode()
    def _next(self, known: int) -> Segment:
        """The next segment, if ``known`` frames from its start on are the signal's."""
        first = AHEAD if self._done else 0  # frames of it that the piece before has seen
        piece = self._samples[first * FRAME : EDGE + SEGMENT_SAMPLES + LATE]
        mask = self._mask(SEGMENT + AHEAD, known)
        spectrum = to_spectrum(torch.from_numpy(piece)[None].to(self._device))
        y = self._network.to_latent(spectrum, mask[:, first:], self._quality, self._memory)[:, -SEGMENT:]
        own = self._samples[EDGE : EDGE + SEGMENT_SAMPLES]
        self._samples = self._samples[SEGMENT_SAMPLES:]
        self._done += 1
        return Segment(y * mask[:, :SEGMENT], not own.any(), own, min(known, SEGMENT))


class SegmentSynthesis(_Pieces):
    """Samples of a channel's segments, in order, from any segment on."""

    def __init__(self, network: SpeechNetwork, quality: int) -> None:
        super().__init__(network, quality)
        self._tail = torch.zeros(1, HOP, device=self._device)
        self._before = self._lost_before = False

    @torch.inference_mode()
    def push(self, y_hat: Tensor, frames: int = SEGMENT, *, lost: bool = False) -> np.ndarray:
        """The samples that are complete now: a segment's, `LATE` of them before its start; but none before the first one's.

        Args:
            y_hat: (1, SEGMENT, latent).
            frames: of the segment that belong to the signal; 0: it is silent.
            lost: it is silent because it is not known, so that sound fades into it and out of it.
        """
        spectrum, mask = self._network.to_spectrum(y_hat, self._mask(SEGMENT, frames), self._quality, self._memory)
        skipped = 0 if self._done else 2 * AHEAD
        samples = to_samples((spectrum * mask)[:, skipped:])
        samples = samples + F.pad(self._tail, (0, samples.shape[1] - HOP))
        self._tail = samples[:, -HOP:]
        given = samples[0, 0 if self._done else EDGE : -HOP].cpu().numpy().copy()
        self._hush(given, frames == 0, lost)
        self._done += 1
        return given

    def finish(self) -> np.ndarray:
        """The last `LATE` samples of the last segment."""
        blank = torch.zeros(1, SEGMENT, self._network.config.latent_channels, device=self._device)
        return self.push(blank, 0)[:LATE]

    def _hush(self, given: np.ndarray, silent: bool, lost: bool) -> None:
        """Silence where segments are silent: the last samples of the one before, and all of this one but its last."""
        before, here = given[: LATE if self._done else 0], given[LATE if self._done else 0 :]
        ramp = np.linspace(0, 1, FADE, endpoint=False, dtype=np.float32)
        if self._done and self._before:
            before[:] = 0
        elif lost and self._done:
            before[-FADE:] *= ramp[::-1]
        if silent:
            here[:] = 0
        elif self._lost_before:
            here[:FADE] *= ramp
        self._before, self._lost_before = silent, lost
