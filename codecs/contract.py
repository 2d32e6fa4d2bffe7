"""The contract: what a codec owes its callers, and what its face owes the command line. No numpy, no torch here.

A codec is one folder and one line of `rdcodec.codecs.REGISTRY`, which names two objects of that folder:

* a class after `Codec` (`Lossy`, where quality sets the rate): signals to bytes and back, for Python;
* an instance after `Face`: files to files and back, for the command ``codec``, which knows no codec by name.

``docs/adding-a-codec.md`` builds both in some fifty lines.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, Protocol, Self, TypeVar

from .container import Stream

S = TypeVar("S")
"""A codec's signal: a picture, a sound, a clip, a cache."""
Progress = Callable[[int, int], None]
"""A function that is called with (parts done, parts in all): tiles, seconds, frames, tokens."""
T = TypeVar("T")


def told(parts: Iterable[T], total: int, progress: Progress | None) -> Iterator[T]:
    """The parts; ``progress``, if there is one, is told of each when the next is asked for."""
    for done, part in enumerate(parts, 1):
        yield part
        if progress:
            progress(done, total)


@dataclass(frozen=True, slots=True)
class Estimate(Generic[S]):
    """Estimate of what encoding would cost and give, without a stream."""

    bits: float
    """Ideal bits of the symbols; headers are not in it."""
    signal: S
    """The reconstruction: exactly what ``decode(encode(signal))`` returns."""


class Codec(Protocol[S]):
    """Signals to bytes and back."""

    stream_id: ClassVar[int]
    """The codec's number in files, as in the registry."""

    @classmethod
    def load(cls, *, model: str | None = None, stream_hash: bytes | None = None, device: str = "auto") -> Self:
        """A codec ready to run: weights by name, by the hash in a stream, or the default ones."""

    def encode(self, signal: S, *, quality: int | None = None, progress: Progress | None = None) -> bytes:
        """The bytes of an .rdc file; the same bytes every time.

        Args:
            quality: 0 (smallest) to 100; None: the codec's default.
        """

    def decode(self, data: bytes | Stream, *, progress: Progress | None = None) -> S:
        """The signal of a file; `BitstreamError` for anything wrong with the bytes, and no other error."""

    def estimate(self, signal: S, *, quality: int | None = None) -> Estimate[S]:
        """Rate and reconstruction, without a stream."""

    def verify(self, data: bytes | Stream) -> list[str]:
        """Decode every symbol; `BitstreamError` if anything is wrong. Returns what could not be checked."""


class Lossy(Codec[S], Protocol):
    """A codec whose rate follows the quality, so that a file size can be asked for (`rate_control`)."""

    def measurer(self, signal: S, *, progress: Progress | None = None) -> Callable[[int], int]:
        """A function from quality to bytes of the file: about as many, and no more than `encode` writes, or a search for a
        size misses the best quality. Work that all qualities share is done once, here.

        ``progress`` is of each call, as that of `Codec.encode`.
        """


@dataclass(frozen=True, slots=True)
class Result:
    """One file encoded or decoded."""

    data: bytes = b""
    """The output file; of what writes into an open one (`Streamed`) nothing."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts for ``--json``; ``raw_bytes`` among them is the signal's size, for the ratio."""
    line: str = ""
    """Text for people, between size and time: ``0.512 bpp``, ``768x512``."""
    notices: tuple[str, ...] = ()
    """Notices of what was converted, lost or could not be kept."""


@dataclass(slots=True)
class Desk:
    """The desk that the jobs of one command share."""

    device: str = "auto"
    progress: Progress | None = None
    """Progress of the file in work."""
    unit: str = ""
    """What its parts are called: ``frames``."""
    loaded: dict[Any, Any] = field(default_factory=dict)

    def codec(self, key: Any, load: Callable[[], Any]) -> Any:
        """The codec under ``key``, loaded when it is first asked for."""
        if key not in self.loaded:
            self.loaded[key] = load()
        return self.loaded[key]


