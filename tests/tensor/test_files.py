"""Files of tensors in and out, by the command: formats, what is no tensor file, and what is a cache instead."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from command import CODEC
from rdcodec.codecs import container
from rdcodec.codecs.contract import Desk
from rdcodec.codecs.kv_cache.face import FACE as KV
from rdcodec.codecs.kv_cache.recognised import holds_cache
from rdcodec.codecs.tensor import save_file
from rdcodec.codecs.tensor.face import FACE, DecodeOptions, EncodeOptions
from rdcodec.codecs.tensor.files import source_at, source_of
from rdcodec.codecs.tensor.header import PIECE_WORDS, Index
from rdcodec.entropy_models.errors import InputError

TENSORS = {
    "layers.0.attn.k_proj.weight": torch.randn(40, 24, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "layers.0.attn.value.weight": torch.randn(8, 4, 1, 1, generator=torch.Generator().manual_seed(1)),
    "norm.bias": torch.zeros(24),
    "ids": torch.arange(9),
}


def test_a_safetensors_file_comes_back_byte_for_byte(run, tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "m.safetensors", {"format": "pt", "é": "ü"})
    assert run("encode", "m.safetensors", "--json")[0] == 0
    assert (tmp_path / "m.rdc").stat().st_size < (tmp_path / "m.safetensors").stat().st_size
    assert run("verify", "m.rdc")[0] == 0
    (tmp_path / "cut.rdc").write_bytes((tmp_path / "m.rdc").read_bytes()[:-9])
    code, _, err = run("verify", "cut.rdc")
    assert code == 1 and any(f"cut.rdc: truncated: {name}: " in err for name in TENSORS), err
    assert run("decode", "m.rdc", "-o", "back.safetensors")[0] == 0
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    facts = json.loads(run("info", "m.rdc", "--json")[1])
    assert facts["mode"] == "lossless" and facts["metadata"] == {"format": "pt", "é": "ü"}
    assert {line["name"]: tuple(line["shape"]) for line in facts["by_tensor"]} == {n: x.shape for n, x in TENSORS.items()}
    people = run("info", "m.rdc")[1]
    assert all(name in people for name in TENSORS)


def same(a, b) -> bool:
    """Whether what two torch files hold is alike, types and order of keys among it."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b) or not isinstance(a, dict | list | tuple):
        return type(a) is type(b) and a == b
    if isinstance(a, dict) and list(a) != list(b):
        return False
    parts = [a.values(), b.values()] if isinstance(a, dict) else [a, b]
    return len(a) == len(b) and all(map(same, *parts))


