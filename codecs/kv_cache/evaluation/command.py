"""``codec eval kv``: a model and a text instead of a folder of signals. No torch before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...evaluation.task import Command
from ...terminal.console import bar, out
from ...terminal.files import check_outputs


def evaluate(
    model: Annotated[Path, typer.Option(help="Folder of a transformers model with its tokenizer.")],
    text: Annotated[Path, typer.Option(help="Text file: prompts, what follows them, and text to calibrate on.")],
    modes: Annotated[
        str, typer.Option(help="Comma-separated; also quantized-small, turboquant-ec, transform, tokens, residual.")
    ] = "lossless,fp8,turboquant,quantized,predictive",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("report"),
    contexts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 4,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 1024,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite a report that is there.")] = False,
) -> None:
    """Bits per element against next-token KL of KV caches of your model: kv_points.csv, kv_rate_kl.png."""
    from .report import FILES, evaluate_text

    check_outputs(output, FILES, force)
    with bar() as progress:
        table = evaluate_text(model, text, modes, output, contexts, length, progress)
    out.print(table)
    out.print(f"written to {output}: {', '.join(name for name in FILES if (output / name).exists())}")


COMMAND = Command(evaluate)
