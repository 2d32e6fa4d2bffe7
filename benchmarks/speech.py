"""Rate-distortion of speech: ours beside Opus (60 and 20 ms frames) and Codec 2.

    python benchmarks/speech.py FOLDER -o benchmarks/results --references-from benchmarks/results/speech_anchors_points.csv

Writes speech_points.csv (every file), speech_means.csv, speech_bd_rate.csv, speech_effort_bd_rate.csv of an encoder at full
effort, and speech.png. Effort costs some minutes a clip; ``--effort-qualities ''`` leaves it out. The references do not
depend on our weights: ``--references-only`` measures them once into speech_anchors_points.csv and their means into
speech_anchors_means.csv (and goes on where it was interrupted), ``--references-from`` takes them from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rdcodec.codecs.evaluation.points import OURS
from rdcodec.codecs.evaluation.report import against_references, table_of, write_bd_rates
from rdcodec.codecs.speech.evaluation import QUALITIES, TASK
from references import (
    RESULTS,
    Device,
    Effort,
    EffortAt,
    From,
    Model,
    Names,
    Only,
    Output,
    Qualities,
    files_for,
    listed,
    measure_references,
    measured,
    refined,
    write_curves,
)
from rich.console import Console

NAMES, OURS_AT = ",".join(TASK.references), ",".join(map(str, QUALITIES))
EFFORT_AT = "0,15,30,45,60,75"
ANCHORS = "speech_anchors_points.csv", "speech_anchors_means.csv"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the sounds.")],
    output: Output = RESULTS,
    names: Names = NAMES,
    only: Only = False,
    source: From = None,
    qualities: Qualities = OURS_AT,
    model: Model = None,
    device: Device = "cpu",
    effort: Effort = 9,
    effort_qualities: EffortAt = EFFORT_AT,
) -> None:
    """Measure, and write points, means, BD-rates and a plot."""
    files, wanted = files_for(TASK, folder, output, "sounds"), listed(names)
    if only:
        measure_references(TASK, files, wanted, (output / ANCHORS[0], output / ANCHORS[1]))
        return
    more = refined(TASK, model, device, effort, effort_qualities)
    points = measured(TASK, files, wanted, source, "sounds", qualities=qualities, model=model, device=device, more=more)
    by_metric = write_curves(TASK, points, output, "speech", f"{len(files)} sounds, means over sounds")
    rates = against_references(TASK, by_metric, wanted)
    write_bd_rates(output / "speech_bd_rate.csv", TASK, rates)
    Console().print(table_of(TASK, rates, points))
    for name in more:
        rates = against_references(TASK, by_metric, [OURS, *wanted], name)
        write_bd_rates(output / "speech_effort_bd_rate.csv", TASK, rates)


if __name__ == "__main__":
    typer.run(main)
