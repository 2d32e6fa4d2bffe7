"""Screenshots and photographs: what the choice between drawn and learned blocks is worth beside WebP.

    python benchmarks/drawn_pages.py PHOTOGRAPH.png -o PAGES
    python benchmarks/drawn.py PAGES -o benchmarks/results

Writes drawn_points.csv (every file; a second call goes on where the first was interrupted) and drawn.csv: for each page the
mean over WebP's lossy points of the bytes that reach its PSNR, against its bytes, and bytes of the exact picture likewise.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.evaluation import psnr_db
from rdcodec.codecs.image.references import decode, encode

QUALITIES = 0, 20, 40, 60, 80, 100
WEBP = 1, 10, 25, 40, 55, 70, 80, 90, 95
LOSSLESS = 101
"""Quality that stands for WebP's lossless format."""
EXACT_DB = 99.0
"""PSNR that stands for none lost."""


def points_of(codec: ImageCodec, pixels: np.ndarray) -> list[dict[str, Any]]:
    """Bytes and PSNR of ours and WebP's files of one picture."""
    rows = []
    for quality in (*WEBP, LOSSLESS):
        options = {"lossless": True} if quality == LOSSLESS else {"quality": quality}
        data = encode("WEBP", pixels, method=6, **options)
        rows.append({"codec": "webp", "quality": quality, "bytes": len(data), "psnr_db": shown_db(pixels, decode(data))})
    for quality in QUALITIES:
        data = codec.encode(pixels, quality=quality)
        decoded = codec.decode(data).array()
        rows.append({"codec": "rdcodec", "quality": quality, "bytes": len(data), "psnr_db": shown_db(pixels, decoded)})
    return rows


def shown_db(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR, of an exact picture `EXACT_DB`."""
    return EXACT_DB if np.array_equal(original, decoded) else round(psnr_db(original, decoded), 3)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each page costs beside WebP, in percent."""
    table = []
    for part, file in dict.fromkeys((row["part"], row["file"]) for row in rows):
        of_page = [row for row in rows if (row["part"], row["file"]) == (part, file)]
        ours = [(float(row["psnr_db"]), int(row["bytes"])) for row in of_page if row["codec"] == "rdcodec"]
        webp = [(int(r["quality"]), float(r["psnr_db"]), int(r["bytes"])) for r in of_page if r["codec"] == "webp"]
        lossy = [
            100 * (min(size for found, size in ours if found >= psnr) / theirs - 1)
            for quality, psnr, theirs in webp
            if quality != LOSSLESS and any(found >= psnr for found, _ in ours)
        ]
        exact = [size for found, size in ours if found == EXACT_DB]
        theirs = next(size for quality, _, size in webp if quality == LOSSLESS)
        table.append({
            "part": part, "file": file, "lossy_points": len(lossy),
            "at_equal_psnr_percent": round(statistics.mean(lossy), 1),
            "exact_percent": round(100 * (min(exact) / theirs - 1), 1) if exact else "",
        })  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, help="folder of drawn_pages.py")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--crop", default="1280x800", help="the middle of each page that is coded")
    args = parser.parse_args()
    width, height = (int(side) for side in args.crop.split("x"))
    codec, path = load("image", device="cpu"), args.output / "drawn_points.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open())) if path.exists() else []
    for file in sorted(args.pages.glob("*/*.png")):
        if any(row["file"] == file.name for row in rows):
            continue
        image = Image.open(file).convert("RGB")
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)))
        rows += [{"part": file.parent.name, "file": file.name, **row} for row in points_of(codec, pixels)]
        write_csv(path, rows)
        write_csv(args.output / "drawn.csv", summary(rows))
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
