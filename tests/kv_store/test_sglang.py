"""The storage backend for SGLang, against SGLang's own factory, base class and host pools, on the CPU.

Needs `pip install --no-deps sglang` and what its modules of caches import:
`pip install --no-deps orjson pybase64 starlette msgspec dill apache-tvm-ffi sentencepiece compressed-tensors loguru gguf`.
"""

from __future__ import annotations

import pytest
import torch

reason = "SGLang is not installed (see this module's text)"
storage = pytest.importorskip("sglang.srt.mem_cache.hicache_storage", reason=reason, exc_type=ImportError)
mha = pytest.importorskip("sglang.srt.mem_cache.pool_host.mha", reason=reason, exc_type=ImportError)
mla = pytest.importorskip("sglang.srt.mem_cache.pool_host.mla", reason=reason, exc_type=ImportError)
from rdcodec.codecs.kv_cache.lmcache.serde import BLOCK
from rdcodec.codecs.kv_store.sglang.storage import RdcodecStorage
from rdcodec.entropy_models.errors import InputError
from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo, MLABufferInfo
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

LAYERS, PAGE, HEADS, WIDTH, TOKENS = 3, 16, 2, 32, 64
LAYOUTS = ["layer_first", "page_first", "page_first_direct"]
KEYS = [f"{i:064x}" for i in range(4)]


def host_pool(layout="layer_first", dtype=torch.bfloat16):
    """SGLang's pool of host memory, of a device pool on the CPU."""
    buffers = tuple(torch.zeros(TOKENS + PAGE, HEADS, WIDTH, dtype=dtype) for _ in range(LAYERS))
    pointers = torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.uint64)
    info = MHABufferInfo(
        buffers=KVBuffers(k=buffers, v=buffers, k_data_ptrs=pointers, v_data_ptrs=pointers, layout=KVBufferLayout.NHD),
        page_size=PAGE, head_num=HEADS, head_dim=WIDTH, v_head_dim=WIDTH, dtype=dtype, device=torch.device("cpu"),
    )  # fmt: skip
    return mha.MHATokenToKVPoolHost(
        info, 2.0, 0, PAGE, layout, pin_memory=False, device_capacity_tokens=TOKENS, start_layer=0, end_layer=LAYERS
    )


def filled(pool):
    """A pool whose tokens differ, smooth in each channel; the same keys and values in every layout."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.randn(2, LAYERS, 1, HEADS, WIDTH, generator=generator)
    for page in range(len(KEYS)):
        values = (scale + 0.1 * torch.randn(2, LAYERS, PAGE, HEADS, WIDTH, generator=generator)).to(pool.dtype)
        pool.set_from_flat_data_page(page * PAGE, of_layout(values, pool.layout))
    return pool


def of_layout(values, layout):
    return (values.transpose(1, 2) if layout == "page_first" else values).flatten()


def opened(where, pool, *, rank=0, model="org/model", mla_model=False, **options):
    """As SGLang's controller attaches a dynamic backend."""
    extra = {
        "backend_name": "rdcodec", "module_path": "rdcodec.codecs.kv_store.sglang.storage", "class_name": "RdcodecStorage",
        "rdcodec": {"url": str(where), "mode": "lossless"} | options,
    }  # fmt: skip
    config = storage.HiCacheStorageConfig(
        tp_rank=rank, tp_size=2, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=mla_model,
        enable_storage_metrics=False, is_page_first_layout=False, model_name=model, extra_config=extra,
    )  # fmt: skip
    backend = StorageBackendFactory.create_backend("dynamic", config, pool)
    backend.register_mem_pool_host(pool)
    return backend


