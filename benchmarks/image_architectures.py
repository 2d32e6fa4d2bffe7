"""Architectures of the image codec, each trained from noise for the same CPU time on the same crops: S2LIC, ours, and each
one's transforms with the other's context.

    python benchmarks/image_architectures.py PHOTOS VALIDATION -o benchmarks/results --minutes 20
    python benchmarks/image_architectures.py --sizes -o benchmarks/results

Time is the processor's, of all threads, so that neighbours on the machine do not count. Real bytes of the validation
pictures. Writes image_architectures_points.csv and image_architectures.csv after each, and a second call goes on where the
first was interrupted. Two crops a step: the slower an architecture, the fewer steps it has, so one more line is ours with
the steps of S2LIC alone. Ours begins as a block DCT in the codec's recipe, which is the last line of the table.

With --sizes, of untrained networks of ours, S2LIC small and of the paper's size: parameters, multiplications a pixel and CPU
seconds of one thread of their parts, for one picture. Writes image_architecture_sizes.csv.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from models import TIMED_QUALITY, parameters, times
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.points import Point, means, read_points, write_csv, write_points
from rdcodec.codecs.evaluation.run import evaluate
from rdcodec.codecs.image.architectures import ARCHITECTURES, COARSE
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.dcvc_rt import Analysis, ImageConfig, ImageNetwork, Synthesis
from rdcodec.codecs.image.evaluation import TASK, find_images, reference_of
from rdcodec.codecs.image.s2lic import PAPER, S2licConfig, S2licNetwork
from rdcodec.codecs.image.swin import SwinAnalysis, SwinSynthesis
from rdcodec.codecs.weights_file import Architecture
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.hyperprior import LayerFactory
from rdcodec.entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from rdcodec.training.coder import start_tables
from rdcodec.training.freeze import frozen
from rdcodec.training.image.data import ImageData
from rdcodec.training.image.module import ImageTraining
from rdcodec.training.quantisation import LAYERS
from torch.utils.flop_counter import FlopCounterMode

QUALITIES = 10, 26, 42, 58, 74, 90
PICTURES, BATCH = 5, 2
SIDE = 256
"""Rows and columns of the picture whose multiplications are counted."""
OURS, S2LIC = ImageConfig(), S2licConfig()
SWIN, GATED = "swin-transforms", "gated-transforms"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwinConfig(ImageConfig):
    """S2LIC's transforms with our context."""

    latent_channels: int = S2LIC.latent_channels
    latent_width: int = S2LIC.latent_channels

    @property
    def halo(self) -> int:
        return S2LIC.halo

    @property
    def alignment(self) -> int:
        return S2LIC.alignment


class SwinNetwork(ImageNetwork):
    def __init__(
        self, config: SwinConfig, linear: LayerFactory = IntegerLinear, depthwise: LayerFactory = IntegerDepthwise
    ) -> None:
        super().__init__(config, linear, depthwise)
        widths = S2LIC.channels, config.latent_channels
        transforms = *widths, S2LIC.depths, S2LIC.heads, S2LIC.enhancement_channels, config.knots
        self.analysis, self.synthesis = SwinAnalysis(*transforms), SwinSynthesis(*transforms)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedConfig(S2licConfig):
    """Our transforms with S2LIC's context."""

    latent_channels: int = OURS.latent_channels

    @property
    def halo(self) -> int:
        return OURS.halo

    @property
    def alignment(self) -> int:
        return OURS.alignment


class GatedNetwork(S2licNetwork):
    def __init__(
        self, config: GatedConfig, linear: LayerFactory = IntegerLinear, depthwise: LayerFactory = IntegerDepthwise
    ) -> None:
        super().__init__(config, linear, depthwise)
        ours = replace(OURS, latent_channels=config.latent_channels, knots=config.knots)
        self.analysis, self.synthesis = Analysis(ours), Synthesis(ours)  # type: ignore[assignment]


