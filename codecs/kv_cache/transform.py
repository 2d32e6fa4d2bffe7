"""Calibrated transform after KVTC (2511.01815): principal components over all heads of a layer.

    y = (x - mean) B,   coefficients in equal steps,   x_hat = y_hat B^-1 + mean

The basis diagonalises the covariance of the calibration text after channels were weighted by how much an error in them
moves the attention output, so equal steps are the reverse water-filling solution: each component gets half the
logarithm of its variance over the step's in bits, and one below the step gets none. The level of each component is
measured in each block, so text unlike the calibration's costs bits, not errors.
"""

from __future__ import annotations

from torch import Tensor

from .place import Place
from .quantized import quality_exponents, code_rows, rotated, unrotated


def code(coder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor."""
    basis = place.profile.basis(place.layer, place.kind)
    y = forward(unrotated(x, place), basis) if x is not None else None
    return rotated(inverse(code_coefficients(coder, y, place), basis), place)


def code_coefficients(coder, y: Tensor | None, place: Place) -> Tensor:
    """`quantized.code_rows` with the profile's step."""
    exponent = int(place.profile.exponents[place.layer][place.kind]) + quality_exponents(place)
    return code_rows(coder, y, place, exponent, None, channels_only=True)


def forward(x: Tensor, basis) -> Tensor:
    """Coefficients of x, both of shape (heads, tokens, dim); the components are spread over heads and dim."""
    heads, tokens, dim = x.shape
    flat = x.transpose(0, 1).reshape(tokens, heads * dim)
    y = (flat - basis.mean.to(x.device)) @ basis.forward.to(x.device)
    return y.view(tokens, heads, dim).transpose(0, 1)


def inverse(y: Tensor, basis) -> Tensor:
    """Inverse of `forward`."""
    heads, tokens, dim = y.shape
    flat = y.transpose(0, 1).reshape(tokens, heads * dim)
    x = flat @ basis.inverse.to(y.device) + basis.mean.to(y.device)
    return x.view(tokens, heads, dim).transpose(0, 1)
