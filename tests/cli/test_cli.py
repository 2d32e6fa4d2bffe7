"""The command as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from rdcodec.codecs import container
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.image import demo, evaluation
from rdcodec.codecs.kv_cache import MODES, KvCodec, KvSettings, read_block_header
from rdcodec.codecs.kv_cache.modes.table import MODE_NAMES
from rdcodec.codecs.terminal import files
from rdcodec.codecs.weights import manifest
from rich.console import Console
from typer.testing import CliRunner

CODEC = Path(sys.executable).with_name("codec")


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Run the entry point in ``tmp_path``; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codec", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def photo(tmp_path, photograph) -> Path:
    Image.fromarray(photograph[:96, :120]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_encode_info_verify_decode(run, photo, tmp_path):
    code, out, err = run("encode", "photo.png")
    assert (code, err) == (0, "") and out.count("\n") == 1 and "bpp" in out and ":1" in out
    code, out, _ = run("info", "photo.rdc", "--json")
    facts = json.loads(out)
    assert code == 0 and (facts["width"], facts["height"], facts["channels"], facts["quality"]) == (120, 96, 3, 60)
    assert (facts["input"], facts["codec"], facts["alpha"], facts["metadata"]) == ("photo.rdc", "image", False, [])
    assert facts["rate_bpp"] == pytest.approx(8 * facts["file_bytes"] / (120 * 96), abs=1e-4)
    assert facts["tile_columns"] * facts["tile_rows"] == 1 and facts["model"] in manifest()
    assert all(f" {text} " in run("info", "photo.rdc")[1] for text in ("120x96", "3, 8 bits", "1 (1x1),", "image (id 1)"))
    chunk = facts["chunks"][-1]
    assert chunk["kind"] == "data" and chunk["offset"] + chunk["bytes"] == Path("photo.rdc").stat().st_size
    assert chunk["crc32"] in run("info", "photo.rdc")[1]
    assert run("verify", "photo.rdc")[:2] == (0, "photo.rdc  ok\n")
    code, out, _ = run("decode", "photo.rdc", "-o", "out.png")
    assert code == 0 and Image.open(tmp_path / "out.png").size == (120, 96)
    assert run("decode", "photo.rdc", "-o", "crop.webp", "--crop", "5,6,70,80")[0] == 0
    assert Image.open(tmp_path / "crop.webp").size == (70, 80)


def test_many_inputs_need_a_folder(run, photo, tmp_path):
    Image.open(photo).save(tmp_path / "second.png")
    for output in ("two.rdc", "photo.png"):  # the second is a file
        code, out, err = run("encode", "photo.png", "second.png", "-o", output, "--force")
        assert (code, out) == (1, "") and f"{output} is one file, and -o takes a folder for 2 inputs" in err
    assert run("encode", "photo.png", "./photo.png", "-o", "twice")[0] == 0 and (tmp_path / "twice" / "photo.rdc").exists()
    assert run("encode", "photo.png", "second.png", "-o", "v1.0")[0] == 0 and (tmp_path / "v1.0" / "second.rdc").exists()
    assert run("--version")[1].startswith("rdcodec ")


def test_content_decides_not_the_suffix(run, photo, tmp_path):
    photo.rename(tmp_path / "photo.txt")
    assert run("encode", "photo.txt")[0] == 0
    (tmp_path / "lie.png").write_text("this is no image")
    code, out, err = run("encode", "lie.png")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "neither an image nor" in err
    assert not (tmp_path / "lie.rdc").exists()


def test_targets(run, photo, tmp_path):
    run("encode", "photo.png", "-q", "40", "-o", "q40.rdc")
    size = (tmp_path / "q40.rdc").stat().st_size
    assert run("encode", "photo.png", "--size", f"{size}B", "-o", "s.rdc")[0] == 0
    assert 0.9 * size < (tmp_path / "s.rdc").stat().st_size <= size
    bpp = size * 8 / (96 * 120)
    assert run("encode", "photo.png", "--bpp", f"{bpp:.6f}", "-o", "b.rdc")[0] == 0
    assert 0.9 * bpp < (tmp_path / "b.rdc").stat().st_size * 8 / (96 * 120) <= bpp
    code, _, err = run("encode", "photo.png", "--size", "60B", "-o", "x.rdc")
    assert code == 1 and "too small" in err and not (tmp_path / "x.rdc").exists()
    code, _, err = run("encode", "photo.png", "--size", "60 parsecs", "-o", "new/x.rdc")
    assert code == 1 and "size '60 parsecs'; need a number and a unit" in err and not (tmp_path / "new").exists()
    assert run("encode", "photo.png", "--size", "1kB", "--bpp", "1")[0] == 2
    for target in (("--size", "1kB"), ("--bpp", "1")):
        code, out, err = run("encode", "photo.png", "-q", "60", *target)
        assert (code, out) == (2, "") and "--quality, --bpp or --size" in err
    assert run("encode", "photo.png", "-q", "101")[0] == 2
    for value in ("inf", "nan", "-1", "0", "1e308"):
        code, out, err = run("encode", "photo.png", "--bpp", value, "-o", "new/x.rdc")
        assert (code, out, err.count("\n")) == (1, "", 1) and "--bpp" in err and "above 0" in err
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("device", ["foo", "cuda:x", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_one_line(run, photo, tmp_path, device):
    code, out, err = run("encode", "photo.png", "--device", device)
    assert (code, out, err.count("\n")) == (1, "", 1) and "device " in err and ("need auto" in err or "CUDA" in err)
    assert not (tmp_path / "photo.rdc").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("10", 10), ("10B", 10), ("1.001kB", 1001), ("2 MB", 2 * 10**6), ("3gb", 3 * 10**9), ("1T", 10**12),
        ("1TB", 10**12), ("1.5KiB", 1536), (" 2MiB ", 2**21), ("3GiB", 3 * 2**30), ("1TiB", 2**40), ("4Ki", 4096),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert files.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "kB", "-5", "1e3", "inf", "nan", "1,5MB", "5 kBB", "5iB", "1PB", "٣kB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"size .*; need a number and a unit: 4096, 50kB"):
        files.parse_size(text)


def test_sizes_for_people():
    sizes = 0, 999, 1500, 999_949, 999_950, 2 * 10**9, 5.25e12
    assert [files.show_size(n) for n in sizes] == ["0 B", "999 B", "1.5 kB", "999.9 kB", "1.0 MB", "2.0 GB", "5.2 TB"]


def test_nothing_is_overwritten_without_force(run, photo, tmp_path):
    (tmp_path / "photo.rdc").write_bytes(b"precious")
    code, _, err = run("encode", "photo.png")
    assert code == 1 and "--force" in err and (tmp_path / "photo.rdc").read_bytes() == b"precious"
    assert run("encode", "photo.png", "--force")[0] == 0


def test_folders_and_globs(run, photo, tmp_path, photograph):
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(photograph[: 20 + i, :30]).save(tmp_path / "in" / f"{i}.jpg")
    (tmp_path / "in" / "notes.txt").write_text("not an image, not asked for")
    code, _, err = run("encode", "in", "-o", "packed/")
    assert code == 0 and err == "codec: note: in: 1 of 4 files left out (.txt)\n"
    assert run("decode", "packed/*.rdc", "-o", "back/")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["0.png", "1.png", "2.png"]
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8 broken")
    code, _, err = run("encode", "in", "-o", "again/")
    assert code == 1 and "bad.jpg" in err and len(list((tmp_path / "again").iterdir())) == 3  # the others are done
    assert run("encode", "missing*.png")[0] == 1


def test_subfolders_and_equal_stems_keep_apart(run, tmp_path, photograph):
    for name in ("a/1.png", "b/1.jpg", "g.png", "g.bmp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[:20, :30]).save(tmp_path / "in" / name)
    assert run("encode", "in", "-o", "packed")[0] == 0
    packed = sorted(str(p.relative_to(tmp_path / "packed")) for p in (tmp_path / "packed").rglob("*.rdc"))
    assert packed == ["a/1.rdc", "b/1.rdc", "g.bmp.rdc", "g.png.rdc"]
    (tmp_path / "in" / "b" / "1.jpg").rename(tmp_path / "in" / "b" / "1.png")
    code, out, err = run("encode", "in/a/1.png", "in/g.png", "in/b/1.png", "-o", "flat")
    assert (code, out, err.count("\n")) == (1, "", 1) and "in/a/1.png, in/b/1.png share" in err and "g.png" not in err
    (tmp_path / "bad.png").write_text("no image")
    assert run("encode", "bad.png", "-o", "nothing/")[0] == 1 and not (tmp_path / "nothing").exists()


def test_each_output_is_named_after_what_its_file_holds(run, photo, tmp_path):
    (tmp_path / "in").mkdir()
    photo.rename(tmp_path / "in" / "photo.png")
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 5, 8) for n in "kv"}, tmp_path / "in" / "c.safetensors")
    assert run("encode", "in", "-o", "packed/")[0] == 0
    assert run("decode", "packed", "-o", "back/")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["c.safetensors", "photo.png"]
    assert set(safetensors.torch.load_file(tmp_path / "back" / "c.safetensors")) == {"layers.0.k", "layers.0.v", "tokens"}
    (tmp_path / "junk.rdc").write_bytes(b"junk")
    code, out, err = run("decode", "junk.rdc")
    assert (code, out) == (1, "") and err.startswith("codec: junk.rdc: unsupported: ")


def test_options_of_the_other_codec_are_refused_by_name(run, photo, tmp_path):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 5, 16) for n in "kv"}, tmp_path / "c.safetensors")
    run("encode", "c.safetensors", "-o", "packed.rdc")
    run("encode", "photo.png", "-o", "picture.rdc")
    for arguments, given in (
        (["encode", "c.safetensors", "--size", "50kB"], "--size: only for images, and this is no image"),
        (["encode", "c.safetensors", "--bpp", "1", "--device", "cuda"], "--bpp, --device: only for images"),
        (["decode", "packed.rdc", "-o", "out.safetensors", "--crop", "0,0,1,1", "--salvage"], "--crop, --salvage: only for"),
        (["verify", "packed.rdc", "--device", "cuda"], "--device: only for images"),
        (["decode", "packed.rdc", "-o", "out.safetensors", "--format", "jpg"], "--format: only for images"),
        (["encode", "photo.png", "--mode", "fp8", "--bits", "3", "--keys", "x"], "--mode, --bits, --keys: only for KV"),
        (["encode", "photo.png", "--tokens", "ids"], "--tokens: only for KV caches, and this is no KV cache"),
        (["decode", "picture.rdc", "--prefix", "3"], "--prefix: only for KV caches, and this is no KV cache"),
        (["encode", "c.safetensors", "--mode", "zip"], f"no mode 'zip'; there are {MODE_NAMES}\n"),
        (["encode", "c.safetensors", "--mode", "tokens"], "mode tokens needs the model to encode and decode, which only"),
        (["encode", "c.safetensors", "-q", "10", "--mode", "lossless"], "mode lossless has no --quality; its rate is"),
        (["encode", "c.safetensors", "--bits", "3"], "mode quantized has no --bits; it has --quality"),
        (["encode", "c.safetensors", "-q", "10", "--mode", "turboquant"], "mode turboquant has no --quality; it has --bits"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1) and given in err, (arguments, err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.safetensors", "packed.rdc", "photo.png", "picture.rdc"]


def test_outputs_with_the_suffix_of_another_format_are_refused(run, photo, tmp_path):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 5, 16) for n in "kv"}, tmp_path / "c.safetensors")
    run("encode", "c.safetensors")
    for arguments, message in (
        (["encode", "photo.png", "-o", "x.png"], "the output x.png would be .rdc, not .png"),
        (["encode", "c.safetensors", "-o", "x.safetensors"], "would be .rdc, not .safetensors"),
        (["decode", "c.rdc", "-o", "x.png"], "the output x.png would be .safetensors, not .png"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1) and message in err
    assert not list(tmp_path.glob("x.*"))
    assert run("decode", "c.rdc", "-o", "x.bin")[0] == 0


def test_a_format_for_outputs_that_o_does_not_name(run, photo, tmp_path):
    (tmp_path / "packed").mkdir()
    run("encode", "photo.png", "-o", "packed/a.rdc")
    (tmp_path / "packed" / "b.rdc").write_bytes((tmp_path / "packed" / "a.rdc").read_bytes())
    assert run("decode", "packed", "-o", "back", "--format", "jpg")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["a.jpg", "b.jpg"]
    for arguments, name in ((["-o", "x.jpeg", "--format", "JPG"], "x.jpeg"), (["--format", "webp"], "packed/a.webp")):
        assert run("decode", "packed/a.rdc", *arguments)[0] == 0
        assert Image.open(tmp_path / name).format == {".jpeg": "JPEG", ".webp": "WEBP"}[Path(name).suffix]
    code, out, err = run("decode", "packed/a.rdc", "-o", "y.png", "--format", "jpg")
    assert (code, out, err.count("\n")) == (1, "", 1) and "the output y.png would be .jpg, not .png" in err
    assert run("decode", "packed", "-o", "y", "--format", "gif")[0] == 2 and not list(tmp_path.glob("y*"))


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
    (tmp_path / "r.rdc").write_bytes(KvCodec(KvSettings(mode="residual")).encode(pairs, np.arange(5)))
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


def test_decode_reads_its_input_once(run, photo, tmp_path):
    """A pipe, as the shell's <(...), can be read only once."""
    run("encode", "photo.png")
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "photo.rdc").read_bytes()
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True).start()
    subprocess.run([CODEC, "decode", "pipe"], check=True, capture_output=True, timeout=60)  # a second read waits for ever
    assert Image.open(tmp_path / "pipe.png").size == (120, 96)
    reads, original = [], Path.read_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: reads.append(self.name) or original(self))
        assert run("decode", "photo.rdc", "--force")[0] == 0
    assert reads.count("photo.rdc") == 1