@pytest.mark.parametrize(
    "held",
    [
        {"model": TENSORS, "optimizer": [torch.ones(3), (torch.zeros(2, 2), torch.arange(3))], "none": []},
        {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.999), "fused": None}]},
        {"a.b": torch.ones(3), "a": {"b": torch.zeros(3), "b'": torch.arange(3)}, "epoch": 7, "best": True, "run": "x"},
        torch.arange(5),
        [torch.arange(5)],
    ],
)
def test_a_torch_file_comes_back_nested_as_it_was(run, tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    assert run("encode", "a.pt")[0] == run("decode", "a.rdc", "-o", "b.pt")[0] == 0
    assert same(torch.load(tmp_path / "b.pt"), held)
    assert run("decode", "a.rdc", "-o", "b.safetensors")[0] == run("encode", "b.safetensors", "-o", "c.rdc")[0] == 0
    assert run("decode", "c.rdc", "-o", "c.pt")[0] == 0 and same(torch.load(tmp_path / "c.pt"), held)
    assert "rdcodec.torch" not in run("info", "a.rdc")[1]


@pytest.mark.parametrize("structure", ["{", '"none"', '{"set":[]}', '{"dict":[[1]]}', "[1]", '{"value":[1]}', "[" * 9999])
def test_a_nesting_that_is_none_is_refused(run, tmp_path, structure):
    save_file(TENSORS, tmp_path / "a.rdc", {"rdcodec.torch": structure})
    code, _, err = run("decode", "a.rdc", "-o", "a.pt")
    assert code == 1 and "metadata rdcodec.torch are no nesting of these tensors" in err and not (tmp_path / "a.pt").exists()
    assert run("decode", "a.rdc", "-o", "a.npz")[2].count("BFloat16") == 1


def test_torch_and_numpy_files_in_and_out(run, tmp_path):
    torch.save(TENSORS, tmp_path / "a.pt")
    names = {"file": torch.ones(2), "allow_pickle": torch.zeros(3), "a/b": torch.ones(1)}  # np.savez has arguments like them
    save_file(names, tmp_path / "names.rdc")
    assert run("decode", "names.rdc", "-o", "names.npz")[0] == 0
    with np.load(tmp_path / "names.npz") as arrays:
        assert {name: arrays[name].tolist() for name in arrays.files} == {k: x.tolist() for k, x in names.items()}
    np.savez(tmp_path / "b.npz", x=np.arange(6.0).reshape(2, 3), y=np.array([True, False]), z=np.arange(4, dtype=">i4"))
    np.save(tmp_path / "d.npy", np.array([[1 - 2j, 3j]], np.complex64))
    np.save(tmp_path / "c.npy", np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)))
    for name in ("a.pt", "b.npz", "c.npy", "d.npy"):
        code, out, err = run("encode", name)
        assert (code, err) == (0, ""), err
    assert run("decode", "a.rdc", "-o", "back.pt")[0] == run("decode", "b.rdc", "-o", "back.npz")[0] == 0
    assert run("decode", "c.rdc", "-o", "back.npy")[0] == run("decode", "d.rdc", "-o", "complex.npy")[0] == 0
    assert np.load(tmp_path / "complex.npy").tolist() == [[1 - 2j, 3j]]
    back = torch.load(tmp_path / "back.pt")
    assert same(back, TENSORS)
    assert json.loads(run("info", "a.rdc", "--json")[1])["metadata"] == {}
    b = np.load(tmp_path / "back.npz")
    assert b["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and b["y"].dtype == bool and b["z"].tolist() == [0, 1, 2, 3]
    c = np.load(tmp_path / "back.npy")
    assert c.dtype == np.float16 and c.tolist() == [[0, 1, 2], [3, 4, 5]]
    for source, target, message in (
        ("a.rdc", "x.npz", "numpy does not take it: .*BFloat16"),
        ("b.rdc", "x.npy", "3 tensors; an .npy file has one"),
        ("b.rdc", "x.png", "the output x.png; its name must end in one of .safetensors, .pt, .npz, .npy"),
        ("b.rdc", "x.xyz", "its name must end in one of .safetensors, .pt, .npz, .npy"),
    ):
        code, _, err = run("decode", source, "-o", target)
        assert code == 1 and err.count("\n") == 1 and __import__("re").search(message, err), err
    assert not list(tmp_path.glob("x.*"))
    (tmp_path / "packed").mkdir()
    for name in ("b", "c"):
        (tmp_path / f"{name}.rdc").rename(tmp_path / "packed" / f"{name}.rdc")
    assert run("decode", "packed", "-o", "folder", "--format", "npz")[0] == 0
    assert (
        np.load(tmp_path / "folder" / "b.npz")["x"].tolist() == b["x"].tolist() and (tmp_path / "folder" / "c.npz").is_file()
    )


class Thing:
    pass


def test_what_holds_other_things_than_tensors_is_refused(run, tmp_path):
    torch.save({"model": Thing()}, tmp_path / "pickled.pt")
    torch.save({"steps": 3}, tmp_path / "number.pt")
    torch.save({"steps": {1, 2}, "x": torch.ones(2)}, tmp_path / "set.pt")
    torch.save({(1, 2): torch.ones(2)}, tmp_path / "key.pt")
    torch.save({"x": torch.ones(2, dtype=torch.complex128)}, tmp_path / "complex.pt")
    np.save(tmp_path / "complex.npy", np.ones(2, np.complex128))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "set.pt").read_bytes()[:-40])
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.savez(tmp_path / "words.npz", x=np.ones(2), said=np.array(["a"]))
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(TENSORS)[:-1])
    shards = {"a": "cut.safetensors"}
    (tmp_path / "cut.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "none.index.json").write_text(json.dumps({"weight_map": {}}))
    hole = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
    (tmp_path / "hole.safetensors").write_bytes(len(hole).to_bytes(8, "little") + hole + b"ab")
    for name, message in (
        ("pickled.pt", f"torch does not load it with weights_only: it holds {__name__}.Thing, which is code, not tensors\n"),
        ("number.pt", "it holds no tensor"),
        ("set.pt", "steps holds set; need tensors, numbers and texts alone"),
        ("key.pt", "the file has a key of type tuple; need texts or whole numbers"),
        ("complex.pt", "x: torch.complex128, which safetensors does not have; need one of BOOL,"),
        ("complex.npy", "array: torch.complex128, which safetensors does not have; need one of BOOL,"),
        ("cut.pt", "torch does not load it with weights_only: PytorchStreamReader failed"),
        ("objects.npy", "objects.npy: numpy does not take it: Object arrays cannot be loaded"),
        ("words.npy", "words.npy: array: numbers of type <U1, which torch does not have"),
        ("words.npz", "words.npz: said: numbers of type <U1, which torch does not have"),
        ("cut.safetensors", "whose header makes it"),
        ("cut.index.json", "cut.index.json: cut.safetensors: a safetensors file of"),
        ("none.index.json", "codec: none.index.json: shards []; need names of files beside it"),
        ("hole.safetensors", "a: its numbers begin at byte 1, and those before end at 0"),
    ):
        code, out, err = run("encode", name)
        assert (code, out, err.count("\n")) == (1, "", 1) and message in err, err


def test_torch_files_of_before_1_6_are_read(run, tmp_path):
    torch.save(TENSORS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert run("encode", "old.bin")[0] == 0 and run("decode", "old.rdc", "-o", "new.pt")[0] == 0
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], x) for name, x in TENSORS.items())


