"""Checkpoint to shipped weights: level branch frozen, tables calibrated, last fits made, manifest line written.

python -m rdcodec.training.export runs/image/last.ckpt --name mine-1 --train FOLDER
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rich.progress import track
from torch import Tensor, nn

from ..codecs import weights
from ..codecs.weights_file import Architecture, packed, weights_bytes
from ..entropy_models.coder import Measure
from ..entropy_models.errors import BitstreamError, InputError
from ..entropy_models.tables import Tables
from . import TRAININGS, training_of
from .checkpoint import architecture_of, codec_of, network_state, read_checkpoint
from .coder import start_tables
from .freeze import frozen, frozen_tensors
from .manifest import check_name, write_line
from .quantisation import LAYERS
from .tables import calibrated

UNKNOWN = "not stated"
BATCH = 8
"""Signals that are coded at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Source of the signals that tables are counted from."""

    train: Path
    """Training signals, as the codec's data module takes them."""
    cache: Path
    """Folder where decoded ones are kept."""


class Exporter(Protocol):
    """Exporter of a codec: its training signals, how to code them, and last fits: what is learnt when the network no longer
    changes."""

    Options: ClassVar[type[Any]]
    """A frozen dataclass whose fields have a default and `option`'s metadata: options of the command."""
    lagrangian: ClassVar[float]
    """Weight of bits in the dead zone of the tables, `Tables.with_deadzone`."""

    def __init__(self, deployed: Any, hyper_parameters: Mapping[str, Any], source: Source, options: Any) -> None:
        """Take the frozen network, the training's settings, and `Options`."""

    def batches(self) -> Iterator[Any]:
        """Batches without end, each of `BATCH` training signals."""

    def code(self, coder: Measure, batch: Any) -> Any:
        """The coding pass over a batch."""

    def last_fits(self, tables: Tables, batches: Iterable[Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields of the config that change, and tensors that come to the network, by full name. ``batches``: fresh ones."""


def option(default: Any, help: str) -> Any:
    """A field of an exporter's ``Options``; the command's option has its name and its default's type."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network as its checkpoint has it."""

    codec: str
    architecture_name: str
    architecture: Architecture[Any]
    network: nn.Module
    """Network with the trainable parse path."""
    hyper_parameters: Mapping[str, Any]
    steps: int
    elapsed_s: float


def load_checkpoint(path: Path) -> Trained:
    """The averaged network of a checkpoint.

    Raises:
        InputError: no checkpoint, of a codec without training, or of the float ablation, which cannot be exported.
    """
    checkpoint = read_checkpoint(path)
    codec, settings = codec_of(checkpoint), checkpoint["hyper_parameters"]
    architectures = training_of(codec).load("module").architectures
    if settings["level_branch"] != "integer":
        raise InputError(f"{path} was trained with level_branch={settings['level_branch']}; only integer can be exported")
    name, architecture, config = architecture_of(settings, architectures)
    network = architecture.network(config, *LAYERS["integer"])
    network.load_state_dict(network_state(checkpoint))
    return Trained(
        codec=codec, architecture_name=name, architecture=architecture, network=network, hyper_parameters=settings,
        steps=checkpoint["global_step"], elapsed_s=checkpoint["elapsed_s"],
    )  # fmt: skip


def export(
    checkpoint: Path,
    name: str,
    train: Path,
    folder: Path,
    *,
    batches: int = 100,
    cache: Path = Path("runs/cache"),
    data: str = "",
    licence: str = UNKNOWN,
    recipe: str = UNKNOWN,
    **options: Any,
) -> Path:
    """Freeze, calibrate tables on training signals, make the codec's last fits, and write weights and manifest line.

    Args:
        checkpoint: of `codec train`.
        name: of the model from now on.
        train: training signals, for tables and last fits.
        folder: where weights and manifest go.
        batches: of 8 signals, for the tables, and as many again for last fits.
        cache: where decoded signals are kept.
        data, licence, recipe: for the manifest; ``data`` is else the folder's name.
        options: of the codec's exporter.

    Returns:
        The weights file's path.

    Raises:
        InputError: the name is taken, the checkpoint cannot be exported, or an option is none of the codec's.
    """
    check_name(folder, name)
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is found out before tables are counted
    trained = load_checkpoint(checkpoint)
    kind = training_of(trained.codec).load("export")
    if unknown := options.keys() - {field.name for field in dataclasses.fields(kind.Options)}:
        raise InputError(f"{', '.join(sorted(unknown))}: no option of the {trained.codec} codec's export")
    tensors = frozen_tensors(trained.network, trained.architecture)
    deployed = frozen(trained.network, trained.architecture, tensors)
    exporter: Exporter = kind(deployed, trained.hyper_parameters, Source(train=train, cache=cache), kind.Options(**options))
    signals = exporter.batches()

    def drawn(description: str) -> Iterable[Any]:
        return track(islice(signals, batches), description, total=batches)

    tables = calibrated(start_tables(), drawn("calibrating tables"), exporter.code).with_deadzone(kind.lagrangian)
    fields, fitted = exporter.last_fits(tables, drawn("collecting for last fits"))
    tensors |= packed(fitted, trained.architecture.coarse)
    blob = weights_bytes(trained.architecture_name, replace(deployed.config, **fields), tensors, tables)
    return write_line(
        folder, name, trained.codec, blob, licence=licence, data=data or train.name, recipe=recipe,
        steps=trained.steps, hardware=f"{trained.elapsed_s / 3600:.2f} h of the last run",
    )  # fmt: skip


def command_line() -> argparse.ArgumentParser:
    """The command's options: those of every export, then each codec's own. What is not given is not in the namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m rdcodec.training.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, help="of `codec train`, runs/.../last.ckpt")
    parser.add_argument("--name", required=True, help="model name, as in `codec models`; never reuse one")
    parser.add_argument("--train", type=Path, required=True, help="training signals, for tables and last fits")
    parser.add_argument("--folder", type=Path, default=weights.FOLDER, help="where weights and manifest go")
    parser.add_argument("--batches", type=int, help="of 8 signals, for the tables, and as many again for last fits (100)")
    parser.add_argument("--cache", type=Path, help="where decoded signals are kept (runs/cache)")
    parser.add_argument("--data", help="manifest text: what it was trained on (the name of --train)")
    parser.add_argument("--licence", help=f"manifest text ({UNKNOWN})")
    parser.add_argument("--recipe", help=f"manifest text ({UNKNOWN})")
    owners: dict[str, list[str]] = defaultdict(list)
    found: dict[str, dataclasses.Field[Any]] = {}
    for codec, line in TRAININGS.items():
        for field in dataclasses.fields(line.load("export").Options):
            owners[field.name].append(codec)
            found.setdefault(field.name, field)
    groups: dict[str, Any] = {}
    for name, field in found.items():
        title = f"checkpoints of {', '.join(owners[name])}"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        shown = f"{field.metadata['help']} ({field.default})"
        groups[title].add_argument(f"--{name.replace('_', '-')}", type=type(field.default), help=shown)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Export as the command line says; 1 and a line on standard error where that cannot be."""
    parser = command_line()
    given = vars(parser.parse_args(arguments))
    try:
        print(export(**given))
    except (InputError, BitstreamError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
