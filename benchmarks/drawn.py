"""Screenshots and photographs: what the choice between drawn and learned blocks is worth beside WebP.

    python benchmarks/drawn_pages.py PHOTOGRAPH.png -o PAGES
    python benchmarks/drawn.py PAGES -o benchmarks/results
    python benchmarks/drawn.py PAGES -o benchmarks/results --noise --crop 640x400

Writes drawn_points.csv (every file; a second call goes on where the first was interrupted) and drawn.csv: for each page the
mean over WebP's lossy points of the bytes that reach its PSNR, against its bytes, and bytes of the exact picture likewise.
With --noise drawn_noise_points.csv and drawn_noise.csv, of each page thrice: as a JPEG of quality 85 shows it, as a
scanner might, grey, a degree askew and with noise, and as a camera might in light that falls off to the right, with noise.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.evaluation import psnr_db
from rdcodec.codecs.image.references import decode, encode

QUALITIES, WITH_NOISE = range(0, 101, 20), range(0, 101, 5)
WEBP = 1, 10, 25, 40, 55, 70, 80, 90, 95
LOSSLESS = 101
"""Quality that stands for WebP's lossless format."""
EXACT_DB = 99.0
"""PSNR that stands for none lost."""


def noisy(page: Image.Image) -> dict[str, np.ndarray]:
    """A page as a JPEG of quality 85, and as a scanner and a camera might see it; the kinds by name."""
    page.save(buffer := io.BytesIO(), "JPEG", quality=85)
    askew = page.convert("L").rotate(1, Image.Resampling.BICUBIC, fillcolor=245)
    random = np.random.default_rng(0)
    scan = np.asarray(askew) * (225 / 255) + 15 + random.normal(0, 4, (page.height, page.width))
    lit = np.asarray(page) * np.linspace(1, 0.5, page.width)[:, None]
    lit += random.normal(0, 2.5, lit.shape)
    scan, lit = (of.clip(0, 255).round().astype(np.uint8) for of in (scan, lit))
    return {"jpeg": np.asarray(Image.open(buffer)), "scan": scan[..., None].repeat(3, -1), "uneven light": lit}


def points_of(codec: ImageCodec, pixels: np.ndarray, qualities: Iterable[int]) -> list[dict[str, Any]]:
    """Bytes and PSNR of ours and WebP's files of one picture."""
    rows = []
    for quality in (*WEBP, LOSSLESS):
        options = {"lossless": True} if quality == LOSSLESS else {"quality": quality}
        data = encode("WEBP", pixels, method=6, **options)
        rows.append({"codec": "webp", "quality": quality, "bytes": len(data), "psnr_db": shown_db(pixels, decode(data))})
    for quality in qualities:
        data = codec.encode(pixels, quality=quality)
        decoded = codec.decode(data).array()
        rows.append({"codec": "rdcodec", "quality": quality, "bytes": len(data), "psnr_db": shown_db(pixels, decoded)})
    return rows


def shown_db(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR, of an exact picture `EXACT_DB`."""
    return EXACT_DB if np.array_equal(original, decoded) else round(psnr_db(original, decoded), 3)


def bytes_at(psnr_db: float, points: list[tuple[float, int]], *, between: bool) -> float:
    """Bytes that reach a PSNR: of the smallest file that does, or between files, where these are many."""
    if not between:
        return min(size for found, size in points if found >= psnr_db)
    found, sizes = zip(*sorted(point for point in points if point[0] < EXACT_DB), strict=True)
    return float(np.exp(np.interp(psnr_db, found, np.log(sizes))))


def summary(rows: list[dict[str, Any]], *, between: bool) -> list[dict[str, Any]]:
    """What each page costs beside WebP, in percent."""
    table = []
    for part, file in dict.fromkeys((row["part"], row["file"]) for row in rows):
        of_page = [row for row in rows if (row["part"], row["file"]) == (part, file)]
        ours = [(float(row["psnr_db"]), int(row["bytes"])) for row in of_page if row["codec"] == "rdcodec"]
        webp = [(int(r["quality"]), float(r["psnr_db"]), int(r["bytes"])) for r in of_page if r["codec"] == "webp"]
        highest = max(found for found, _ in ours if found < EXACT_DB or not between)
        lossy = [
            100 * (bytes_at(psnr, ours, between=between) / theirs - 1)
            for quality, psnr, theirs in webp
            if quality != LOSSLESS and highest >= psnr >= (min(ours)[0] if between else 0)
        ]
        exact = [size for found, size in ours if found == EXACT_DB]
        theirs = next(size for quality, _, size in webp if quality == LOSSLESS)
        table.append({
            "part": part, "file": file, "lossy_points": len(lossy),
            "at_equal_psnr_percent": round(statistics.mean(lossy), 1) if lossy else "",
            "exact_percent": round(100 * (min(exact) / theirs - 1), 1) if exact else "",
        })  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, help="folder of drawn_pages.py")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--crop", default="1280x800", help="the middle of each page that is coded")
    parser.add_argument("--noise", action="store_true", help="measure pages with noise")
    args = parser.parse_args()
    width, height = (int(side) for side in args.crop.split("x"))
    name, qualities = ("drawn_noise", WITH_NOISE) if args.noise else ("drawn", QUALITIES)
    codec, path = load("image", device="cpu"), args.output / f"{name}_points.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open())) if path.exists() else []
    for file in sorted(args.pages.glob("*/*.png")):
        image = Image.open(file).convert("RGB")
        left, top = (image.width - width) // 2, (image.height - height) // 2
        page = image.crop((left, top, left + width, top + height))
        for part, pixels in (noisy(page) if args.noise else {file.parent.name: np.asarray(page)}).items():
            if not any((row["part"], row["file"]) == (part, file.name) for row in rows):
                rows += [{"part": part, "file": file.name, **row} for row in points_of(codec, pixels, qualities)]
        write_csv(path, rows)
        write_csv(args.output / f"{name}.csv", summary(rows, between=args.noise))
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
