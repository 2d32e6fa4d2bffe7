"""Mode delta on a short fine-tune: checkpoints against the model they began with, and against each other.

    python benchmarks/tensors_delta.py --model MODEL --text TEXT.txt

Trains MODEL on TEXT.txt with AdamW at a learning rate of 1e-5, twice: with weights in float32, whose checkpoints are kept in
float32 and rounded to bfloat16; and with weights in bfloat16, where an update below half a unit in the last place is lost.
Writes benchmarks/results/tensors_delta.csv (-o: elsewhere): per cent of raw, lossless and delta, for pairs of checkpoints,
the entropy of the differences, which is what a perfect coder of them would take, and by how many units in the last place
half of the numbers move at least.
Some minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.tensor import TensorCodec, Tensors, TensorSettings
from rdcodec.codecs.tensor.file_api import base_of
from rdcodec.codecs.text.contexts import contexts_of
from transformers import AutoModelForCausalLM

RESULTS = Path(__file__).parent / "results"
LEARNING_RATE = 1e-5
BATCH, LENGTH = 2, 128
STEPS = 0, 10, 50, 100
PAIRS = (0, 10), (0, 100), (50, 100)

State = dict[str, torch.Tensor]


def checkpoints(model: Path, text: Path, dtype: torch.dtype) -> dict[int, State]:
    """Weights after each of `STEPS`."""
    torch.manual_seed(0)
    tuned = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).train()
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    batches = contexts_of(model, text, STEPS[-1] * BATCH, LENGTH)[torch.randperm(STEPS[-1] * BATCH)].split(BATCH)
    found = {0: state_of(tuned)}
    for step, ids in enumerate(batches, 1):
        tuned(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in STEPS:
            found[step] = state_of(tuned)
    return found


def state_of(model: Any) -> State:
    """Weights, each once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def row(name: str, before: State, after: State, pair: tuple[int, int]) -> dict[str, Any]:
    """Sizes of a checkpoint."""
    signal = Tensors(after)
    raw = sum(x.numel() * x.element_size() for x in after.values())
    lossless = len(TensorCodec().encode(signal))
    codec = TensorCodec(TensorSettings(mode="delta", base=base_of(before)))
    data = codec.encode(signal)
    found = codec.decode(data).tensors
    if not all(torch.equal(found[key], x) for key, x in after.items()):
        raise ValueError("decoding gives other numbers")
    return {
        "weights": name, "steps": f"{pair[0]} to {pair[1]}", "raw_bytes": raw,
        "lossless_percent": 100 * lossless / raw, "delta_percent": 100 * len(data) / raw,
        "delta_over_lossless": len(data) / lossless, "entropy_percent": 100 * entropy_bytes(before, after) / raw,
        "median_change_units": median_change(before, after),
    }  # fmt: skip


def entropy_bytes(before: State, after: State) -> float:
    """Entropy of the differences in units in the last place: tensor by tensor, sign, exponent and three mantissa bits of a
    difference given the exponent of the base's number. Bits below, of which there are 12 in float32, count whole."""
    bits = 0.0
    for name, x in before.items():
        exponents = torch.frexp(x.float()).exponent.flatten()
        changes = ordered(after[name]) - ordered(x)
        exponent = torch.log2(changes.abs().clamp(min=1).double()).floor().long()
        below = (exponent - 3).clamp(min=0)
        symbols = (exponent * 16 + (changes.abs() >> below)) * 2 + (changes < 0)
        bits += float(below.sum())
        for each in exponents.unique():
            counts = symbols[exponents == each].unique(return_counts=True)[1].double()
            bits -= float((counts * torch.log2(counts / counts.sum())).sum())
    return bits / 8


def median_change(before: State, after: State) -> float:
    """Units in the last place."""
    changes = torch.cat([(ordered(after[name]) - ordered(x)).abs() for name, x in before.items()])
    return float(changes.median())


def ordered(x: torch.Tensor) -> torch.Tensor:
    """Numbers counted in units in the last place, int64, flat."""
    kind = {2: torch.int16, 4: torch.int32}[x.element_size()]
    words = x.contiguous().flatten().view(kind).long()
    return torch.where(words < 0, -(words & torch.iinfo(kind).max), words)


def main(
    model: Annotated[Path, typer.Option(help="Folder of a transformers model and its tokenizer.")],
    text: Annotated[Path, typer.Option(help="Text file to train on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")] = RESULTS / "tensors_delta.csv",
) -> None:
    """Fine-tune, and code the checkpoints."""
    torch.set_num_threads(1)
    runs = {"float32": checkpoints(model, text, torch.float32)}
    runs["float32, rounded to bfloat16"] = {
        step: {name: x.bfloat16() for name, x in state.items()} for step, state in runs["float32"].items()
    }
    runs["bfloat16"] = checkpoints(model, text, torch.bfloat16)
    rows = [row(name, states[pair[0]], states[pair[1]], pair) for name, states in runs.items() for pair in PAIRS]
    write_csv(output, rows)
    print(Path(output).read_text())


if __name__ == "__main__":
    typer.run(main)
