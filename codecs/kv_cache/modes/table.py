"""The modes table: number in the file, coding pass of one tensor, and what a mode needs. No torch here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ....entropy_models.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ....entropy_models.row_coders import ChunkReader, RowCoders
    from .place import Place


class CodeTensor(Protocol):
    """The coding pass of one tensor."""

    def __call__(self, coder: Any, x: Tensor | None, place: Place) -> Tensor:
        """The reconstruction, shape and dtype of the place; ``x`` is None for a reader."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A line of the table."""

    number: int
    """Number of the mode in files. Pinned for ever."""
    target: str
    """``module:function`` under ``rdcodec``, imported when first used; empty: no tensor is stored."""
    summary: str
    option: str = ""
    """Option that sets its rate: ``quality``, ``bits``, or nothing."""
    needs_profile: bool = False
    """A calibrated profile is needed on both sides; its hash is in the file."""
    needs_earlier_layers: bool = False
    """A layer is decoded after all layers below it."""
    needs_model: bool = False
    """The model's weights are needed to save and to load."""
    offered: bool = True
    """Whether help and errors list it; what another mode does better is kept to read files, and written only where named."""
    row_coders: str = "entropy_models.rows:ROW_CODERS"
    """``module:name`` of the `RowCoders` of its chunks."""
    together: str = ""
    """``module:function`` of a reader that tells which chunks can be read as one; empty: each is read alone."""

    @property
    def code(self) -> CodeTensor:
        """The coding pass of one tensor."""
        code: CodeTensor = _found(self.target)
        return code

    @property
    def coders(self) -> RowCoders:
        """What writes, reads and measures its chunks."""
        coders: RowCoders = _found(self.row_coders)
        return coders

    def read_together(self, coder: ChunkReader) -> Hashable | None:
        """What two chunks must have in common to be read as one; None: they cannot."""
        key: Hashable = _found(self.together)(coder) if self.together else None
        return key


@cache
def _found(target: str) -> Any:
    """``module:name`` under ``rdcodec``; kept, as each tensor of each block asks for it."""
    module, name = target.split(":")
    return getattr(import_module(f"rdcodec.{module}"), name)


MODES = {
    "tokens": Mode(0, "", "token ids only; the cache is recomputed on load", needs_model=True),
    "lossless": Mode(
        10, "codecs.kv_cache.modes.lossless:code", "bit-exact: exponents and high mantissa bits under Huffman tables"
    ),
    "lossless-1": Mode(
        1, "codecs.tensor.lossless:code", "bit-exact, of files before 2026-11-29: larger and slower", offered=False
    ),
    "fp8": Mode(2, "codecs.tensor.fp8:code", "e4m3, one scale per layer, head and K/V; exponents entropy-coded"),
    "turboquant": Mode(
        3, "codecs.tensor.turboquant:code_fixed", "norm, random rotation, Lloyd-Max at 1..5 bits, fixed rate", "bits"
    ),
    "turboquant-ec": Mode(4, "codecs.tensor.turboquant:code_entropy", "the same codes, entropy-coded", "bits"),
    "quantized": Mode(
        9,
        "codecs.kv_cache.modes.quantized:code",
        "default: RoPE undone, uniform steps, zstd's Huffman codes of integer rows",
        "quality",
        row_coders="entropy_models.fast_rows:FAST_ROW_CODERS",
        together="codecs.tensor.quantized:read_together",
    ),
    "quantized-small": Mode(
        5,
        "codecs.kv_cache.modes.quantized:code",
        "the same numbers under integer Gaussian tables by row: smaller, decodes slower",
        "quality",
        together="codecs.tensor.quantized:read_together",
    ),
    "quantized-lanes": Mode(
        11,
        "codecs.kv_cache.modes.quantized:code",
        "the same numbers in lanes of rANS, which a GPU decodes at once; slow on a CPU",
        "quality",
        row_coders="entropy_models.lane_rows:LANE_ROW_CODERS",
        together="codecs.tensor.quantized:read_together",
    ),
    "transform": Mode(
        6,
        "codecs.kv_cache.modes.transform:code",
        "calibrated PCA over heads, reverse water-filling",
        "quality",
        needs_profile=True,
    ),
    "predictive": Mode(
        7,
        "codecs.kv_cache.modes.predictive:code",
        "linear prediction from the layer below, from the keys and from the token; residual as quantized-small",
        "quality",
        needs_profile=True,
        needs_earlier_layers=True,
    ),
    "residual": Mode(
        8,
        "codecs.kv_cache.modes.quantized:code_inputs",
        "layer inputs; keys and values projected on load",
        "quality",
        needs_model=True,
    ),
}

OFFERED = {name: mode for name, mode in MODES.items() if mode.offered}
_COMMANDS = {name: mode for name, mode in OFFERED.items() if not mode.needs_model}
MODE_NAMES = (
    f"{', '.join(name for name, mode in _COMMANDS.items() if not mode.needs_profile)}; "
    f"with --profile {', '.join(name for name, mode in _COMMANDS.items() if mode.needs_profile)}"
)
"""Modes that are offered to commands, which have no running model, as help and errors list them."""


def check_command_mode(mode: str) -> None:
    """ValueError for a mode that no command writes: there is none of that name, or it needs the running model."""
    if mode not in MODES:
        raise InputError(f"no mode {mode!r}; there are {MODE_NAMES}")
    if MODES[mode].needs_model:
        raise InputError(
            f"mode {mode} needs the model to encode and decode, which only save_cache in Python has; here are {MODE_NAMES}"
        )


def mode_of(number: int) -> str | None:
    """Name of a mode's number."""
    return next((name for name, mode in MODES.items() if mode.number == number), None)