class Trained(ImageTraining):
    """A training whose length is CPU time of this process, or steps where they are given."""

    architectures = ARCHITECTURES | {
        SWIN: Architecture(config=SwinConfig, network=SwinNetwork, coarse=COARSE),
        GATED: Architecture(config=GatedConfig, network=GatedNetwork, coarse=COARSE),
    }

    def __init__(self, minutes: float, steps: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.steps, self.end_s, self.begin_s = steps, 60 * minutes, time.process_time()

    def progress(self) -> float:
        done = self.global_step / self.steps if self.steps else (time.process_time() - self.begin_s) / self.end_s
        return min(1.0, done)


SAME_STEPS = "ours, steps of s2lic"
RUNS: dict[str, dict[str, Any]] = {
    "ours": {"dct_start": False},
    "s2lic": {"network": "s2lic"},
    "s2lic's transforms, our context": {"network": SWIN, "dct_start": False},
    "our transforms, s2lic's context": {"network": GATED},
    SAME_STEPS: {"dct_start": False},
    "s2lic, halves blind to anchors": {"network": "s2lic", "architecture": {"anchor_context": 0}},
    "ours, from a DCT": {},
}
"""What each training has of its own."""
RECIPE = "s2lic, by its recipe"
"""The line of ``--checkpoint``."""


def trained(settings: dict[str, Any], photos: Path, minutes: float, cache: Path) -> tuple[ImageCodec, int]:
    """A codec, and steps of training."""
    L.seed_everything(1)
    module = Trained(minutes, side_warmup_steps=100, **settings)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=-1, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[EMAWeightAveraging(decay=0.99)],
    )  # fmt: skip
    trainer.fit(module, ImageData(photos, crop=128, batch_size=BATCH, graphics=0.03, camera=0.7, cache=cache))
    return ImageCodec(frozen(module.network, module.architecture), start_tables(), bytes(8)), trainer.global_step


