"""The caller's torch state does not matter to the image codec, and is the caller's again afterwards."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from rdcodec.codecs import load, torch_state
from rdcodec.codecs.torch_state import own_state
from rdcodec.entropy_models.errors import InputError


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def precision(name):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
        assert torch.get_float32_matmul_precision() == name
    finally:
        torch.set_float32_matmul_precision(before)


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "medium": lambda: precision("medium"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "on no device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize("state", STATES)
def test_the_callers_state_changes_nothing(image_codec, photograph, state, effort):
    image = photograph[:48, :64]
    expected = image_codec.with_effort(effort).encode(image, quality=70)
    pixels = image_codec.decode(expected).array()
    with STATES[state]():
        loaded = load("image", device="cpu")
        for codec in (image_codec, loaded):
            data = codec.with_effort(effort).encode(image, quality=70)
            assert data == expected
            np.testing.assert_array_equal(codec.decode(data).array(), pixels)
            np.testing.assert_array_equal(codec.with_effort(effort).estimate(image, quality=70).signal.array(), pixels)
            assert codec.verify(data) == []
    assert loaded.with_effort(1).encode(image, quality=70), "gradients pass what was loaded without any"


@pytest.mark.parametrize("work", [0, torch_state.THREADED_WORK])
def test_threads_by_the_work_and_the_callers_afterwards(work):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), own_state(work):
            assert torch.get_num_threads() == (2 if work else 1)
            raise KeyError
        assert torch.get_num_threads() == 2
        with own_state(work, 3):
            assert torch.get_num_threads() == 3
            with own_state(work):
                pass
            assert not torch.is_autocast_enabled("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_last_of_several_threads_puts_the_state_back():
    with precision("medium"):
        inside, leave = threading.Event(), threading.Event()

        def other():
            with own_state(0):
                inside.set()
                leave.wait(20)
                found.append(torch.get_float32_matmul_precision())

        found: list[str] = []
        thread = threading.Thread(target=other)
        with own_state(0):
            thread.start()
            assert inside.wait(20)
        assert torch.get_float32_matmul_precision() == "highest"
        leave.set()
        thread.join()
        assert found == ["highest"]


def test_the_codec_works_in_small_pictures_with_one_thread_or_as_many_as_asked(photograph, monkeypatch):
    used = []
    original = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *args: used.append(torch.get_num_threads()) or original(*args))
    for threads, expected in ((None, {1}), (3, {3})):
        codec = load("image", device="cpu", threads=threads)
        data = codec.encode(photograph[:20, :20])
        codec.verify(data)
        codec.decode(data)
        assert set(used) == expected
        used.clear()
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="threads"):
            load("image", threads=wrong)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_encode_and_decode():
    script = """
import os, numpy as np, torch
torch.set_num_threads(2)
from rdcodec.codecs import load
codec = load("image", device="cpu", threads=2)
image = np.arange(600 * 64 * 3, dtype=np.uint8).reshape(600, 64, 3)
data = codec.encode(image)
child = os.fork()
if not child:
    same = np.array_equal(codec.decode(data).array(), load("image", device="cpu").decode(data).array())
    os._exit(0 if same and torch.get_num_threads() == 1 else 1)
print(os.waitpid(child, 0)[1])
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "0"


def test_a_codec_is_pickled_and_copied(image_codec, photograph):
    image = photograph[:20, :20]
    data = image_codec.encode(image)
    for other in (pickle.loads(pickle.dumps(image_codec)), copy.deepcopy(image_codec)):
        assert other.encode(image) == data
        assert np.array_equal(other.decode(data).array(), image_codec.decode(data).array())


def test_files_open_or_by_path_both_ways(image_codec, photograph, tmp_path):
    picture, stream = tmp_path / "a.png", tmp_path / "a.rdc"
    Image.fromarray(photograph[:20, :30]).save(picture)
    data = image_codec.encode(photograph[:20, :30])
    stream.write_bytes(data)
    for source in (picture, str(picture), io.BytesIO(picture.read_bytes())):
        assert image_codec.encode(source) == data
    with picture.open("rb") as file:
        assert image_codec.encode(file) == data
    expected = image_codec.decode(data).array()
    for source in (stream, str(stream), io.BytesIO(data)):
        assert np.array_equal(image_codec.decode(source).array(), expected)
    assert image_codec.verify(stream) == []
    assert load("image", device=torch.device("cpu")).encode(picture) == data
    with pytest.raises(InputError, match="quality True"):
        image_codec.encode(picture, quality=True)
