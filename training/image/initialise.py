"""Start the transforms as a 16x16 block DCT, and the hyper-latent as the energy of its bands, instead of noise.

With orthonormal DCT matrices in the linear layers and blocks that start as the identity, step 0 already gives
photographs back at more than 40 dB before quantisation; training improves on that instead of first finding an invertible
transform, which took thousands of steps.

A hyper-latent that starts small rounds to zero, tells the decoder nothing, and so is never worth its bits: with random
layers it stood at a deviation of 0.07 steps and died for good, at a fifth of the rate. So it starts
as what a hyperprior is for: the local energy of bands of the spectrum, about one step apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ...codecs.image.dcvc_rt import PATCH, ImageNetwork
from ...entropy_models.errors import InputError

CHROMA_COST = 4.0
"""Chroma keeps the frequencies up to half of luma's."""
SPECTRUM = 10.0
"""Deviation of a coefficient of photographs times its cost; measured from 7 to 16 over all 384."""
BAND_WIDTH = 8.0
"""Coefficients, in order of cost, over which one energy is taken."""
BAND_GAIN = 1.5
"""Deviations of the band filters' outputs: large enough for SiLU to bend, so that its mean is an energy."""
BAND_MEAN, BAND_DEVIATION = 0.35, 0.33
"""Mean and deviation of the energies of photographs, measured."""


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


def costs() -> Tensor:
    """Costs of the 16x16 spectrum's entries, flat; low ones are worth keeping first."""
    u = torch.arange(1, 2 * PATCH + 1, dtype=torch.float64)
    luma = (u[:, None] ** 2 + u**2)[..., None]
    return (luma * torch.tensor([1.0, CHROMA_COST, CHROMA_COST], dtype=torch.float64)).reshape(-1)


def merge_matrix(latent_channels: int) -> Tensor:
    """Matrix from 2x2 neighbouring 8x8 spectra to the ``latent_channels`` most useful entries of a 16x16 spectrum."""
    inverse = torch.block_diag(dct(PATCH).T, dct(PATCH).T)
    line = (dct(2 * PATCH) @ inverse).reshape(2 * PATCH, 2, PATCH)  # frequency, block, frequency in the block
    full = torch.einsum("Uau,Vbv,kc->UVkabuvc", line, line, torch.eye(3, dtype=torch.float64))
    return full.reshape(3 * 4 * PATCH**2, -1)[costs().argsort()[:latent_channels]]


@torch.no_grad()
def start_as_dct(network: ImageNetwork) -> None:
    """Overwrite the linear layers of both transforms in place.

    Raises:
        InputError: the trunk is not as wide as a patch, so there is no orthonormal start.
    """
    config = network.config
    if config.trunk_channels != 3 * PATCH**2 or config.latent_channels > 12 * PATCH**2:
        raise InputError(f"a DCT start needs trunk_channels={3 * PATCH**2}, this network has {config.trunk_channels}")
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
    start_as_band_energies(network)


@torch.no_grad()
def start_as_band_energies(network: ImageNetwork) -> None:
    """Overwrite the hyper analysis: filters over bands, SiLU, means over 4x4 positions, scaled to about one step."""
    h = network.hyper_analysis
    bands, channels = h.first.weight.shape
    hyper = h.last.weight.shape[0]
    spread = SPECTRUM / costs().sort().values[:channels]
    filters = bumps(bands, channels, BAND_WIDTH) * torch.randn(bands, channels, dtype=torch.float64)
    filters /= filters.norm(dim=1, keepdim=True)
    h.first.weight.copy_(BAND_GAIN * filters / spread)
    h.first.bias.zero_()
    mean = torch.eye(bands).repeat(1, 4) / 4
    for down in (h.down1, h.down2):
        down.weight.copy_(mean + 0.005 * torch.randn_like(mean))
        down.bias.zero_()
    mix = bumps(hyper, bands, bands / hyper)
    h.last.weight.copy_(mix / mix.sum(1, keepdim=True) / BAND_DEVIATION)
    h.last.bias.fill_(-BAND_MEAN / BAND_DEVIATION)


def bumps(rows: int, columns: int, width: float) -> Tensor:
    """Gaussians along the columns, centred evenly from the first row to the last; float64."""
    centre = (torch.arange(rows, dtype=torch.float64)[:, None] + 0.5) * columns / rows - 0.5
    return torch.exp(-(((torch.arange(columns, dtype=torch.float64) - centre) / width) ** 2))


_OF_BLOCK = re.compile(r"((?:analysis|synthesis)\.(?:trunk|latent)\.\d+)\.(expand|depthwise|project)\.(?:weight|bias)")


def with_more_blocks(state: dict[str, Tensor], network: ImageNetwork) -> dict[str, Tensor]:
    """Trainable state of a network whose transforms have fewer blocks, as one that fits ``network``: the same function.

    The new blocks stand after the old ones, take ``network``'s own random weights, and add nothing to begin with.
    """
    grown = dict(state)
    for name, value in network.state_dict().items():
        match = _OF_BLOCK.fullmatch(name)
        if match and name not in state:
            grown[name] = torch.zeros_like(value) if match[2] == "project" else value
    return grown


def without_blocks(state: dict[str, Tensor], blocks: Sequence[str]) -> dict[str, Tensor]:
    """A state less some blocks of its transforms, the last of theirs; `with_more_blocks` starts them anew where asked for.

    Args:
        blocks: as ``analysis.trunk.4``.

    Raises:
        InputError: there is no such block, or others that stay follow it.
    """
    found = {match[1] for match in map(_OF_BLOCK.fullmatch, state) if match}
    if unknown := [block for block in blocks if block not in found]:
        raise InputError(f"no block {', '.join(unknown)}; there are {', '.join(sorted(found))}")
    for row, number in (block.rsplit(".", 1) for block in blocks):
        if f"{row}.{int(number) + 1}" in found.difference(blocks):
            raise InputError(f"{row}.{number} is not the last of {row}: {row}.{int(number) + 1} would stay")
    return {name: value for name, value in state.items() if not name.startswith(tuple(f"{block}." for block in blocks))}


def without_correction(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state less the correction's directions, which export learns anew (`correction`)."""
    return {name: value for name, value in state.items() if not name.startswith("correction.")}
