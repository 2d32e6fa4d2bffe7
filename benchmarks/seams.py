"""Whether borders of tiles can be seen in smooth pictures: the error on them beside that of the same place within a tile.

    python benchmarks/seams.py KODAK -o benchmarks/results

Four skies of Kodak, enlarged ten times, and two gradients without noise, of a size that has four tiles. Moved, the same
places lie within a tile. Of each: how far the mean error of the 8 pixels about a border is from that of bands 8 to 16 pixels
away (a line), and how far means of the 8 pixels on its two sides are apart (a step), in stretches of 64 pixels; means over
stretches, directions and colours, in grey levels. Writes seams.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.tiles import TILE

HEIGHT, WIDTH = TILE + 136, TILE + 376
MOVED = 208, 304
"""Rows and columns that are left out, so that the places lie within a tile; whole blocks."""
SKIES = {"kodim06": (100, 0), "kodim12": (100, 10), "kodim16": (0, 0), "kodim21": (300, 20)}
"""Left and top of the part that is enlarged."""
QUALITIES = 5, 20, 60


def pictures(kodak: Path) -> dict[str, np.ndarray]:
    """uint8 (`HEIGHT`, `WIDTH`, 3), by name."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    slope, wave = 200 - 100 * (y / HEIGHT) + 30 * (x / WIDTH), 120 + 80 * np.sin(x / 700 + y / 900)
    found = {
        "slope": np.stack([slope * 0.6, slope * 0.8, np.minimum(slope + 50, 255)], -1).round().astype(np.uint8),
        "wave": np.stack([wave, wave * 0.9, wave * 0.7], -1).round().astype(np.uint8),
    }
    for name, (left, top) in SKIES.items():
        part = Image.open(kodak / f"{name}.png").convert("RGB").crop((left, top, left + 140, top + 116))
        found[name] = np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return found


def seen(error: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """Line and step of an error (height, width, 3) at the border above a row and left of a column."""
    lines, steps = [], []
    for part, at in ((error, column), (error.transpose(1, 0, 2), row)):
        stretches = part[: len(part) // 64 * 64].reshape(-1, 64, *part.shape[1:]).mean(1)
        beside = np.concatenate([stretches[:, at - 16 : at - 8], stretches[:, at + 8 : at + 16]], axis=1).mean(1)
        lines.append(np.abs(stretches[:, at - 4 : at + 4].mean(1) - beside).mean())
        steps.append(np.abs(stretches[:, at : at + 8].mean(1) - stretches[:, at - 8 : at].mean(1)).mean())
    return float(np.mean(lines)), float(np.mean(steps))


def measured(codec: ImageCodec, picture: np.ndarray, quality: int) -> dict[str, str]:
    """Lines and steps at borders, and at the same places within tiles."""
    found = []
    for moved in (0, *MOVED):
        part = picture[moved:, moved:]
        error = codec.decode(codec.encode(part, quality=quality)).array().astype(float) - part
        found.append(seen(error[-HEIGHT + max(MOVED) :, -WIDTH + max(MOVED) :], TILE - max(MOVED), TILE - max(MOVED)))
    rows = {"border": found[0], "within": np.mean(found[1:], axis=0)}
    return {
        f"{kind}_{where}_levels": f"{value:.2f}"
        for where, pair in rows.items()
        for kind, value in zip(("line", "step"), pair, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kodak", type=Path, help="folder of the Kodak pictures")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    codec, table = load("image", device="cpu"), list[dict[str, Any]]()
    for name, picture in pictures(args.kodak).items():
        for quality in QUALITIES:
            table.append({"picture": name, "quality": quality, **measured(codec, picture, quality)})
            print(*table[-1].values(), flush=True)
    write_csv(args.output / "seams.csv", table)


if __name__ == "__main__":
    main()