def test_damage(run, photo, tmp_path):
    run("encode", "photo.png")
    data = bytearray((tmp_path / "photo.rdc").read_bytes())
    data[-20] ^= 1
    (tmp_path / "bad.rdc").write_bytes(data)
    for command in ("decode", "verify"):
        code, out, err = run(command, "bad.rdc")
        assert (code, out) == (1, "") and err.startswith("codec: bad.rdc: corrupt: ") and err.count("\n") == 1
    assert not (tmp_path / "bad.png").exists()
    code, out, err = run("decode", "bad.rdc", "--salvage")
    assert (code, out) == (1, "") and "no tile is undamaged; tile 0 (of 0..0)" in err and not (tmp_path / "bad.png").exists()
    (tmp_path / "empty.rdc").touch()
    assert run("info", "empty.rdc")[0] == 1 and run("decode", "photo.png")[0] == 1


def test_a_folder_gives_a_folder_however_many_it_holds(run, photo, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((tmp_path / "photo.png").read_bytes())
    assert run("encode", "one/", "-o", "packed")[0] == 0
    assert [str(p.relative_to(tmp_path)) for p in (tmp_path / "packed").iterdir()] == ["packed/a.rdc"]
    code, _, err = run("decode", "packed", "-o", "out.jpg")
    assert code == 1 and "out.jpg is one file, and -o takes a folder for an input folder" in err
    assert not (tmp_path / "out.jpg").exists()


def test_a_folder_in_an_outputs_place_is_found_before_work(run, photo, tmp_path):
    (tmp_path / "photo.rdc").mkdir()
    for force in ([], ["--force"]):
        code, _, err = run("encode", "photo.png", *force)
        assert code == 1 and "photo.rdc is a folder; -o takes a file" in err


def test_a_link_stays_and_a_pipe_gets_the_data(run, photo, tmp_path):
    (tmp_path / "real.rdc").write_bytes(b"old")
    (tmp_path / "link.rdc").symlink_to("real.rdc")
    assert run("encode", "photo.png", "-o", "link.rdc")[0] == 1
    assert run("encode", "photo.png", "-o", "link.rdc", "--force")[0] == 0
    assert (tmp_path / "link.rdc").is_symlink() and (tmp_path / "real.rdc").read_bytes().startswith(container.MAGIC)
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        assert run("encode", "photo.png", "-o", "pipe")[0] == 0
    assert read.result() == (tmp_path / "real.rdc").read_bytes() and not (tmp_path / "pipe").is_file()


def test_json_has_numbers_where_people_get_text(run, photo, tmp_path):
    widths = {"k": 24, "v": 16}
    tensors = {f"layers.{i}.{n}": torch.randn(2, 40, width) for i in range(3) for n, width in widths.items()}
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")

    def facts(*command: str) -> dict:
        code, out, _ = run(*command, "--json", "--force")
        found = json.loads(out)
        assert code == 0 and not {"rate", "shape"} & set(found)
        return found

    assert facts("encode", "photo.png").items() >= {"codec": "image", "quality": 60}.items()
    assert facts("decode", "photo.rdc", "-o", "back.png").items() >= {"width": 120, "height": 96}.items()
    sizes = {"codec": "kv", "layers": 3, "kv_heads": 2, "tokens": 40, "key_width": 24, "value_width": 16}
    assert 1 < facts("encode", "c.safetensors")["bits_per_element"] < 16
    for command in (["encode", "c.safetensors"], ["decode", "c.rdc", "-o", "d.safetensors"]):
        assert facts(*command).items() >= sizes.items()
    beyond = facts("decode", "c.rdc", "-o", "d.safetensors", "--prefix", "41")
    assert beyond["tokens"] == 40 and beyond["notices"] == ["it holds 40 tokens, fewer than --prefix 41"]


def test_a_failed_file_is_a_line_of_json_too(run, photo, tmp_path):
    (tmp_path / "lie.png").write_text("this is no image")
    code, out, err = run("encode", "lie.png", "photo.png", "--json")
    failed, done = map(json.loads, out.splitlines())
    assert code == 1 and err.count("\n") == 1 and failed["input"] == "lie.png" and "neither an image" in failed["error"]
    assert done["input"] == "photo.png" and "error" not in done
    (tmp_path / "bad.rdc").write_bytes((tmp_path / "photo.rdc").read_bytes()[:30])
    for command in (["decode", "-o", "out/"], ["verify"], ["info"]):
        code, out, err = run(*command, "photo.rdc", "bad.rdc", "--json")
        done, failed = map(json.loads, out.splitlines())
        assert code == 1 and err.count("\n") == 1 and done["input"] == "photo.rdc" and "error" not in done
        assert failed["input"] == "bad.rdc" and failed["error"].startswith("truncated: ")
    code, out, err = run("decode", "bad.rdc", "-o", "-", "--json")
    assert (code, out) == (1, "") and json.loads(err.splitlines()[-1])["input"] == "bad.rdc"  # stdout is for the data


@pytest.mark.parametrize("stem", ["a [b] c", "[", "[/i]", ":smile:", "ünï köde", "-dash"])
def test_names_are_shown_as_they_are(run, photo, tmp_path, monkeypatch, stem):
    monkeypatch.setattr(cli.errors, "_force_terminal", True)  # with a progress bar
    (tmp_path / f"{stem}.png").parent.mkdir(exist_ok=True)
    photo.rename(tmp_path / f"{stem}.png")
    code, out, err = run("encode", f"./{stem}.png")
    assert (code, out.split("  ")[0]) == (0, f"{stem}.rdc"), err
    code, out, _ = run("info", f"./{stem}.rdc")
    assert code == 0 and out.splitlines()[0].strip() == f"{stem}.rdc"


def test_every_message_is_one_line(run, photo, tmp_path, monkeypatch):
    """Names of files may hold line breaks and bytes that are no UTF-8."""
    photo.rename(tmp_path / "a\nb.png")
    code, out, err = run("encode", "a\nb.png")
    assert (code, err, out.split("  ")[0], out.count("\n")) == (0, "", "a\\nb.rdc", 1)
    assert run("verify", "a\nb.rdc")[1] == "a\\nb.rdc  ok\n"
    (tmp_path / "c\nd.png").write_text("no image")
    code, out, err = run("encode", "c\nd.png")
    assert (code, out) == (1, "") and err.startswith("codec: c\\nd.png: ") and err.count("\n") == 1
    (tmp_path / "a\nb.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}
    done = subprocess.run([CODEC, "encode", b"\xff.png"], capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(b"\\udcff.rdc  ") and not done.stderr
    closed = subprocess.run(f"{CODEC} encode - <&-", shell=True, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (1, "codec: standard input: it is closed\n")


def test_outputs_that_cannot_be_are_found_before_anything_is_read(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(files.Job, "read", lambda self: pytest.fail("read"))
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "bare").write_bytes(photo.read_bytes())
    (tmp_path / "link").symlink_to("bare")
    for arguments, message in (
        (["encode", "photo.png", "-o", "taken/"], "taken is a file, and taken/photo.rdc needs a folder there"),
        (["encode", "photo.png", "-o", "taken/a/x.rdc"], "taken is a file, and taken/a/x.rdc needs"),
        (["encode", "bare", "-o", "bare", "--force"], "bare is the input itself; give -o another name"),
        (["encode", "bare", "-o", "link", "--force"], "link is the input itself"),
        (["decode", "photo.png"], "photo.png is the input itself"),
        (["encode", ""], "an input's name is empty"),
        (["encode", "photo.png", "-o", ""], "the output's name is empty"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err) == (1, "", f"codec: {message}{err.removeprefix(f'codec: {message}')}"), arguments
    for command in (["demo"], ["eval", "image"]):
        code, out, err = run(*command, "nowhere.png")
        assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith("codec: nowhere.png: ")
    code, out, err = run("demo", "taken")
    assert (code, out) == (1, "") and err.startswith("codec: taken: not an image")


def test_an_input_named_twice_is_one_input(run, photo, tmp_path):
    code, out, err = run("encode", "photo.png", "./photo.png", "*.png")
    assert (code, err) == (0, "") and out.count("\n") == 1 and (tmp_path / "photo.rdc").exists()


def test_models_and_help(run):
    assert all(name in run("models")[1] for name in manifest())
    for arguments in ([], ["encode"], ["decode"], ["info"], ["verify"], ["eval", "image"], ["demo"], ["train"]):
        assert CliRunner().invoke(cli.app, [*arguments, "--help"]).exit_code == 0


def test_help_shows_each_example_on_its_own_line_and_every_mode():
    shown = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["encode", "--help"]).output
    assert sum("codec encode" in line for line in shown.splitlines() if "Usage" not in line) >= 5, shown
    assert all(mode in shown for mode, line in MODES.items() if not line.needs_model)
    assert shown.count("the highest whole quality of at most") == 2  # --bpp and --size
    assert "\n\n\n\n" not in "\n".join(line.strip() for line in shown.splitlines())


def test_models_at_eighty_columns_names_every_file_whole(run, monkeypatch):
    monkeypatch.setattr(cli, "out", Console(width=80, highlight=False, soft_wrap=False))
    _, out, _ = run("models")
    for line in manifest().values():
        assert line.name in out and line.stream_hash.hex() in out


def test_help_of_training_is_lightnings(run):
    pytest.importorskip("lightning")
    code, out, err = run("train", "image", "fit", "--help")
    assert code == 0 and "--trainer.max_steps" in out and "--model.muon_lr" in out
    assert out.startswith("usage: codec train image") and not err


def test_the_halves_of_a_detail_do_not_touch():
    ours, jpeg = np.full((20, 30, 3), 10, np.uint8), np.full((20, 30, 3), 20, np.uint8)
    assert np.asarray(demo._halves(ours, jpeg, 16, 4))[..., 0].tolist() == [[10] * 6 + [255] * 4 + [20] * 6] * 4


def test_demo_draws_its_sheet(run, photo, tmp_path):
    code, out, _ = run("demo", "photo.png", "-o", "shown")
    assert code == 0 and "sheet.png" in out
    sheet = np.asarray(Image.open(tmp_path / "shown" / "sheet.png"))
    assert sheet.shape[1] > 1000
    cells = sheet[: sheet.shape[0] // 3 * 3].reshape(3, sheet.shape[0] // 3, -1, 3)
    assert all((part != 255).any(-1).sum() > 5000 for line in cells for part in np.array_split(line, 4, axis=1))
    for jpeg in (tmp_path / "shown").glob("*.jpg"):
        assert f" {jpeg.stat().st_size} " in out  # also where JPEG cannot be as small
    assert len(list((tmp_path / "shown").glob("*.rdc"))) == 3


def test_eval_writes_its_report(run, tmp_path, photograph, monkeypatch):
    pytest.importorskip("bjontegaard")
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph[:200, :200]).save(tmp_path / "in" / "one.png")
    Image.fromarray(photograph[:30, :30]).save(tmp_path / "in" / "small.png")
    (tmp_path / "in" / "bad.png").write_bytes((tmp_path / "in" / "one.png").read_bytes()[:500])
    Image.new("RGB", (16500, 9)).save(tmp_path / "in" / "wide.png")  # more than WebP can hold
    qualities = "5,30,60,90"
    code, out, err = run("eval", "image", "in", "--anchors", "jpeg,webp", "--qualities", qualities, "-o", "report")
    assert code == 0 and "webp" in out and "bad.png" in err and "small.png" in err.split("without MS-SSIM")[1]
    assert "wide.png: encoding error" in err and "wide.png" not in (tmp_path / "report" / "points.csv").read_text()
    assert "nan" not in (tmp_path / "report" / "means.csv").read_text()
    names = {"points.csv", "means.csv", "bd_rate.csv", "rate_distortion.png"}
    assert {p.name for p in (tmp_path / "report").iterdir()} == names
    assert run("eval", "image", "in", "--anchors", "gif")[0] == 1
    (tmp_path / "taken").write_text("a file")
    for command in (("eval", "image", "in"), ("demo", "in/one.png")):
        code, out, err = run(*command, "-o", "taken")
        assert (code, out, err.count("\n")) == (1, "", 1) and "taken is a file, and -o takes a folder" in err
    for arguments, message in (
        (("nowhere",), "no such file or folder"), (("in", "--qualities", "5,x"), "whole numbers 0..100"),
        (("in", "--qualities", "5,50,101,6"), "whole numbers 0..100"), (("in", "--qualities", "5,50"), "needs 4"),
    ):  # fmt: skip
        code, out, err = run("eval", "image", *arguments)
        assert (code, out) == (1, "") and message in err.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    code, out, err = run("eval", "image", "in", "-o", "none")
    assert (code, out) == (1, "") and "pip install 'rdcodec[eval]'" in err and not (tmp_path / "none").exists()


def test_means_are_of_the_same_pictures_in_rate_and_quality():
    """Each picture counts the same whatever its size; one without MS-SSIM counts in neither half of that curve."""
    size = {"small": (10, 10), "large": (1000, 1000)}
    points = [
        evaluation.Point("rdcodec", 5, name, *size[name], 1, rate_bpp, psnr_db, ms_ssim, 0.0, 0.0)
        for name, rate_bpp, psnr_db, ms_ssim in (("small", 1.0, 30.0, float("nan")), ("large", 3.0, 40.0, 0.9))
    ]
    curves = evaluation.curves(points)
    assert [(row.rate_bpp, row.psnr_db) for row in curves["psnr_db"]] == [(2.0, 35.0)]
    assert [(row.rate_bpp, row.ms_ssim) for row in curves["ms_ssim"]] == [(3.0, 0.9)]


def test_a_bd_rate_between_two_rates_does_not_hang_on_where_points_lie():
    """Ours takes 0.7 of the rate at 0.05 bpp, and a tenth more with each doubling."""

    def rows(name: str, rates: np.ndarray, factor: np.ndarray) -> list[evaluation.MeanPoint]:
        pairs = zip(rates * factor, 30 + 6 * np.log2(rates), strict=True)
        return [evaluation.MeanPoint(name, i, *pair, *[0.0] * 3) for i, pair in enumerate(pairs)]

    theirs = np.geomspace(0.05, 4, 30)
    figures = []
    for count in (9, 10, 11, 12, 13):
        rates = np.geomspace(0.05, 4, count)
        points = rows("rdcodec", rates, 0.7 + 0.1 * np.log2(rates / 0.05)) + rows("jpeg", theirs, np.ones(30))
        figures.append(evaluation.bd_rate(points, "jpeg", rates=(0.2, 1.0)))
    assert max(figures) - min(figures) < 0.02
    assert evaluation.bd_rate(points, "jpeg", rates=(0.05, 0.2)) < -15 < figures[-1]


def test_a_truncated_image_is_described_and_can_be_salvaged(run, photo, tmp_path):
    run("encode", "photo.png", "-o", "whole.rdc")
    whole = (tmp_path / "whole.rdc").read_bytes()
    (tmp_path / "cut.rdc").write_bytes(whole[:-100])
    code, out, _ = run("info", "cut.rdc")
    assert code == 0 and "100 bytes at the end are missing" in out and "--salvage" in out
    facts = json.loads(run("info", "cut.rdc", "--json")[1])
    assert (facts["file_bytes"], facts["expected_bytes"]) == (len(whole) - 100, len(whole))
    assert run("verify", "cut.rdc")[0] == run("decode", "cut.rdc")[0] == 1
    (tmp_path / "cut.rdc").write_bytes(whole[:40])  # into the table
    assert run("info", "cut.rdc")[0] == 1


def test_what_encoding_cannot_help_is_said(run, tmp_path, photo):
    Image.effect_noise((64, 64), 80).convert("1").save(tmp_path / "bits.png")
    code, _, err = run("encode", "bits.png", "-q", "90")
    assert code == 0 and "larger than the input of " in err
    code, out, err = run("encode", "bits.rdc", "-o", "again.rdc")
    assert (code, out) == (1, "") and "is an .rdc file already" in err


def test_standard_input_and_output(photo, tmp_path):
    """As a process, in a pipe: bytes only on standard output."""
    encoded = subprocess.run([CODEC, "encode", "-"], stdin=photo.open("rb"), capture_output=True, check=True)
    assert encoded.stdout[:4] == b"\x89RDC" and b"bpp" in encoded.stderr
    decoded = subprocess.run([CODEC, "decode", "-"], input=encoded.stdout, capture_output=True, check=True)
    assert decoded.stdout[:4] == b"\x89PNG"


@pytest.mark.parametrize("source", ["photo.png", "cache.safetensors"])
def test_info_needs_no_torch_and_little_time(run, photo, tmp_path, source):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 300, 64) for n in "kv"}, tmp_path / "cache.safetensors")
    assert run("encode", source, "-o", "it.rdc")[0] == 0
    code = "import sys; from rdcodec.codecs import cli; sys.argv = ['codec', 'info', 'it.rdc']; cli.main()"
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        loaded = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
        durations.append(time.perf_counter() - start)
    assert not any(f" {name}\n" in loaded.stderr for name in ("torch", "numpy", "PIL"))
    assert min(durations) < (0.6 if os.environ.get("CI") else 1.5)  # 0.3 s on a machine that does nothing else


def test_decode_imports_nothing_it_does_not_need(run, photo):
    run("encode", "photo.png")
    code = "import sys; from rdcodec.codecs import cli; sys.argv = ['codec', 'decode', 'photo.rdc', '-o', 'out.png']\n"
    code += "try: cli.main()\nfinally: print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    forbidden = {"compressai", "lightning", "torchvision", "matplotlib", "torch._dynamo", "transformers"}
    assert not set(loaded) & forbidden


def test_notices_go_to_standard_error(run, tmp_path):
    Image.fromarray((np.arange(400).reshape(20, 20) * 160).astype(np.uint16)).save(tmp_path / "deep.png")
    code, out, err = run("encode", "deep.png")
    assert code == 0 and out.count("\n") == 1 and "8 bits" in err
    code, out, _ = run("encode", "deep.png", "--json", "--force")
    assert code == 0 and "8 bits" in json.loads(out)["notices"][0]
    code, out, _ = run("decode", "deep.rdc", "--json", "-o", "deep.bmp")
    assert code == 0 and json.loads(out)["notices"] == []
