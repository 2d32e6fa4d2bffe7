"""A toy signal for the evaluation: whole numbers 0..255 in text files, coded by dropping low bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from rdcodec.codecs.evaluation.metrics import psnr_db
from rdcodec.codecs.evaluation.task import Metric, Rate, Reference, Speed, Task
from rdcodec.entropy_models.errors import InputError

STEPS = (1.0, 4.0, 16.0, 64.0)
"""Settings of a codec that writes a byte for each number, and one more for each halving of the step."""


def read(path: Path) -> np.ndarray:
    """Numbers of a file, uint8 (count,)."""
    words = path.read_text().split()
    if not all(word.isdecimal() for word in words):
        raise InputError(f"{path.name}: no numbers")
    return np.array(words, dtype=np.uint8)


def codec(overhead: int, settings: tuple[float, ...] = STEPS, checks: list[str] | None = None) -> Reference[np.ndarray]:
    """Numbers divided by the setting and rounded down, after as many zero bytes as ``overhead`` and the step demand."""

    def encode(numbers: np.ndarray, setting: float) -> bytes:
        if numbers.size > 100:
            raise InputError("more than 100 numbers")
        zeros = overhead + int(numbers.size * (8 - math.log2(setting)))
        head = bytes([int(setting)]) + zeros.to_bytes(4, "little")
        return head + bytes(zeros) + (numbers // int(setting)).astype(np.uint8).tobytes()

    def decode(data: bytes) -> np.ndarray:
        step, zeros = data[0], int.from_bytes(data[1:5], "little")
        return np.frombuffer(data[5 + zeros :], np.uint8) * step + step // 2

    return Reference(settings, encode, decode, check=lambda: None if checks is None else checks.append("checked"))


def loudest(numbers: np.ndarray, decoded: np.ndarray) -> float:
    """Largest error; nan where there are fewer than ten numbers."""
    return float(np.abs(numbers.astype(int) - decoded).max()) if numbers.size >= 10 else math.nan


def task(**changes: object) -> Task[np.ndarray]:
    """A task of `codec` beside a reference with more overhead."""
    fields: dict = {
        "signals": "lists of numbers",
        "find": lambda folder: sorted(folder.glob("*.txt")),
        "read": read,
        "facts": lambda numbers: {"count": numbers.size},
        "rate": Rate("rate_bpn", "bits per number", lambda size, facts: 8 * size / facts["count"]),
        "speed": Speed("numbers/s", lambda facts: facts["count"]),
        "metrics": (
            Metric("psnr_db", "PSNR", "PSNR (dB)", psnr_db),
            Metric(
                "error_max", "Largest error", "largest error", loudest, higher_is_better=False, defined="from ten numbers on"
            ),
        ),
        "references": {"fat": codec(100), "same": codec(0)},
        "default_references": ("fat",),
        "ours": lambda model, device: codec(0),
    }
    return Task(**fields | changes)
