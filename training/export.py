"""Checkpoint to shipped weights: integer level branch frozen, tables calibrated, hash and manifest line written.

python -m rdcodec.training.export runs/image/last.ckpt --name image-1 --train FOLDER
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from ..codecs import weights
from ..codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from ..codecs.image.weights_file import weights_bytes
from .calibrate import calibrated
from .coder import LAGRANGIAN, start_tables
from .data import ImageData
from .freeze import frozen, frozen_tensors
from .image import checkpoint_state, counts_of, stratified_qualities
from .manifest import lines_in, write_lines, write_weights
from .quantisation import LAYERS

LICENCE = "weights CC BY-SA 4.0"


def load_checkpoint(path: Path) -> tuple[ImageNetwork, dict[str, Any]]:
    """The averaged network of a Lightning checkpoint with its trainable parse path, and the checkpoint's facts.

    Raises:
        ValueError: the checkpoint is of the float ablation, which cannot be exported.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    hparams = checkpoint["hyper_parameters"]
    if hparams["level_branch"] != "integer":
        raise ValueError(f"{path} was trained with level_branch={hparams['level_branch']}; only integer can be exported")
    state = checkpoint_state(checkpoint)
    config = counts_of(state) | (hparams["architecture"] or {})  # defaults were others in older releases
    network = ImageNetwork(ImageConfig(**config), *LAYERS["integer"])
    network.load_state_dict(state)
    return network, {"steps": checkpoint["global_step"], "elapsed_s": checkpoint["elapsed_s"]}


def write_line(folder: Path, name: str, blob: bytes, **fields: Any) -> None:
    """Put a weights file in ``folder`` and its line first in the manifest there."""
    line = {"codec": "image", **write_weights(folder, f"{name}.safetensors", blob), **fields}
    write_lines(folder, {name: line} | {other: value for other, value in lines_in(folder).items() if other != name})


def export(checkpoint: Path, name: str, train: Path, folder: Path, batches: int = 100, data_line: str = "") -> Path:
    """Freeze, calibrate on ``batches`` of 8 training crops, and write weights and manifest line to ``folder``."""
    network, facts = load_checkpoint(checkpoint)
    tensors = frozen_tensors(network)
    deployed = frozen(network, tensors)
    data = ImageData(train, crop=256, batch_size=8, seed=99)
    data.prepare_data()
    crops = iter(data.train_dataloader())
    counted = (next(crops) for _ in track(range(batches), description="calibrating tables"))
    qualities = (stratified_qualities(8) for _ in range(batches))
    tables = calibrated(deployed, start_tables(), counted, qualities).with_deadzone(LAGRANGIAN)
    blob = weights_bytes(network.config, tensors, tables)
    hours = facts["elapsed_s"] / 3600
    hardware = "CUDA" if torch.cuda.is_available() else f"{platform.machine()} CPU"
    write_line(
        folder, name, blob, licence=LICENCE, data=data_line or train.name, recipe="training/recipes/image.yaml",
        steps=facts["steps"], hardware=f"{hardware}, {hours:.2f} h",
    )  # fmt: skip
    return folder / f"{name}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", required=True, help="model name, as in `codec models`; never reuse one")
    parser.add_argument("--train", type=Path, required=True, help="training images, for the tables")
    parser.add_argument("--data", default="", help="manifest text: what it was trained on")
    parser.add_argument("--folder", type=Path, default=weights.FOLDER, help="where weights and manifest go")
    parser.add_argument("--batches", type=int, default=100)
    args = parser.parse_args()
    try:
        print(export(args.checkpoint, args.name, args.train, args.folder, args.batches, args.data))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
