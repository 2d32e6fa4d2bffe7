"""Key-value caches of language models: save, share and restore them in fewer bytes.

>>> from rdcodec.codecs.kv_cache import load_cache, save_cache
>>> save_cache(model(**prompt, use_cache=True).cache, prompt.input_ids, "prompt.rdc", model)  # doctest: +SKIP
>>> cache = load_cache("prompt.rdc", model, prompt=more.input_ids)                            # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

_EXPORTS = {
    "KvBlock": "format.blocks", "KvSettings": "format.blocks", "block_id": "format.blocks", "decode_block": "format.blocks",
    "encode_block": "format.blocks", "read_block_header": "format.blocks", "MODES": "modes.table",
    "Profile": "modes.profiles", "calibrate": "hf.calibration", "KvCodec": "codec",
    "Cache": "codec",
    "load_cache": "hf.cache_io", "save_cache": "hf.cache_io", "filled_cache": "hf.cache_io", "fingerprint": "hf.fingerprint",
    "earlier_fingerprint": "hf.fingerprint", "with_contents": "format.contents",
    "rope_of": "hf.model", "split_batch": "hf.layer_kinds",
}  # fmt: skip
"""Public name: module. Imported when first used, so that the command's help needs no torch."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


__all__ = list(_EXPORTS)