class Sampled(Protocol):
    """A signal that data sets for training turn into a tensor (`torch_data`)."""

    def sample(self) -> Any:
        """A numpy array, channels first, the same kind for every signal of the codec: a batch stacks them."""


class Face(Protocol):
    """A codec on the command line. Importing its module costs no numpy and no torch.

    ``Encode``, ``Decode`` and ``Verify`` are frozen dataclasses whose fields are options, ``Annotated[type,
    typer.Option(...)]``, with None or False as defaults. The command merges those of all codecs; one that several codecs
    have is one option, with the same type and flags in all.
    """

    people: str
    """Signals for messages and panels of the help, plural: ``images``."""
    single: str
    """One signal, for messages: ``an image``."""
    reads: frozenset[str]
    """Suffixes of files that folders are searched for, ``.png``."""
    writes: Mapping[str, str]
    """Suffixes of files that are written, with their formats' names."""
    chunk_kinds: Mapping[int, str]
    """Names of kinds of chunks beyond the container's own."""
    examples: Mapping[str, tuple[str, ...]]
    """Lines for the help, by ``Encode``, ``Decode`` and ``Verify``."""
    cuda: bool
    """Whether ``--device cuda`` means anything to it."""
    Encode: type
    Decode: type
    Verify: type

    def takes(self, data: bytes, suffix: str) -> bool:
        """Whether a file holds a signal of this codec, judged by its content; ``suffix`` of its name, lower case."""

    def encode(self, data: bytes, options: Any, desk: Desk) -> Result:
        """A signal's file to a stream."""

    def suffix(self, options: Any) -> str:
        """Suffix of the file that `decode` writes where its name is not given."""

    def decode(self, stream: Stream, target: Path | None, options: Any, desk: Desk) -> Result:
        """A stream to a file in the format that ``target`` (None: standard output) or the options name."""

    def verify(self, stream: Stream, options: Any, desk: Desk) -> list[str]:
        """Decode every symbol, as `Codec.verify`."""

    def describe(self, stream: Stream) -> dict[str, Any]:
        """What `codec info` tells of a file, for ``--json``."""

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Rows for people, from what `describe` returned."""


HEAD_BYTES = 1 << 16
"""Bytes of a file that a `Streamed` face is shown to say whether it takes it."""


class Slicing:
    """A face whose `takes` looks at a length and slices (`FileBytes`): a large file is not read to be asked about."""


class Streamed(ABC):
    """A face of signals that may not fit into memory: from open files to open files, and by these also in memory.

    `takes` gets no more than the first `HEAD_BYTES` of a file, unless the face is `Slicing`.
    """

    @abstractmethod
    def encode_file(self, source: BinaryIO, target: BinaryIO, options: Any, desk: Desk) -> Result:
        """A signal's file to a stream.

        Args:
            source: can seek; may be read more than once.
            target: empty, can seek (`container.Writer`); thrown away if anything is raised.
        """

    @abstractmethod
    def decode_file(self, stream: Stream, target: Path | None, file: BinaryIO, options: Any, desk: Desk) -> Result:
        """A stream, of an open file, to a file in the format that ``target`` (None: standard output) or the options name.

        Args:
            file: to write: empty, can seek; thrown away if anything is raised.
        """

    def encode(self, data: bytes, options: Any, desk: Desk) -> Result:
        """As `Face.encode`."""
        file = io.BytesIO()
        result = self.encode_file(io.BytesIO(data), file, options, desk)
        return replace(result, data=file.getvalue())

    def decode(self, stream: Stream, target: Path | None, options: Any, desk: Desk) -> Result:
        """As `Face.decode`."""
        file = io.BytesIO()
        result = self.decode_file(stream, target, file, options, desk)
        return replace(result, data=file.getvalue())


class Foldered(Streamed):
    """A face that also takes several files, as a folder's numbered ones, as one signal, and decodes to them."""

    gathered: frozenset[str]
    """Suffixes of such files that folders are searched for."""
    gathering: str
    """What to do to have several files encoded as one signal, for messages."""

    @abstractmethod
    def gathers(self, options: Any) -> bool:
        """Whether an option of ``Encode`` says that all inputs are one signal."""

    @abstractmethod
    def takes_numbered(self, source: Path) -> bool:
        """Whether a name, which is no file's, is a pattern of numbered ones."""

    @abstractmethod
    def encode_numbered(self, source: Path | tuple[Path, ...], target: BinaryIO, options: Any, desk: Desk) -> Result:
        """Numbered files, by the pattern of their names, or these files to a stream."""

    @abstractmethod
    def fills_folder(self, target: Path | None, options: Any) -> bool:
        """Whether a folder is asked for."""

    @abstractmethod
    def decode_folder(self, stream: Stream, target: Path, options: Any, desk: Desk, *, force: bool = False) -> Result:
        """A stream to files in a folder, all of them or none; ``bytes`` among the facts is their size.

        Args:
            target: the folder, or a pattern of names in it.
            force: files that are there may be overwritten.
        """


