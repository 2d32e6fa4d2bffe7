"""Options that say how caches are stored, of ``codec encode`` and ``codec kv`` alike. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...entropy_models.errors import InputError
from .modes.table import MODE_NAMES, MODES, check_command_mode

if TYPE_CHECKING:
    from .format.blocks import KvSettings
    from .modes.profiles import Profile

Bits = Annotated[int | None, typer.Option(min=1, max=5, help="Of the turboquant modes' codes, default 4.")]
FileBits = Annotated[float | None, typer.Option(help="Of the turboquant modes' codes, 1 to 5, default 4.")]
"""The same on a command that other codecs share, where bits need not be whole."""
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="kv_profile.safetensors of the model, from `codec eval kv`. Quantized modes then take steps by attention "
        "error, coarser ones at the same quality.",
    ),
]
Tokens = Annotated[Path | None, typer.Option(help="Token ids: a JSON list, or numbers with spaces between.")]
Keys = Annotated[
    str | None,
    typer.Option(
        help="Pattern of tensor names; default 'layers.{i}.{k}', of files to read also '{i}.{k}' (mlx_lm's 0.0, 0.1, ...)."
    ),
]
Batch = Annotated[bool, typer.Option("--batch", help="With a batch dimension of 1 in front, as in dumps.")]
Mode = Annotated[str | None, typer.Option(help=f"{MODE_NAMES}; default quantized.")]


def kv_settings(
    mode: str, quality: int | None = None, bits: int | None = None, profile: Path | None = None, **others: Any
) -> KvSettings:
    """`KvSettings` from options of the command; None: not given.

    Raises:
        ValueError: no such mode, one that needs the running model, an option that the mode does not have, or no profile
            where it needs one.
    """
    from .format.blocks import KvSettings

    check_command_mode(mode)
    given: dict[str, Any] = {name: value for name, value in (("quality", quality), ("bits", bits)) if value is not None}
    has = MODES[mode].option
    for name in given.keys() - {has}:
        raise InputError(f"mode {mode} has no --{name}; " + (f"it has --{has}" if has else "its rate is fixed"))
    if profile and has != "quality":
        raise InputError(f"mode {mode} takes no --profile")
    if MODES[mode].needs_profile and not profile:
        raise InputError(f"mode {mode} needs --profile FILE, the kv_profile.safetensors that `codec eval kv` writes")
    return KvSettings(mode=mode, profile=read_profile(profile), **given, **others)


def whole_bits(bits: float | None) -> int | None:
    """``--bits`` as the turboquant modes take them.

    Raises:
        ValueError: not a whole number from 1 to 5.
    """
    if bits is not None and bits not in range(1, 6):
        raise InputError(f"--bits {bits:g}; codes of KV caches have 1 to 5")
    return None if bits is None else int(bits)


def read_profile(path: Path | None) -> Profile | None:
    """The profile that ``--profile`` names; None: it was not given."""
    from .modes.profiles import Profile

    return Profile.read(path) if path else None
