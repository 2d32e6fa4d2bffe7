"""Symbols do not depend on float arithmetic: under every variation `verify` finds the checksums of symbols right (DESIGN 3).

A symbol read with the wrong table would be another one, and so would all after it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from contract.cases import CASES
from rdcodec.codecs import torch_state
from rdcodec.codecs.contract import Codec
from rdcodec.entropy_models.channel_context import MeanContext
from rdcodec.entropy_models.errors import BitstreamError
from torch import Tensor, nn

LEARNED = {name: cases.network for name, cases in CASES.items() if cases.network}
NETWORKS = [
    pytest.param((name, variant), id=name if i == 0 else f"{name}-{variant}")
    for name in LEARNED
    for i, (variant, setting) in enumerate(CASES[name].variants.items())
    if i == 0 or not setting.shipped
]


@contextlib.contextmanager
def pixel_path(codec: Codec, name: str, change: Callable[[nn.Module, tuple, Tensor], Tensor]) -> Iterator[None]:
    """Every layer with float weights gives ``change(layer, inputs, output)``, and so does the mean context, whose layers are
    taken in parts."""
    layers = [m for m in LEARNED[name].module(codec).modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    assert len(layers) > 20
    hooks = [layer.register_forward_hook(change) for layer in layers]
    try:
        with changed(MeanContext, "means", change), changed(MeanContext, "update", change):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def changed(kind: type, method: str, change: Callable[..., Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Every module of a kind gives ``change(module, inputs, output, method)`` in place of what a method of it gives."""
    run = getattr(kind, method)
    return patch.object(kind, method, lambda module, *inputs: change(module, inputs, run(module, *inputs), run))


def noise(layer: nn.Module, inputs: tuple, output: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
    """Uniform relative noise of 1e-3."""
    return output * (1 + 1e-3 * (2 * torch.rand_like(output) - 1))


def in_type(dtype: torch.dtype) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
    """Compute the layer again in another type."""

    def change(layer: nn.Module, inputs: tuple, output: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
        other = copy.deepcopy(layer).to(dtype)
        other._forward_hooks.clear()
        inputs = tuple(x.to(dtype) if isinstance(x, Tensor) else x for x in inputs)
        return (run(other, *inputs) if run else other(*inputs)).to(output.dtype)

    return change


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with patch.object(torch_state, "THREADED_WORK", 0):  # small signals, too
            yield
    finally:
        torch.set_num_threads(before)


VARIATIONS: dict[str, Callable[[Codec, str], contextlib.AbstractContextManager[None]]] = {
    "float64": lambda codec, name: pixel_path(codec, name, in_type(torch.float64)),
    "bfloat16": lambda codec, name: pixel_path(codec, name, in_type(torch.bfloat16)),
    "noise": lambda codec, name: pixel_path(codec, name, noise),
    "one thread": lambda codec, name: threads(1),
    "two threads": lambda codec, name: threads(2),
    "without oneDNN": lambda codec, name: torch.backends.mkldnn.flags(enabled=False),
}


@pytest.fixture(scope="module", params=NETWORKS)
def written(request) -> tuple[str, Codec, list[bytes]]:
    """A learned codec and what it wrote."""
    name, variant = request.param
    network, codec = LEARNED[name], CASES[name].variants[variant].load()
    streams = [codec.encode(signal, quality=quality) for signal in network.signals() for quality in network.qualities]
    return name, codec, streams


@pytest.mark.parametrize("variation", VARIATIONS)
def test_symbols_are_the_same(written, variation):
    name, codec, streams = written
    with VARIATIONS[variation](codec, name):
        assert [codec.verify(data) for data in streams] == [[]] * len(streams)


@pytest.mark.parametrize("variation", ["float64", "bfloat16", "noise"])
def test_the_variations_do_vary(written, variation):
    """Each changes the reconstruction, or it would prove nothing."""
    name, codec, streams = written
    plain = codec.estimate(LEARNED[name].signals()[0], quality=50).signal
    network = LEARNED[name].module(codec)
    outputs: list[list[Tensor]] = []
    last = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)][-1]
    assert plain is not None
    for around in (contextlib.nullcontext(), VARIATIONS[variation](codec, name)):
        with around:
            outputs.append([])
            hook = last.register_forward_hook(lambda _, __, output: outputs[-1].append(output))
            codec.decode(streams[0])
            hook.remove()
    assert outputs[0] and not all(torch.equal(*pair) for pair in zip(*outputs, strict=True))


def test_one_level_off_is_noticed(written):
    """The checks above can fail."""
    name, codec, streams = written
    layer = LEARNED[name].level_layer(codec)
    layer.bias += 2 ** int(layer.shift.max())
    try:
        for data in streams:
            with pytest.raises(BitstreamError):
                codec.verify(data)
    finally:
        layer.bias -= 2 ** int(layer.shift.max())
