"""What is done to one file: encoded, decoded or verified. Picklable, so that another process can do it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from rich.console import Group

from ...entropy_models.errors import BitstreamError, InputError
from .. import REGISTRY, container, load_face, name_of
from ..contract import HEAD_BYTES, LIVE_HEAD_BYTES, Desk, Face, Foldered, Framed, Live, Result, Slicing, Streamed
from ..terminal.console import message
from ..terminal.files import Job, Outlet, Pipe, one_line, show_size
from ..terminal.options import check_written
from ..terminal.sources import RDC, STDIO
from .info import chunk_table, describe, field_table, frame_table, rows
from .signature import Given, faces, options_of, refuse_others

SILENCE_S = 0.2
"""Seconds without a byte from which on a live stream is expected."""
RATIO_LEAST = 0.05
"""Of raw bytes to bytes, to be told to people: less would be 0.0:1."""
LiveConversion = Callable[..., Result]
"""Takes a pipe, an outlet, and by its name the desk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one file."""

    facts: dict[str, Any] = field(default_factory=dict)
    """For ``--json``; ``bytes`` and ``raw_bytes`` among them add up."""
    line: str = ""
    """For people: of an output what stands between its size and ratio, else all."""
    tables: tuple[Any, ...] = ()
    """Instead of a line: what rich prints."""
    notices: tuple[str, ...] = ()
    read_bytes: int = 0
    data: bytes | None = None
    """The output, where it is collected."""
    error: str = ""
    """Why there is none."""
    trace: str = ""

    def shown(self) -> Any:
        """What people see of it."""
        if self.tables:
            return Group(*self.tables)
        return one_line(_line_of(self.facts, self.line) if "output" in self.facts else self.line)


class Opened:
    """An input that is open: its first bytes, and all of them where they are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.head = file.read(HEAD_BYTES)

    @cached_property
    def data(self) -> bytes:
        if self.size <= len(self.head):
            return self.head
        self.file.seek(0)
        return self.file.read()

    def for_face(self, face: Face) -> Any:
        """As much as a face needs to say whether it takes it."""
        if isinstance(face, Slicing):
            return container.FileBytes(self.file)
        return self.head if isinstance(face, Streamed) else self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What one command does to each of its files."""

    verb: ClassVar[str]
    """Of the faces' options: ``Encode``."""
    given: Given
    """Options of the codecs."""
    device: str
    collect: bool = False
    """Whether outputs are returned, and not written."""
    keep_times: bool = False
    """Whether an output gets its input's modification time."""
    force: bool = False
    """Whether files in an output's folder may be overwritten."""

    def convert(self, job: Job, source: Opened, desk: Desk) -> tuple[Face, Result, int]:
        """The face of a file, what it made of it, and the bytes of the output, which is written unless it is collected."""
        raise NotImplementedError

    def live(self, head: bytes) -> tuple[Face, LiveConversion] | None:
        """The face that converts live what begins like this, and how; None: none does."""
        raise NotImplementedError

    def live_from(self, pipe: Pipe, desk: Desk) -> tuple[Face, LiveConversion] | None:
        """As `live`, of what comes through a pipe: known from the options, or from its first bytes, which it waits for."""
        return self.live(b"") or self.live(pipe.head(LIVE_HEAD_BYTES))

    def numbered(self, job: Job, desk: Desk) -> tuple[Face, Result, int] | None:
        """As `convert`, of files whose pattern is the job's source; None: it is none."""
        return None

    def pipes(self, job: Job) -> tuple[Pipe, Outlet] | None:
        """As `Job.pipes`, where outputs are not collected."""
        return None if self.collect else job.pipes()

    def streams(self, face: Face) -> Streamed | None:
        """The face, if it is to write into an open file."""
        return face if isinstance(face, Streamed) and not self.collect else None

    def whole(self, job: Job, result: Result) -> tuple[Result, int]:
        """The result of a face that returns its output."""
        if not self.collect:
            job.write(result.data)
        return result, len(result.data)

    def __call__(self, job: Job, desk: Desk) -> Report:
        """Convert one file and write the result.

        Raises:
            Exception: whatever is wrong with this file; others may fare better.
        """
        if job.refused:
            raise InputError(job.refused)
        start = time.perf_counter()
        pipe, out = self.pipes(job) or (None, None)
        live = self.live_from(pipe, desk) if pipe else None
        if live and pipe and out:
            face, convert = live
            result = convert(pipe, out, desk=desk)
            read_bytes, size = pipe.taken, out.given
        elif numbered := self.numbered(job, desk):
            face, result, size = numbered
            read_bytes = 0
        else:
            with job.opened(pipe) as file:
                source = Opened(file)
                face, result, size = self.convert(job, source, desk)
                read_bytes = source.size
        if self.keep_times and not self.collect:
            job.keep_time()
        facts = {"codec": codec_of(face), **result.facts, "notices": result.notices}
        facts |= {"input": job.name, "output": str(job.target or STDIO), "bytes": size}
        if raw_bytes := result.facts.get("raw_bytes"):
            facts["ratio"] = raw_bytes / size
        facts["wall_s"] = time.perf_counter() - start
        return Report(
            facts=facts,
            line=result.line,
            notices=result.notices,
            read_bytes=read_bytes,
            data=result.data if self.collect else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding(Conversion):
    """``codec encode``."""

    verb = "Encode"

    def convert(self, job: Job, source: Opened, desk: Desk) -> tuple[Face, Result, int]:
        check_suffix(job.target, RDC, (RDC,))
        claiming = (face for face, live in live_faces() if live.claims(options_of(face, self.verb, self.given)))
        face = next(claiming, None) or face_for(source, job.source.suffix.lower() if job.source else "")
        refuse_others(face, self.verb, self.given, self.device)
        options = options_of(face, self.verb, self.given)
        if streamed := self.streams(face):
            return face, *written(job, lambda file: streamed.encode_file(source.file, file, options, desk))
        return face, *self.whole(job, face.encode(source.data, options, desk))

    def numbered(self, job: Job, desk: Desk) -> tuple[Face, Result, int] | None:
        path = job.source
        if path is None or not isinstance(path, Path) or (path.exists() and not job.parts):
            return None
        folding = [face for face in faces() if isinstance(face, Foldered)]
        if job.parts:
            folding = [face for face in folding if face.gathers(options_of(face, self.verb, self.given))]
        face = next((face for face in folding if job.parts or face.takes_numbered(path)), None)
        if face is None:
            return None
        if self.collect:
            raise InputError("numbered files go into a file, not into shards")
        check_suffix(job.target, RDC, (RDC,))
        refuse_others(face, self.verb, self.given, self.device)
        options = options_of(face, self.verb, self.given)
        return face, *written(job, lambda file: face.encode_numbered(job.parts or path, file, options, desk))

    def live(self, head: bytes) -> tuple[Face, LiveConversion] | None:
        for face, live in live_faces():
            options = options_of(face, self.verb, self.given)
            if live.encodes_live(head, options):
                refuse_others(face, self.verb, self.given, self.device)
                return face, partial(live.encode_live, options=options)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Conversion):
    """``codec decode``."""

    verb = "Decode"

    def convert(self, job: Job, source: Opened, desk: Desk) -> tuple[Face, Result, int]:
        face, stream = opened(source)
        refuse_others(face, self.verb, self.given, self.device)
        options = options_of(face, self.verb, self.given)
        check_suffix(job.target, face.suffix(options), face.writes)
        if isinstance(face, Foldered) and face.fills_folder(job.target, options):
            if self.collect or not isinstance(job.target, Path):
                raise InputError("its files need a folder of this machine's, like -o folder")
            result = face.decode_folder(stream, job.target, options, desk, force=self.force)
            return face, result, result.facts["bytes"]
        if streamed := self.streams(face):
            return face, *written(job, lambda file: streamed.decode_file(stream, job.target, file, options, desk))
        return face, *self.whole(job, face.decode(stream, job.target, options, desk))

    def live_from(self, pipe: Pipe, desk: Desk) -> tuple[Face, LiveConversion] | None:
        if pipe.waits(SILENCE_S):  # a file would be there: loading meanwhile spares a live stream its delay
            for _, live in live_faces():
                with suppress(Exception):  # it may not be needed, and is told of where it is
                    live.expect_live(desk)
        return self.live(pipe.head(LIVE_HEAD_BYTES))

    def live(self, head: bytes) -> tuple[Face, LiveConversion] | None:
        for face, live in live_faces():
            if live.decodes_live(head):
                refuse_others(face, self.verb, self.given, self.device)
                return face, partial(live.decode_live, options=options_of(face, self.verb, self.given))
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifying(Conversion):
    """``codec verify``."""

    verb = "Verify"

    def __call__(self, job: Job, desk: Desk) -> Report:
        with job.opened() as file:
            source = Opened(file)
            face, stream = opened(source)
            if not isinstance(face, (Live, Streamed)):  # which say more of where a file ends
                stream.of_right_length()
            refuse_others(face, self.verb, self.given, self.device)
            notices = face.verify(stream, options_of(face, self.verb, self.given), desk)
        facts = {"input": job.name, "ok": True, "notices": notices}
        return Report(facts=facts, line="; ".join([f"{job.name}  ok", *notices]), read_bytes=source.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Describing(Conversion):
    """``codec info``."""

    frames: bool = False
    """Whether each frame is told of, for which all symbols are decoded."""

    def __call__(self, job: Job, desk: Desk) -> Report:
        with job.opened() as file:
            source = Opened(file)
            face, stream = opened(source)
            fields = describe(face, stream)
            frames = frames_of(face, stream, desk) if self.frames else []
        chunks = fields["chunks"]
        tables = [field_table(one_line(job.name), rows(fields)), *([chunk_table(chunks)] if chunks else [])]
        tables += [frame_table(frames)] if frames else []
        told = {"frame_table": frames} if self.frames else {}
        return Report(facts={"input": job.name, **fields, **told}, tables=tuple(tables), read_bytes=source.size)


def attempt(conversion: Conversion, job: Job, desk: Desk) -> Report:
    """What came of a job, be it an error, also a bug that one file meets: the others go on."""
    try:
        return conversion(job, desk)
    except Exception as error:
        return Report(error=message(error), trace=traceback.format_exc())


def written(job: Job, convert: Callable[[BinaryIO], Result]) -> tuple[Result, int]:
    """What ``convert`` made of a job, and the bytes that it wrote into the job's output."""
    with job.written() as file:
        result = convert(file)
        return result, file.seek(0, os.SEEK_END)


def face_for(source: Opened, suffix: str) -> Face:
    """The face that takes a file: those whose suffix it has are asked first, then those that need not have all of it.

    Raises:
        ValueError: none does; the message says what was found and expected.
    """
    kinds = [face.single for face in faces()]
    if not source.head:
        raise InputError(f"the input is empty; expected {' or '.join(kinds)}")
    if source.head.startswith(container.MAGIC):
        raise InputError("is an .rdc file already; `codec decode` reads it")
    for face in sorted(faces(), key=lambda face: (suffix not in face.reads, not isinstance(face, Slicing))):
        if face.takes(source.for_face(face), suffix):
            return face
    raise InputError(f"starts with {source.head[:8]!r}: neither {' nor '.join(kinds)}")


def frames_of(face: Face, stream: container.Stream, desk: Desk) -> list[dict[str, Any]]:
    """What a face tells of each frame; InputError if its signals have none."""
    if isinstance(face, Framed):
        return face.describe_frames(stream, desk)
    people = " and ".join(other.people for other in faces() if isinstance(other, Framed))
    raise InputError(f"--frames: only for {people}, and this is {face.single}")


def live_faces() -> list[tuple[Face, Live]]:
    """The faces that code live, as what they are and as what they are besides."""
    return [(face, face) for face in faces() if isinstance(face, Live)]


def opened(source: Opened) -> tuple[Face, container.Stream]:
    """A stream, of any length, and its face, which reads it from the open file, or has all of it in memory.

    Raises:
        BitstreamError: the header or table is damaged.
    """
    stream = container.parse(container.FileBytes(source.file), salvage=True)
    face = load_face(name_of(stream.stream_id))
    return face, stream if isinstance(face, Streamed) else replace(stream, data=source.data)


def face_at(path: Path | None) -> Face | None:
    """The face for a file that is not read yet; None where that cannot be told, which shows when it is read."""
    stream_id = container.stream_id_at(path) if path else None
    try:
        return None if stream_id is None else load_face(name_of(stream_id))
    except BitstreamError:
        return None


def known_suffixes() -> frozenset[str]:
    """Suffixes of all files that commands read or write."""
    return frozenset({RDC}).union(*(face.reads | face.writes.keys() for face in faces()))


def check_suffix(target: Path | None, suffix: str, written: Collection[str]) -> None:
    """Refuse an output whose suffix is another codec's."""
    if target and target.suffix.lower() in known_suffixes().difference(written):
        if len(written) > 1:
            check_written(target, target.suffix.lower(), written)
        raise InputError(f"the output {target} would be {suffix}, not {target.suffix}; give -o another name")


def codec_of(face: Face) -> str:
    """The name of a face's codec."""
    return next(name for name in REGISTRY if load_face(name) is face)


def _line_of(facts: dict[str, Any], line: str) -> str:
    """What is told of a file; no ratio of a signal that is next to nothing beside the file's header."""
    ratio = f"{facts['ratio']:.1f}:1" if facts.get("ratio", 0) >= RATIO_LEAST else ""
    output = "stdout" if facts["output"] == STDIO else facts["output"]
    parts = output, show_size(facts["bytes"]), line, ratio, f"{facts['wall_s']:.2f} s"
    return "  ".join(filter(None, parts))
