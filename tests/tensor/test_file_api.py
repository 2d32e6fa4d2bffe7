"""Safetensors' own verbs on .rdc files: all tensors, one, some rows, and nothing decoded that is not asked for."""

from __future__ import annotations

import fsspec
import pytest
import torch
from rdcodec.codecs import container
from rdcodec.codecs.tensor import load_file, safe_open, save_file
from rdcodec.codecs.tensor.codec import TensorCodec
from rdcodec.codecs.tensor.file_api import base_of
from rdcodec.codecs.tensor.header import PIECE_WORDS, Layout
from rdcodec.codecs.tensor.reading import TensorFile, verified
from rdcodec.entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated, UnknownName

ROWS = 3 * PIECE_WORDS // 1000


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    long = torch.randn(ROWS, 1000, generator=generator).bfloat16()
    return {"long": long, "turned": torch.randn(70, 30, generator=generator).T, "one": torch.tensor(3.5)}


@pytest.fixture(scope="module")
def path(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "m.rdc"
    save_file(tensors, path, {"format": "pt"})
    return path


def test_all_tensors_come_back(tensors, path):
    found = load_file(path)
    assert list(found) == list(tensors)
    assert all(found[name].dtype == x.dtype and torch.equal(found[name], x) for name, x in tensors.items())


def test_files_elsewhere(tensors, path):
    url = "memory://models/m.rdc"
    try:
        save_file(tensors, url, {"format": "pt"})
        assert fsspec.filesystem("memory").cat("/models/m.rdc") == path.read_bytes()
        assert torch.equal(load_file(url)["one"], tensors["one"])
        with safe_open(url) as file:
            assert torch.equal(file.get_slice("long")[2:4], tensors["long"][2:4])
    finally:
        fsspec.filesystem("memory").store.clear()


def test_slices_are_those_of_the_tensor(tensors, path):
    with safe_open(path, "pt") as file:
        assert file.keys() == list(tensors) and file.metadata() == {"format": "pt"}
        part, x = file.get_slice("long"), tensors["long"]
        assert part.get_shape() == [ROWS, 1000] and part.get_dtype() == "BF16"
        for index in (
            slice(0, 3), slice(1040, 1060), slice(-5, None), slice(None, None, 999), slice(5, 5), 7, -1, (slice(2, 9), 4),
            (3, slice(1, 4)), (slice(1040, 1060, 3), slice(10, 20)), ...,
        ):  # fmt: skip
            assert torch.equal(part[index], x[index]), index
        assert file.get_slice("one")[...] == 3.5 and torch.equal(file.get_tensor("turned"), tensors["turned"])
        with pytest.raises(UnknownName, match="no tensor 'none'; the file has long, turned"):
            file.get_tensor("none")
        with pytest.raises(IndexError):
            part[ROWS]
    with pytest.raises(InputError, match="need pt"):
        safe_open(path, "flax")


@pytest.mark.parametrize("settings", [{}, {"mode": "quantized", "bits": 3.0}, {"mode": "nested"}, {"base": "base"}])
def test_every_damage_is_refused_by_the_tensor_it_is_in(tensors, tmp_path, settings):
    """A byte of each chunk; others are read as before. What is in no tensor is refused by what it is in."""
    held = {name: x[:50] if x.dim() else x for name, x in tensors.items()}
    if settings.get("base"):
        settings = {"base": {name: x * 1.01 for name, x in held.items()}}
    path = tmp_path / "m.rdc"
    save_file(held, path, **settings)
    good, base = path.read_bytes(), settings.get("base")
    layout = Layout.read(container.parse(good))
    names = ["index", *(layout.index.entries[number].name for _, number, _ in layout.parts()), "report"]
    whole = load_file(path, base=base)
    for name, chunk in zip(names, container.parse(good).entries, strict=False):
        data = bytearray(good)
        data[chunk.offset + chunk.length // 2] ^= 1
        path.write_bytes(data)
        if name not in held:
            with pytest.raises(BitstreamError, match="chunk"):
                verified(TensorFile(container.parse(bytes(data)), base=None if base is None else base_of(base)))
            continue
        with pytest.raises(BitstreamError, match=f"^{name}: "):
            load_file(path, base=base)
        with safe_open(path, base=base) as file:
            assert all(torch.equal(file.get_tensor(other), whole[other]) for other in held if other != name)


@pytest.mark.parametrize("mode", ["lossless", "nested"])
def test_a_file_that_ends_early_is_refused_by_the_first_tensor_it_lacks(tmp_path, mode):
    """And gives those before it; one that goes on after its end is refused, too."""
    held = {name: torch.randn(40, 30, generator=torch.Generator().manual_seed(5)) for name in "abc"}
    path = tmp_path / "m.rdc"
    save_file(held, path, mode=mode)
    good, whole = path.read_bytes(), load_file(path)
    stream = container.parse(good)
    layout = Layout.read(stream)
    names = [layout.index.entries[number].name for _, number, _ in layout.parts()]
    for at, (name, chunk) in enumerate(zip(names, stream.entries[1:], strict=False)):
        path.write_bytes(good[: chunk.offset + chunk.length // 2])
        with pytest.raises(Truncated, match=f"^{name}: "):
            load_file(path)
        with pytest.raises(Truncated, match=f"^{name}: "):
            TensorCodec().decode(path.read_bytes())
        with safe_open(path) as file:
            for other in set(held) - set(names[at:]):
                assert torch.equal(file.get_tensor(other), whole[other])
            with pytest.raises(Truncated, match=f"^{name}: "):
                file.get_tensor(name)
    path.write_bytes(good + b"x")
    with pytest.raises(Corrupt, match="the chunk table adds up to"):
        load_file(path)


def test_tensors_without_numbers_and_the_name_of_metadata_are_refused(tmp_path):
    for name, tensor, message in (
        ("a", torch.ones(3, device="meta"), "^a: a tensor on device meta, which holds no numbers"),
        ("__metadata__", torch.ones(3), "a tensor of the name __metadata__"),
    ):
        with pytest.raises(InputError, match=message):
            save_file({name: tensor}, tmp_path / "m.rdc")
    assert not list(tmp_path.iterdir())


def test_only_what_is_asked_for_is_read(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the second piece of "long"
    damaged = path.with_name("damaged.rdc")
    damaged.write_bytes(data)
    with safe_open(damaged) as file:
        assert file.get_slice("long")[:10].shape == (10, 1000) and file.get_tensor("one") == 3.5
        with pytest.raises(Corrupt, match="^long: "):
            file.get_slice("long")[ROWS // 2]
    with pytest.raises(Corrupt, match="^long: "):
        load_file(damaged)
