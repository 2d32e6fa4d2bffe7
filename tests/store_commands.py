"""The command ``codec kv`` and its inputs, as several tests run it. No tests here."""

from __future__ import annotations

import json

import torch
from rdcodec.codecs.kv_store.commands.main import app
from safetensors.torch import save_file
from typer.testing import CliRunner

NAME = "00112233445566778899aabbccddeeff"
MODEL = ["--fingerprint", NAME]
BLOCKS = ["--block-tokens", "8"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def cache_file(path, tokens, seed=0, with_tokens=True):
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"layers.{i}.{n}": torch.randn(2, 40, 16, generator=generator).bfloat16() for i in range(3) for n in "kv"}
    tensors = {name: x[:, : len(tokens)].contiguous() for name, x in tensors.items()}
    save_file(tensors | ({"tokens": torch.tensor(tokens)} if with_tokens else {}), path)
    return tensors


def ids_file(path, ids):
    path.write_text(json.dumps(ids))
    return path
