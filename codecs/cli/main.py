"""The command ``codec``: encode, decode, info, verify, models, eval, demo, train, kv.

Nothing here imports torch before a command needs it, so that help and ``codec info`` answer at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from ...entropy_models.errors import BitstreamError
from .. import REGISTRY, container, name_of, weights
from ..kv_cache.modes.table import MODE_NAMES
from ..kv_cache.token_file import check_one
from ..kv_store.commands.main import app as kv
from ..terminal import files
from ..terminal.console import bar, errors, fail, message, out
from ..terminal.files import Job, one_line, show_size
from .evaluate import app as evaluate

app = typer.Typer(
    help="Learned compression: photographs and language-model KV caches to .rdc files and back.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=True,
)
train = typer.Typer(help="Train a codec (needs the extra: pip install 'rdcodec[train]').")
app.add_typer(evaluate, name="eval")
app.add_typer(train, name="train", no_args_is_help=True)
app.add_typer(kv, name="kv", no_args_is_help=True)

FOR_PEOPLE = frozenset({"rate", "shape"})
"""Facts that are texts made of others, which JSON has."""
CHUNKS_SHOWN = 16
"""Rows of `codec info`'s chunk table."""
IMAGE_NAMES = [suffix.removeprefix(".") for suffix in files.FORMATS]
"""What ``--format`` takes."""
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help="Files, globs or folders; - is standard input.")]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="File, folder, or - (stdout).")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda. Files are the same to every decoder.")]

Quality = Annotated[int | None, typer.Option("--quality", "-q", min=0, max=100, help="0 (smallest) to 100, default 60.")]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="KV caches: kv_profile.safetensors of the model, from `codec eval kv`.")
]
Salt = Annotated[
    str | None, typer.Option(help="KV caches: a tenant's, hashed into block ids; decode and verify check it if given.")
]
Bits = Annotated[int | None, typer.Option(min=1, max=5, help="KV caches: of the turboquant modes' codes, default 4.")]


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as version_of

        out.print(f"rdcodec {version_of('rdcodec')}")


def main() -> None:
    """Entry point: 0 success, 1 bad data (one line on standard error), 2 wrong usage."""
    try:
        app(prog_name="codec")
    except (BitstreamError, ValueError, KeyError, OSError, ImportError, FloatingPointError) as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def note(text: str) -> None:
    """One line on standard error about what was done otherwise than one may think."""
    errors.print(one_line(f"codec: note: {text}"))


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
            except (BitstreamError, ValueError, KeyError, OSError, ImportError) as error:
                failed += 1
                progress.stop() if len(planned) == 1 else None
                fail(error, job.name)
                if json_to:
                    json_to.print(json.dumps({"input": job.name, "error": message(error)}))
            progress.advance(task)
    if failed:
        raise typer.Exit(1)


def convert_all(
    planned: list[Job],
    convert: Callable[[Job, Progress], tuple[bytes, dict[str, Any]]],
    verb: str,
    line_of: Callable[[dict[str, Any]], str],
    as_json: bool,
) -> None:
    """Convert and write every job, and report each in one line, as `run_all`.

    Args:
        convert: returns a job's output and facts about it; ``notices`` among them go to standard error.
        line_of: a line for people from these facts and input, output, bytes, duration_s.
    """
    console = errors if any(job.target is None for job in planned) else out  # standard output carries the data

    def work(job: Job, progress: Progress) -> None:
        start = time.perf_counter()
        result, fields = convert(job, progress)
        job.write(result)
        for notice in fields.get("notices", ()):
            errors.print(one_line(f"codec: {job.name}: note: {notice}"))
        fields |= {"input": job.name, "output": str(job.target or "-"), "bytes": len(result)}
        fields["duration_s"] = time.perf_counter() - start
        numbers = {name: value for name, value in fields.items() if name not in FOR_PEOPLE}
        console.print(json.dumps(numbers) if as_json else one_line(line_of(fields)))

    run_all(planned, work, verb, console if as_json else None)


@contextmanager
def tile_progress(progress: Progress) -> Iterator[Callable[[int, int], None]]:
    """A second bar for pictures of many tiles."""
    task = progress.add_task("tiles", visible=False)

    def update(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total, visible=total > 1)

    try:
        yield update
    finally:
        progress.remove_task(task)


