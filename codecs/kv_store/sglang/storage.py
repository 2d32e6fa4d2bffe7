"""A storage backend for SGLang's HiCache (0.5): its pages of keys and values, coded, on any backend of the store.

SGLang loads it by name, without a change to SGLang:

    python -m sglang.launch_server ... --enable-hierarchical-cache --page-size 64 --hicache-mem-layout layer_first \
        --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{
          "backend_name": "rdcodec", "module_path": "rdcodec.codecs.kv_store.sglang.storage", "class_name": "RdcodecStorage",
          "rdcodec": {"url": "/cache", "mode": "quantized", "quality": 60}}'

``url`` is a folder, ``redis://`` or any fsspec URL; the other options are those of the serde for LMCache (`lmcache.serde`),
whose frames the values are. ``extra_key`` is whatever else tells these caches apart: SGLang names a model by its path, so
new weights in an old place need another one.

SGLang names pages by hashes of tokens, so this is a store of pages, without a search for prefixes. The page layouts
layer_first, page_first and page_first_direct hold the same pages; of others, and of 8-bit caches, the bytes are kept as they
are. What cannot be stored, or not be read, is a miss; what cannot be read is deleted, so that it is stored again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig, HiCacheStorageExtraInfo
from torch import Tensor

from ....entropy_models.errors import BitstreamError, InputError
from ...kv_cache.lmcache.serde import FRAME, KvDeserializer, KvSerializer, settings_of
from ..backends import open_backend

LOG = logging.getLogger(__name__)
_LAYOUTS = ("layer_first", "page_first", "page_first_direct")
_RANKS = ("pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "dcp_rank", "dcp_size")


@dataclass(frozen=True, slots=True)
class _Memory:
    """What the serde takes a tensor from."""

    tensor: Tensor


@dataclass(frozen=True, slots=True)
class _PageKey:
    """What the serde tells chunks apart by."""

    chunk_hash: bytes
    model_name: str
    kv_rank: str
    cache_salt: str


class RdcodecStorage(HiCacheStorage):  # type: ignore[misc]  # sglang is not there where types are checked
    """Pages by key. Any number of threads may call it."""

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: Any = None) -> None:
        """As SGLang's factory makes a dynamic backend.

        Raises:
            ValueError: no url, or an option that is not known.
        """
        options = dict((storage_config.extra_config or {}).get("rdcodec") or {})
        if not options.get("url"):
            raise InputError('the extra config needs "rdcodec": {"url": ...}')
        self._backend = open_backend(str(options.pop("url")))
        self._salt = str(options.pop("extra_key", ""))
        self._settings = settings_of(options)
        self._model = storage_config.model_name or ""
        # latents are the same on each rank of tensor parallelism
        heads = () if storage_config.is_mla_model else (storage_config.tp_rank, storage_config.tp_size)
        self._rank = " ".join(str(x) for x in (*heads, *(getattr(storage_config, name, 0) for name in _RANKS)))
        self._folder = ""

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Take note of the pool, whose pages have one shape and type."""
        super().register_mem_pool_host(mem_pool_host)
        pool = mem_pool_host
        shape = f"{pool.layer_num} {pool.page_size} {pool.get_dummy_flat_data_page().numel()} {pool.dtype}"
        layout = "" if pool.layout in _LAYOUTS else pool.layout
        whose = "\n".join([self._model, self._rank, self._salt, shape, layout])
        self._folder = f"pages/{hashlib.sha256(whose.encode()).hexdigest()[:32]}/"

    def _key(self, key: str) -> str:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return f"{self._folder}{name[:2]}/{name}.kv"

    def _page_key(self, key: str) -> _PageKey:
        return _PageKey(key.encode(), self._model, self._rank, self._salt)

    def _chunk(self, page: Tensor) -> tuple[Tensor, int | None]:
        """A view of a flat page as the serde knows chunks, and the width of its heads; the page itself if it is unlike."""
        pool = self.mem_pool_host
        layers, tokens, layout = pool.layer_num, pool.page_size, pool.layout
        latent = getattr(pool, "kv_cache_dim", None)
        kinds, width = (1, latent) if latent else (2, pool.head_num * pool.head_dim)
        if layout not in _LAYOUTS or page.numel() != kinds * layers * tokens * width:
            return page, None
        head_dim = None if latent else pool.head_dim
        if layout == "page_first":
            return page.view(kinds, tokens, layers, width).transpose(1, 2), head_dim
        return page.view(kinds, layers, tokens, width), head_dim

    # ---- SGLang's interface ----

    def get(self, key: str, target_location: Tensor | None = None, target_sizes: Any = None) -> Tensor | None:
        """The page, written into ``target_location``; None if it is not there."""
        return self.batch_get([key], [target_location])[0]

    def batch_get(
        self, keys: list[str], target_locations: list[Tensor | None] | None = None, target_sizes: Any = None
    ) -> list[Tensor | None]:
        """Pages, each written into its flat target; None for those that are not there, or damaged."""
        targets = target_locations or [None] * len(keys)
        try:
            found = self._backend.get_many([self._key(key) for key in keys])
        except OSError as error:
            LOG.warning("the store fails, and counts as empty: %s", error)
            return [None] * len(keys)
        return [
            None if data is None or target is None else self._decoded(key, data, target)
            for key, data, target in zip(keys, found, targets, strict=True)
        ]

    def _decoded(self, key: str, data: bytes, target: Tensor) -> Tensor | None:
        chunk, head_dim = self._chunk(target)
        source = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            KvDeserializer(head_dim, self._settings.profile).deserialize(
                _Memory(source), _Memory(chunk), self._page_key(key)
            )
        except BitstreamError as error:
            LOG.warning("page %s cannot be read, and is deleted: %s", key, error)
            with contextlib.suppress(OSError):
                self._backend.delete(self._key(key))
            return None
        return target

    def set(self, key: str, value: Tensor | None = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Store a flat page, unless it is there; whether it is then."""
        if value is None:
            return False
        try:
            if not self.exists(key):
                self._backend.put(self._key(key), self._encoded(key, value))
        except OSError as error:
            LOG.warning("page %s was not stored: %s", key, error)
            return False
        return True

    def _encoded(self, key: str, page: Tensor) -> bytes:
        chunk, head_dim = self._chunk(page.detach().cpu())
        room = _Memory(torch.empty(chunk.numel() * chunk.element_size() + FRAME.size, dtype=torch.uint8))
        size = KvSerializer(self._settings, head_dim).serialize(_Memory(chunk), room, self._page_key(key))
        return room.tensor[:size].numpy().tobytes()

    def batch_set(
        self, keys: list[str], values: list[Tensor] | None = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Store pages in order, up to the first that cannot be."""
        return all(self.set(key, value) for key, value in zip(keys, values or (), strict=True))

    def exists(self, key: str) -> bool:
        """Whether a page is there."""
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None = None) -> int:
        """How many of the first pages are there, without a gap."""
        try:
            found = self._backend.get_many([self._key(key) for key in keys], 1)
        except OSError as error:
            LOG.warning("the store fails, and counts as empty: %s", error)
            return 0
        return next((i for i, data in enumerate(found) if data is None), len(keys))

    def batch_get_v1(
        self, keys: list[str], host_indices: Tensor, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> list[bool]:
        """Pages into the host's pool, at the indices of their tokens; whether each was there."""
        pool = self.mem_pool_host
        pages = self.batch_get(keys, [pool.get_dummy_flat_data_page() for _ in keys])
        for index, page in zip(host_indices[:: pool.page_size].tolist(), pages, strict=True):
            if page is not None:
                pool.set_from_flat_data_page(index, page)
        return [page is not None for page in pages]

    def batch_set_v1(
        self, keys: list[str], host_indices: Tensor, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> list[bool]:
        """Pages out of the host's pool; whether each is stored."""
        pool = self.mem_pool_host
        indices = host_indices[:: pool.page_size].tolist()
        return [self.set(key, pool.get_data_page(index)) for key, index in zip(keys, indices, strict=True)]

    def clear(self) -> None:
        """Delete the pages of this model, rank and extra key."""
        for entry in list(self._backend.list(self._folder)):
            self._backend.delete(entry.key)
