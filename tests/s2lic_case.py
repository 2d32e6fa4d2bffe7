"""A tiny S2LIC codec with random weights."""

from __future__ import annotations

from typing import Any

import torch
from rdcodec.codecs.image.architectures import ARCHITECTURES
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.s2lic import S2licConfig, S2licNetwork
from rdcodec.training.image.validation import provisional_codec
from rdcodec.training.quantisation import LAYERS

TINY_S2LIC: dict[str, Any] = {
    "channels": 16, "latent_channels": 24, "slices": 3, "depths": (1, 2, 1), "heads": (1, 2, 4), "enhancement_channels": 4,
    "hyper_channels": 8, "hyper_width": 16, "context_channels": 16, "level_channels": 16, "channel_context": 8,
    "inter_context": 8, "inter_heads": 2, "anchor_context": 8, "mean_widths": (16,), "residual_widths": (8,),
}  # fmt: skip


def random_s2lic(**fields: Any) -> ImageCodec:
    """Codec of a random network that draws no pictures; the same on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = S2licNetwork(S2licConfig(**fields), *LAYERS["integer"])
        for block in (*network.analysis.enhancement.modules(), *network.synthesis.enhancement.modules()):
            if hasattr(block, "grow"):
                torch.nn.init.normal_(block.last.weight, std=0.02)  # starts at zero: the enhancement would not be tried
    return provisional_codec(network, ARCHITECTURES["s2lic"]).without_layers()


def tiny_s2lic() -> ImageCodec:
    return random_s2lic(**TINY_S2LIC)
