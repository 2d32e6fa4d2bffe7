"""The LMCache serde: against a stand-in of LMCache 0.5's interface, and the real one where it is installed."""

import os
import struct
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from rdcodec.codecs.kv_cache.lmcache.serde import (
    BLOCK,
    FRAME,
    RAW,
    KvDeserializer,
    KvSerializer,
    create,
    register,
    settings_of,
)
from rdcodec.entropy_models.errors import BitstreamError

LAYERS, HEADS, TOKENS, DIM = 3, 2, 40, 16


@dataclass(frozen=True)
class ObjectKey:
    """As lmcache.v1.distributed.api.ObjectKey."""

    chunk_hash: bytes = b"\1\2\3\4"
    model_name: str = "org/model"
    kv_rank: int = 0x01000100
    object_group_id: int = 0
    cache_salt: str = ""


@dataclass(frozen=True)
class MemoryLayoutDesc:
    """As lmcache.v1.distributed.api.MemoryLayoutDesc."""

    shapes: list
    dtypes: list


class MemoryObj:
    """The part of lmcache.v1.memory_management.TensorMemoryObj that serdes touch."""

    def __init__(self, tensor):
        self._tensor, self._used = tensor, None

    @property
    def tensor(self):
        return self._tensor if self._used is None else self._tensor.flatten()[: self._used]

    def set_used_size(self, count):
        assert 0 < count <= self._tensor.numel() * self._tensor.element_size()
        self._used = count


KEY = ObjectKey()


