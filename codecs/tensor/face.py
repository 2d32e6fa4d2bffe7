"""The tensor codec on the command line: options, files in and out, and what is told of them. No numpy, no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import container
from ..contract import Desk, Result
from .describe import describe_tensors, tensor_rows
from .files import READS, WRITES, kind_of, source_of, write_tensors
from .header import INDEX, MODES, REPORT

Mode = Annotated[str | None, typer.Option(help=f"{', '.join(MODES)}; default lossless.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    mode: Mode = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Options of `codec verify`."""


class TensorFace:
    """`contract.Face` of the tensor codec."""

    people = "tensor files"
    single = "a tensor file"
    reads = READS
    writes = WRITES
    chunk_kinds = {INDEX: "index", REPORT: "report"}
    examples = {
        "Encode": ("codec encode model.safetensors",),
        "Decode": ("codec decode model.rdc -o model.safetensors",),
    }
    cuda = False
    Encode, Decode, Verify = EncodeOptions, DecodeOptions, VerifyOptions

    def takes(self, data: bytes, suffix: str) -> bool:
        """A safetensors, torch or numpy file, or an index of shards."""
        return bool(kind_of(data))

    def encode(self, data: bytes, options: EncodeOptions, desk: Desk) -> Result:
        """A file of tensors to a stream.

        Raises:
            InputError: it holds other things, or a tensor that the mode does not take.
        """
        from io import BytesIO

        from .writing import TensorSettings, write_stream

        settings, source, file = TensorSettings(mode=options.mode or "lossless"), source_of(data), BytesIO()
        write_stream(file, source, settings, desk.progress)
        stream = file.getvalue()
        elements = sum(entry.elements for entry in source.index.entries)
        rate = 8 * len(stream) / max(elements, 1)
        facts = {"mode": settings.mode, "tensors": len(source.index.entries), "bits_per_weight": rate}
        return Result(stream, facts | {"raw_bytes": source.index.raw_bytes}, f"{rate:.3f} bits per weight")

    def suffix(self, options: DecodeOptions) -> str:
        """``.safetensors``."""
        return ".safetensors"

    def decode(self, stream: container.Stream, target: Path | None, options: DecodeOptions, desk: Desk) -> Result:
        """A stream to a safetensors file, the original one byte for byte in mode lossless, or to a torch or numpy file.

        Raises:
            BitstreamError: anything wrong with the stream; the message names the tensor.
            InputError: a type of numbers that the target's format does not have.
        """
        from .codec import TensorCodec
        from .reading import TensorFile, safetensors_parts

        suffix = target.suffix.lower() if target else ".safetensors"
        file = TensorFile(stream.of_right_length())
        if suffix in WRITES and suffix != ".safetensors":
            data = write_tensors(TensorCodec().decode(stream, progress=desk.progress).tensors, suffix)
        else:
            data = b"".join(safetensors_parts(file, desk.progress))
        facts = {"tensors": len(file.index.entries), "raw_bytes": file.index.raw_bytes}
        return Result(data, facts, f"{len(file.index.entries)} tensors")

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Decode every piece of every tensor."""
        from .codec import TensorCodec

        return TensorCodec().verify(stream)

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Mode, and for each tensor type, shape, bits per weight and, in lossy modes, its error."""
        return describe_tensors(stream)

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returned, for people."""
        return tensor_rows(facts)


FACE = TensorFace()
