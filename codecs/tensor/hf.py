"""transformers models out of .rdc files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
        path: the .rdc file, or a folder of them: one, or one for each shard.
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
    files = sorted(path.glob("*.rdc")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no .rdc file there")
    tensors: dict[str, Tensor] = {}
    for file in files:
        found = load_file(file, bits=bits, base=base)
        if twice := tensors.keys() & found.keys():
            raise InputError(f"{path}: {min(twice)} is in two of {len(files)} .rdc files")
        tensors |= found
    return model_of(tensors, Path(config or files[0].parent), dtype).to(device)


def model_of(tensors: Mapping[str, Tensor] | None, folder: Path, dtype: Any = "auto") -> Any:
    """The model of a folder's config with these weights (None: those that lie there), to run; errors as `load_model`."""
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
        if tensors is None:
            model, report = kind.from_pretrained(folder, local_files_only=True, **options)
        else:
            model, report = kind.from_pretrained(None, config=config, state_dict=dict(tensors), **options)
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    if wrong := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise InputError(f"the file is no {architecture} of this config: {len(wrong)} weights do not fit, {wrong[0]} ...")
    return model.eval()


@torch.no_grad()
def collect_energy(model: Any, contexts: Tensor) -> dict[str, Tensor]:
    """Mean squares of the inputs of each linear layer's columns, by the name of its weights: what ``energy`` and
    ``--activations`` take.

    Args:
        model: any torch module that takes token ids.
        contexts: token ids, int64 (contexts, length).

    Returns:
        float32, shape (columns,) each; layers that nothing went through are missing.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(layer: nn.Linear, given: tuple[Tensor, ...]) -> None:
        rows = given[0].detach().reshape(-1, layer.in_features).double()
        name = names[id(layer.weight)]
        sums[name] = sums.get(name, torch.zeros(())) + rows.square().sum(0).cpu()
        counts[name] = counts.get(name, 0) + len(rows)

    hooks = [layer.register_forward_pre_hook(note) for layer in model.modules() if type(layer) is nn.Linear]
    try:
        for ids in contexts:
            model(ids[None].to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / max(counts[name], 1)).float() for name, total in sums.items()}
