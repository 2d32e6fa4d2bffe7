"""``codec eval capacity``: Information Capacity (2511.08066) of a causal model and of its compressed weights. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...evaluation.task import Command
from ...terminal.console import bar, out
from ...terminal.files import check_outputs

FILE = "capacity.csv"


def evaluate(
    model: Annotated[Path, typer.Option(help="Folder of a transformers causal model with its tokenizer.")],
    text: Annotated[Path, typer.Option(help="Text file.")],
    weights: Annotated[list[Path] | None, typer.Option(help=".rdc file of the model's weights; may be given again.")] = None,
    bias: Annotated[
        float, typer.Option(help="The paper's b, fitted to make one family of models equal on a text: -24, -18.7 or -27.")
    ] = -24.0,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts of the text.")] = 4,
    coded: Annotated[int, typer.Option(min=0, help="How many of them are coded, token by token.")] = 1,
    length: Annotated[int, typer.Option(min=3, help="Tokens of a context.")] = 1024,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("report"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite a report that is there.")] = False,
) -> None:
    """Information Capacity term by term, and the coded size beside the entropy that it claims: capacity.csv."""
    from .information_capacity import Settings, evaluate_capacity

    check_outputs(output, (FILE,), force)
    settings = Settings(bias=bias, contexts=contexts, coded=min(coded, contexts), length=length)
    with bar() as progress:
        table = evaluate_capacity(model, text, weights or [], settings, output / FILE, progress)
    out.print(table)
    out.print(f"written: {output / FILE}")


COMMAND = Command(evaluate)