def refuse(owners: str, this: str, **options: Any) -> None:
    """Name the options that belong to the other codec, which would be ignored. Everything runs on the CPU if asked."""
    given = [f"--{name}" for name, value in options.items() if value not in (None, False, "auto", "cpu")]
    if given:
        raise ValueError(f"{', '.join(given)}: only for {owners}, and this is {this}")


def check_suffix(target: Path | None, suffix: str) -> None:
    """Refuse an output whose suffix is another format's; .jpeg is .jpg's."""
    found = target.suffix.lower() if target else suffix
    if target and found in files.SUFFIXES and files.FORMATS.get(found, found) != files.FORMATS.get(suffix, suffix):
        raise ValueError(f"the output {target} would be {suffix}, not {target.suffix}; give -o another name")


def suffix_named(name: str | None) -> str | None:
    """The suffix of ``--format``; wrong usage if images are not written so."""
    suffix = None if name is None else f".{name.lower().removeprefix('.')}"
    if suffix is not None and suffix not in files.FORMATS:
        raise typer.BadParameter(f"--format {name}; need one of {', '.join(IMAGE_NAMES)}")
    return suffix


def size_limit(quality: int | None, bpp: float | None, size: str | None) -> int | None:
    """Bytes of ``--size``, after a check that at most one of the three is given, and a possible one."""
    if sum(x is not None for x in (bpp, size)) > 1:
        raise typer.BadParameter("give --bpp or --size, not both")
    if quality is not None and (bpp is not None or size is not None):
        raise typer.BadParameter("give --quality, --bpp or --size, not two of them")
    if bpp is not None and not 0 < bpp <= 1000:
        raise ValueError(f"--bpp {bpp}; need a number above 0 and at most 1000, like 0.5")
    return None if size is None else files.parse_size(size)


