"""What the contract tests need to know of a codec. No tests here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdcodec.codecs.contract import Codec
from torch import nn

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A codec in one of its settings."""

    load: Callable[[], Codec]
    qualities: tuple[int | None, ...] = (None,)
    """To try each signal at; None: the codec has no quality in this setting, or its default."""
    alone: bool = True
    """Whether a reader needs nothing beside the stream, such as another file."""
    shipped: bool = True
    """Whether its weights come with the package; else its network is one of its own, which `Cases.network` fits, too."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A stream under ``tests/golden`` that decodes for ever."""

    load: Callable[[], Codec]
    signal: Callable[[], Any]
    """What it was written from: integer arithmetic, the same on every machine."""
    quality: int | None = None
    written: bool = True
    """Whether the encoder still writes it; else it has found something smaller since."""
    near: Callable[[np.ndarray, np.ndarray], bool] = np.array_equal
    """Whether a reconstruction, as `Cases.array` gives it, is the one of the fixture, but for float rounding."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Of a learned codec: its parse path consists of integer layers, and everything else may round as it likes."""

    module: Callable[[Codec], nn.Module]
    level_layer: Callable[[Codec], nn.Module]
    """An `IntegerLinear` that gives levels, to spoil."""
    signals: Callable[[], list[Any]]
    """Enough to make many symbols: some dozen small ones."""
    qualities: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cases:
    """One codec's line. Functions make the signals, so that collecting the tests makes none."""

    stream_id: int
    """Pinned for ever."""
    variants: Mapping[str, Variant]
    signals: Mapping[str, Callable[[], Any]]
    """By name, from the smallest size up, odd sizes among them."""
    small: Callable[[], Any]
    """A signal of a stream of some 1,000 bytes that has every kind of chunk."""
    large: Callable[[], Any]
    """A signal so large that headers weigh little."""
    same: Callable[[Any, Any], bool]
    """Whether two reconstructions are equal, bit for bit."""
    array: Callable[[Any], np.ndarray]
    """A signal's numbers, to compare and to store."""
    golden: Mapping[str, Golden] = field(default_factory=dict)
    """By path under ``tests/golden`` without suffix."""
    slack_bytes: int = 12
    """Of each data chunk: its checksum of symbols and the coder's last words."""
    network: Network | None = None
