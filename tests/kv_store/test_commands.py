"""``codec kv put`` and ``get``: round trips, and what the user is told when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from rdcodec.codecs.kv_cache import read_block_header
from rdcodec.codecs.kv_cache.modes.table import MODE_NAMES, MODES
from rdcodec.codecs.kv_store import PrefixStore
from rdcodec.codecs.kv_store.store import Hit
from safetensors.torch import load, load_file, save_file
from store_commands import BLOCKS, MODEL, cache_file, ids_file, run


def test_get_writes_to_standard_output_and_refuses_a_folder(filled):
    tmp_path, tensors = filled
    ids = ids_file(tmp_path / "ids", list(range(30)))
    arguments = ["get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-o"]
    done = run(*arguments, "-")
    assert done.exit_code == 0 and "30 of 30 tokens" in done.stderr
    assert torch.equal(load(done.stdout_bytes)["layers.0.k"], tensors["layers.0.k"])
    done = run(*arguments, tmp_path / "store")
    assert done.exit_code == 1 and "is a folder; -o takes a file" in done.stderr


def test_a_miss_names_what_else_is_there(filled):
    tmp_path, _ = filled
    other = ["--fingerprint", "22" * 16]
    assert run("put", tmp_path / "store", tmp_path / "a.safetensors", *other, *BLOCKS).exit_code == 0
    ids = ids_file(tmp_path / "ids", [7, 7, 7])
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-o", tmp_path / "o")
    assert done.exit_code == 1 and "caches of 1 other models or element types (--dtype) are there" in done.stderr


def test_get_says_what_it_could_not_give(filled):
    tmp_path, _ = filled
    ids = ids_file(tmp_path / "ids", [list(range(30))])  # a batch of one, as tokenizers return it
    blocks = list((tmp_path / "store").rglob("*.rdc"))
    tokens = {path: read_block_header(path.read_bytes()).tokens.tolist() for path in blocks}
    (last,) = [path for path in blocks if tokens[path] == list(range(24, 30))]
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-o", tmp_path / "o.safetensors")
    assert done.exit_code == 0 and "24 of 30 tokens" in done.stdout
    assert "note: tokens 24 to 29 were stored too, in blocks that are damaged" in done.stderr
    lost = "tokens 16 to 23 were stored too, in blocks that are damaged or gone"
    none = "(16 tokens are damaged or gone)"
    for first, said, why in ((16, "16 of 30 tokens", lost), (0, "no beginning of the 30 tokens is stored", none)):
        (block,) = [path for path in blocks if tokens[path] == list(range(first, first + 8))]
        data = block.read_bytes()
        block.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
        done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-fo", tmp_path / "o.safetensors")
        assert said in done.output and done.exit_code == (0 if first else 1)
        assert why in done.stderr
    block.write_bytes(data[:30])
    (tmp_path / "store" / "index").rename(tmp_path / "no longer")
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-fo", tmp_path / "o.safetensors")
    assert done.exit_code == 1 and "a block of tokens 0 to 7 is there, with a damaged header; put" in done.stderr
    assert run("put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS).exit_code == 0
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-fo", tmp_path / "o.safetensors")
    assert "30 of 30 tokens" in done.stdout and not done.stderr


def test_ids_in_the_file_and_beside_it_may_both_have_the_last_one_of_generation(tmp_path):
    tensors = cache_file(tmp_path / "a", list(range(30)))
    save_file(tensors | {"tokens": torch.arange(31)}, tmp_path / "a")
    ids = ids_file(tmp_path / "ids", list(range(31)))
    assert "30 new" in run("put", tmp_path / "store", tmp_path / "a", "--tokens", ids, *MODEL, *BLOCKS).stdout
    ids_file(ids, [*range(29), 7])
    done = run("put", tmp_path / "store", tmp_path / "a", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 1 and "are others than those of" in done.stderr


def test_get_writes_the_names_and_shapes_asked_for(filled):
    tmp_path, tensors = filled
    ids, target = ids_file(tmp_path / "ids", list(range(30))), tmp_path / "o.safetensors"
    options = ["--keys", "{i}.{k}", "--batch", "--layers", "1:3"]
    assert run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, *options, "-o", target).exit_code == 0
    found = load(target.read_bytes())
    assert set(found) == {"1.0", "1.1", "2.0", "2.1", "tokens"}
    assert torch.equal(found["2.1"][0], tensors["layers.2.v"])


def test_a_lost_block_in_the_middle_shows(filled):
    tmp_path, _ = filled
    for path in (tmp_path / "store").rglob("*.rdc"):
        if read_block_header(path.read_bytes()).tokens.tolist() == list(range(16, 24)):
            path.unlink()
    assert "unreachable: what comes before 24 25" in run("ls", tmp_path / "store").stdout
    done = run("verify", tmp_path / "store")
    assert done.exit_code == 0 and "1 blocks follow a lost one; a put of their prompts heals them" in done.stderr


def test_put_says_where_the_limit_leaves_no_room_for_it(tmp_path):
    cache_file(tmp_path / "a.safetensors", range(30))
    put = ["put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS, "--limit"]
    done = run(*put, "1kB")
    assert done.exit_code == 0 and "note: 0 of its 30 tokens are kept: all take more than --limit" in done.stderr
    assert "are kept" not in run(*put, "1MB").stderr


def test_put_says_which_blocks_stay_in_another_mode(filled):
    tmp_path, _ = filled
    again = run("put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS, "--mode", "quantized")
    assert again.exit_code == 0 and "stored already: 4 as lossless" in again.stderr
    assert "RoPE stays in the keys" in again.stderr
    same = run("put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS, "--mode", "lossless")
    assert same.exit_code == 0 and "stored already" not in same.stderr


def test_put_and_get_round_trip(filled):
    tmp_path, tensors = filled
    ids = ids_file(tmp_path / "ids.json", [*range(27), 500])
    late = run("get", tmp_path / "store", "-o", tmp_path / "no" / "out", "--tokens", ids, *MODEL, *BLOCKS)
    assert late.exit_code == 1 and "no: no such folder" in late.stderr
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 0 and "27 of 28 tokens, 3 layers" in done.stdout
    back = load_file(tmp_path / "out.safetensors")
    assert back.pop("tokens").tolist() == list(range(27)) and set(back) == set(tensors)
    assert all(torch.equal(x, tensors[name][:, :27]) for name, x in back.items())
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 1 and "--force" in done.stderr
    words = tmp_path / "ids.txt"
    words.write_text("0 1 2\n3")
    options = ["--layers", "1:3", "--force", "--json"]
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", words, *MODEL, *BLOCKS, *options)
    assert json.loads(done.stdout)["tokens"] == 4
    assert set(load_file(tmp_path / "out.safetensors")) == {
        "layers.1.k",
        "layers.1.v",
        "layers.2.k",
        "layers.2.v",
        "tokens",
    }


def test_a_salt_hides_blocks(filled, monkeypatch):
    tmp_path, _ = filled
    ids = ids_file(tmp_path / "ids.json", list(range(8)))
    arguments = ["get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS]
    monkeypatch.setenv("RDCODEC_SALT", "tenant")
    done = run(*arguments)
    assert done.exit_code == 1 and "no beginning of the 8 tokens is stored" in done.stderr
    monkeypatch.delenv("RDCODEC_SALT")
    assert run(*arguments).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["put", "{store}", "{cache}"], "which model?"),
        (["put", "{store}", "{cache}", "--fingerprint", "12"], "32 hexadecimal digits"),
        (["put", "{store}", "{bare}", *MODEL], "no tensor 'tokens'"),
        (["put", "{store}", "{junk}", *MODEL], "not a safetensors file"),
        (["put", "{store}", "{cache}", "{cache}", "--tokens", "{ids}", *MODEL], "--tokens is of one cache"),
        (["put", "{store}", "{bare}", "--tokens", "{ids}", *MODEL], "bare: 3 token ids for a cache of 30 tokens; need one"),
        (["put", "{store}", "{cache}", "--tokens", "{ids}", *MODEL], "its 'tokens' (30) are others than"),
        (["put", "{store}", "{cache}", "--mode", "tokens", *MODEL], "mode tokens needs the model to encode and"),
        (["put", "{store}", "{cache}", "--mode", "residual", *MODEL], "mode residual needs the model"),
        (["put", "{store}", "{cache}", "--mode", "fp8", "-q", "60", *MODEL], "mode fp8 has no --quality"),
        (["transcode", "{store}", "--mode", "lossless", "--bits", "3", *MODEL], "mode lossless has no --bits"),
        (["transcode", "{store}", "--mode", "residual", *MODEL], "mode residual needs the model"),
        (["put", "{store}", "{cache}", "--tokens", "{junk}", *MODEL], "not a list of token ids"),
        (["put", "{store}", "{cache}", "--mode", "zip", *MODEL], f"no mode 'zip'; there are {MODE_NAMES}\n"),
        (["put", "{store}", "{store}/none", *MODEL], "No such file"),
        (["put", "nosuch://x", "{cache}", *MODEL], "nosuch"),
        (["put", "redis://127.0.0.1:1/0", "{cache}", *MODEL], "does not answer"),
        (["get", "{store}", "-o", "{store}/o", "--tokens", "{ids}", "--layers", "4", *MODEL], "--layers 4; need first:last"),
        (["get", "{store}", "-o", "{store}/o", "--tokens", "{ids}", *MODEL], "no beginning of the 3 tokens"),
        (["ls", "{store}/none"], "no store there"),
        (["put", "{store}/none", "{store}/none", *MODEL], "{store}/none: No such file"),
        (["put", "{store}/none", "{cache}", "--mode", "zip", *MODEL], "no mode 'zip'"),
        (["get", "{store}/none", "-o", "{store}/o", "--tokens", "{ids}", *MODEL], "no store there"),
        (["transcode", "{store}/none", "--mode", "fp8", *MODEL], "no store there"),
        (["transcode", "{store}", "--mode", "fp8", "--model", "/absent"], "/absent: no model there"),
        (["transcode", "{store}", "--mode", "fp8", *MODEL], "no block is stored for this model and tenant"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_1(tmp_path, arguments, message):
    (tmp_path / "store").mkdir()
    cache_file(tmp_path / "cache", list(range(30)))
    cache_file(tmp_path / "bare", list(range(30)), with_tokens=False)
    (tmp_path / "junk").write_bytes(b"junk")
    ids_file(tmp_path / "ids", [1, 2, 3])
    places = {name: str(tmp_path / name) for name in ("store", "cache", "bare", "junk", "ids")}
    done = run(*(argument.format(**places) for argument in arguments))
    message = message.format(**places)
    assert done.exit_code == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.output
    assert not (tmp_path / "store" / "none").exists()


def test_put_goes_on_after_a_bad_file_and_names_it(tmp_path):
    for name in ("a", "c"):
        cache_file(tmp_path / name, list(range(30 if name == "a" else 40)))
    (tmp_path / "bad").write_bytes(b"junk")
    files = [tmp_path / name for name in ("a", "bad", "absent", "c")]
    done = run("put", tmp_path / "store", *files, *MODEL, *BLOCKS, "--json")
    assert done.exit_code == 1 and [json.loads(line)["new_tokens"] for line in done.stdout.splitlines()] == [30, 16]
    assert f"{tmp_path}/bad: not a safetensors file" in done.stderr and f"{tmp_path}/absent: No such file" in done.stderr
    assert done.stderr.count("\n") == 3 and "RoPE stays in the keys" in done.stderr


def test_a_first_put_that_is_refused_leaves_no_folder(tmp_path):
    tensors = {f"layers.0.{n}": torch.full((2, 8, 16), torch.inf) for n in "kv"} | {"tokens": torch.arange(8)}
    save_file(tensors, tmp_path / "inf")
    done = run("put", tmp_path / "new" / "store", tmp_path / "inf", *MODEL)
    assert done.exit_code == 1 and "are not all finite; mode lossless takes them" in done.stderr
    assert not (tmp_path / "new").exists()


def test_blocks_without_keys_and_values_are_no_cache(filled, monkeypatch):
    """No put makes them any more; a store written by another version may hold them."""
    tmp_path, _ = filled
    ids = ids_file(tmp_path / "ids.json", list(range(30)))
    monkeypatch.setattr(PrefixStore, "get", lambda *_, **__: Hit(30, ()))
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 1 and "hold token ids only" in done.stderr and not (tmp_path / "out.safetensors").exists()


def test_modes_that_need_the_running_model_are_not_offered():
    offered = MODE_NAMES.replace("; with --profile ", ", ").split(", ")
    assert set(offered) == set(MODES) - {"tokens", "residual", "lossless-1"} and len(offered) == len(set(offered))
    assert MODE_NAMES.endswith("; with --profile transform, predictive")


def test_help_needs_no_torch():
    script = "import sys, rdcodec.codecs.kv_store.commands.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
