"""What a sound of some length costs: seconds and memory of whole processes of the command.

    python benchmarks/speech_cost.py FOLDER -o benchmarks/results/speech_cost.csv --seconds 10,3600

The sounds of the folder are put end to end, again and again, up to each length. Every row is one process, from its start to
its end: its seconds by the clock, its seconds of processor (what others do on the machine changes the first more than the
second), and the most memory that it held (``ru_maxrss``).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Annotated

import soundfile
import typer
from rdcodec.codecs.speech.evaluation import TASK
from rdcodec.codecs.speech.header import SAMPLE_RATE
from rdcodec.codecs.speech.sounds import read_sound

CODEC = Path(sys.executable).with_name("codec")
EFFORTS, EFFORT_S = (1, 5, 9), 60
"""Efforts that are measured, too, of sounds of at most so many seconds."""
FIELDS = "command", "sound_s", "wall_s", "processor_s", "peak_mib", "bytes"


def put_end_to_end(folder: Path, target: Path, seconds: int) -> None:
    """A WAV of so many seconds at 16 kHz, from the sounds of a folder."""
    left = seconds * SAMPLE_RATE
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for path in cycle(TASK.find(folder)):
            sound = read_sound(path, mono=True)
            if sound.sample_rate != SAMPLE_RATE:
                continue
            file.write(sound.samples[0, :left])
            left -= min(left, sound.frames)
            if not left:
                return


def cost(*arguments: str) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of processor, and MiB at most, of one process."""
    start = time.perf_counter()
    process = subprocess.Popen([CODEC, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"codec {' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with sounds, some of them at 16 kHz.")],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("benchmarks/results/speech_cost.csv"),
    seconds: Annotated[str, typer.Option(help="Lengths, comma-separated.")] = "10,3600",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
) -> None:
    """Measure, and write one row for each process, as soon as it has ended."""
    with tempfile.TemporaryDirectory() as name, output.open("w", newline="") as file:
        talk, coded, back = (str(Path(name, one)) for one in ("talk.wav", "talk.rdc", "back.wav"))
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for length in map(int, seconds.split(",")):
            put_end_to_end(folder, Path(talk), length)
            efforts = EFFORTS if length <= EFFORT_S else ()
            steps = [(f"encode --effort {effort}", talk, coded) for effort in efforts]
            for command, source, target in (*steps, ("encode", talk, coded), ("decode", coded, back)):
                spent = cost(*command.split(), source, "-o", target, "--force", "--device", device)
                numbers = dict(zip(FIELDS[2:5], (round(value, 2) for value in spent), strict=True))
                writer.writerow({"command": command, "sound_s": length, **numbers, "bytes": Path(target).stat().st_size})
                file.flush()


if __name__ == "__main__":
    typer.run(main)
