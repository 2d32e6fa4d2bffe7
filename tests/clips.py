"""Drawn clips that several tests use. No tests here."""

from __future__ import annotations

import numpy as np
from rdcodec.codecs.video.clip import Clip
from scenes import make_scene


def drawn_clip(frames: int, height: int, width: int, *, seed: int = 7, speed: int = 2) -> np.ndarray:
    """A scene that a camera pans over, ``speed`` pixels a frame, uint8 (frames, height, width, 3)."""
    scene = make_scene(height, width + speed * frames, seed=seed)
    return np.stack([scene[:, speed * t : speed * t + width] for t in range(frames)])


def golden_clip(kind: str) -> Clip:
    """Integer arithmetic only: the same on every machine. ``pan`` moves on, ``cut`` repeats a frame and then changes."""
    y, x = np.mgrid[:37, :90]
    planes = [(x * 5 + y * 3 + 90 * (x > y)) % 256, (x * y // 7) % 256, 255 - 3 * y]
    wide = np.stack(planes, -1).clip(0, 255).astype(np.uint8)
    frames = np.stack([wide[:, 3 * t : 3 * t + 61] for t in range(5)])
    if kind == "cut":
        frames[1] = frames[0]
        frames[2:] = 255 - frames[2:, ::-1]
    return Clip(frames=frames)
