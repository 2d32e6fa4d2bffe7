"""Calibrated transform after KVTC (2511.01815): principal components over all heads of a layer.

    y = (x - mean) B,   coefficients in equal steps,   x_hat = y_hat B^-1 + mean

The basis diagonalises the covariance of the calibration text after channels were weighted by how much an error in them
moves the attention output, so equal steps are the reverse water-filling solution: each component gets half the
logarithm of its variance over the step's in bits, and one below the step gets none. The level of each component is
measured in each block, so text unlike the calibration's costs bits, not errors.
"""

from __future__ import annotations

from torch import Tensor

from ....entropy_models.row_coders import RowCoder
from ...tensor import quantized
from ...tensor.quantized import Steps, quality_exponents
from .place import Place
from .profiles import Basis
from .quantized import channel_rows, from_channel_rows


def code(coder: RowCoder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor, shape (heads, tokens, dim)."""
    basis = place.calibration.basis(place.layer, place.kind)
    y = forward(channel_rows(x, place), basis) if x is not None else None
    known = code_coefficients(coder, y, place)
    return from_channel_rows(inverse(known, basis), place) if place.wanted else known


def code_coefficients(coder: RowCoder, y: Tensor | None, place: Place) -> Tensor:
    """`tensor.quantized.code` with the profile's step; y and the result have shape (components, tokens)."""
    steps = None
    if y is not None:
        exponent = int(place.calibration.exponents[place.layer][place.kind]) + quality_exponents(place.choices.quality)
        steps = Steps(exponent=exponent, channels_only=True)
    return quantized.code(coder, y, place, steps)


def forward(t: Tensor, basis: Basis) -> Tensor:
    """Coefficients of rows of channels, both float32 of shape (heads * dim, tokens)."""
    return basis.forward.to(t.device).T @ (t - basis.mean.to(t.device)[:, None])


def inverse(y: Tensor, basis: Basis) -> Tensor:
    """Inverse of `forward`."""
    return (basis.inverse.to(y.device).T @ y).add_(basis.mean.to(y.device)[:, None])