class Framed(ABC):
    """A face of signals whose frames `codec info --frames` tells of."""

    @abstractmethod
    def describe_frames(self, stream: Stream, desk: Desk) -> list[dict[str, Any]]:
        """A row of names and values for each frame, all with the same names; `BitstreamError` of a damaged stream."""


class Tagged(ABC):
    """A face whose metadata chunks say what they hold."""

    @abstractmethod
    def metadata_kind(self, stream: Stream, index: int) -> str:
        """The name of a metadata chunk's kind, unchecked."""


class Readable(Protocol):
    """What has ``read``; it may give fewer bytes than asked for, and none only at its end."""

    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """What has ``write``, and tells whether it can also seek."""

    def write(self, data: bytes, /) -> Any: ...
    def flush(self) -> Any: ...
    def seekable(self) -> bool: ...


LIVE_HEAD_BYTES = 42
"""Bytes that a `Live` face is shown of what comes through a pipe: more might not come before it answers."""


class Live(Streamed):
    """A face that codes from standard input to standard output while the input comes."""

    @abstractmethod
    def claims(self, options: Any) -> bool:
        """Whether an option of ``Encode`` says that the input is this codec's, whatever its bytes are."""

    @abstractmethod
    def encodes_live(self, head: bytes, options: Any) -> bool:
        """Whether a signal that begins like this is coded live; else it is read as a whole, as files are.

        It is asked of no bytes first: what the options alone say needs no waiting for them.
        """

    @abstractmethod
    def encode_live(self, source: Readable, target: Writable, options: Any, desk: Desk) -> Result:
        """A signal to a live stream, each part of which is written as soon as it can be."""

    @abstractmethod
    def decodes_live(self, head: bytes) -> bool:
        """Whether a live stream begins like this."""

    @abstractmethod
    def expect_live(self, desk: Desk) -> None:
        """Load what decoding a live stream will need, while none has come yet; another codec's file may come as well."""

    @abstractmethod
    def decode_live(self, source: Readable, target: Writable, options: Any, desk: Desk) -> Result:
        """A live stream to a file that cannot seek, each part of which is written as soon as it can be."""


class Demonstrated(Protocol):
    """A face with ``demo``: shows what its codec does, without a file of the user's."""

    shown: tuple[str, ...]
    """Names of the files that ``demo`` writes: not overwritten without ``--force``."""

    def demo(
        self, source: Path | None, folder: Path, desk: Desk, note: Callable[[str], None], effort: int | None = None
    ) -> Iterable[Any]:
        """Write files into ``folder``; returns what rich prints.

        Args:
            note: told what is going on.
            effort: None: what suits a demonstration; passed only where ``Encode`` has this option.
        """