def test_shards_are_one_model(run, tmp_path):
    names = list(TENSORS)
    for i, part in enumerate((names[:2], names[2:])):
        safetensors.torch.save_file({name: TENSORS[name] for name in part}, tmp_path / f"model-{i}.safetensors")
    weight_map = {name: f"model-{int(name in names[2:])}.safetensors" for name in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for source in (source_at(tmp_path), source_at(index)):
        assert {entry.name for entry in source.index.entries} == set(names)
        for entry in source.index.entries:
            found = source.words(entry, range(entry.words)).tobytes()
            assert found == TENSORS[entry.name].view(torch.uint8).numpy().tobytes()
    for wrong in ({"a": "../model-0.safetensors"}, {"a": 3}, {}):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(InputError):
            source_at(index)
    with pytest.raises(InputError, match="beside them"):
        source_of(index.read_bytes())


@pytest.mark.parametrize(
    ("shapes", "metadata", "cache"),
    [
        ({"layers.0.k": (2, 5, 8), "layers.0.v": (2, 5, 8)}, None, True),
        ({"past_key_values.3.key": (1, 2, 5, 8)}, None, True),
        ({"0.0": (1, 2, 5, 8), "0.1": (1, 2, 5, 8)}, None, True),
        ({"0.0.0": (1, 2, 5, 8)}, {"2.0": "QuantizedKVCache"}, True),
        ({"layers.0.compressed_kv": (40, 512), "layers.0.k_pe": (40, 64)}, None, True),
        ({"layers.0.self_attn.k_proj.weight": (8, 8), "layers.0.self_attn.kv_a_proj.weight": (8, 8)}, None, False),
        ({"encoder.layer.0.attention.self.key.weight": (8, 8)}, {"format": "pt"}, False),
        ({"up.0.attn.1.k.weight": (8, 8, 1, 1), "up.0.attn.1.v.bias": (8,)}, None, False),
        ({"0.weight": (3, 3, 3, 3), "1.bias": (3,)}, None, False),
        ({"a": ()}, None, False),
    ],
)  # fmt: skip
def test_a_cache_is_told_from_other_tensors(shapes, metadata, cache):
    data = safetensors.torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, metadata)
    assert holds_cache(data) == cache and not holds_cache(data[:40])


