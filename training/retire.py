"""Cut the weights of a replaced model down to what its streams need to decode, so that every model can stay installed.

python -m rdcodec.training.retire image-1

With --shelve a model that is retired already goes where the wheel does not take it, to `OLDER`: the wheel has a limit.
Files of before the pixel path's matrices were int8 become so: symbols stay, pixels move by a grey level here and there.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import safetensors
import safetensors.torch

from ..codecs import weights
from ..codecs.image.weights_file import packed
from .manifest import lines_in, write_lines, write_weights

ENCODER = ("analysis.", "hyper_analysis.")
"""Networks that only an encoder runs."""
OLDER = "older"
"""Folder beside the weights that is in the repository and not in the wheel."""
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1}]
"""One literal model for each byte of a float16: the upper ones compress, the lower ones do not."""


def retire(name: str, folder: Path = weights.FOLDER) -> Path:
    """Replace a model's file and manifest line in ``folder``; its streams go on naming the hash of the whole file.

    Raises:
        ValueError: there is no such model, it is retired already, or it is its codec's default.
    """
    lines = lines_in(folder)
    if name not in lines:
        raise ValueError(f"no model {name!r}; there are {', '.join(lines)}")
    line = lines[name]
    if line.get("retired_from"):
        raise ValueError(f"{name} is retired already")
    if name == next(other for other in lines if lines[other]["codec"] == line["codec"]):
        raise ValueError(f"{name} is the default {line['codec']} model; export its successor first")
    whole = folder / line["file"]
    with safetensors.safe_open(whole, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(ENCODER)}  # noqa: SIM118
        blob = lzma.compress(safetensors.torch.save(packed(kept), file.metadata()), filters=XZ)
    line["retired_from"] = line["sha256"]
    line |= write_weights(folder, f"{whole.name}.xz", blob)
    write_lines(folder, lines)
    whole.unlink()
    return folder / line["file"]


def shelve(name: str, folder: Path = weights.FOLDER) -> Path:
    """Move a retired model's file to `OLDER`; its streams then ask for that folder.

    Raises:
        ValueError: there is no such model, it still encodes, or it is there already.
    """
    lines = lines_in(folder)
    line = lines.get(name, {})
    if not line.get("retired_from") or line["file"].startswith(f"{OLDER}/"):
        raise ValueError(f"{name} is no retired model in {folder}; there are {', '.join(lines)}")
    (folder / OLDER).mkdir(exist_ok=True)
    line["file"] = f"{OLDER}/{line['file']}"
    (folder / Path(line["file"]).name).rename(folder / line["file"])
    write_lines(folder, lines)
    return folder / line["file"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="model name, as in `codec models`")
    parser.add_argument("--folder", type=Path, default=weights.FOLDER, help="where weights and manifest are")
    parser.add_argument("--shelve", action="store_true", help="a retired model: take it out of the wheel")
    args = parser.parse_args()
    try:
        print((shelve if args.shelve else retire)(args.name, args.folder))
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
