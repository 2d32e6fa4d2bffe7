"""Options that several commands or codecs have, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files, folders, globs, URLs, lists.txt; - is standard input.")
]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="File, folder, URL, or - (stdout).")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda. Files are the same to every decoder.")]
Quality = Annotated[int | None, typer.Option("--quality", "-q", min=0, max=100, help="0 (smallest) to 100.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of one file; by default one for small files, else as many as cores.")
]
Effort = Annotated[
    int | None,
    typer.Option(min=0, max=9, help="Time for refining what is written, 0 (none, the default) to 9. Same decoder."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Weights by name, see `codec models`; of a cache: the folder of the transformers model that made it."),
]
