"""Tensors: model files and whatever else safetensors holds, in fewer bytes.

>>> from rdcodec.codecs.tensor import load_file, safe_open, save_file  # doctest: +SKIP
>>> save_file(model.state_dict(), "model.rdc")          # doctest: +SKIP
>>> weights = load_file("model.rdc")                    # doctest: +SKIP
>>> with safe_open("model.rdc", "pt") as file:          # doctest: +SKIP
...     head = file.get_slice("lm_head.weight")[:1000]  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

_EXPORTS = {
    "TensorCodec": "codec", "TensorSettings": "writing", "Tensors": "sources",
    "load_file": "file_api", "safe_open": "file_api", "save_file": "file_api",
}  # fmt: skip
"""Public name: module. Imported when first used, so that the command's help needs no torch."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


__all__ = list(_EXPORTS)
