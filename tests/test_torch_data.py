"""Data sets for training: folders and tars, by number and in order, parts of signals, workers of both kinds."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from rdcodec.codecs import BitstreamError
from rdcodec.codecs.kv_cache import Cache, KvCodec
from rdcodec.codecs.torch_data import RandomCrop, RdcDataset, RdcIterableDataset
from torch.utils.data import DataLoader

COUNT = 6


@pytest.fixture
def folder(tmp_path, photograph, image_codec) -> Path:
    """Six pictures of two kinds, one of them grey."""
    for i in range(COUNT):
        path = tmp_path / "packed" / ("cats", "dogs")[i % 2] / f"{i}.rdc"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = photograph[30 * i : 30 * i + 40, :48]
        path.write_bytes(image_codec.encode(pixels[..., 0] if i == 4 else pixels))
    return tmp_path / "packed"


@pytest.fixture
def tars(tmp_path, folder) -> Path:
    """The same in two tars, beside members that are none."""
    (tmp_path / "tars").mkdir()
    for kind in ("cats", "dogs"):
        with tarfile.open(tmp_path / "tars" / f"{kind}.tar", "w") as tar:
            for path in sorted((folder / kind).iterdir()):
                tar.add(path, f"{kind}/{path.name}")
                tar.add(__file__, f"{kind}/{path.stem}.json")
    return tmp_path / "tars"


@pytest.fixture
def expected(folder, image_codec) -> dict[str, torch.Tensor]:
    decoded = {path: image_codec.decode(path.read_bytes()).rgb() for path in sorted(folder.rglob("*.rdc"))}
    return {str(path.relative_to(folder)): torch.from_numpy(rgb).permute(2, 0, 1) for path, rgb in decoded.items()}


@pytest.mark.parametrize("where", ["folder", "tars"])
def test_samples_are_the_codecs_pictures(where, expected, request):
    data = RdcDataset(request.getfixturevalue(where))
    assert data.names == list(expected) and len(data) == COUNT
    for sample, picture in zip(data, expected.values(), strict=True):
        assert sample.dtype == torch.uint8 and torch.equal(sample, picture)
    assert torch.equal(data[-1], list(expected.values())[-1])


@pytest.mark.parametrize("where", ["folder", "tars"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_either_kind_give_the_same(where, start, expected, request):
    data = RdcDataset(request.getfixturevalue(where), target=os.path.dirname)
    data[0]  # a codec that is loaded before workers start
    loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=start)
    pictures, kinds = zip(*loader, strict=True)
    assert torch.equal(torch.cat(pictures), torch.stack(list(expected.values())))
    assert [kind for batch in kinds for kind in batch] == 3 * ["cats"] + 3 * ["dogs"]


def test_parts_are_those_of_the_whole(folder, expected):
    data = RdcDataset(folder, part={"crop": (3, 5, 19, 29)})
    assert torch.equal(data[2], list(expected.values())[2][:, 3:19, 5:29])
    data, whole = RdcDataset(folder, part=RandomCrop(8, 16)), list(expected.values())[0]
    drawn = [data[0] for _ in range(12)]
    places = {(top, left) for top in range(33) for left in range(33)}
    found = [[p for p in places if torch.equal(whole[:, p[0] : p[0] + 8, p[1] : p[1] + 16], crop)] for crop in drawn]
    assert all(found) and len({tuple(one) for one in found}) > 3
    with pytest.raises(ValueError, match=r"cats/0.rdc: 48x40 pixels; the crop needs 16x41"):
        RdcDataset(folder, part=RandomCrop(41, 16))[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_file_once_whoever_reads_it(folder, tars, expected, workers):
    for where in (folder, tars, [folder / "cats", tars / "dogs.tar"]):
        data = RdcIterableDataset(where, target=str)
        names = [name for _, name in DataLoader(data, batch_size=None, num_workers=workers)]
        assert sorted(Path(name).stem for name in names) == [str(i) for i in range(COUNT)]
    alone = [sample for sample, _ in RdcIterableDataset(tars, target=str)]
    assert all(map(torch.equal, alone, expected.values()))


def test_processes_of_a_training_share_the_files(folder, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        loader = DataLoader(RdcIterableDataset(folder, target=str), batch_size=None, num_workers=2)
        seen.append([name for _, name in loader])
    assert len(seen[0]) == len(seen[1]) == COUNT // 2 and len({*seen[0], *seen[1]}) == COUNT


def test_an_order_follows_its_seed_and_epoch(tars):
    data = RdcIterableDataset(tars, shuffle=4, seed=1, target=str)

    def order() -> list[str]:
        return [name for _, name in data]

    first = order()
    assert first == order() and sorted(first) == sorted(RdcDataset(tars).names) != first
    data.set_epoch(1)
    assert sorted(order()) == sorted(first) != order()
    data.set_epoch(0)
    assert order() == first


def test_any_codec_and_its_parts(tmp_path):
    layers = ((torch.randn(2, 20, 16), torch.randn(2, 20, 16)),)
    (tmp_path / "c.rdc").write_bytes(KvCodec().encode(Cache(np.arange(20), layers)))
    cache = RdcDataset(tmp_path, part={"prefix": 7})[0]
    assert list(cache.tokens) == list(range(7)) and cache.layers[0][0].shape == (2, 7, 16)
    assert RdcDataset(tmp_path, transform=lambda cache: len(cache.tokens))[0] == 20


def test_damage_is_named(folder):
    path = folder / "cats" / "2.rdc"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BitstreamError, match="^cats/2.rdc: "):
        RdcDataset(folder)[1]
    with pytest.raises(ValueError, match="no such file"):
        RdcDataset(folder / "none")
    with pytest.raises(ValueError, match="no files"):
        RdcDataset([])


def test_data_sets_elsewhere(folder, tars, expected):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/sets/packed", recursive=True)
    memory.put(str(tars), "/sets/tars", recursive=True)
    try:
        for where in ("memory://sets/packed", "memory://sets/tars"):
            assert RdcDataset(where).names == list(expected)
            assert all(map(torch.equal, RdcDataset(where), expected.values()))
            assert all(map(torch.equal, RdcIterableDataset(where), expected.values()))
    finally:
        memory.store.clear()


def test_pictures_of_a_data_set_batch_with_any_channels(tmp_path, photograph, image_codec):
    rgba = np.dstack([photograph[:20, :20], photograph[:20, :20, :1]])
    for name, pixels in (("a", rgba), ("b", photograph[:20, :20, 0])):
        (tmp_path / f"{name}.rdc").write_bytes(image_codec.encode(pixels))
    (batch,) = DataLoader(RdcDataset(tmp_path), batch_size=2)
    assert batch.shape == (2, 3, 20, 20)
    Image.fromarray(batch[0].permute(1, 2, 0).numpy())
