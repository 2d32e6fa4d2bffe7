"""``codec encode``, ``decode``, ``verify`` and ``info``: files to files, through whatever codec they need."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ...entropy_models.errors import InputError
from ..contract import Foldered
from ..terminal import files
from ..terminal.console import errors, out
from ..terminal.files import Job, one_line
from ..terminal.options import AsJson, Device, Force, Inputs, Output
from ..terminal.paths import path_of, remove_parts
from ..terminal.sources import NUMBERED, STDIO, Source, expand, expand_rdc
from .conversion import RDC, Conversion, Decoding, Describing, Encoding, Verifying, face_at, known_suffixes
from .many import ManyFiles, Workers, run_all
from .signature import faces, options_of


def note(text: str) -> None:
    """One line on standard error about what was done otherwise than one may think."""
    errors.print(one_line(f"codec: note: {text}"))


def encode(
    inputs: Inputs,
    many: ManyFiles,
    output: Output = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
    **given: Any,
) -> None:
    """Compress files to .rdc files. The codec is chosen from the content."""
    options = {face: options_of(face, "Encode", given) for face in faces()}
    folding = [face for face in faces() if isinstance(face, Foldered)]
    if gathering := next((face for face in folding if face.gathers(options[face])), None):
        planned = [gathered(inputs, gathering.gathered, output, many)]
    else:
        readable = frozenset[str]().union(*(face.reads for face in faces()))
        sources = expand(inputs, readable, note)
        check_shared_files(options.values(), len(sources))
        hint = "".join(f"; {face.gathering}" for face in folding)
        folder, named, suffixes = folder_for(output, many), len(inputs), known_suffixes()
        planned = files.jobs(sources, folder, lambda source: RDC, named=named, suffixes=suffixes, hint=hint)
    convert_all(Encoding(given=given, device=device), planned, output, many, as_json=as_json, force=force, verb="encoding")


def decode(
    inputs: Inputs,
    many: ManyFiles,
    output: Output = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
    **given: Any,
) -> None:
    """Turn .rdc files back into what they were made from, in the format that OUT's name says."""
    options = {face: options_of(face, "Decode", given) for face in faces()}
    sources = expand_rdc(inputs, note)

    def suffix_of(source: Path | None) -> str:
        face = face_at(source) or faces()[0]
        return face.suffix(options[face])

    planned = files.jobs(sources, folder_for(output, many), suffix_of, named=len(inputs), suffixes=known_suffixes())
    convert_all(Decoding(given=given, device=device), planned, output, many, as_json=as_json, force=force, verb="decoding")


def verify(inputs: Inputs, workers: Workers, device: Device = "cpu", as_json: AsJson = False, **given: Any) -> None:
    """Check every checksum and decode every symbol of .rdc files."""
    for face in faces():
        options_of(face, "Verify", given)
    planned = reading(expand_rdc(inputs, note))
    run_all(Verifying(given=given, device=device), planned, workers, verb="verifying", as_json=as_json, to=out)


def info(
    inputs: Inputs,
    as_json: AsJson = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Each frame of a video, too: its kind and bits. Decodes every symbol.")
    ] = False,
) -> None:
    """Show header, chunks and weights of .rdc files. Checks header and length; `codec verify` checks everything.

    A file cut short, or with more behind it, is described as far as its codec can, and what is wrong is said.
    """
    planned = reading(expand_rdc(inputs, note))
    run_all(
        Describing(given={}, device="cpu", frames=frames), planned, Workers(jobs=0), verb="reading", as_json=as_json, to=out
    )


def gathered(inputs: list[str], suffixes: frozenset[str], output: str | None, many: ManyFiles) -> Job:
    """The job that makes one file of all inputs; it is named after a folder, or a folder's numbered files.

    Raises:
        InputError: there are none, they come through a pipe, or the output has no name.
    """
    if many.shards:
        raise InputError("several files as one signal go into a file, not into shards")
    paths = tuple(source.path for source in expand(inputs, suffixes, note) if source.path)
    first = path_of(inputs[0])
    alone = len(inputs) == 1 and (first.is_dir() or bool(NUMBERED.search(first.name)))
    if not paths:
        raise InputError("several files make one signal, and standard input is none")
    if output is None and not alone:
        raise InputError("the inputs together have no name; give -o one, like -o clip.rdc")
    name = first.resolve() if first.name in ("", "..") else first
    (job,) = files.jobs([Source(name if alone else paths[0])], output, lambda source: RDC, suffixes=known_suffixes())
    return dataclasses.replace(job, parts=paths)


def reading(sources: list[Source]) -> list[Job]:
    """Jobs that write nothing."""
    return [Job(source.path, None) for source in sources]


def convert_all(
    conversion: Conversion,
    planned: list[Job],
    output: str | None,
    many: ManyFiles,
    *,
    as_json: bool,
    force: bool,
    verb: str,
) -> None:
    """Convert every job whose output is not to be kept as it is, and write it, to a file of its own or into a shard."""
    conversion = dataclasses.replace(conversion, keep_times=many.keep_times, force=force)
    if many.shards:
        into_shards(conversion, planned, output or "", many, as_json=as_json, force=force, verb=verb)
        return
    left = files.check_targets(planned, output, force=force, skip_existing=many.skip_existing)
    to = errors if any(job.target is None for job in planned) else out  # standard output carries the data
    if to is errors and many.others:
        raise InputError("standard output cannot be written by other processes; leave out -j and --engine")
    try:
        run_all(conversion, left, many, verb=verb, as_json=as_json, to=to, skipped=len(planned) - len(left))
    finally:
        remove_parts(job.target for job in planned if job.target)  # also of killed runs whose outputs are there by now


def into_shards(
    conversion: Conversion,
    planned: list[Job],
    output: str,
    many: ManyFiles,
    *,
    as_json: bool,
    force: bool,
    verb: str,
) -> None:
    """The same into the shards of a folder, where each file has its path below the folder as its name."""
    from ..terminal.shards import ShardWriter

    if force:
        raise InputError("--force overwrites no shards; remove them, or give -o another folder")
    folder = path_of(output)
    names = {job: str(job.target)[len(str(folder)) :].replace("\\", "/").lstrip("/") for job in planned}
    with ShardWriter(folder, files.parse_size(many.shards or "")) as shards:
        if shards.names and not many.skip_existing:
            raise InputError(f"{output} holds shards; --skip-existing goes on after them, -o takes another folder")
        left = [job for job in planned if names[job] not in shards.names]
        run_all(
            dataclasses.replace(conversion, collect=True),
            left,
            many,
            verb=verb,
            as_json=as_json,
            to=out,
            skipped=len(planned) - len(left),
            store=lambda job, data: shards.add(names[job], data),
        )


def folder_for(output: str | None, many: ManyFiles) -> str | None:
    """The output, which is a folder where shards are written there."""
    if not many.shards:
        return output
    if output in (None, "", STDIO):
        raise InputError("--shards needs a folder to write them in: -o FOLDER")
    return f"{output}/"


def check_shared_files(options: Any, jobs: int) -> None:
    """Let options that go with one file refuse several."""
    for one in options:
        if check := getattr(one, "check_jobs", None):
            check(jobs)
