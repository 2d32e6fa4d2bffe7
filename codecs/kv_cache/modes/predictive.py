"""Delta coding: predict what the decoder can predict, code the rest (AQUA-KV, 2501.19392, section 3).

    keys of layer 0       mean by token id                 (without RoPE they depend on nothing else)
    values of layer 0     mean by token id, keys of layer 0
    keys of layer l       keys and values of layer l - 1
    values of layer l     keys of layer l, keys and values of layer l - 1

The predictors are linear, fitted on the calibration text, and see only reconstructions (closed loop). A prediction
moves the mean; the tables come from levels in the stream, so its last bits never decide how the stream is parsed.
The residual is transformed by its own principal components and coded in rows as by `quantized-small`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....entropy_models.row_coders import RowCoder
from .place import KEY, Place
from .quantized import channel_rows, from_channel_rows
from .transform import code_coefficients, forward, inverse


def sources(layer: int, kind: int) -> list[tuple[int, int]]:
    """(layer, kind) of the tensors that a prediction is made from."""
    below = [(layer - 1, 0), (layer - 1, 1)] if layer else []
    return below if kind == KEY else [(layer, KEY), *below]


def code(coder: RowCoder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass; ``place.known`` holds the tensors before, by (layer, kind), and receives this one."""
    guess = predict(place)
    basis = place.calibration.residual_basis(place.layer, place.kind)
    y = None if x is None else forward(channel_rows(x, place).cpu() - guess, basis)
    known = inverse(code_coefficients(coder, y, place), basis).add_(guess)
    place.known[place.layer, place.kind] = known
    return from_channel_rows(known, place)


def predict(place: Place) -> Tensor:
    """The prediction, float32, shape (heads * dim, tokens)."""
    predictor = place.calibration.predictor(place.layer, place.kind)
    if place.layer == 0 and place.kind == KEY:
        return predictor.of_tokens(place.token_ids).T
    inputs = torch.cat([place.known[source] for source in sources(place.layer, place.kind)])
    if place.layer == 0:
        inputs = inputs - place.calibration.predictor(0, KEY).of_tokens(place.token_ids).T
        return predictor.of_tokens(place.token_ids).T + predictor.weight.T @ inputs
    return predictor.weight.T @ inputs + predictor.bias[:, None]
