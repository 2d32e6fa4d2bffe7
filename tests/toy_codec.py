"""A codec of one file: text, deflated, in capitals at quality 0. Shows what a codec owes, and what the command needs."""

from __future__ import annotations

import bz2
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rdcodec.codecs import container
from rdcodec.codecs.contract import Desk, Estimate, Progress, Result
from rdcodec.codecs.evaluation.task import Metric, Rate, Reference, Speed, Task, by_suffix
from rdcodec.codecs.terminal.options import Quality
from rdcodec.entropy_models.errors import Corrupt, InputError, UnknownName, Unsupported

STREAM_ID = 60001


class ToyCodec:
    """Text to bytes and back (`contract.Codec`)."""

    stream_id = STREAM_ID

    @classmethod
    def load(cls, *, model: str | None = None, stream_hash: bytes | None = None, device: str = "auto") -> ToyCodec:
        if model is not None:
            raise UnknownName(f"no toy model {model!r}; the codec has no weights")
        if any(stream_hash or b""):
            raise Unsupported(f"the stream needs weights {stream_hash.hex()}; this codec has none")
        return cls()

    def encode(self, signal: str, *, quality: int | None = None, progress: Progress | None = None) -> bytes:
        if quality is not None and not (isinstance(quality, int) and 0 <= quality <= 100):
            raise InputError(f"quality is {quality!r}; need a whole number 0..100")
        text = signal.upper() if quality == 0 else signal
        chunk = (container.DATA, zlib.compress(text.encode()))
        if progress:
            progress(1, 1)
        return container.write(stream_id=STREAM_ID, weights=bytes(8), signal=b"", chunks=[chunk])

    def decode(self, data: bytes | container.Stream, *, progress: Progress | None = None) -> str:
        stream = container.parse(data)
        if stream.stream_id != STREAM_ID:
            raise Unsupported(f"stream id {stream.stream_id}, the toy codec is {STREAM_ID}")
        if len(stream.entries) != 1:
            raise Corrupt(f"{len(stream.entries)} chunks; need 1")
        inflate = zlib.decompressobj()
        try:
            text = inflate.decompress(stream.chunk(0)).decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise Corrupt(f"no deflated text: {error}") from None
        if not inflate.eof or inflate.unused_data:
            raise Corrupt("the deflated text ends early, or bytes are left over after it")
        if progress:
            progress(1, 1)
        return text

    def estimate(self, signal: str, *, quality: int | None = None) -> Estimate[str]:
        data = self.encode(signal, quality=quality)
        return Estimate(8.0 * container.parse(data).entries[0].length, self.decode(data))

    def verify(self, data: bytes | container.Stream) -> list[str]:
        self.decode(data)
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    quality: Quality = None
    loud: Annotated[bool, typer.Option("--loud", help="In capitals, as at quality 0.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    pass


class ToyFace:
    """Text files on the command line (`contract.Face`)."""

    people, single = "texts", "a text"
    reads, writes = frozenset({".txt"}), {".txt": "text"}
    chunk_kinds: dict[int, str] = {}
    examples = {"Encode": ("codec encode letter.txt --loud",)}
    cuda = False
    shown = ("text.rdc",)
    Encode, Decode, Verify = EncodeOptions, NoOptions, NoOptions

    def takes(self, data: bytes, suffix: str) -> bool:
        return suffix == ".txt" and data.isascii()

    def encode(self, data: bytes, options: EncodeOptions, desk: Desk) -> Result:
        stream = ToyCodec().encode(data.decode(), quality=0 if options.loud else options.quality)
        return Result(stream, {"raw_bytes": len(data)}, f"{8 * len(stream) / len(data):.2f} bits per letter")

    def suffix(self, options: NoOptions) -> str:
        return ".txt"

    def decode(self, stream: container.Stream, target: Path | None, options: NoOptions, desk: Desk) -> Result:
        text = ToyCodec().decode(stream)
        return Result(text.encode(), {"letters": len(text)}, f"{len(text)} letters")

    def verify(self, stream: container.Stream, options: NoOptions, desk: Desk) -> list[str]:
        return ToyCodec().verify(stream)

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        return {"letters": len(ToyCodec().decode(stream))}

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        return facts

    def demo(self, source: Path | None, folder: Path, desk: Desk, note: Any) -> list[str]:
        text = source.read_text() if source else "to be or not to be"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text.rdc").write_bytes(ToyCodec().encode(text))
        return [f"{len(text)} letters"]


FACE = ToyFace()


def equal_letters(original: str, decoded: str) -> float:
    """Letters that are as they were, percent."""
    return 100 * sum(a == b for a, b in zip(original, decoded, strict=True)) / len(original)


def load_ours(model: str | None, device: str) -> Reference[str]:
    codec = ToyCodec.load(model=model, device=device)
    return Reference((0, 60), lambda text, quality: codec.encode(text, quality=int(quality)), codec.decode)


TASK: Task[str] = Task(
    signals="texts",
    find=by_suffix(".txt"),
    read=lambda path: path.read_text(),
    facts=lambda text: {"letters": len(text)},
    rate=Rate("rate_bpl", "bits per letter", lambda size, facts: 8 * size / facts["letters"]),
    speed=Speed("letters/s", lambda facts: facts["letters"]),
    metrics=(Metric("equal_percent", "Equal", "equal letters (%)", equal_letters),),
    references={
        "bz2": Reference(
            (1, 9), lambda text, level: bz2.compress(text.encode(), int(level)), lambda data: bz2.decompress(data).decode()
        )
    },
    default_references=("bz2",),
    ours=load_ours,
)