def parts_of(codec: ImageCodec) -> dict[str, tuple[float, float]]:
    """Thousand multiplications a pixel and CPU seconds of each part: analysis, coding pass, synthesis."""
    network, quality = codec.network, torch.tensor([TIMED_QUALITY])
    image = torch.rand(1, SIDE, SIDE, 3) - 0.5

    def measured(call: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
        # what goes to oneDNN is not counted
        with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            call()
        began_s = time.process_time()
        with torch.inference_mode():
            result = call()
        return result, (counter.get_total_flops() / 2 / SIDE**2 / 1000, time.process_time() - began_s)

    y, analysis = measured(lambda: network.to_latent(image, quality))
    y_hat, coding = measured(lambda: network.coding_pass(Measure(codec.tables), y, quality))
    _, synthesis = measured(lambda: network.to_image(y_hat, quality))
    return {"analysis": analysis, "coding_pass": coding, "synthesis": synthesis}


def kmac_per_pixel(codec: ImageCodec) -> dict[str, float]:
    """Thousand multiplications of encoding and of decoding, a pixel."""
    kmac = {name: of for name, (of, _) in parts_of(codec).items()}
    return {"encode": kmac["analysis"] + kmac["coding_pass"], "decode": kmac["coding_pass"] + kmac["synthesis"]}


SIZES: dict[str, tuple[str, ImageConfig | S2licConfig]] = {
    "ours": ("dcvc-rt", OURS), "s2lic, small": ("s2lic", S2LIC), "s2lic, the paper's": ("s2lic", PAPER),
}  # fmt: skip


def sizes() -> list[dict[str, Any]]:
    """What networks of each size take; untrained."""
    table = []
    for name, (architecture, config) in SIZES.items():
        kind = ARCHITECTURES[architecture]
        codec = ImageCodec(frozen(kind.network(config, *LAYERS["integer"]), kind), start_tables(), bytes(8))
        parts = parts_of(codec).items()
        table.append({
            "architecture": name, "parameters": parameters(codec),
            **{f"{part}_kmac_per_pixel": f"{kmac:.0f}" for part, (kmac, _) in parts},
            **{f"{part}_s": f"{seconds:.3f}" for part, (_, seconds) in parts},
        })  # fmt: skip
    return table


def by_recipe(checkpoint: Path) -> tuple[ImageCodec, int, float]:
    """A codec from a checkpoint, steps of its training, and minutes by the clock."""
    module = ImageTraining.load_from_checkpoint(checkpoint, map_location="cpu")
    steps = int(torch.load(checkpoint, map_location="cpu", weights_only=False)["global_step"])
    codec = ImageCodec(frozen(module.network, module.architecture), start_tables(), bytes(8))
    return codec, steps, module.elapsed_s / 60


def line_of(
    name: str, codec: ImageCodec, steps: int, minutes: float, pictures: list[Path]
) -> tuple[dict[str, Any], list[Point]]:
    """A line of the table, and its points."""
    points = evaluate(TASK, {name: reference_of(codec, QUALITIES)}, pictures)
    return facts(codec, steps, minutes, pictures[0]), points


def facts(codec: ImageCodec, steps: int, minutes: float, picture: Path) -> dict[str, Any]:
    """What a line of the table has beside its rates."""
    return {
        "minutes": f"{minutes:.1f}", "steps": steps, "parameters": parameters(codec),
        **{f"{way}_kmac_per_pixel": f"{value:.0f}" for way, value in kmac_per_pixel(codec).items()},
        **{f"{way}_s": f"{of['']:.3f}" for way, of in times({"": codec}, picture).items()},
    }  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """The two files. Read anew for each line, as another process may write others of them."""

    folder: Path

    def read(self) -> tuple[dict[str, dict[str, Any]], list[Point]]:
        """Lines of the table by architecture, and points."""
        table, points = self.folder / "image_architectures.csv", self.folder / "image_architectures_points.csv"
        if not table.exists():
            return {}, []
        with table.open(newline="") as file:
            return {row["architecture"]: row for row in csv.DictReader(file)}, read_points(points, TASK)

    def add(self, name: str, line: dict[str, Any], new: list[Point]) -> None:
        """Write another line; rates of all are those against the first."""
        table, points = self.read()
        points = [point for point in points if point.codec != name] + new
        table[name] = {"architecture": name} | line
        rows, first = means(points), next(iter(RUNS))
        for other, of in table.items():
            for metric in TASK.metrics:
                rate = bd_rate(rows, first, metric, ours=other) if {first} < {*table} else 0.0
                of[f"bd_rate_{metric.column.removesuffix('_db')}_percent"] = f"{rate:.1f}"
        write_points(self.folder / "image_architectures_points.csv", TASK, points)
        write_csv(self.folder / "image_architectures.csv", [table[name] for name in (*RUNS, RECIPE) if name in table])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of training pictures")
    parser.add_argument(
        "validation", type=Path, nargs="?", help=f"of other pictures, of which the first {PICTURES} are coded"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--minutes", type=float, default=20, help="CPU minutes of each training")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="these lines alone")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder of decoded training pictures")
    parser.add_argument("--checkpoint", type=Path, help=f"add the line '{RECIPE}', of a checkpoint, and nothing else")
    parser.add_argument("--sizes", action="store_true", help="what untrained networks take, and no training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.sizes:
        write_csv(args.output / "image_architecture_sizes.csv", sizes())
        return
    if args.validation is None:
        parser.error("a training needs PHOTOS and VALIDATION")
    kept, pictures = Kept(args.output), find_images(args.validation)[:PICTURES]
    if args.checkpoint:
        kept.add(RECIPE, *line_of(RECIPE, *by_recipe(args.checkpoint), pictures))
        return
    for name in args.only:
        table, _ = kept.read()
        if name in table:
            continue
        settings = RUNS[name] | ({"steps": int(table["s2lic"]["steps"])} if name == SAME_STEPS else {})
        began_s = time.process_time()
        codec, steps = trained(settings, args.photos, args.minutes, args.cache)
        minutes = (time.process_time() - began_s) / 60
        kept.add(name, *line_of(name, codec, steps, minutes, pictures))


if __name__ == "__main__":
    main()
