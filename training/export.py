"""Checkpoint to shipped weights: level branch frozen, tables calibrated, corrections learnt, manifest line written.

python -m rdcodec.training.export runs/image/last.ckpt --name mine-1 --train FOLDER
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor

from ..codecs import weights
from ..codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from ..codecs.image.weights_file import packed, weights_bytes
from .coder import LAGRANGIAN, start_tables
from .freeze import frozen, frozen_tensors
from .image.correction import learnt, wishes
from .image.data import ImageData
from .image.module import architecture_of, checkpoint_at, checkpoint_state, stratified_qualities
from .manifest import lines_in, write_lines, write_weights
from .quantisation import LAYERS
from .tables import calibrated

UNKNOWN = "not stated"


def load_checkpoint(path: Path) -> tuple[ImageNetwork, dict[str, Any]]:
    """The averaged network of a Lightning checkpoint with its trainable parse path, and the checkpoint's facts.

    Raises:
        ValueError: no checkpoint, or one of the float ablation, which cannot be exported.
    """
    checkpoint = checkpoint_at(path)
    options = checkpoint["hyper_parameters"]
    branch = options["level_branch"]
    if branch != "integer":
        raise ValueError(f"{path} was trained with level_branch={branch}; only integer can be exported")
    state = checkpoint_state(checkpoint)
    network = ImageNetwork(ImageConfig(**architecture_of(state)), *LAYERS["integer"])
    network.load_state_dict(state)
    facts = {"steps": checkpoint["global_step"], "elapsed_s": checkpoint["elapsed_s"]}
    return network, facts | {"lambda_range": tuple(options["lambda_range"])}


def write_line(folder: Path, name: str, blob: bytes, **fields: Any) -> None:
    """Put a weights file in ``folder`` and its line first in the manifest there: the default model from now on.

    Raises:
        ValueError: the name is taken, and streams need what has it; or it is none for a file.
    """
    check_name(folder, name)
    line = {"codec": "image", **write_weights(folder, f"{name}.safetensors", blob), **fields}
    write_lines(folder, {name: line} | lines_in(folder))


def check_name(folder: Path, name: str) -> None:
    """ValueError for a name that a model in ``folder`` has or that is none for a file."""
    if name in lines_in(folder):
        raise ValueError(f"there is a model {name} already, which its streams need; give --name another")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"no name for a model: {name!r}; need letters, digits, dots, - and _")


def export(
    checkpoint: Path,
    name: str,
    train: Path,
    folder: Path,
    batches: int = 100,
    data_line: str = "",
    *,
    licence: str = UNKNOWN,
    recipe: str = UNKNOWN,
    crop: int = 256,
    corrections: int = 224,
    graphics: float = 0.0,
    camera: float = 0.0,
    cache: Path = Path("runs/cache"),
) -> Path:
    """Freeze, calibrate tables and learn corrections on training crops, and write weights and manifest line to ``folder``.

    Args:
        checkpoint: of `codec train image`.
        name: of the model from now on.
        train: training images, for tables and corrections; ``crop``, ``graphics``, ``camera``, ``cache`` as in `ImageData`.
        folder: where weights and manifest go.
        batches: of 8 crops, for the tables, and as many again for the corrections.
        corrections: coefficients of each tile's correction, see `codecs.image.correction`; 0: none.
        data_line, licence, recipe: for the manifest.

    Raises:
        ValueError: the name is taken, or the checkpoint cannot be exported.
    """
    check_name(folder, name)
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is found out before tables are counted
    network, facts = load_checkpoint(checkpoint)
    tensors = frozen_tensors(network)
    deployed = frozen(network, tensors)
    data = ImageData(train, crop=crop, batch_size=8, graphics=graphics, camera=camera, cache=cache, seed=99)
    data.prepare_data()
    crops = iter(data.train_dataloader())

    def drawn(description: str) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """The next crops, and a quality for each."""
        counted = (next(crops) for _ in track(range(batches), description=description))
        return counted, (stratified_qualities(8) for _ in range(batches))

    tables = calibrated(deployed, start_tables(), *drawn("calibrating tables")).with_deadzone(LAGRANGIAN)
    config = network.config
    if corrections:
        found = wishes(deployed, tables, *drawn("what crops ask for"))
        correction = learnt(found, corrections, config.knots, facts["lambda_range"])
        tensors |= packed({f"correction.{key}": value for key, value in correction.state_dict().items()})
        config = replace(config, corrections=corrections)
    blob = weights_bytes(config, tensors, tables)
    write_line(
        folder, name, blob, licence=licence, data=data_line or train.name, recipe=recipe,
        steps=facts["steps"], hardware=f"{facts['elapsed_s'] / 3600:.2f} h of the last run",
    )  # fmt: skip
    return folder / f"{name}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", required=True, help="model name, as in `codec models`; never reuse one")
    parser.add_argument("--train", type=Path, required=True, help="training images, for tables and corrections")
    parser.add_argument("--data", default="", help="manifest text: what it was trained on")
    parser.add_argument("--folder", type=Path, default=weights.FOLDER, help="where weights and manifest go")
    parser.add_argument("--batches", type=int, default=100, help="of 8 crops, for the tables, and again for the corrections")
    parser.add_argument("--crop", type=int, default=256, help="side of these crops, in pixels")
    parser.add_argument("--corrections", type=int, default=224, help="coefficients of a tile's correction; 0: none")
    parser.add_argument("--graphics", type=float, default=0.0, help="share of them with text and shapes, as in training")
    parser.add_argument("--camera", type=float, default=0.0, help="share of them made soft, as in training")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded pixels are kept")
    parser.add_argument("--licence", default=UNKNOWN, help="manifest text")
    parser.add_argument("--recipe", default=UNKNOWN, help="manifest text")
    args = parser.parse_args()
    try:
        names = "licence", "recipe", "crop", "corrections", "graphics", "camera", "cache"
        options = {name: getattr(args, name) for name in names}
        print(export(args.checkpoint, args.name, args.train, args.folder, args.batches, args.data, **options))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
