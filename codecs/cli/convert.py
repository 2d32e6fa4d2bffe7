"""``codec encode``, ``decode``, ``verify`` and ``info``: files to files, through whatever codec they need."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress

from ...entropy_models.errors import BitstreamError, InputError
from .. import REGISTRY, container, load_face, name_of
from ..contract import Desk, Face, Result
from ..terminal import files
from ..terminal.console import TRACEBACK, bar, errors, fail, message, out
from ..terminal.files import Job, one_line, show_size
from ..terminal.options import AsJson, Device, Force, Inputs, Output
from .info import chunk_table, describe, field_table, rows
from .signature import Given, faces, options_of, refuse_others

RDC = ".rdc"


def note(text: str) -> None:
    """One line on standard error about what was done otherwise than one may think."""
    errors.print(one_line(f"codec: note: {text}"))


def encode(
    inputs: Inputs,
    output: Output = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
    **given: Any,
) -> None:
    """Compress files to .rdc files. The codec is chosen from the content."""
    options = {face: options_of(face, "Encode", given) for face in faces()}
    readable = frozenset[str]().union(*(face.reads for face in faces()))
    sources = files.expand(inputs, readable, note)
    planned = files.jobs(sources, output, lambda source: RDC, roots=inputs, force=force, suffixes=known_suffixes())
    check_shared_files(options.values(), len(planned))
    desk = Desk(device)

    def convert(job: Job) -> tuple[Face, Result]:
        check_suffix(job.target, RDC, frozenset({RDC}))
        data = job.read()
        face = face_for(data, job.source.suffix.lower() if job.source else "")
        refuse_others(face, "Encode", given, device)
        return face, face.encode(data, options[face], desk)

    convert_all(planned, convert, desk, "encoding", as_json)


def decode(
    inputs: Inputs,
    output: Output = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
    **given: Any,
) -> None:
    """Turn .rdc files back into what they were made from, in the format that OUT's name says."""
    options = {face: options_of(face, "Decode", given) for face in faces()}
    sources = files.expand(inputs, frozenset({RDC}), note)

    def suffix_of(source: Path | None) -> str:
        face = face_at(source) or faces()[0]
        return face.suffix(options[face])

    planned = files.jobs(sources, output, suffix_of, roots=inputs, force=force, suffixes=known_suffixes())
    desk = Desk(device)

    def convert(job: Job) -> tuple[Face, Result]:
        stream = container.parse(job.read(), salvage=True)
        face = face_of(stream, "Decode", given, device)
        check_suffix(job.target, face.suffix(options[face]), frozenset(face.writes))
        return face, face.decode(stream, job.target, options[face], desk)

    convert_all(planned, convert, desk, "decoding", as_json)


def verify(inputs: Inputs, device: Device = "cpu", as_json: AsJson = False, **given: Any) -> None:
    """Check every checksum and decode every symbol of .rdc files."""
    options = {face: options_of(face, "Verify", given) for face in faces()}
    desk = Desk(device)

    def work(job: Job, progress: Progress) -> None:
        stream = container.parse(job.read())
        face = face_of(stream, "Verify", given, device)
        with part_progress(progress, desk):
            notices = face.verify(stream, options[face], desk)
        if as_json:
            out.print(json.dumps({"input": job.name, "ok": True, "notices": notices}))
        else:
            out.print(one_line("; ".join([f"{job.name}  ok", *notices])))

    planned = [Job(source, None) for source in files.expand(inputs, frozenset({RDC}))]
    run_all(planned, work, "verifying", out if as_json else None)


def info(inputs: Inputs, as_json: AsJson = False) -> None:
    """Show header, chunks and weights of .rdc files. Checks header and length; `codec verify` checks everything.

    A file cut short, or with more behind it, is described as far as its codec can, and what is wrong is said.
    """

    def work(job: Job, progress: Progress) -> None:
        fields = describe(job.read())
        if as_json:
            out.print(json.dumps({"input": job.name, **fields}))
        else:
            out.print(field_table(one_line(job.name), rows(fields)), chunk_table(fields["chunks"]))

    planned = [Job(source, None) for source in files.expand(inputs, frozenset({RDC}))]
    run_all(planned, work, "reading", out if as_json else None)


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


def check_shared_files(options: Any, jobs: int) -> None:
    """Let options that go with one file refuse several."""
    for one in options:
        if check := getattr(one, "check_jobs", None):
            check(jobs)


def convert_all(
    planned: list[Job], convert: Callable[[Job], tuple[Face, Result]], desk: Desk, verb: str, as_json: bool
) -> None:
    """Convert and write every job, and report each in one line, as `run_all`; notices go to standard error."""
    console = errors if any(job.target is None for job in planned) else out  # standard output carries the data

    def work(job: Job, progress: Progress) -> None:
        start = time.perf_counter()
        with part_progress(progress, desk):
            face, result = convert(job)
        job.write(result.data)
        for notice in result.notices:
            errors.print(one_line(f"codec: {job.name}: note: {notice}"))
        facts = {"codec": codec_of(face), **result.facts, "notices": result.notices}
        facts |= {"input": job.name, "output": str(job.target or files.STDIO), "bytes": len(result.data)}
        if raw_bytes := result.facts.get("raw_bytes"):
            facts["ratio"] = raw_bytes / len(result.data)
        facts["duration_s"] = time.perf_counter() - start
        console.print(json.dumps(facts) if as_json else one_line(line_of(facts, result.line)))

    run_all(planned, work, verb, console if as_json else None)


def codec_of(face: Face) -> str:
    """The name of a face's codec."""
    return next(name for name in REGISTRY if load_face(name) is face)


def line_of(facts: dict[str, Any], line: str) -> str:
    """What is told of a file."""
    ratio = [f"{facts['ratio']:.1f}:1"] if "ratio" in facts else []
    output = "stdout" if facts["output"] == files.STDIO else facts["output"]
    return "  ".join([output, show_size(facts["bytes"]), line, *ratio, f"{facts['duration_s']:.2f} s"])


def run_all(planned: list[Job], work: Callable[[Job, Progress], None], verb: str, json_to: Console | None) -> None:
    """Do every job, with a progress bar; a failed one is reported and the others go on. Exits 1 if any failed.

    Args:
        json_to: also gets a failed job as JSON; None: none is asked for.
    """
    failed = 0
    with bar() as progress:
        task = progress.add_task(verb, total=len(planned), visible=len(planned) > 1)
        for job in planned:
            progress.update(task, description=one_line(f"{verb} {job.name}"))
            try:
                work(job, progress)
            except Exception as error:  # also a bug that one file meets: the others go on
                if TRACEBACK in sys.argv:
                    raise
                failed += 1
                progress.stop() if len(planned) == 1 else None
                fail(error, job.name)
                if json_to:
                    json_to.print(json.dumps({"input": job.name, "error": message(error)}))
            progress.advance(task)
    if failed:
        raise typer.Exit(1)


@contextmanager
def part_progress(progress: Progress, desk: Desk) -> Iterator[None]:
    """A second bar, for files of many parts."""
    task = progress.add_task("parts", visible=False)

    def update(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total, visible=total > 1)

    desk.progress = update
    try:
        yield
    finally:
        progress.remove_task(task)
        desk.progress = None
