"""The command on KV caches in safetensors files."""

from __future__ import annotations

import json

import numpy as np
import safetensors.torch
import torch
from rdcodec.codecs.kv_cache import Cache, KvCodec, KvSettings, read_block_header


def test_names_batch_and_salt_of_a_cache(run, photo, tmp_path):
    tensors = {f"{i}.{n}": torch.randn(1, 2, 5, 16) for i in (0, 1) for n in (0, 1)}
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")
    assert run("encode", "c.safetensors", "--mode", "lossless", "--salt", "tenant")[0] == 0
    again = ["decode", "c.rdc", "--keys", "{i}.{k}", "--batch", "--salt", "tenant", "-o", "back.safetensors"]
    assert run(*again)[0] == 0
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(back[name], x) for name, x in tensors.items())
    for command in ("decode", "verify"):
        code, _, err = run(command, "c.rdc", "--salt", "other", *(["-f"] if command == "decode" else []))
        said = "mismatch: it was written under another salt (--salt) than the one given"
        assert (code, err.count("\n")) == (1, 1) and err.startswith(f"codec: c.rdc: {said}")
    run("encode", "photo.png")
    code, _, err = run("decode", "photo.rdc", "-o", "p.png", "--batch", "--salt", "tenant")
    assert code == 1 and "--batch, --salt: only for KV caches" in err


def test_token_ids_of_a_cache_from_a_file(run, tmp_path):
    """What is written is the file of the same cache with its ids inside."""
    tensors = {f"layers.0.{n}": torch.randn(2, 5, 16) for n in "kv"}
    safetensors.torch.save_file(tensors, tmp_path / "bare.safetensors")
    safetensors.torch.save_file(tensors | {"tokens": torch.arange(5)}, tmp_path / "whole.safetensors")
    (tmp_path / "ids").write_text("[0, 1, 2, 3, 4]")
    (tmp_path / "words").write_text("0 1 2")
    code, _, err = run("encode", "bare.safetensors")
    assert code == 0 and "ids are stored as 0, so no prefix is matched (--tokens FILE gives them)" in err
    assert run("encode", "whole.safetensors")[0] == 0
    for source in ("bare", "whole"):
        code, _, err = run("encode", f"{source}.safetensors", "--tokens", "ids", "-o", "given.rdc", "-f")
        assert code == 0 and "stored as 0" not in err
        assert (tmp_path / "given.rdc").read_bytes() == (tmp_path / "whole.rdc").read_bytes()
    for arguments, message in (
        (["bare.safetensors", "--tokens", "words"], "3 token ids for a cache of 5 tokens; need one for each"),
        (["whole.safetensors", "--tokens", "words"], "its 'tokens' (5) are others than those of words (3); leave"),
        (["bare.safetensors", "--tokens", "bare.safetensors"], "bare.safetensors: not a list of token ids"),
        (["bare.safetensors", "--tokens", "absent"], "No such file"),
        (["bare.safetensors", "whole.safetensors", "--tokens", "ids"], "--tokens is of one cache, here are 2"),
    ):
        code, out, err = run("encode", *arguments, "-o", "new/")
        assert (code, out, err.count("\n")) == (1, "", 1) and message in err and not (tmp_path / "new").exists(), err


def test_a_block_of_a_store_is_verified_and_decode_says_what_it_is(run, tmp_path):
    tensors = {f"layers.0.{n}": torch.randn(2, 24, 16) for n in "kv"} | {"tokens": torch.arange(24)}
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")
    assert run("kv", "put", "store", "c.safetensors", "--fingerprint", "00" * 16, "--block-tokens", "16")[0] == 0
    start = {read_block_header(path.read_bytes()).start: path for path in (tmp_path / "store").rglob("*.rdc")}
    for path in start.values():
        assert run("verify", str(path))[:2] == (0, f"{path}  ok\n")
    code, out, err = run("decode", str(start[16]), "-o", "part.safetensors")
    assert (code, out, err.count("\n")) == (1, "", 1) and not (tmp_path / "part.safetensors").exists()
    assert "one block of a store, tokens 16 to 24 of a prompt; `codec kv get STORE --tokens IDS` reads" in err
    data = bytearray(start[16].read_bytes())
    data[-1] ^= 1
    start[16].write_bytes(data)
    assert run("verify", str(start[16]))[0] == 1


