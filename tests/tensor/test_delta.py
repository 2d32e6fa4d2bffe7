"""Files of what differs from a base: exact, short where little differs, and refused where the base is another."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from rdcodec.codecs import container
from rdcodec.codecs.tensor import TensorCodec, Tensors, TensorSettings, load_file, safe_open, save_file
from rdcodec.codecs.tensor.delta import DIFFERENCE, XOR, code
from rdcodec.codecs.tensor.describe import describe_tensors
from rdcodec.codecs.tensor.file_api import base_of
from rdcodec.codecs.tensor.header import WORDS
from rdcodec.codecs.tensor.reading import TensorFile, verified
from rdcodec.entropy_models.errors import BitstreamError, InputError, Mismatch, Unsupported
from rdcodec.entropy_models.trellis import TRELLIS_CODERS

GENERATOR = torch.Generator().manual_seed(5)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


BEFORE = {"a.weight": 0.02 * normal(200, 256), "b.weight": normal(90, 300).bfloat16(), "norm": torch.ones(40)}
AFTER = {name: x + (1e-4 * torch.randn(x.shape, generator=GENERATOR)).to(x.dtype) for name, x in BEFORE.items()}
AFTER |= {"new": normal(30, 30), "ids": torch.arange(5)}


@pytest.fixture
def files(tmp_path):
    safetensors.torch.save_file(BEFORE, tmp_path / "before.safetensors")
    safetensors.torch.save_file(AFTER, tmp_path / "after.safetensors", {"format": "pt"})
    return tmp_path


def size(**settings) -> int:
    return len(TensorCodec(TensorSettings(**settings)).encode(Tensors(AFTER)))


@pytest.mark.parametrize("how", [XOR, DIFFERENCE])
@pytest.mark.parametrize("dtype", WORDS)
def test_any_words_come_back(dtype, how):
    rng, kind = np.random.default_rng(3), np.dtype(f"<u{WORDS[dtype].word}")
    for count in (1, 3, 20_000):
        words, base = (rng.integers(0, np.iinfo(kind).max, count, kind, endpoint=True) for _ in range(2))
        words[::3] = base[::3]
        before = words.copy(), base.copy()
        writer = TRELLIS_CODERS.write()
        code(writer, words, base, dtype, how)
        reader = TRELLIS_CODERS.read(writer.chunk())
        found = code(reader, None, base, dtype, XOR)
        reader.finish()
        assert np.array_equal(found, before[0]) and np.array_equal(words, before[0]) and np.array_equal(base, before[1])


def test_neighbours_differ_by_one_across_zero():
    base = np.array([0x0000, 0x8000, 0x3F80, 0xBF80], "<u2")  # 0, -0, 1, -1
    words = np.array([0x8000, 0x0000, 0x3F81, 0xBF81], "<u2")  # -0, 0, the next above 1, the next below -1
    writer = TRELLIS_CODERS.write()
    code(writer, np.tile(words, 1000), np.tile(base, 1000), "BF16", DIFFERENCE)
    assert len(writer.chunk()) < 1000, "2 bits of difference for each number"


def test_little_changes_take_little():
    base = base_of(BEFORE)
    assert size(mode="delta", base=base) < 0.75 * size()
    changed = BEFORE["b.weight"].clone()
    changed[3, 5] = 7
    data = TensorCodec(TensorSettings(mode="delta", base=base)).encode(Tensors(BEFORE | {"b.weight": changed}))
    assert len(data) < 2000


def test_a_delta_is_never_much_longer_than_a_lossless_file():
    unlike = {name: torch.flip(x, [0]) + 1 for name, x in AFTER.items()}
    assert size(mode="delta", base=base_of(unlike)) < 1.01 * size()


def test_flags_that_flip_are_coded_by_exclusive_or():
    words = torch.randint(0, 1 << 40, (3000,), generator=GENERATOR)
    flipped = words ^ (1 << 33) * torch.randint(0, 2, (3000,), generator=GENERATOR)
    data = TensorCodec(TensorSettings(mode="delta", base=base_of({"x": words}))).encode(Tensors({"x": flipped}))
    assert len(data) < 3000 / 8 + 300


def test_the_command_writes_and_reads_a_delta(run, files):
    digest = hashlib.sha256((files / "before.safetensors").read_bytes()).hexdigest()
    assert run("encode", "after.safetensors", "--base", "before.safetensors")[0] == 0
    assert run("verify", "after.rdc", "--base", "before.safetensors")[0] == 0
    facts = json.loads(run("info", "after.rdc", "--json")[1])
    assert (facts["mode"], facts["base_sha256"], facts["base_name"]) == ("delta", digest, "before.safetensors")
    assert f"which takes the base, sha256 {digest} (before.safetensors)" in run("verify", "after.rdc")[1]
    assert run("decode", "after.rdc", "-o", "back.safetensors", "--base", "before.safetensors")[0] == 0
    assert (files / "back.safetensors").read_bytes() == (files / "after.safetensors").read_bytes()
    code, out, err = run("verify", "after.rdc")
    assert code == 0 and digest in out + err and "takes the base" in out + err


def test_a_base_may_be_an_rdc_file_of_it(run, files):
    assert run("encode", "before.safetensors")[0] == run("encode", "after.safetensors", "--base", "before.rdc")[0] == 0
    found = load_file(files / "after.rdc", base=files / "before.safetensors")
    assert all(torch.equal(found[name], x) for name, x in AFTER.items())


MISSING = "its numbers are differences from a base that is not given"


def test_a_wrong_base_is_refused(run, files):
    assert run("encode", "after.safetensors", "--base", "before.safetensors")[0] == 0
    wanted = f"sha256 {hashlib.sha256((files / 'before.safetensors').read_bytes()).hexdigest()} (before.safetensors)"
    safetensors.torch.save_file({"other": torch.ones(3)}, files / "other.safetensors")
    assert run("encode", "before.safetensors", "-o", "plain.rdc")[0] == 0
    (files / "no.json").write_text("{}")
    (files / "cut.rdc").write_bytes((files / "plain.rdc").read_bytes()[:-9])
    for line, message in (
        ("encode after.safetensors --base no.json -o y.rdc", "after.safetensors: base no.json: starts with"),
        ("encode after.safetensors --base cut.rdc -o y.rdc", "after.safetensors: truncated: base cut.rdc: "),
        ("decode after.rdc -o x.safetensors", f"a.weight: {MISSING} (--base): {wanted}"),
        ("decode after.rdc -o x.safetensors --base after.safetensors", f"; the file needs {wanted}"),
        ("verify after.rdc --base other.safetensors", f"; the file needs {wanted}"),
        ("decode plain.rdc -o x.safetensors --base before.safetensors", "needs none, for it is of mode lossless"),
        ("encode after.safetensors --base other.safetensors -o y.rdc", "no tensor has its like in the base"),
        ("encode after.safetensors --base none.safetensors -o y.rdc", "none.safetensors: No such file"),
        ("encode after.safetensors --mode delta -o y.rdc", "mode delta needs a base"),
        ("encode after.safetensors --bits 3 --mode delta --base before.safetensors -o y.rdc", "mode delta has no bits"),
        ("encode after.safetensors --mode lossless --base before.safetensors -o y.rdc", "mode lossless has no base"),
    ):
        code, _, err = run(*line.split())
        assert code == 1 and err.count("\n") == 1 and message in err, (line, err)
    assert not (files / "x.safetensors").exists() and not (files / "y.rdc").exists()


def test_python_takes_paths_and_dictionaries(files):
    save_file(AFTER, files / "d.rdc", base=BEFORE)
    with pytest.raises(Unsupported, match=f"^a.weight: {MISSING} .--base.: sha256 [0-9a-f]{{64}}$"):
        load_file(files / "d.rdc")
    with pytest.raises(Mismatch, match="the file needs sha256"):
        load_file(files / "d.rdc", base=AFTER)
    with safe_open(files / "d.rdc", base=BEFORE) as file:
        assert torch.equal(file.get_slice("a.weight")[3:5], AFTER["a.weight"][3:5])
    with pytest.raises(InputError, match="mode lossless has no base"):
        save_file(AFTER, files / "e.rdc", base=BEFORE, mode="lossless")


def test_a_damaged_name_of_the_base_is_told_and_costs_nothing_else(files):
    save_file(AFTER, path := files / "d.rdc", base=files / "before.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x80
    path.write_bytes(data)
    with pytest.raises(Unsupported, match=f"^a.weight: {MISSING} .--base.: sha256 [0-9a-f]{{64}}$"):
        load_file(path)
    found = load_file(path, base=files / "before.safetensors")
    assert all(torch.equal(found[name], x) for name, x in AFTER.items())
    assert "last chunk: " in describe_tensors(container.parse(bytes(data)))["damaged"]
    with pytest.raises(BitstreamError):
        verified(TensorFile(container.parse(bytes(data)), base=base_of(files / "before.safetensors")))
