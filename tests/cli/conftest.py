"""A photograph to encode."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def photo(tmp_path, photograph) -> Path:
    Image.fromarray(photograph[:96, :120]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