def test_the_intact_beginning_of_a_damaged_cache_is_decoded(run, tmp_path):
    tensors = {f"layers.0.{n}": torch.randn(2, 300, 16).bfloat16() for n in "kv"} | {"tokens": torch.arange(300)}
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")
    run("encode", "c.safetensors", "--mode", "lossless")
    data = bytearray((tmp_path / "c.rdc").read_bytes())
    data[-1] ^= 1
    (tmp_path / "c.rdc").write_bytes(data)
    code, out, err = run("decode", "c.rdc", "-o", "out.safetensors")
    assert (code, out) == (1, "") and "the 256 tokens before it are intact, `codec decode --prefix 256` reads them" in err
    assert run("decode", "c.rdc", "-o", "out.safetensors", "--prefix", "256")[0] == 0
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert found.pop("tokens").tolist() == list(range(256))
    assert all(torch.equal(x, tensors[name][:, :256]) for name, x in found.items())


def test_decode_of_layer_inputs_is_refused(run, tmp_path):
    pairs = tuple((torch.randn(1, 5, 16), torch.zeros(1, 5, 0)) for _ in range(2))
    (tmp_path / "r.rdc").write_bytes(KvCodec(KvSettings(mode="residual")).encode(Cache(np.arange(5), pairs)))
    code, out, err = run("decode", "r.rdc")
    assert (code, out, err.count("\n")) == (1, "", 1) and "the file holds layer inputs" in err
    assert not (tmp_path / "r.safetensors").exists() and run("verify", "r.rdc")[0] == 0


def test_info_shows_what_sets_the_rate_of_a_mode(run, tmp_path):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 300, 64) for n in "kv"}, tmp_path / "c.safetensors")
    for mode, bits in (("lossless", None), ("turboquant", 2), ("turboquant", 4), ("quantized", None)):
        options = ["--bits", str(bits)] if bits else []
        assert run("encode", "c.safetensors", "--mode", mode, *options, "--force")[0] == 0
        facts = json.loads(run("info", "c.rdc", "--json")[1])
        assert facts.get("bits") == bits and ("quality" in facts) == (mode == "quantized")
        assert bits is None or bits < facts["bits_per_element"] < bits + 1


def test_info_shows_the_header_of_a_damaged_cache(run, tmp_path):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 300, 64) for n in "kv"}, tmp_path / "c.safetensors")
    run("encode", "c.safetensors")
    whole = json.loads(run("info", "c.rdc", "--json")[1])
    data = bytearray((tmp_path / "c.rdc").read_bytes())
    data[-1] ^= 1
    (tmp_path / "c.rdc").write_bytes(data)
    code, out, _ = run("info", "c.rdc", "--json")
    assert code == 0 and json.loads(out) == whole | {"damaged_blocks": [1]}
    assert "damaged blocks" in run("info", "c.rdc")[1]
    assert run("verify", "c.rdc")[0] == 1


def test_layouts_of_caches_that_are_not_supported_are_one_line(run, tmp_path):
    latent = {"layers.0.compressed_kv": torch.zeros(40, 512), "layers.0.k_pe": torch.zeros(40, 64)}
    window = {f"layers.{i}.{n}": torch.zeros(2, (40, 15)[i], 8) for i in range(2) for n in "kv"}
    for tensors, name in ((latent, "multi-head latent attention (MLA)"), (window, "sliding-window")):
        safetensors.torch.save_file(tensors, tmp_path / "cache.safetensors")
        code, out, err = run("encode", "cache.safetensors")
        assert (code, out, err.count("\n")) == (1, "", 1) and name in err and "supported are" in err
        assert not (tmp_path / "cache.rdc").exists()


def test_the_tenant_of_the_environment_counts_as_with_the_store(run, photo, tmp_path, monkeypatch):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 30, 16) for n in "kv"}, tmp_path / "c.safetensors")
    monkeypatch.setenv("RDCODEC_SALT", "acme")
    assert run("encode", "c.safetensors")[0] == 0 and run("encode", "photo.png")[0] == 0
    monkeypatch.delenv("RDCODEC_SALT")
    assert run("verify", "c.rdc", "--salt", "acme")[0] == 0 and run("verify", "c.rdc", "--salt", "other")[0] == 1
