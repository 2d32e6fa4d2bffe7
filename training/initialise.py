"""Start the transforms as a 16x16 block DCT instead of noise.

With orthonormal DCT matrices in the linear layers and blocks that start as the identity, step 0 already gives
photographs back at more than 40 dB before quantisation; training improves on that instead of first finding an invertible
transform, which took thousands of steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..codecs.image.dcvc_rt import PATCH, ImageNetwork

CHROMA_COST = 4.0
"""Chroma keeps the frequencies up to half of luma's."""


def dct(size: int) -> Tensor:
    """Orthonormal DCT-II matrix (frequency, sample), float64."""
    k = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def opponent() -> Tensor:
    """Orthonormal colour transform (luma, blue-yellow, red-green) of RGB."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def patch_matrix() -> Tensor:
    """8x8 DCT of each opponent colour: (8*8*3 outputs, 8*8*3 inputs), in `space_to_depth` order."""
    d = dct(PATCH)
    return torch.einsum("ui,vj,kc->uvkijc", d, d, opponent()).reshape(3 * PATCH**2, -1)


def merge_matrix(latent_channels: int) -> Tensor:
    """From 2x2 neighbouring 8x8 spectra to the ``latent_channels`` most useful entries of a 16x16 spectrum."""
    inverse = torch.block_diag(dct(PATCH).T, dct(PATCH).T)
    line = (dct(2 * PATCH) @ inverse).reshape(2 * PATCH, 2, PATCH)  # frequency, block, frequency in the block
    full = torch.einsum("Uau,Vbv,kc->UVkabuvc", line, line, torch.eye(3, dtype=torch.float64))
    u = torch.arange(1, 2 * PATCH + 1, dtype=torch.float64)
    cost = (u[:, None] ** 2 + u**2)[..., None] * torch.tensor([1.0, CHROMA_COST, CHROMA_COST], dtype=torch.float64)
    chosen = cost.reshape(-1).argsort()[:latent_channels]
    return full.reshape(3 * 4 * PATCH**2, -1)[chosen]


@torch.no_grad()
def start_as_dct(network: ImageNetwork) -> None:
    """Overwrite the linear layers of both transforms in place.

    Raises:
        ValueError: the trunk is not as wide as a patch, so there is no orthonormal start.
    """
    config = network.config
    if config.trunk_channels != 3 * PATCH**2 or config.latent_channels > 12 * PATCH**2:
        raise ValueError(f"a DCT start needs trunk_channels={3 * PATCH**2}, this network has {config.trunk_channels}")
    patch, merge = patch_matrix(), merge_matrix(config.latent_channels)
    a, s, eye = network.analysis, network.synthesis, torch.eye(config.latent_width)
    for layer, weight in (
        (a.patch, patch), (a.down, merge), (a.last, eye), (s.first, eye), (s.up, merge.T), (s.patch, patch.T)
    ):  # fmt: skip
        layer.weight.copy_(weight)
        layer.bias.zero_()
    for block in (*a.trunk, *a.latent, *s.latent, *s.trunk):
        block.project.weight.zero_()
        block.project.bias.zero_()