@app.command()
def encode(
    inputs: Inputs,
    output: Output = None,
    quality: Quality = None,
    bpp: Annotated[
        float | None, typer.Option(help="Images: the highest whole quality of at most this many bits per pixel.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Images: the highest whole quality of at most this file size, like 50kB.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Images: weights by name, see `codec models`. KV caches: folder of the model that made them."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help=f"KV caches: {MODE_NAMES}; default quantized.")] = None,
    bits: Bits = None,
    profile: ProfileFile = None,
    keys: Annotated[str | None, typer.Option(help="KV caches: names, else 'layers.{i}.{k}' or '{i}.{k}' (mlx_lm).")] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="KV caches: file of token ids, a JSON list or numbers with spaces between.")
    ] = None,
    salt: Salt = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Compress images, or KV caches in safetensors, to .rdc files.

    The codec is chosen from the content. Examples:

    ```
    codec encode photo.png                   photo.rdc, quality 60
    codec encode holiday/ -o packed/ -q 40   a folder
    codec encode photo.png --size 50kB       at most 50,000 bytes
    codec encode cache.safetensors --model FOLDER
    cat photo.jpg | codec encode - > photo.rdc
    ```
    """
    limit = size_limit(quality, bpp, size)
    suffixes = files.SUFFIXES - {".rdc"}
    planned = files.jobs(files.expand(inputs, suffixes, note), output, lambda source: ".rdc", roots=inputs, force=force)
    check_one(tokens, len(planned))
    codecs: dict[str, Any] = {}

    def convert(job: Job, progress: Progress) -> tuple[bytes, dict[str, Any]]:
        check_suffix(job.target, ".rdc")
        data = job.read()
        if files.looks_like_safetensors(data):
            from ..kv_cache.commands import encode_bytes

            refuse("images", "no image", bpp=bpp, size=size, device=device)
            options: dict[str, Any] = {"mode": mode, "quality": quality, "bits": bits, "keys": keys, "tokens": tokens}
            stream, fields = encode_bytes(data, model=model, profile=profile, salt=salt, **options)
        else:
            from ..image.commands import encode_bytes as encode_image

            refuse("KV caches", "no KV cache", mode=mode, bits=bits, keys=keys, tokens=tokens, profile=profile, salt=salt)
            asked: dict[str, Any] = {"quality": 60 if quality is None else quality, "bpp": bpp, "size": limit}
            with tile_progress(progress) as tiles:
                stream, fields = encode_image(codecs, data, model=model, device=device, progress=tiles, **asked)
        return stream, fields | {"ratio": fields["raw_bytes"] / len(stream)}

    convert_all(planned, convert, "encoding", encoded_line, as_json)


def encoded_line(fields: dict[str, Any]) -> str:
    """What `codec encode` tells of a file."""
    facts = show_size(fields["bytes"]), fields["rate"], f"{fields['ratio']:.1f}:1", f"{fields['duration_s']:.2f} s"
    return "  ".join((shown_output(fields), *facts))


def decoded_line(fields: dict[str, Any]) -> str:
    """What `codec decode` tells of a file."""
    return f"{shown_output(fields)}  {fields['shape']}  {show_size(fields['bytes'])}  {fields['duration_s']:.2f} s"


def shown_output(fields: dict[str, Any]) -> str:
    return "stdout" if fields["output"] == files.STDIO else fields["output"]


@app.command()
def decode(
    inputs: Inputs,
    output: Output = None,
    image_format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"Images: {', '.join(IMAGE_NAMES)}; default OUT's, else png."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Images: only this part, as stored (not turned by EXIF); all is checked."),
    ] = None,
    salvage: Annotated[
        bool,
        typer.Option(help="Images: recover what is undamaged; exit code 0, a note and --json's lost_tiles name lost tiles."),
    ] = False,
    prefix: Annotated[int | None, typer.Option(min=1, help="KV caches: only the first so many tokens.")] = None,
    profile: ProfileFile = None,
    keys: Annotated[
        str | None, typer.Option(help="KV caches: names, default 'layers.{i}.{k}'; '{i}.{k}' gives mlx_lm's 0.0, 0.1, ...")
    ] = None,
    batch: Annotated[bool, typer.Option("--batch", help="KV caches: with a batch dimension of 1 in front.")] = False,
    salt: Salt = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Turn .rdc files back into images (PNG unless OUT or --format says otherwise) or KV caches (safetensors)."""
    suffix = suffix_named(image_format)
    sources = files.expand(inputs, frozenset({".rdc"}), note)
    codecs: dict[str, Any] = {}
    kv_id = REGISTRY["kv"].stream_id

    def suffix_of(source: Path | None) -> str:
        return ".safetensors" if source and container.stream_id_at(source) == kv_id else suffix or ".png"

    planned = files.jobs(sources, output, suffix_of, roots=inputs, force=force)

    def convert(job: Job, progress: Progress) -> tuple[bytes, dict[str, Any]]:
        data = job.read()
        if name_of(container.parse(data, salvage=salvage).stream_id) == "kv":
            from ..kv_cache.commands import decode_bytes

            check_suffix(job.target, ".safetensors")
            refuse("images", "no image", format=image_format, crop=crop, salvage=salvage, device=device)
            return decode_bytes(data, profile, prefix, keys=keys, batch=batch, salt=salt)
        from ..image.commands import decode_bytes as decode_image

        refuse("KV caches", "no KV cache", prefix=prefix, profile=profile, keys=keys, batch=batch, salt=salt)
        if suffix:
            check_suffix(job.target, suffix)
        chosen = files.FORMATS[suffix] if suffix else None
        asked: dict[str, Any] = {"image_format": chosen, "crop": crop, "salvage": salvage, "device": device}
        with tile_progress(progress) as tiles:
            return decode_image(codecs, data, job.target, progress=tiles, **asked)

    convert_all(planned, convert, "decoding", decoded_line, as_json)


@app.command()
def info(inputs: Inputs, as_json: AsJson = False) -> None:
    """Show header, chunks and weights of .rdc files. Checks header and length; `codec verify` checks everything.

    An image cut short, or with more behind it, is described all the same, and what is wrong is said.
    """
    from .info import describe, rows

    def work(job: Job, progress: Progress) -> None:
        fields = describe(job.read())
        if as_json:
            out.print(json.dumps({"input": job.name, **fields}))
        else:
            out.print(field_table(one_line(job.name), rows(fields)), chunk_table(fields["chunks"]))

    planned = [Job(source, None) for source in files.expand(inputs, frozenset({".rdc"}))]
    run_all(planned, work, "reading", out if as_json else None)


