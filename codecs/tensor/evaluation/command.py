"""``codec eval tensors``: a file of tensors instead of a folder of signals. No torch before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...evaluation.task import Command
from ...terminal.console import bar, out
from ...terminal.files import check_outputs


def evaluate(
    file: Annotated[Path, typer.Argument(help="A safetensors file.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of the transformers model that it is of, with its tokenizer.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text file that the model reads, for next-token KL and perplexity.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Another text, which steps by activations are made of: tensor_energy.safetensors.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Comma-separated; all that run here if empty.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("report"),
    contexts: Annotated[int, typer.Option(min=1, help="Contexts of the text.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a context.")] = 512,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite a report that is there.")] = False,
) -> None:
    """Bits per weight, error, speed and next-token KL beside zstd, zipnn, int8, int4 and NF4: tensor_points.csv, a plot."""
    from .report import FILES, Reading, evaluate_file

    check_outputs(output, FILES, force)
    with bar() as progress:
        table = evaluate_file(file, Reading(model, text, calibration, contexts, length), methods, output, progress)
    out.print(table)
    out.print(f"written to {output}: {', '.join(name for name in FILES if (output / name).exists())}")


COMMAND = Command(evaluate)
