"""Directions of the correction (`codecs.image.correction`), learnt from what training crops ask for.

Of each crop only two matrices count: second moments of what the last layer gets, and its products with what is missing.
From these the squared error that any directions would save follows without another look at pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from ...codecs.image.correction import RANGE, REFERENCE, STEP, Correction, prior
from ...codecs.image.dcvc_rt import PATCH, ImageNetwork
from ...codecs.image.distortion import PEAK
from ...codecs.image.tile_coder import to_signal
from ...entropy_models.coder import Measure
from ...entropy_models.layers import space_to_depth
from ...entropy_models.tables import LEVELS, SCALE_MIN, Tables, scale_ratio
from ..losses import rate_distortion_weight

BATCH = 48
RATE = 0.02
"""Learning rate, of a matrix's deviation."""
SHARE_MAX = 0.1
"""Largest share of the squared error: crops that would gain more have nothing more to say in a step. Drawings do."""


class Wishes(NamedTuple):
    """Wishes of crops: means over patches, one row for each crop, float32."""

    quality: Tensor
    """(crops,), 0..100."""
    moments: Tensor
    """Moments of the features and a constant 1, (crops, inputs + 1, inputs + 1)."""
    missing: Tensor
    """Products of the features with the error, (crops, inputs + 1, outputs)."""
    error: Tensor
    """Squared error of a patch, (crops,)."""