def pages(pool):
    return [pool.get_data_page(page * PAGE).clone() for page in range(len(KEYS))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_come_back_as_the_controller_asks_for_them(tmp_path, layout):
    pool = filled(host_pool(layout))
    backend, known = opened(tmp_path, pool), pages(pool)
    assert isinstance(backend, storage.HiCacheStorage) and isinstance(backend, RdcodecStorage)
    assert backend.batch_exists(KEYS) == 0 and backend.batch_set(KEYS[:3], known[:3])
    assert backend.batch_exists(KEYS) == 3 and backend.exists(KEYS[1]) and not backend.exists(KEYS[3])
    again = opened(tmp_path, host_pool(layout))
    found = again.batch_get(KEYS, [pool.get_dummy_flat_data_page() for _ in KEYS])
    assert all(torch.equal(a, b) for a, b in zip(found[:3], known[:3], strict=True)) and found[3] is None
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.kv")]
    assert len(sizes) == 3 and max(sizes) < 0.9 * known[0].numel() * 2
    again.clear()
    assert backend.batch_exists(KEYS) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_of_one_layout_are_read_into_another_and_through_the_pool(tmp_path, layout):
    source, target = filled(host_pool()), host_pool(layout)
    indices = torch.arange(TOKENS)
    assert opened(tmp_path, source).batch_set_v1(KEYS, indices) == [True] * 4
    assert opened(tmp_path, target).batch_get_v1(KEYS, indices) == [True] * 4
    for page, known in enumerate(pages(source)):
        values = known.view(2, LAYERS, PAGE, HEADS, WIDTH)
        assert torch.equal(target.get_data_page(page * PAGE), of_layout(values, layout))


def test_lossy_modes_are_close_and_smaller(tmp_path):
    pool = filled(host_pool())
    exact, lossy = opened(tmp_path / "a", pool), opened(tmp_path / "b", pool, mode="quantized", quality=60)
    for backend in (exact, lossy):
        assert backend.batch_set(KEYS, pages(pool))
    (found,) = lossy.batch_get(KEYS[:1], [pool.get_dummy_flat_data_page()])
    known = pages(pool)[0].float()
    assert 0 < float((found.float() - known).norm() / known.norm()) < 0.1
    size = [sum(path.stat().st_size for path in (tmp_path / name).rglob("*.kv")) for name in "ab"]
    assert size[1] < 0.7 * size[0]


def test_latents_are_shared_by_ranks_and_heads_are_not(tmp_path):
    pool = filled(host_pool())
    for is_latent, other_finds in ((False, 0), (True, 4)):
        first = opened(tmp_path / str(is_latent), pool, mla_model=is_latent)
        assert first.batch_set(KEYS, pages(pool))
        assert opened(tmp_path / str(is_latent), pool, rank=1, mla_model=is_latent).batch_exists(KEYS) == other_finds
    for options in ({"model": "other"}, {"extra_key": "new weights"}):
        assert opened(tmp_path / "False", pool, **options).batch_exists(KEYS) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_latents_are_coded(tmp_path, layout):
    def latent_pool(layout):
        buffers = tuple(torch.zeros(TOKENS + PAGE, 1, 40, dtype=torch.bfloat16) for _ in range(LAYERS))
        info = MLABufferInfo(
            buffers=buffers, data_ptrs=torch.tensor([x.data_ptr() for x in buffers], dtype=torch.uint64),
            layer_indices=tuple(range(LAYERS)), device_layer_num=LAYERS, page_size=PAGE, kv_lora_rank=32,
            qk_rope_head_dim=8, kv_cache_dim=40, dtype=torch.bfloat16, device=torch.device("cpu"),
        )  # fmt: skip
        return mla.MLATokenToKVPoolHost(
            info, 2.0, 0, PAGE, layout, pin_memory=False, device_capacity_tokens=TOKENS, start_layer=0, end_layer=LAYERS,
            target_layer_num=LAYERS,
        )  # fmt: skip

    pool = latent_pool(layout)
    values = torch.randn(LAYERS, 1, 40) + 0.1 * torch.randn(LAYERS, PAGE, 40)
    flat = (values.transpose(0, 1) if layout == "page_first" else values).to(torch.bfloat16).flatten()
    assert opened(tmp_path, pool, mla_model=True).set(KEYS[0], flat)
    assert torch.equal(opened(tmp_path, pool, mla_model=True).get(KEYS[0], pool.get_dummy_flat_data_page()), flat)
    (path,) = tmp_path.rglob("*.kv")
    assert path.read_bytes()[0] == BLOCK
    other = latent_pool("layer_first")
    assert torch.equal(
        opened(tmp_path, other, mla_model=True, rank=1).get(KEYS[0], other.get_dummy_flat_data_page()),
        values.to(torch.bfloat16).flatten(),
    )


def test_pages_of_8_bits_are_kept_as_they_are(tmp_path):
    pool = host_pool(dtype=torch.uint8)
    pool.kv_buffer.copy_(torch.randint(0, 255, pool.kv_buffer.shape, dtype=torch.uint8))
    backend = opened(tmp_path, pool, mode="quantized")
    assert backend.batch_set(KEYS, pages(pool))
    assert torch.equal(backend.get(KEYS[2], pool.get_dummy_flat_data_page()), pages(pool)[2])


def test_damage_and_stores_that_fail_are_misses(tmp_path, monkeypatch):
    pool = filled(host_pool())
    backend = opened(tmp_path, pool)
    assert backend.batch_set(KEYS, pages(pool))
    files = sorted(tmp_path.rglob("*.kv"))
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] ^= 1
    files[0].write_bytes(data)
    files[1].write_bytes(files[2].read_bytes())  # a page in another's place
    found = backend.batch_get(KEYS, [pool.get_dummy_flat_data_page() for _ in KEYS])
    assert sum(page is None for page in found) == 2
    assert backend.batch_exists(KEYS) < 4 and backend.batch_set(KEYS, pages(pool))
    found = backend.batch_get(KEYS, [pool.get_dummy_flat_data_page() for _ in KEYS])
    assert all(torch.equal(a, b) for a, b in zip(found, pages(pool), strict=True)), "stored again"

    def fail(*_):
        raise OSError("gone")

    for verb in ("get_many", "put"):
        monkeypatch.setattr(backend._backend, verb, fail)
    assert backend.batch_get(KEYS, found) == [None] * 4 and backend.batch_exists(KEYS) == 0
    assert not backend.batch_set(KEYS, pages(pool))


def test_options_are_checked(tmp_path):
    pool = host_pool()
    with pytest.raises(InputError, match="needs .rdcodec.: ..url"):
        opened("", pool)
    with pytest.raises(InputError, match="unknown options"):
        opened(tmp_path, pool, colour="blue")
    with pytest.raises(InputError, match="mode tokens needs the model"):
        opened(tmp_path, pool, mode="tokens")
