"""Delta coding: predict what the decoder can predict, code the rest (AQUA-KV, 2501.19392, section 3).

    keys of layer 0       mean by token id                 (without RoPE they depend on nothing else)
    values of layer 0     mean by token id, keys of layer 0
    keys of layer l       keys and values of layer l - 1
    values of layer l     keys of layer l, keys and values of layer l - 1

The predictors are linear, fitted on the calibration text, and see only reconstructions (closed loop). A prediction moves
the mean; the tables come from levels in the stream, so its last bits never decide how the stream is parsed.
The residual is transformed by its own principal components and coded in rows as by `quantized`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .place import KEY, Place
from .quantized import rotated, unrotated
from .transform import code_coefficients, forward, inverse


def sources(layer: int, kind: int) -> list[tuple[int, int]]:
    """(layer, kind) of the tensors that a prediction is made from."""
    below = [(layer - 1, 0), (layer - 1, 1)] if layer else []
    return below if kind == KEY else [(layer, KEY), *below]


def code(coder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor; ``place.known`` holds the layers before and receives this one."""
    guess = predict(place)
    basis = place.profile.residual_basis(place.layer, place.kind)
    y = None if x is None else forward(unrotated(x, place) - guess.to(x.device), basis)
    known = inverse(code_coefficients(coder, y, place), basis).cpu() + guess
    place.known[place.layer, place.kind] = known
    return rotated(known, place)


def predict(place: Place) -> Tensor:
    """The prediction, float32, shape (heads, tokens, dim)."""
    parts = [_flat(place.known[source]) for source in sources(place.layer, place.kind)]
    predictor = place.profile.predictor(place.layer, place.kind)
    if place.layer == 0:
        guess = predictor.of_tokens(place.token_ids)
        if place.kind != KEY:
            guess = guess + (parts[0] - place.profile.predictor(0, KEY).of_tokens(place.token_ids)) @ predictor.weight
    else:
        guess = torch.cat(parts, 1) @ predictor.weight + predictor.bias
    return guess.view(place.tokens, place.heads, place.dim).transpose(0, 1)


def _flat(x: Tensor) -> Tensor:
    """(heads, tokens, dim) to (tokens, heads * dim)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)
