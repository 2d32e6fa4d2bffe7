"""What the scripts on caches share: their options, the model and its texts, the calibrated profile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rdcodec.codecs.kv_cache import Profile, calibrate
from rdcodec.codecs.kv_cache.evaluation.fidelity import TAIL
from transformers import AutoModelForCausalLM, AutoTokenizer

RESULTS = Path(__file__).parent / "results"
PROMPT = 1024
"""Tokens of a context, beside its tail."""
CALIBRATION_CONTEXTS = 24
TEXT_CHARACTERS = 1_500_000
"""Of each file that are tokenised."""

Model = Annotated[Path, typer.Option(help="Folder of a transformers model and its tokenizer.")]
Text = Annotated[Path, typer.Option(help="Folder with train/*.txt and eval/*.txt.")]
ProfileFile = Annotated[Path, typer.Option(help="Calibrated once on TEXT/train, and kept there.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")]


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder, ready to run."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def contexts_of(model: Path, texts: Path, count: int) -> torch.Tensor:
    """``count`` stretches of prompt and tail, spread evenly over the ``*.txt`` of a folder, int64 (count, 1088)."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    files, length = sorted(texts.glob("*.txt")), PROMPT + TAIL
    out: list[list[int]] = []
    for i, file in enumerate(files):
        share = count // len(files) + (i < count % len(files))
        ids = tokenizer(file.read_text(errors="ignore")[:TEXT_CHARACTERS], add_special_tokens=False)["input_ids"]
        stride = (len(ids) - length) // max(share, 1)
        out += [[tokenizer.bos_token_id or 0, *ids[k * stride : k * stride + length - 1]] for k in range(share)]
    return torch.tensor(out)


def profile_of(path: Path, model: Any, folder: Path, text: Path) -> Profile:
    """The profile in a file; calibrated on TEXT/train first if there is none."""
    if path.exists():
        return Profile.read(path)
    start = time.perf_counter()
    profile = calibrate(model, contexts_of(folder, text / "train", CALIBRATION_CONTEXTS))
    path.parent.mkdir(exist_ok=True, parents=True)
    profile.write(path)
    print(f"calibrated in {time.perf_counter() - start:.0f} s: {len(profile.data):,} bytes")
    return profile


def show(row: dict[str, Any]) -> None:
    """One row of a table on a line."""
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