def test_the_command_takes_an_index_of_shards(run, tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(TENSORS, "part.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    code, _, err = run("encode", "model.safetensors.index.json", "-o", "m.rdc")
    assert code == 0, err
    assert run("decode", "m.rdc", "-o", "m.safetensors")[0] == 0
    found = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], x) for name, x in TENSORS.items())


class Counted(io.BytesIO):
    """A file that knows the most that was read of it at once, and all in all."""

    most = total = 0

    def read(self, size=-1):
        found = super().read(size)
        self.most, self.total = max(self.most, len(found)), self.total + len(found)
        return found


@pytest.mark.parametrize("mode", ["lossless", "quantized", "nested", "delta"])
def test_files_are_read_and_written_piece_by_piece(mode, tmp_path):
    x = torch.randn(3 * PIECE_WORDS // 1024, 1024, generator=torch.Generator().manual_seed(3)).bfloat16()
    raw = safetensors.torch.save({"x": x})
    (tmp_path / "base.safetensors").write_bytes(safetensors.torch.save({"x": x * 1.01}))
    source, stream = Counted(raw), io.BytesIO()
    assert KV.takes(container.FileBytes(source), ".safetensors") is False
    assert FACE.takes(container.FileBytes(source), ".safetensors") and source.total < 1000
    options = EncodeOptions(mode=mode, base=tmp_path / "base.safetensors" if mode == "delta" else None)
    FACE.encode_file(source, stream, options, Desk())
    assert source.most <= 2 * PIECE_WORDS
    coded, target = Counted(stream.getvalue()), io.BytesIO()
    parsed = container.parse(container.FileBytes(coded))
    FACE.decode_file(parsed, Path("back.safetensors"), target, DecodeOptions(base=options.base), Desk())
    assert coded.most <= max(entry.length for entry in parsed.entries) and len(target.getvalue()) == len(raw)
    assert mode in ("quantized", "nested") or target.getvalue() == raw


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="tells no process's memory")
def test_large_files_take_no_more_memory_than_small_ones(tmp_path):
    memory = {}
    for name, rows in (("small", 1), ("large", 1 << 14)):  # of 300 MB, and of a name that says nothing
        header = json.dumps({"x": {"dtype": "I16", "shape": [rows, 9000], "data_offsets": [0, 18000 * rows]}}).encode()
        with (tmp_path / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(file.tell() + 18000 * rows)
        for command in ("encode", "decode"):
            source, target = (name, f"{name}.rdc") if command == "encode" else (f"{name}.rdc", f"{name}.safetensors")
            process = subprocess.Popen([CODEC, command, source, "-o", target], cwd=tmp_path, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0
            memory[name, command] = usage.ru_maxrss / 1000  # MB
    for command in ("encode", "decode"):
        assert memory["large", command] < memory["small", command] + 100


def test_an_index_is_what_safetensors_takes():
    good = Index.of({"a": ("BF16", (2, 3)), "b": ("U8", (0,)), "c": ("F4", (4,))}, {"x": "y"})
    assert [entry.raw_bytes for entry in good.entries] == [12, 0, 2] and good.raw_bytes == 14
    line = '{{"a":{{"dtype":"{}","shape":{},"data_offsets":{}}}}}'
    wrong = [("BF17", [1], [0, 2]), ("BF16", [1], [0, 3]), ("BF16", [-1], [0, -2]), ("F4", [1], [0, 0]), ("U8", [1], [1, 2])]
    twice = line.format("U8", [1], [0, 1])[:-1] + "," + line.format("U8", [1], [0, 1])[1:].replace('"a"', '"b"')
    texts = ["[]", "{", '{"a":3}', '{"__metadata__":{"a":1}}', '{"__metadata__":[1]}', "[" * 100_000, twice]
    for text in (*texts, *(line.format(*fields) for fields in wrong), line.format("BF16", "[true]", [0, 2])):
        with pytest.raises(InputError):
            Index.parse(text.encode())
    assert Index.parse(line.format("BF16", [1], [0, 2]).encode()).words == 1
