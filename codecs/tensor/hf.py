"""transformers models out of .rdc files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...entropy_models.errors import InputError, MissingPackage
from .file_api import BaseLike, load_file


def load_model(
    path: str | Path,
    *,
    config: str | Path | None = None,
    device: str = "cpu",
    dtype: Any = "auto",
    bits: int | None = None,
    base: BaseLike | None = None,
) -> Any:
    """The transformers model whose weights an .rdc file holds, built from the config that lies beside it.

    Args:
        path: the .rdc file, or a folder with one.
        config: folder of config.json; None: that of the file.
        device: where to put it.
        dtype: of its weights, as ``from_pretrained`` takes it.
        bits: of a nested file: 2, 4 or 8; None: all that there are.
        base: of a file of mode delta, as `load_file` takes it.

    Raises:
        InputError: no such file or config, or one of another architecture than the weights.
        BitstreamError: anything wrong with the file; the message names the tensor.
        MissingPackage: transformers is not installed.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.rdc"))
        if len(found) != 1:
            raise InputError(f"{path}: {len(found)} .rdc files; need one")
        path = found[0]
    return model_of(load_file(path, bits=bits, base=base), Path(config or path.parent), dtype).to(device)


def model_of(tensors: Mapping[str, Tensor], folder: Path, dtype: Any = "auto") -> Any:
    """The model of a folder's config with these weights, ready to run; errors as `load_model`."""
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise MissingPackage(f"this needs transformers ({error}): pip install 'rdcodec[kv]'") from None
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json there")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    architecture = (config.architectures or [""])[0]
    kind = getattr(transformers, architecture, None)
    if kind is None:
        raise InputError(f"{folder / 'config.json'}: architecture {architecture!r}, which transformers does not have")
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what does not fit is told here
    try:
        options = {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, report = kind.from_pretrained(None, config=config, state_dict=dict(tensors), **options)
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    if wrong := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise InputError(f"the file is no {architecture} of this config: {len(wrong)} weights do not fit, {wrong[0]} ...")
    return model.eval()