def chunk_of(seed=0, dtype=torch.bfloat16, layout="2LTD"):
    x = torch.randn(2, LAYERS, TOKENS, HEADS * DIM, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 4
    if layout == "L2THD":
        x = x.reshape(2, LAYERS, TOKENS, HEADS, DIM).transpose(0, 1)
    return x.to(dtype).contiguous()


def serde_of(head_dim=DIM, **options):
    return KvSerializer(settings_of(options), head_dim), KvDeserializer(head_dim)


def stored(serializer, chunk, key=KEY):
    """What LMCache keeps: a buffer of the estimated size, narrowed to what `serialize` returned."""
    layout = MemoryLayoutDesc([chunk.shape], [chunk.dtype])
    buffer = MemoryObj(torch.full((serializer.estimate_serialized_size(layout),), 0xA5, dtype=torch.uint8))
    buffer.set_used_size(serializer.serialize(MemoryObj(chunk), buffer, key))
    return buffer


def restored(deserializer, buffer, like, key=KEY):
    out = MemoryObj(torch.full_like(like, 7.0))
    deserializer.deserialize(buffer, out, key)
    return out.tensor


@pytest.mark.parametrize("layout", ["2LTD", "L2THD"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("head_dim", [DIM, None])
def test_lossless_restores_every_bit(layout, dtype, head_dim):
    chunk = chunk_of(dtype=dtype, layout=layout)
    serializer, deserializer = serde_of(head_dim, mode="lossless")
    buffer = stored(serializer, chunk)
    assert torch.equal(restored(deserializer, buffer, chunk), chunk)


def test_quantized_is_smaller_and_close_but_not_equal():
    chunk = chunk_of()
    serializer, deserializer = serde_of(mode="quantized", quality=60)
    buffer = stored(serializer, chunk)
    assert buffer.tensor.numel() < 0.6 * chunk.numel() * chunk.element_size()
    back = restored(deserializer, buffer, chunk)
    error = (back.float() - chunk.float()).norm() / chunk.float().norm()
    assert 0 < error < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", ["lossless", "quantized", "fp8"])
def test_the_estimate_bounds_even_noise(mode, dtype):
    width = {torch.bfloat16: torch.int16, torch.float32: torch.int32}[dtype]
    bits = torch.iinfo(width)
    noise = torch.randint(bits.min, bits.max, (2, LAYERS, 1, DIM), generator=torch.Generator().manual_seed(1))
    noise = noise.to(width).view(dtype)
    chunk = torch.where(torch.isfinite(noise), noise, torch.ones_like(noise)).clamp(-1e4, 1e4)
    serializer, deserializer = serde_of(mode=mode)
    back = restored(deserializer, stored(serializer, chunk), chunk)
    assert back.shape == chunk.shape and torch.isfinite(back).all()


@pytest.mark.parametrize("mode", ["quantized", "fp8", "turboquant", "lossless"])
def test_a_chunk_with_nan_is_restored_exactly(mode):
    chunk = chunk_of()
    chunk[0, 1, 2, 3], chunk[1, 0, 0, 0] = float("nan"), float("inf")
    serializer, deserializer = serde_of(mode=mode)
    buffer = stored(serializer, chunk)
    assert buffer.tensor[0] == (BLOCK if mode == "lossless" else RAW)
    assert torch.equal(restored(deserializer, buffer, chunk).view(torch.int16), chunk.view(torch.int16))


@pytest.mark.parametrize("strange", ["huge", "float8_e4m3fn"])
def test_a_chunk_that_the_mode_cannot_take_travels_raw(strange):
    chunk = chunk_of()
    if strange == "huge":
        chunk[0, 1, 2, 3] = 3e38
    else:
        chunk = chunk.to(getattr(torch, strange))
    serializer, deserializer = serde_of(mode="quantized")
    buffer = stored(serializer, chunk)
    assert buffer.tensor[0] == RAW
    assert torch.equal(restored(deserializer, buffer, chunk).view(torch.uint8), chunk.view(torch.uint8))


def test_padding_after_the_frame_is_ignored():
    chunk = chunk_of()
    serializer, deserializer = serde_of(mode="lossless")
    buffer = stored(serializer, chunk)
    padded = MemoryObj(torch.cat([buffer.tensor, torch.full((999,), 0x5A, dtype=torch.uint8)]))
    assert torch.equal(restored(deserializer, padded, chunk), chunk)


def test_every_damage_is_an_error_and_leaves_the_destination_alone():
    chunk = chunk_of()
    serializer, deserializer = serde_of(mode="quantized")
    good = stored(serializer, chunk).tensor
    generator = torch.Generator().manual_seed(2)
    for i in range(150):
        bad = good.clone()
        if i % 2:
            bad = bad[: int(torch.randint(len(good), (), generator=generator))]
        else:
            bad[int(torch.randint(len(good), (), generator=generator))] ^= 1 << (i // 2 % 8)
        if torch.equal(bad[4:], good[4:]) and bad[0] == good[0]:
            continue  # a flip in the three bytes that mean nothing
        out = MemoryObj(torch.full_like(chunk, 7.0))
        with pytest.raises(BitstreamError):
            deserializer.deserialize(MemoryObj(bad), out, KEY)
        assert (out.tensor == 7).all()


def noise_of():
    """A chunk of finite bf16 noise, which no mode makes smaller."""
    noise = torch.randint(-(2**15), 2**15, (2, LAYERS, TOKENS, DIM), generator=torch.Generator().manual_seed(1))
    noise = noise.to(torch.int16).view(torch.bfloat16)
    return torch.where(torch.isfinite(noise), noise, torch.ones_like(noise))


def test_damage_of_a_chunk_that_is_stored_raw_is_an_error():
    """Noise is stored as it is; only the frame's checksum guards it."""
    chunk = noise_of()
    serializer, deserializer = serde_of(mode="lossless")
    good = stored(serializer, chunk).tensor
    assert good[0] == RAW and torch.equal(restored(deserializer, MemoryObj(good), chunk), chunk)
    for at in (FRAME.size, len(good) // 2, len(good) - 1):
        bad, out = good.clone(), MemoryObj(torch.full_like(chunk, 7.0))
        bad[at] ^= 1
        with pytest.raises(BitstreamError, match="checksum"):
            deserializer.deserialize(MemoryObj(bad), out, KEY)
        assert (out.tensor == 7).all()


@pytest.mark.parametrize("kind", [BLOCK, RAW])
@pytest.mark.parametrize(
    "other",
    [
        ObjectKey(chunk_hash=b"\1\2\3\5"),
        ObjectKey(model_name="org/other"),
        ObjectKey(kv_rank=1),
        ObjectKey(object_group_id=1),
        ObjectKey(cache_salt="tenant"),
    ],
)
def test_a_chunk_in_anothers_place_is_refused(other, kind):
    chunk = chunk_of() if kind == BLOCK else noise_of()
    serializer, deserializer = serde_of(mode="lossless")
    buffer, out = stored(serializer, chunk), MemoryObj(torch.full_like(chunk, 7.0))
    assert buffer.tensor[0] == kind
    with pytest.raises(BitstreamError, match="another chunk, model, rank, group or salt"):
        deserializer.deserialize(buffer, out, other)
    assert (out.tensor == 7).all()


@pytest.mark.parametrize("kind", [BLOCK, RAW])
def test_a_destination_of_another_layout_is_refused(kind):
    chunk = chunk_of() if kind == BLOCK else noise_of()
    serializer, deserializer = serde_of(mode="lossless")
    buffer = stored(serializer, chunk)
    swapped = chunk.reshape(*chunk.shape[:2], -1, DIM // 2)
    for like in (chunk.to(torch.float16), chunk[:, :2], chunk[:, :, :39], swapped):
        with pytest.raises(BitstreamError, match="another shape or element type"):
            restored(deserializer, buffer, like.contiguous())


def test_frames_without_a_place_are_refused():
    serializer, deserializer = serde_of(mode="lossless")
    buffer = stored(serializer, chunk_of())
    for kind in (1, 2):
        buffer.tensor[0] = kind
        with pytest.raises(BitstreamError, match=f"frame kind {kind}; this program reads 3 and 4"):
            restored(deserializer, buffer, chunk_of())


def test_layouts_that_are_not_supported_are_named():
    serializer, _ = serde_of()
    for shapes in ([torch.Size([LAYERS, TOKENS, 576])], [torch.Size([2, 3, 4, 17])], [torch.Size([2, 3, 4, 16])] * 2):
        with pytest.raises(ValueError, match=r"MLA|no multiple|one group"):
            serializer.estimate_serialized_size(MemoryLayoutDesc(shapes, [torch.bfloat16] * len(shapes)))
    with pytest.raises(ValueError, match="do not fit"):
        serializer.serialize(MemoryObj(chunk_of()), MemoryObj(torch.zeros(100, dtype=torch.uint8)), KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mode": "residual"}, "needs the model"), ({"quallity": 3}, "quallity"), ({"mode": "x"}, "no mode")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        settings_of(options)


def test_many_threads_share_one_serde():
    serializer, deserializer = serde_of(mode="lossless")
    chunks = [chunk_of(seed) for seed in range(16)]

    def there_and_back(i):
        key = ObjectKey(chunk_hash=bytes([i]))
        return restored(deserializer, stored(serializer, chunks[i % 16], key), chunks[i % 16], key)

    with ThreadPoolExecutor(8) as pool:
        for i, back in enumerate(pool.map(there_and_back, range(48))):
            assert torch.equal(back, chunks[i % 16])


def test_the_frame_is_pinned():
    serializer, _ = serde_of(mode="lossless")
    data = bytes(stored(serializer, chunk_of()).tensor.numpy())
    assert FRAME.size == 32 and data[:4] == b"\3\0\0\0" and data[32:36] == b"\x89RDC"
    assert struct.unpack_from("<Q", data, 4)[0] == len(data) - 32
    assert data[16:32].hex() == "be9a7c55b0279f94c8c2eeae68563b2e"


def test_register_and_create_against_a_stand_in_of_lmcache(monkeypatch):
    registered = []

    class Abstract:
        @staticmethod
        def register(kind):
            registered.append(kind)

    class AsyncSerdeProcessor:
        def __init__(self, serializer, deserializer, max_workers=1):
            self.serializer, self.deserializer, self.max_workers = serializer, deserializer, max_workers

    table = {}

    def register_serde_factory(name, factory):
        if name in table:
            raise ValueError(f"Serde type already registered: {name!r}")
        table[name] = factory

    serde = types.ModuleType("lmcache.v1.distributed.serde")
    for name, value in {
        "Serializer": Abstract,
        "Deserializer": Abstract,
        "AsyncSerdeProcessor": AsyncSerdeProcessor,
        "get_registered_serde_types": lambda: list(table),
        "register_serde_factory": register_serde_factory,
    }.items():
        setattr(serde, name, value)
    for name in ("lmcache", "lmcache.v1", "lmcache.v1.distributed"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, serde.__name__, serde)
    register()
    register()
    assert table == {"rdcodec": create} and registered[:2] == [KvSerializer, KvDeserializer]
    processor = table["rdcodec"]({"mode": "lossless", "head_dim": DIM, "max_workers": 3})
    assert processor.max_workers == 3 and processor.serializer.settings.mode == "lossless"
    assert processor.deserializer.head_dim == processor.serializer.head_dim == DIM


def test_the_real_lmcache_runs_it():
    """LMCache's own processor: factory, thread pool, event notifiers, the narrowing of the buffer, and a miss."""
    serde = pytest.importorskip(
        "lmcache.v1.distributed.serde", reason="lmcache is not installed (it needs numpy 2)", exc_type=ImportError
    )
    api = pytest.importorskip("lmcache.v1.distributed.api")
    register()
    config = serde.SerdeConfig(type="rdcodec", kwargs={"mode": "lossless", "head_dim": DIM})
    processor = serde.create_serde_processor(config)
    try:
        chunk, key = chunk_of(), api.ObjectKey(b"\1\2", "org/model", 1)
        size = processor.estimate_serialized_size(api.MemoryLayoutDesc([chunk.shape], [chunk.dtype]))
        buffer, out = MemoryObj(torch.zeros(size, dtype=torch.uint8)), MemoryObj(torch.zeros_like(chunk))
        assert _result(processor.query_serialize_result, processor.submit_serialize([MemoryObj(chunk)], [buffer], [key]))
        assert buffer.tensor.numel() < size
        assert _result(processor.query_deserialize_result, processor.submit_deserialize([buffer], [out], [key]))
        assert torch.equal(out.tensor, chunk)
        buffer.tensor[100] ^= 1
        bad = _result(processor.query_deserialize_result, processor.submit_deserialize([buffer], [out], [key]))
        assert bad is False
    finally:
        processor.close()


def _result(query, task):
    for _ in range(1000):
        done = query(task)
        if done is not None:
            return done
        time.sleep(0.01)
    raise TimeoutError("the serde did not answer in 10 s")


@pytest.fixture
def module_run(tmp_path):
    """``python -m rdcodec.codecs.kv_cache.lmcache server --port 1`` with a package ``lmcache`` of these files."""

    def run(files: dict[str, str]) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        command = [sys.executable, "-m", "rdcodec.codecs.kv_cache.lmcache", "server", "--port", "1"]
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)

    return run


def test_without_lmcache_its_server_says_what_to_install(module_run):
    done = module_run({"lmcache/__init__.py": "raise ImportError('none')"})
    assert done.returncode == 1 and "LMCache is not installed here (none); pip install lmcache" in done.stderr


def test_the_server_starts_with_the_serde_registered(module_run):
    serde = """
class Serializer:
    register = classmethod(lambda cls, kind: None)
Deserializer, table = Serializer, {}
get_registered_serde_types, register_serde_factory = table.keys, table.__setitem__
"""
    server = """
import sys
from lmcache.v1.distributed.serde import table
def main():
    print(sys.argv, *table)
    return 3
"""
    folders = ("lmcache", "lmcache/cli", "lmcache/v1", "lmcache/v1/distributed")
    files = {f"{folder}/__init__.py": "" for folder in folders} | {"lmcache/v1/distributed/serde.py": serde}
    done = module_run(files | {"lmcache/cli/main.py": server})
    assert (done.returncode, done.stdout) == (3, "['lmcache', 'server', '--port', '1'] rdcodec\n"), done.stderr
