"""Random access, speed, and memory at 1080p, of the video codec: the command ``codec``, each time in a process of its own.

    python benchmarks/video_access.py

A file of 30 minutes is made cheaply: one group of a clip, coded once, stands for each of its 1,406 groups. To take one
frame of it, the table is read, and one group up to that frame is decoded. Ten seconds at 352x288 and some frames at 1080p
of a camera that pans over a photograph are encoded and decoded.
"""

from __future__ import annotations

import statistics
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from image_speed import Row, whole_process
from PIL import Image
from rdcodec.codecs import container
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.image.demo import sample_photograph
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.demo import write_clip
from rdcodec.codecs.video.footage import Footage
from rdcodec.codecs.video.header import GROUP, QUALITY, VideoHeader
from rich.console import Console
from rich.table import Table

MINUTES, RATE = 30, Fraction(25)
TAKEN = {"1000": 1000, "1023, the last of its group": 1023}
"""Frames that are taken, by name."""
SMALL, LARGE = (352, 288), (1920, 1080)
SMALL_FRAMES, LARGE_FRAMES = 250, 10


def pan(count: int, width: int, height: int) -> np.ndarray:
    """A camera that moves over a photograph by two pixels a frame, uint8 (frames, height, width, 3)."""
    with Image.open(sample_photograph()) as file:
        wide = np.asarray(file.convert("RGB").resize((width + 2 * count, height), Image.Resampling.BICUBIC))
    return np.stack([wide[:, 2 * number : 2 * number + width] for number in range(count)])


def long_file(path: Path) -> int:
    """Write `MINUTES` of one group over and over; its frames."""
    codec, groups = VideoCodec.load(device="cpu"), int(MINUTES * 60 * RATE) // GROUP
    header = VideoHeader(width=SMALL[0], height=SMALL[1], frames=groups * GROUP, quality=QUALITY, rate=RATE)
    group = next(codec.encode_groups(iter(pan(GROUP, *SMALL)), header))
    chunks = [(container.DATA, group)] * groups
    path.write_bytes(
        container.write(stream_id=codec.stream_id, weights=codec.stream_hash, signal=header.pack(), chunks=chunks)
    )
    return header.frames


def measured(name: str, arguments: list[str], threads: int, repetitions: int) -> list[Row]:
    """The median time and the highest peak of memory of some runs of the command."""
    arguments = [*arguments, "--device", "cpu", "--threads", str(threads), "--force"]
    runs = [whole_process(name, arguments, threads)[0] for _ in range(repetitions)]
    times, peaks = ([run[at][2] for run in runs] for at in (0, 1))
    return [(name, "whole process", statistics.median(times), "s"), (name, "peak memory", max(peaks), "GiB")]


def main(
    threads: Annotated[int, typer.Option(min=1)] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Of taking a frame.")] = 5,
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("benchmarks/results/video_access.csv"),
) -> None:
    """Measure, print a table, and write the CSV."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        long, part = Path(folder, "long.rdc"), str(Path(folder, "part.mkv"))
        frames = long_file(long)
        for name, number in TAKEN.items():
            arguments = ["decode", str(long), "--frames", f"{number}:{number + 1}", "-o", part]
            rows += measured(f"frame {name}, of {frames} of {SMALL[0]}x{SMALL[1]}", arguments, threads, repetitions)
        source, stream = Path(folder, "clip.mp4"), str(Path(folder, "clip.rdc"))
        for count, (width, height) in ((SMALL_FRAMES, SMALL), (LARGE_FRAMES, LARGE)):
            write_clip(source, Footage(pan(count, width, height), RATE))
            name = f"{count} frames of {width}x{height}"
            for verb, arguments in {"encode": [str(source), "-o", stream], "decode": [stream, "-o", part]}.items():
                found = measured(f"{verb} {name}", [verb, *arguments], threads, 1)
                rows += [*found, (f"{verb} {name}", "speed", count / found[0][2], "frames/s")]
    lines = [(what, measure, f"{value:.4g}", unit) for what, measure, value, unit in rows]
    table = Table("what", "measure", "value", "unit", title=f"{threads} threads, quality {QUALITY}")
    for line in lines:
        table.add_row(*line)
    columns = "what", "measure", "value", "unit", "threads"
    output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(output, [dict(zip(columns, (*line, threads), strict=True)) for line in lines])
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
