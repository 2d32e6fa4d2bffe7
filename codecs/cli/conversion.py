"""What is done to one file: encoded, decoded or verified. Picklable, so that another process can do it."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group

from ...entropy_models.errors import BitstreamError, InputError
from .. import REGISTRY, container, load_face, name_of
from ..contract import Desk, Face, Result
from ..terminal.console import message
from ..terminal.files import Job, one_line, show_size
from ..terminal.sources import STDIO
from .info import chunk_table, describe, field_table, rows
from .signature import Given, faces, options_of, refuse_others

RDC = ".rdc"


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

    def convert(self, job: Job, data: bytes, desk: Desk) -> tuple[Face, Result]:
        """The face of a file, and what it made of it."""
        raise NotImplementedError

    def __call__(self, job: Job, desk: Desk) -> Report:
        """Convert one file and write the result.

        Raises:
            Exception: whatever is wrong with this file; others may fare better.
        """
        start = time.perf_counter()
        data = job.read()
        face, result = self.convert(job, data, desk)
        if not self.collect:
            job.write(result.data)
        facts = {"codec": codec_of(face), **result.facts, "notices": result.notices}
        facts |= {"input": job.name, "output": str(job.target or STDIO), "bytes": len(result.data)}
        if raw_bytes := result.facts.get("raw_bytes"):
            facts["ratio"] = raw_bytes / len(result.data)
        facts["duration_s"] = time.perf_counter() - start
        return Report(
            facts=facts,
            line=result.line,
            notices=result.notices,
            read_bytes=len(data),
            data=result.data if self.collect else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding(Conversion):
    """``codec encode``."""

    verb = "Encode"

    def convert(self, job: Job, data: bytes, desk: Desk) -> tuple[Face, Result]:
        check_suffix(job.target, RDC, frozenset({RDC}))
        face = face_for(data, job.source.suffix.lower() if job.source else "")
        refuse_others(face, self.verb, self.given, self.device)
        return face, face.encode(data, options_of(face, self.verb, self.given), desk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Conversion):
    """``codec decode``."""

    verb = "Decode"

    def convert(self, job: Job, data: bytes, desk: Desk) -> tuple[Face, Result]:
        stream = container.parse(data, salvage=True)
        face = face_of(stream, self.verb, self.given, self.device)
        options = options_of(face, self.verb, self.given)
        check_suffix(job.target, face.suffix(options), frozenset(face.writes))
        return face, face.decode(stream, job.target, options, desk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifying(Conversion):
    """``codec verify``."""

    verb = "Verify"

    def __call__(self, job: Job, desk: Desk) -> Report:
        data = job.read()
        stream = container.parse(data)
        face = face_of(stream, self.verb, self.given, self.device)
        notices = face.verify(stream, options_of(face, self.verb, self.given), desk)
        facts = {"input": job.name, "ok": True, "notices": notices}
        return Report(facts=facts, line="; ".join([f"{job.name}  ok", *notices]), read_bytes=len(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Describing(Conversion):
    """``codec info``."""

    def __call__(self, job: Job, desk: Desk) -> Report:
        data = job.read()
        fields = describe(data)
        tables = field_table(one_line(job.name), rows(fields)), chunk_table(fields["chunks"])
        return Report(facts={"input": job.name, **fields}, tables=tables, read_bytes=len(data))


def attempt(conversion: Conversion, job: Job, desk: Desk) -> Report:
    """What came of a job, be it an error, also a bug that one file meets: the others go on."""
    try:
        return conversion(job, desk)
    except Exception as error:
        return Report(error=message(error), trace=traceback.format_exc())


def face_for(data: bytes, suffix: str) -> Face:
    """The face that takes a file: those whose suffix it has are asked first.

    Raises:
        ValueError: none does; the message says what was found and expected.
    """
    kinds = [face.single for face in faces()]
    if not data:
        raise InputError(f"the input is empty; expected {' or '.join(kinds)}")
    if data.startswith(container.MAGIC):
        raise InputError("is an .rdc file already; `codec decode` reads it")
    for face in sorted(faces(), key=lambda face: suffix not in face.reads):
        if face.takes(data, suffix):
            return face
    raise InputError(f"starts with {data[:8]!r}: neither {' nor '.join(kinds)}")


def face_of(stream: container.Stream, verb: str, given: Given, device: str) -> Face:
    """The face of a stream's codec, which has all the options that are given."""
    face = load_face(name_of(stream.stream_id))
    refuse_others(face, verb, given, device)
    return face


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


def check_suffix(target: Path | None, suffix: str, written: frozenset[str]) -> None:
    """Refuse an output whose suffix is another codec's."""
    found = target.suffix.lower() if target else suffix
    if target and found in known_suffixes() - written:
        raise InputError(f"the output {target} would be {suffix}, not {target.suffix}; give -o another name")


def codec_of(face: Face) -> str:
    """The name of a face's codec."""
    return next(name for name in REGISTRY if load_face(name) is face)


def _line_of(facts: dict[str, Any], line: str) -> str:
    """What is told of a file."""
    ratio = [f"{facts['ratio']:.1f}:1"] if "ratio" in facts else []
    output = "stdout" if facts["output"] == STDIO else facts["output"]
    return "  ".join([output, show_size(facts["bytes"]), line, *ratio, f"{facts['duration_s']:.2f} s"])
