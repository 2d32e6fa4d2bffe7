"""Safetensors' own verbs on .rdc files: all tensors, one, some rows, and nothing decoded that is not asked for."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.tensor import load_file, safe_open, save_file
from rdcodec.codecs.tensor.header import PIECE_WORDS
from rdcodec.entropy_models.errors import Corrupt, InputError, UnknownName

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