@torch.inference_mode()
def wishes(network: ImageNetwork, tables: Tables, crops: Iterable[Tensor], qualities: Iterable[Tensor]) -> Wishes:
    """Run a frozen network on crops: uint8 (batch, rows, columns, 3), training images only; qualities (batch,)."""
    rows = []
    for batch, quality in zip(crops, qualities, strict=False):
        signal = to_signal(batch)
        y_hat = network.coding_pass(Measure(tables, len(batch)), network.to_latent(signal, quality), quality)
        features = network.synthesis.features(y_hat, network.knot_weights(quality, signal.dtype))
        error = (space_to_depth(signal, PATCH) - network.synthesis.patch(features).clamp(*RANGE)).flatten(1, 2)
        features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1).flatten(1, 2)
        patches = features.shape[1]
        moments, missing = features.mT @ features / patches, features.mT @ error / patches
        rows.append(Wishes(quality, moments, missing, error.square().sum((1, 2)) / patches))
    return Wishes(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def learnt(found: Wishes, count: int, knots: int, lambda_range: tuple[float, float], steps: int = 1500) -> Correction:
    """The correction of ``count`` coefficients that saves most net of its bits: mean over crops of their error's logarithm.

    Args:
        found: what training crops ask for.
        count: coefficients in a tile.
        knots: of quality, as in `ImageConfig`.
        lambda_range: as the network was trained with; the coefficients' steps follow from it.
        steps: of the optimiser.
    """
    floor = found.error.new_tensor(0.2 / PEAK) ** 2 * found.missing.shape[-1]  # lossless crops weigh nothing
    found = found._replace(error=found.error + floor)
    worth = _worth(found.quality, lambda_range)
    down, up = _start(found, count)
    down, up = _directions(found, down, up, worth, steps)
    correction = Correction(len(down) - 1, up.shape[1], count, knots)
    mix, level = _coefficients(found, down, up, worth)
    log_gain = torch.log(_worth(torch.linspace(0, 100, knots), lambda_range) / STEP)[:, None]
    correction.load_state_dict({"down": down, "up": up, "mix": mix, "level": level, "gain.log_gain": log_gain})
    return correction.requires_grad_(False)


def _worth(quality: Tensor, lambda_range: tuple[float, float]) -> Tensor:
    """Root of the bits that a unit of a patch's squared error is worth on a tile of reference size."""
    return torch.sqrt(rate_distortion_weight(quality, *lambda_range) * PEAK**2 / 3 * REFERENCE)


def _start(found: Wishes, count: int) -> tuple[Tensor, Tensor]:
    """First directions: each the leading part of a principal component of what crops ask for, where features are white."""
    moments = (found.moments / found.error[:, None, None]).mean(0)
    moments += 1e-6 * moments.diagonal().mean() * torch.eye(len(moments))
    white = torch.linalg.cholesky(moments.double()).float()
    asked = torch.linalg.solve_triangular(white, found.missing, upper=False) / found.error[:, None, None]
    size = asked.flatten(1).norm(dim=1).clamp_min(1e-12)
    asked = asked * (size.clamp_max(2 * float(size.median())) / size)[:, None, None]  # outliers would own components
    rows = asked.flatten(1)
    _, weights = torch.linalg.eigh(rows @ rows.T)
    components = weights.flip(1)[:, :count].T @ rows
    spare = torch.randn(count - len(components), rows.shape[1], generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(torch.cat([components, spare]).unflatten(1, asked.shape[1:]), full_matrices=False)
    return torch.linalg.solve_triangular(white.T, left[:, :, 0].T, upper=True), right[:, 0].contiguous()


def _normal(found: Wishes, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (crops, count, count) and slope (crops, count) of the squared error as a function of the strengths."""
    matrix = (down.T @ found.moments @ down) * (up @ up.T)
    return matrix, torch.einsum("ik,nij,kj->nk", down, found.missing, up)


def _directions(found: Wishes, down: Tensor, up: Tensor, worth: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient ascent on what is saved net of the bits (Adam, rate falling to zero).

    Each coefficient has a deviation of its own, learnt along: the encoder's solution pays for its distance from zero under a
    Gaussian, and the Gaussian for being wide. Without that price 128 directions take an eighth more bytes and save less.
    """
    draw = torch.Generator().manual_seed(0)
    matrix, slope = _normal(found, down, up)
    diagonal = matrix.diagonal(dim1=1, dim2=2) + 1e-12
    first = torch.linalg.solve(matrix + torch.diag_embed(0.02 * diagonal), slope)
    deviation = first.square().mean(0).sqrt().clamp_min(1e-12)
    least, most = 1e-3 * deviation, 1e3 * deviation  # without bounds a matrix can become singular, and all nan
    parameters = [down.clone().requires_grad_(), up.clone().requires_grad_(), deviation.log().requires_grad_()]
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in parameters])
    for step in track(range(steps), description="learning corrections"):
        for group, p in zip(optimizer.param_groups, parameters, strict=True):
            unit = 1.0 if p is parameters[2] else float(p.detach().square().mean().sqrt())
            group["lr"] = RATE * unit * (1 - step / steps)
        pick = torch.randint(len(found.error), (BATCH,), generator=draw)
        some, bits = Wishes(*(part[pick] for part in found)), worth[pick].square()
        matrix, slope = _normal(some, *parameters[:2])
        matrix, slope = bits[:, None, None] * matrix, bits[:, None] * slope
        deviation = torch.clamp(parameters[2].exp(), least, most)
        stiff, pull = (matrix + prior(deviation)).double(), slope.double()  # directions may be alike, deviations far apart
        saved = (pull * torch.linalg.solve(stiff, pull)).sum(1).to(slope.dtype)
        variance = deviation.square() * matrix.diagonal(dim1=1, dim2=2).mean(0)  # as `STEP`, squared
        width = 0.5 * torch.log2(1 + 2 * math.pi / STEP**2 * variance).sum()
        loss = torch.log1p(((width - saved) / (bits * some.error)).clamp(-0.9, 1.0)).clamp_min(-SHARE_MAX).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters[0].detach(), parameters[1].detach()


def _coefficients(found: Wishes, down: Tensor, up: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """Uncorrelated coefficients of equal worth: ``mix`` (count, count), and the level of each. ``worth``: (crops,)."""
    matrix, slope = (part.double() for part in _normal(found, down, up))
    unit = matrix.diagonal(dim1=1, dim2=2).mean(0).sqrt()
    matrix, slope = matrix / unit[:, None] / unit, slope / unit * worth[:, None]
    eye = torch.eye(len(unit), dtype=torch.float64)
    wanted = torch.linalg.solve(matrix + 0.02 * eye, slope)
    white = torch.linalg.cholesky(matrix.mean(0) + 1e-4 * eye)
    rows = wanted @ white
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    turn = torch.linalg.solve_triangular(white.T, vectors.flip(1), upper=True)
    matrix, slope = turn.T @ matrix @ turn, slope @ turn
    deviation = torch.linalg.solve(matrix + 0.02 * eye, slope).square().mean(0).sqrt()
    for _ in range(3):  # what the encoder will do depends on the levels
        symbols = (torch.linalg.solve(matrix + prior(deviation), slope) / STEP).round()
        deviation = symbols.square().mean(0).clamp_min(SCALE_MIN**2).sqrt() * STEP
    level = (torch.log(deviation / STEP / SCALE_MIN) / scale_ratio()).round().clamp(0, LEVELS - 1)
    return (turn / unit[:, None]).float(), level.to(torch.uint8)