def chunk_table(chunks: list[dict[str, Any]]) -> Table:
    """The first rows of a file's chunk table; a large file has thousands."""
    rest = len(chunks) - CHUNKS_SHOWN
    more = f"and {rest} more (all with --json)" if rest > 0 else None
    table = Table("chunk", "kind", "offset", "bytes", "crc32", caption=more)
    for index, chunk in enumerate(chunks[:CHUNKS_SHOWN]):
        table.add_row(str(index), *map(str, chunk.values()))
    return table


@app.command()
def verify(
    inputs: Inputs, profile: ProfileFile = None, salt: Salt = None, device: Device = "cpu", as_json: AsJson = False
) -> None:
    """Check every checksum and decode every symbol of .rdc files."""
    codecs: dict[str, Any] = {}

    def work(job: Job, progress: Progress) -> None:
        data, notices = job.read(), list[str]()
        if name_of(container.parse(data).stream_id) == "kv":
            from ..kv_cache.commands import verify_bytes

            refuse("images", "no image", device=device)
            notices = verify_bytes(data, profile, salt)
        else:
            from ..image.commands import verify_bytes as verify_image

            refuse("KV caches", "no KV cache", profile=profile, salt=salt)
            verify_image(codecs, data, device=device)
        if as_json:
            out.print(json.dumps({"input": job.name, "ok": True, "notices": notices}))
        else:
            out.print(one_line("; ".join([f"{job.name}  ok", *notices])))

    planned = [Job(source, None) for source in files.expand(inputs, frozenset({".rdc"}))]
    run_all(planned, work, "verifying", out if as_json else None)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """List the weights that are installed or in folders that RDCODEC_WEIGHTS names; the first of a codec is its default."""
    from dataclasses import asdict

    lines = weights.manifest().values()
    if as_json:
        out.print_json(json.dumps([asdict(line) for line in lines]))
        return
    for line in lines:
        fields = {"codec": line.codec, "size": show_size(line.file_bytes)}
        fields |= {"in streams": line.stream_hash.hex(), "trained on": line.data, "training": line.hardware}
        out.print(field_table(line.name, fields | {"licence": line.licence}))


def field_table(title: str, fields: dict[str, Any]) -> Table:
    """Names and values below each other."""
    table = Table("field", "value", title=title, title_justify="left", show_header=False)
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), str(value))
    return table


@app.command()
def demo(
    photograph: Annotated[Path | None, typer.Argument(help="Your photograph; else one that matplotlib ships.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("codec-demo"),
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Encode a photograph at three qualities, decode it, and draw a sheet beside JPEG at equal bytes."""
    from ..image import demo as image_demo
    from ..image.codec import ImageCodec

    photograph = photograph or image_demo.sample_photograph()
    files.check_outputs(output, image_demo.FILES, force)
    with bar() as progress:
        task = progress.add_task("loading", total=None)
        codec = ImageCodec.load(device=device)
        rows, sheet = image_demo.run(codec, photograph, output, lambda text: progress.update(task, description=text))
    file = Column("file", no_wrap=True, overflow="fold")
    table = Table(file, "bytes", "bpp", "PSNR (dB)", "JPEG bytes", "JPEG PSNR (dB)", "encode (s)", "decode (s)")
    for row in rows:
        figures = f"{row.rate_bpp:.3f}", f"{row.psnr_db:.2f}", str(row.jpeg_bytes), f"{row.jpeg_psnr_db:.2f}"
        table.add_row(row.file.name, str(row.bytes), *figures, f"{row.encode_s:.2f}", f"{row.decode_s:.2f}")
    out.print(table)
    out.print(f"the sheet to look at: {sheet}")


@train.command("image", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train_image(context: typer.Context) -> None:
    """Train the image codec with Lightning: `codec train image --config RECIPE.yaml [--model.muon_lr ...]`.

    Recipes ship in rdcodec/training/recipes; `codec train image fit --help` lists every option, which are Lightning's.
    """
    try:
        from ...training.main import image
    except ImportError as error:
        raise ImportError(f"training needs more packages ({error}): pip install 'rdcodec[train]'") from None
    image(context.args)
