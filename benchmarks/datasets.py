"""Many small pictures: the command with and without processes, runs that are killed, and reading back beside JPEG.

    python benchmarks/datasets.py PHOTOS
    python benchmarks/datasets.py PHOTOS --count 200 --kills 10

Crops of 256x256 from a folder of photographs. In the first run:

* ``codec encode`` with ``-j 2``, without ``-j``, with ``-j 0``, which is one process, and with all threads in that one; a
  command is stopped after ``--budget-s`` and the pictures it has done by then are counted, since threads that wait for
  each other can take an hour on a busy machine;
* a DataLoader over the .rdc files beside JPEG of the same pictures (quality 90) through Pillow and torchvision, whole and
  crops of 128x128.

In the second ``codec encode -j 2 --skip-existing`` is killed with all its processes after random numbers of files, and then
run to its end: are the files those of a run that nothing disturbs?
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.torch_data import RandomCrop, RdcDataset
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg

SIDE, CROP = 256, 128
CODEC = Path(sys.executable).with_name("codec")
JPEG_QUALITY = 90
Row = tuple[str, str, float, str]
"""What, measure, value, unit."""


def make_pictures(photos: Path, folder: Path, count: int) -> None:
    """Crops at random places of the photographs in turn, as PNG."""
    sources = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(photos.rglob("*.png"))[:40]]
    sources = [pixels for pixels in sources if min(pixels.shape[:2]) >= SIDE]
    draw = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = sources[number % len(sources)]
        top, left = (int(draw.integers(length - SIDE + 1)) for length in pixels.shape[:2])
        Image.fromarray(pixels[top : top + SIDE, left : left + SIDE]).save(folder / f"{number:05}.png")


def encoded(output: Path) -> int:
    """Files that are done."""
    return len(list(output.glob("*.rdc")))


def run_command(folder: Path, output: Path, options: list[str], budget_s: float, **environment: str) -> tuple[int, float]:
    """Pictures that the command encodes within the time, and seconds."""
    start = time.perf_counter()
    command = [CODEC, "encode", folder, "-o", output, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=free_threads() | environment, process_group=0)
    try:
        process.wait(budget_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return encoded(output), time.perf_counter() - start


def free_threads() -> dict[str, str]:
    """The environment of a user who has set nothing about threads."""
    return {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}


def command_rows(folder: Path, scratch: Path, budget_s: float) -> list[Row]:
    """The command with two processes, without options, in one process, and with a thread for each CPU in that one."""
    rows, threads = list[Row](), ["-j", "0", "--threads", str(os.cpu_count())]
    for options in (["-j", "2"], [], ["-j", "0"], threads):
        name = " ".join(options) or "without -j"
        done, seconds = run_command(folder, scratch / f"packed {name}", options, budget_s)
        rows += [(f"encode {name}", "pictures", done, ""), (f"encode {name}", "duration", seconds, "s")]
        rows.append((f"encode {name}", "speed", done / seconds, "pictures/s"))
        print(*rows[-3:], sep="\n", flush=True)
    speeds = {row[0]: row[2] for row in rows if row[1] == "speed"}
    for options in (["-j", "0"], threads):
        name = " ".join(options)
        rows.append(("encode -j 2", f"time against {name}", speeds[f"encode {name}"] / speeds["encode -j 2"], ""))
    return rows


def kill_rows(folder: Path, scratch: Path, count: int, kills: int) -> list[Row]:
    """The command killed after a random number of files each time and then run to its end, beside an undisturbed run."""
    draw, output, rows = random.Random(0), scratch / "killed", []
    for kill in range(1, kills + 1):
        wanted = encoded(output) + draw.randint(1, count // kills)
        command = [CODEC, "encode", folder, "-o", output, "-j", "2", "--skip-existing"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=free_threads(), process_group=0)
        while encoded(output) < wanted and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        rows.append(("killed runs", f"files after kill {kill}", encoded(output), ""))
        print(rows[-1], flush=True)
    run_command(folder, output, ["-j", "2", "--skip-existing"], 3600)
    run_command(folder, scratch / "whole", ["-j", "2"], 3600)
    whole, found = ({path.name: path.read_bytes() for path in place.iterdir()} for place in (scratch / "whole", output))
    rows.append(("killed runs", "files at the end", len(found), ""))
    wrong = sum(a != b for a, b in pairs(whole, found))
    return [*rows, ("killed runs", "files that differ or are too many or too few", wrong, "")]


def pairs(whole: dict[str, bytes], found: dict[str, bytes]) -> list[tuple[bytes | None, bytes | None]]:
    """What two folders hold under each name."""
    return [(whole.get(name), found.get(name)) for name in whole.keys() | found.keys()]


class JpegDataset(Dataset[torch.Tensor]):
    """JPEG files through a function from bytes to uint8 (3, height, width), whole or their upper left corner."""

    def __init__(self, folder: Path, decode: Callable[[bytes], torch.Tensor], crop: int | None) -> None:
        self._paths, self._decode, self._crop = sorted(folder.glob("*.jpg")), decode, crop

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._decode(self._paths[index].read_bytes())[:, : self._crop, : self._crop].contiguous()


def through_pillow(data: bytes) -> torch.Tensor:
    """A JPEG file's pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def through_torchvision(data: bytes) -> torch.Tensor:
    """A JPEG file's pixels."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def speed_of(data: Dataset[Any], seconds: float, workers: int) -> float:
    """Pictures per second of a DataLoader, pass after pass, without its start and first pass."""
    loader = DataLoader(data, batch_size=16, num_workers=workers, drop_last=True, persistent_workers=workers > 0)
    for _ in loader:
        pass
    start, seen = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        seen += sum(len(batch) for batch in loader)
    return seen / (time.perf_counter() - start)


def loader_rows(folder: Path, packed: Path, scratch: Path, pictures: int, seconds: float) -> list[Row]:
    """Reading back, beside JPEG."""
    (scratch / "jpeg").mkdir()
    for path in sorted(folder.iterdir())[:pictures]:
        Image.open(path).save(scratch / "jpeg" / f"{path.stem}.jpg", quality=JPEG_QUALITY)
    torch.set_num_threads(1)
    files = sorted(packed.iterdir())[:pictures]
    kinds: dict[str, Callable[[], Dataset[Any]]] = {
        "rdc, whole": lambda: RdcDataset(files),
        f"rdc, crops of {CROP}x{CROP}": lambda: RdcDataset(files, part=RandomCrop(CROP, CROP)),
    }
    for through, decode in (("Pillow", through_pillow), ("torchvision", through_torchvision)):
        for what, crop in (("whole", None), (f"crops of {CROP}x{CROP}", CROP)):
            kinds[f"JPEG through {through}, {what}"] = partial(JpegDataset, scratch / "jpeg", decode, crop)
    return [
        (f"DataLoader, {workers} workers: {name}", "speed", speed_of(data(), seconds, workers), "pictures/s")
        for workers in (0, 2)
        for name, data in kinds.items()
    ] + [
        ("rdc at quality 60", "mean size", mean_bytes(packed), "bytes"),
        (f"JPEG at quality {JPEG_QUALITY}", "mean size", mean_bytes(scratch / "jpeg"), "bytes"),
    ]


def mean_bytes(folder: Path) -> float:
    """Of the files of a folder."""
    return float(np.mean([path.stat().st_size for path in folder.iterdir()]))


def write_rows(path: Path, rows: list[Row]) -> None:
    """The CSV."""
    write_csv(path, [dict(zip(("what", "measure", "value", "unit"), row, strict=True)) for row in rows])


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs as PNG.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")] = Path(
        "benchmarks/results/datasets.csv"
    ),
    count: Annotated[int, typer.Option(help="Pictures to encode.")] = 1000,
    budget_s: Annotated[float, typer.Option(help="Longest that one run of the command may take.")] = 3600,
    kills: Annotated[int, typer.Option(help="Instead, kill runs so often, and write OUTPUT_kills.csv.")] = 0,
    read: Annotated[int, typer.Option(help="Pictures to read back, again and again.")] = 96,
    read_s: Annotated[float, typer.Option(help="Seconds to read them in each way.")] = 10,
) -> None:
    """Measure and write the CSV."""
    scratch = Path(tempfile.mkdtemp())
    try:
        make_pictures(photos, scratch / "in", count)
        if kills:
            write_rows(output.with_stem(f"{output.stem}_kills"), kill_rows(scratch / "in", scratch, count, kills))
        else:
            rows = command_rows(scratch / "in", scratch, budget_s)
            write_rows(output, rows + loader_rows(scratch / "in", scratch / "packed -j 2", scratch, read, read_s))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    typer.run(main)
