"""Photographs to train on."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("lightning", reason="needs the extra 'train'")


@pytest.fixture(scope="session")
def photos(tmp_path_factory, photograph) -> Path:
    """A folder of four photographs, one of them in a tar shard."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        Image.fromarray(photograph[i * 150 : i * 150 + 200, :300]).save(folder / f"{i}.png")
    buffer = io.BytesIO()
    Image.fromarray(photograph[300:, 100:400]).save(buffer, "PNG")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        member = tarfile.TarInfo("inside/a.png")
        member.size = len(buffer.getvalue())
        shard.addfile(member, io.BytesIO(buffer.getvalue()))
    return folder
