"""The tensor codec on the command line: options, files in and out, and what is told of them. No numpy, no torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from ...entropy_models.errors import InputError
from .. import container
from ..contract import Desk, Result, Slicing, Streamed
from ..terminal.options import Quality, names_of, suffix_for
from .describe import describe_tensors, tensor_rows
from .files import READS, WRITES, Bytes, kind_of, source_of, write_tensors
from .header import BASE_NAME, INDEX, MODES, REPORT

Mode = Annotated[str | None, typer.Option(help=f"{', '.join(MODES)}; default lossless.")]
DEFAULT = ".safetensors"
"""Suffix of what is decoded."""
BaseFile = Annotated[Path | None, typer.Option(help="Of mode delta: the file (or .rdc) whose tensors these differ from.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    mode: Mode = None
    quality: Quality = None
    bits: Annotated[float | None, typer.Option(help="Of a quantised weight, 0.5 to 10.")] = None
    snr: Annotated[float | None, typer.Option(help="Decibels of signal over error, the mean over quantised weights.")] = None
    activations: Annotated[
        Path | None,
        typer.Option(help="safetensors file: mean squares of a matrix' inputs by its name; columns get steps by them."),
    ] = None
    steps: Annotated[
        str | None, typer.Option(help="Of a matrix: tensor (one), channel (of rows), balanced (of rows and columns).")
    ] = None
    base: BaseFile = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""

    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"{names_of(WRITES)}; default OUT's, else safetensors."),
    ] = None
    bits: Annotated[
        float | None, typer.Option(help="Of a nested file, 2, 4 or 8; also of the part of one that has them.")
    ] = None
    base: BaseFile = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Options of `codec verify`."""

    base: BaseFile = None


class TensorFace(Streamed, Slicing):
    """`contract.Face` of the tensor codec."""

    people = "tensor files"
    single = "a tensor file"
    reads = READS
    writes = WRITES
    chunk_kinds = {INDEX: "index", REPORT: "report", BASE_NAME: "name of the base"}
    examples = {
        "Encode": (
            "codec encode model.safetensors",
            "codec encode model.safetensors --bits 3.5",
            "codec encode tuned.safetensors --base model.safetensors",
        ),
        "Decode": ("codec decode model.rdc -o model.safetensors",),
    }
    cuda = False
    Encode, Decode, Verify = EncodeOptions, DecodeOptions, VerifyOptions

    def takes(self, data: Bytes, suffix: str) -> bool:
        """A safetensors, torch or numpy file, or an index of shards."""
        return bool(kind_of(data))

    def encode_file(self, source: BinaryIO, target: BinaryIO, options: EncodeOptions, desk: Desk) -> Result:
        """A file of tensors to a stream; of a safetensors file no more than a piece of a tensor is in memory.

        Raises:
            InputError: it holds other things, or a tensor that the mode does not take.
        """
        from .files import read_energy
        from .scaling import SCALINGS
        from .writing import TensorSettings, write_stream

        lossy = any(v is not None for v in (options.quality, options.bits, options.snr, options.activations, options.steps))
        mode = options.mode or ("delta" if options.base else "quantized" if lossy else "lossless")
        energy = read_energy(options.activations) if options.activations else {}
        settings = TensorSettings(
            mode=mode,
            quality=options.quality,
            bits=options.bits,
            snr_db=options.snr,
            energy=energy,
            scaling=options.steps or SCALINGS[0],
            base=_base(options, desk),
        )
        name = getattr(source, "name", None)
        tensors = source_of(container.FileBytes(source), Path(name) if isinstance(name, str) else None)
        notices = write_stream(target, tensors, settings, desk.progress)
        elements = sum(entry.elements for entry in tensors.index.entries)
        bits = 8 * target.seek(0, os.SEEK_END) / max(elements, 1)
        facts = {"mode": settings.mode, "tensors": len(tensors.index.entries), "bits_per_weight": bits}
        return Result(
            facts=facts | {"raw_bytes": tensors.index.raw_bytes}, line=f"{bits:.3f} bits per weight", notices=notices
        )

    def suffix(self, options: DecodeOptions) -> str:
        """``.safetensors``, or what --format says."""
        return suffix_for(options.format, WRITES, self.people, DEFAULT)

    def decode_file(
        self, stream: container.Stream, target: Path | None, file: BinaryIO, options: DecodeOptions, desk: Desk
    ) -> Result:
        """A stream to a safetensors file, the original one byte for byte in mode lossless, or to a torch or numpy file.

        Raises:
            BitstreamError: anything wrong with the stream; the message names the tensor.
            InputError: a type of numbers that the target's format does not have.
        """
        from .reading import TensorFile, safetensors_parts

        suffix = target.suffix.lower() if target and not options.format else self.suffix(options)
        if suffix not in WRITES:
            raise InputError(f"the output {target}; its name must end in one of {', '.join(WRITES)}, or --format says which")
        held = TensorFile(stream, options.bits, _base(options, desk))
        held = held if options.bits else held.of_right_length()
        if suffix != DEFAULT:
            tensors = {entry.name: held.tensor(entry.name) for entry in held.index.entries}
            write_tensors(tensors, held.index.metadata, suffix, file)
        else:
            for part in safetensors_parts(held, desk.progress):
                file.write(part)
        facts = {"tensors": len(held.index.entries), "raw_bytes": held.index.raw_bytes}
        count = len(held.index.entries)
        return Result(facts=facts, line=f"{count} tensor{'s' * (count != 1)}")

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Decode every piece of every tensor."""
        from .reading import TensorFile, verified

        return verified(TensorFile(stream, base=_base(options, desk)).of_right_length())

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Mode, and for each tensor type, shape, bits per weight and, in lossy modes, its error."""
        return describe_tensors(stream)

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returned, for people."""
        return tensor_rows(facts)


def _base(options: EncodeOptions | DecodeOptions | VerifyOptions, desk: Desk) -> Any:
    """The base that the options name, read once for all files of a command."""
    from .file_api import base_of

    if (path := options.base) is None:
        return None
    return desk.codec(("base of tensors", path), lambda: base_of(path))


FACE = TensorFace()
