"""Caches in safetensors files: layouts in and out, and those that are refused."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import kv_files
import pytest
import torch
from kv_cases import (
    make_block,
    make_profile,
    same_bits,
)
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache.format.describe import describe_kv, kv_rows
from rdcodec.entropy_models.errors import InputError, Unsupported


def test_safetensors_in_and_out():
    from safetensors.torch import load, save

    block = make_block(2, 50, 8)
    names = {f"layers.{i}.{n}": x.contiguous() for i, p in enumerate(block.layers) for n, x in zip("kv", p, strict=True)}
    data, fields = kv_files.encode_bytes(save({**names, "tokens": torch.from_numpy(block.tokens)}), mode="lossless")
    assert fields["raw_bytes"] == sum(x.numel() * 2 for x in names.values()) and not fields["notices"]
    out = load(kv_files.decode_bytes(data)[0])
    assert all(same_bits(out[name], x) for name, x in names.items())
    assert out["tokens"].tolist() == block.tokens.tolist()
    info = describe_kv(container.parse(data))
    assert info["mode"] == "lossless" and len(info["bits_per_element_by_layer"]) == 3
    other = {
        name.replace("layers.", "m.").replace(".k", ".key").replace(".v", ".value"): x[None] for name, x in names.items()
    }
    stream, fields = kv_files.encode_bytes(save(other), keys="m.{i}.{k}")
    assert fields["notices"] and len(stream) < len(data)
    kv_files.verify_bytes(stream)
    with pytest.raises(ValueError, match="no keys and values named"):
        kv_files.encode_bytes(save(other))
    with pytest.raises(ValueError, match="not a safetensors file"):
        kv_files.encode_bytes(b"hello")


def test_safetensors_with_keys_and_values_of_different_widths():
    from safetensors.torch import load, save

    block = make_block(2, 40, 24)
    names = {f"layers.{i}.{n}": x for i, p in enumerate(block.layers) for n, x in zip("kv", p, strict=True)}
    names = {n: x[..., :16].contiguous() if n.endswith("v") else x for n, x in names.items()}
    data, fields = kv_files.encode_bytes(save(names), mode="lossless")
    info = describe_kv(container.parse(data))
    assert (info["kv_heads"], info["key_width"], info["value_width"], info["damaged_blocks"]) == (2, 24, 16, [])
    shown = kv_rows(info)
    assert shown["kv heads x width"] == "2 x 24 (values 16)" and "damaged blocks" not in shown
    assert [f"{bits:.2f}" for bits in info["bits_per_element_by_layer"]] == shown["by layer"].split()
    out = load(kv_files.decode_bytes(data)[0])
    assert all(same_bits(out[name], x) for name, x in names.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.compressed_kv": (40, 576)}, r"layers\.0\.compressed_kv: a cache of multi-head latent attention \(MLA\)"),
        ({"layers.0.kv_c": (40, 512), "layers.0.k_pe": (40, 64)}, r"layers\.0\.k_pe, .*kv_c: .*\(MLA\); supported are"),
        ({"layers.1.ssm_states": (1, 64, 16)}, r"ssm_states: a cache of linear-attention or state-space \(SSM\) layers"),
        ({"layers.1.k": (2, 15, 8), "layers.1.v": (2, 15, 8)}, r"layer 1 hold 15 positions for 40 .*sliding-window layer"),
        ({"tokens": (50,)}, r"^50 token ids for a cache of 40 tokens; need one for each. Is it of sliding-window layers, "),
        ({"tokens": (30,)}, r"^30 token ids for a cache of 40 tokens; need one for each$"),
        ({"layers.2.k": (2, 40, 8)}, r"^layer 2 has keys but no values \(names 'layers\.\{i\}\.\{k\}'\)$"),
        ({"layers.0.v": (2, 40, 0)}, r"width 0; of multi-head latent attention \(MLA\)"),
        ({"layers.0.k": (3, 2, 40, 8)}, r"keys of layer 0 hold a batch of 3"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("alone", [False, True])
def test_safetensors_of_other_layouts_are_refused_by_name(change, message, alone):
    """Also beside keys and values: what would be left out is part of the cache."""
    from safetensors.torch import save

    own = any(name.endswith((".k", ".v", "tokens")) for name in change)
    shapes = {} if alone and not own else {f"layers.{i}.{n}": (2, 40, 8) for i in range(2) for n in "kv"}
    tensors = {n: torch.zeros(s, dtype=torch.int64 if n == "tokens" else None) for n, s in (shapes | change).items()}
    with pytest.raises(ValueError, match=message):
        kv_files.encode_bytes(save(tensors))


def test_safetensors_without_tokens_or_with_ids_that_are_none():
    from safetensors.torch import save

    def cache(count, **tensors):
        return save({f"layers.0.{n}": torch.zeros(2, count, 8) for n in "kv"} | tensors)

    for tensors in ({}, {"tokens": torch.zeros(0, dtype=torch.int64)}):
        with pytest.raises(ValueError, match="the cache holds 0 tokens; need at least 1"):
            kv_files.encode_bytes(cache(0, **tensors))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        with pytest.raises(ValueError, match=r"'tokens' is of type b?float\d+; need integers"):
            kv_files.encode_bytes(cache(3, tokens=torch.tensor([1.5, 2, 3], dtype=dtype)))
    with pytest.raises(ValueError, match=r"each 0 to 2\^63 - 1"):
        kv_files.encode_bytes(cache(3, tokens=torch.tensor([1, -2, 3])))


def test_safetensors_as_mlx_lm_saves_them():
    """``save_prompt_cache``: tree_flatten of [(keys, values), ...], shape (1, kv_heads, n, head_dim), classes in 2.i."""
    from safetensors.torch import load, save

    tensors = {f"{i}.{n}": torch.randn(1, 2, 40, 8).half() for i in range(11) for n in (0, 1)}
    classes = {f"2.{i}": "KVCache" for i in range(11)} | {f"0.{i}": "" for i in range(11)}
    data, fields = kv_files.encode_bytes(save(tensors, classes), mode="lossless")
    assert (fields["layers"], fields["kv_heads"], fields["tokens"]) == (11, 2, 40)
    out = load(kv_files.decode_bytes(data)[0])
    assert all(same_bits(out[f"layers.{i}.{'kv'[n]}"], tensors[f"{i}.{n}"][0]) for i in range(11) for n in (0, 1))
    again = load(kv_files.decode_bytes(data, keys="{i}.{k}", batch=True)[0])
    offsets = {f"{i}.2" for i in range(11)}
    assert again.keys() == tensors.keys() | offsets and all(int(again[name]) == 40 for name in offsets)
    assert all(same_bits(again[name], x) for name, x in tensors.items())
    assert {"b.3/v", "b.10/k"} < load(kv_files.decode_bytes(data, keys="b.{i}/{k}")[0]).keys()
    with pytest.raises(ValueError, match=r"pattern 'b\.\{i\}' of tensor names; it needs one"):
        kv_files.decode_bytes(data, keys="b.{i}")
    with pytest.raises(Unsupported, match="mlx_lm cache layers of class RotatingKVCache; supported are"):
        kv_files.encode_bytes(save(tensors, classes | {"2.3": "RotatingKVCache"}))
    quantised = {f"0.{n}.{part}": torch.zeros(1, 2, 40, 1) for n in (0, 1) for part in range(3)}
    with pytest.raises(Unsupported, match="class QuantizedKVCache"):
        kv_files.encode_bytes(save(quantised, {"2.0": "QuantizedKVCache"}))


def test_safetensors_as_mlx_lm_saves_them_since_0_32():
    """Classes in 1.i, buffers of multiples of 256 positions, and how many of them are filled in i.2."""
    from safetensors.torch import load, save

    tensors = {f"{i}.{n}": torch.randn(1, 2, 256, 8).half() for i in range(3) for n in (0, 1)}
    tensors |= {f"{i}.2": torch.tensor(40, dtype=torch.int32) for i in range(3)}
    metadata = {"0.tokens": "not ids", "0.model": "m", "2.0": ""}
    for i in range(3):
        metadata |= {f"1.{i}": "KVCache", f"2.{i + 1}.0": f"{i}.2", f"2.{i + 1}.1": "scalar"}
    data, fields = kv_files.encode_bytes(save(tensors, metadata), mode="lossless")
    assert fields["tokens"] == 40 and any("no tensor 'tokens'" in notice for notice in fields["notices"])
    data, fields = kv_files.encode_bytes(save(tensors, metadata | {"0.tokens": str(list(range(40)))}), mode="lossless")
    assert not fields["notices"]
    out = load(kv_files.decode_bytes(data)[0])
    assert out["tokens"].tolist() == list(range(40))
    assert all(same_bits(out[f"layers.{i}.{'kv'[n]}"], tensors[f"{i}.{n}"][0, :, :40]) for i in range(3) for n in (0, 1))
    again = kv_files.decode_bytes(data, keys="{i}.{k}", batch=True)[0]
    assert load(kv_files.decode_bytes(kv_files.encode_bytes(again, mode="lossless")[0])[0]).keys() == out.keys()
    with pytest.raises(Unsupported, match="class RotatingKVCache"):
        kv_files.encode_bytes(save(tensors, metadata | {"1.1": "RotatingKVCache"}))
    for wrong, message in ((torch.tensor(257), "says 257 positions are filled; 1.0 has 256"), (torch.ones(2), "has shape")):
        with pytest.raises(InputError, match=message):
            kv_files.encode_bytes(save(tensors | {"1.2": wrong}, metadata))


def test_mlx_lm_reads_what_is_written_for_it_and_is_read(tmp_path):
    """Its own code, where it is installed; of its package only the module of caches, which needs nothing else."""
    mx = pytest.importorskip("mlx.core", reason="needs mlx")
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None:
        pytest.skip("needs mlx_lm")
    for name in ("mlx_lm", "mlx_lm.models"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(spec.origin).parent / "/".join(name.split(".")[1:]))]
        sys.modules.setdefault(name, package)
    cache = importlib.import_module("mlx_lm.models.cache")
    made = [cache.KVCache() for _ in range(3)]
    for layer in made:
        layer.update_and_fetch(*(mx.random.normal((1, 2, 300, 16)).astype(mx.bfloat16) for _ in range(2)))
    cache.save_prompt_cache(str(tmp_path / "a.safetensors"), made, {"model": "m"})
    data, fields = kv_files.encode_bytes((tmp_path / "a.safetensors").read_bytes(), mode="lossless")
    assert fields["tokens"] == 300
    (tmp_path / "b.safetensors").write_bytes(kv_files.decode_bytes(data, keys="{i}.{k}", batch=True)[0])
    again = cache.load_prompt_cache(str(tmp_path / "b.safetensors"))
    assert [(type(x).__name__, x.offset) for x in again] == [("KVCache", 300)] * 3
    for a, b in zip(made, again, strict=True):
        for x, y in zip(a.keys_and_values(), b.keys_and_values(), strict=True):
            assert mx.array_equal(x, y)


@pytest.mark.parametrize("mode", ["transform", "predictive"])
def test_commands_take_a_profile(tmp_path, mode):
    from rdcodec.codecs.cli.main import app
    from safetensors.torch import save_file
    from typer.testing import CliRunner

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    block, given, name = make_block(2, 40, 8), ["--profile", tmp_path / "p"], ["--fingerprint", "00" * 16]
    make_profile(2, 8).write(tmp_path / "p")
    tensors = {f"layers.{i}.{n}": x.contiguous() for i, p in enumerate(block.layers) for n, x in zip("kv", p, strict=True)}
    save_file(tensors | {"tokens": torch.from_numpy(block.tokens)}, tmp_path / "c.safetensors")
    (tmp_path / "ids").write_text(" ".join(map(str, block.tokens)))
    encode = ["encode", tmp_path / "c.safetensors", "--mode", mode]
    decode = ["decode", tmp_path / "c.rdc", "-o", tmp_path / "out.safetensors"]
    put = ["kv", "put", tmp_path / "s", tmp_path / "c.safetensors", *name, "--mode", mode]
    get = ["kv", "get", tmp_path / "s", "--tokens", tmp_path / "ids", *name, "-o", tmp_path / "got.safetensors"]
    transcode = ["kv", "transcode", tmp_path / "s", *name, "--mode", mode]
    for command in (encode, ["verify", tmp_path / "c.rdc"], decode, put, get, transcode, ["kv", "verify", tmp_path / "s"]):
        missing = run(*command)
        assert missing.exit_code == 1 and ("profile" in missing.output or command is get), missing.output
        done = run(*command, *given)
        assert done.exit_code == 0, (command, done.output)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "got.safetensors").read_bytes()
    left = run(*transcode[:-1], "fp8")
    assert left.exit_code == 1 and "-> " in left.stdout and left.stderr.count("\n") == 1
    assert "codec kv: 1 of 1 blocks left as they are: the block needs profile" in left.stderr
    done = run(*transcode[:-1], "fp8", *given)
    assert done.exit_code == 0 and not done.stderr, done.output
    refused = run(*encode[:2], "--mode", "fp8", *given, "-f")
    assert refused.exit_code == 1 and "mode fp8 takes no --profile" in refused.stderr


def test_other_tensors_of_a_safetensors_file_are_told():
    from safetensors.torch import save

    shapes = {"layers.0.k": (2, 40, 8), "layers.0.v": (2, 40, 8), "logits": (97,)}
    _, fields = kv_files.encode_bytes(save({name: torch.zeros(shape) for name, shape in shapes.items()}))
    starts = [n.split(",")[0].split(":")[0] for n in fields["notices"]]
    assert starts == ["not stored", "RoPE stays in the keys", "no tensor 'tokens'"]
