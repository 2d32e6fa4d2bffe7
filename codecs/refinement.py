"""Refinement of symbols at encode time, for any codec with a coding pass: what the decoder reads is chosen for this signal.

An analysis transform trained on many signals and plain rounding are best for none of them. Gradient descent moves what is
rounded, and so the symbols, towards less of

    J = bits of the symbols + distortion, in the bits it is worth

with decoder, weights and format as they are. (Campos et al., CVPR Workshops 2019; Yang, Bamler and Mandt, NeurIPS 2020.)
Near the best, straight-through gradients alone do not get there: they are taken at the symbol k, so that the value v in
front of the rounding drifts until it flips, its neighbours with it, and J rises. To second order the gradient at v is
G(k) + H (v - k), and the second term is `CURVATURE` in `refined`. Side information stays as the codec's analysis has it
there: it would run away after the latent that it describes. Far from the best, where the analysis is poor for a signal,
they do get there, and side information along with them: `refined_latent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..entropy_models.coder import Coder, Measure
from ..entropy_models.relaxed import gaussian_bits, straight_through
from ..entropy_models.tables import Tables

CURVATURE = 18.0
"""Second derivative of J by a value in steps: 12 / ln 2 = 17.3 by high-rate theory, 17 to 23 in nine of ten channels."""
PULL = 0.3
"""Weight of the bits of the value itself, beside those of its symbol."""
RATES = {1: 0.4}
RATE = 0.5
"""Step size by number of steps, in units of what Newton's method would take."""

Distortion = Callable[[Coder], Tensor]
"""A function that runs a coding pass with a coder and returns the distortion of what was decoded, in bits: a scalar with
gradients by what ``code`` returned."""


class _Counting:
    """What coders with gradients share: the bits of the symbols, and losses by call."""

    def __init__(self, tables: Tables) -> None:
        self._measure = Measure(tables)
        self._losses: list[Tensor] = []

    @property
    def bits(self) -> float:
        """Ideal bits, as `Measure` counts them."""
        return float(self._measure.bits.sum())

    def loss(self) -> Tensor:
        """What stands beside the distortion, of all calls."""
        return torch.stack(self._losses).sum()

    def _coded(self, level: Tensor, active: Tensor | None) -> Tensor:
        """Where an encoder codes, for levels of the residual's shape."""
        coded = level >= self._measure.tables.skip_level
        return coded if active is None else coded & active


class Relaxed(_Counting):
    """Coder with the symbols that an encoder writes, and gradients by the values in front of the rounding.

    Args:
        shifts: what is added to each call's values; zeros for those that are missing, which are appended.
        side: symbols of each call of side information, if they are known already; others are appended.
    """

    def __init__(self, tables: Tables, shifts: list[Tensor], side: list[Tensor]) -> None:
        super().__init__(tables)
        self._shifts, self._side = shifts, side
        self._latents = self._sides = 0
        self.symbols: list[Tensor] = []

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Symbols with the residual's gradient, as `Coder.code` says."""
        if side:
            return self._code_side(residual, level, active)
        if self._latents == len(self._shifts):
            self._shifts.append(torch.zeros_like(residual, requires_grad=True))
        shift = self._shifts[self._latents]
        own, residual = residual.detach() + shift, residual + shift
        self._latents += 1
        symbols = self._measure.code(residual.detach(), level.detach(), active)
        self.symbols.append(symbols)
        level = level.expand(residual.shape)
        coded = self._coded(level.detach(), active)
        self._charge(residual, own, symbols, level, coded)
        return straight_through(symbols, residual * coded)

    def _charge(self, residual: Tensor, own: Tensor, symbols: Tensor, level: Tensor, coded: Tensor) -> None:
        """Note down the loss, of coded entries alone: of most there is nothing to count. It is the curvature, bits for the
        levels' sake, and the pull of the rate.

        ``own``: the residual with gradients by its shift alone; the curvature says nothing of the means it depends on.
        """
        where = coded.flatten().nonzero()[:, 0]
        value, own, symbol, level = (x.flatten().index_select(0, where) for x in (residual, own, symbols, level))
        restore = 0.5 * CURVATURE * (own - symbol).square().sum()
        self._losses += [
            restore,
            gaussian_bits(symbol, level).sum(),
            PULL * gaussian_bits(value, level.detach()).sum(),
        ]

    def _code_side(self, residual: Tensor, level: Tensor, active: Tensor | None) -> Tensor:
        known = self._side[self._sides] if self._sides < len(self._side) else residual.detach()
        symbols = self._measure.code(known, level.detach(), active, side=True)
        if self._sides == len(self._side):
            self._side.append(symbols)
        self._sides += 1
        self.symbols.append(symbols)
        return symbols


class Replay:
    """Coder that codes known symbols with another one, whatever the pass computes.

    Args:
        symbols: of each call, as `refined` returns them.
    """

    def __init__(self, coder: Coder, symbols: Sequence[Tensor]) -> None:
        self._coder, self._symbols = coder, iter(symbols)

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """The known symbols, coded; integers stay what they are in any dead zone."""
        return self._coder.code(next(self._symbols), level, active, side=side)


def refined(distortion: Distortion, tables: Tables, steps: int) -> list[Tensor]:
    """The symbols of each call of ``code`` after some steps of descent: those of the least J on the way.

    Args:
        distortion: called ``steps + 1`` times, with gradients enabled; what it takes may be no inference tensors.
        steps: each costs the coding pass and the distortion, forward and backward.
    """
    shifts: list[Tensor] = []
    side: list[Tensor] = []
    least, best = math.inf, list[Tensor]()
    with torch.inference_mode(False):
        for step in range(steps + 1):
            with torch.set_grad_enabled(step < steps):
                coder = Relaxed(tables, shifts, side)
                worth = distortion(coder)
            if (total := coder.bits + float(worth.detach())) < least or not best:
                least, best = total, coder.symbols
            if step < steps:
                gradients = torch.autograd.grad(worth + coder.loss(), shifts)
                with torch.no_grad():
                    for shift, gradient in zip(shifts, gradients, strict=True):
                        shift -= _rate(step, steps) / CURVATURE * gradient
    return best


def _rate(step: int, steps: int) -> float:
    """Step size: half a cosine, from its top to zero."""
    return RATES.get(steps, RATE) * 0.5 * (1 + math.cos(math.pi * step / steps))


LatentDistortion = Callable[[Coder, Tensor], Tensor]
"""A function that runs a coding pass on a latent with a coder and returns the distortion of what was decoded, in bits."""
LATENT_RATE = 0.15
"""Step size in quantiser steps, as Adam's."""
DECAYS = 0.5, 0.99
"""Of Adam's moments."""


class Charged(_Counting):
    """Coder with the symbols that an encoder writes, and the gradient of the values in front of the rounding. Its loss is
    their bits, which differ from the symbols' by what rounding gives and takes."""

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Symbols with the residual's gradient, as `Coder.code` says."""
        symbols = self._measure.code(residual.detach(), level.detach(), active, side=side)
        level = level.detach().expand(residual.shape)
        coded = self._coded(level, active)
        self._losses.append((gaussian_bits(residual, level) * coded).sum())
        return straight_through(symbols, residual * coded)


class Moments:
    """Adam's running means of a tensor's gradients and of their squares (Kingma and Ba, ICLR 2015).

    Args:
        like: the tensor.
        decays: of either.
    """

    def __init__(self, like: Tensor, decays: tuple[float, float]) -> None:
        self._first, self._second, self._decays, self._steps = torch.zeros_like(like), torch.zeros_like(like), decays, 0

    @torch.no_grad()
    def direction(self, gradient: Tensor) -> Tensor:
        """Where the tensor is to go, against the sign: the mean gradient over its deviation, with this one counted."""
        (first, second), self._steps = self._decays, self._steps + 1
        self._first.lerp_(gradient, 1 - first)
        self._second.lerp_(gradient.square(), 1 - second)
        deviation = (self._second / (1 - second**self._steps)).sqrt()
        return self._first / (1 - first**self._steps) / (deviation + 1e-12)


def refined_latent(distortion: LatentDistortion, latent: Tensor, unit: Tensor, tables: Tables, steps: int) -> Tensor:
    """The latent of the least J on the way of some steps of Adam, side information along with it.

    For an analysis that is far from what is best for a signal, under a distortion that is no square: of speech, where
    `refined` finds nothing, it takes a fifth off J in a dozen steps. Near the best its gradients drift, as said above.

    Args:
        distortion: called ``steps + 1`` times, with gradients enabled; what it takes may be no inference tensors.
        unit: a quantiser step in the latent's units, of a shape that broadcasts to it.
        steps: each costs the coding pass and the distortion, forward and backward.
    """
    least, best = math.inf, latent
    with torch.inference_mode(False):
        latent = latent.clone()
        moments = Moments(latent, DECAYS)
        for step in range(steps + 1):
            with torch.set_grad_enabled(step < steps):
                coder = Charged(tables)
                worth = distortion(coder, latent.requires_grad_(step < steps))
            if (total := coder.bits + float(worth.detach())) < least:
                least, best = total, latent.detach()
            if step < steps:
                (gradient,) = torch.autograd.grad(worth + coder.loss(), [latent])
                if not gradient.isfinite().all():
                    break
                rate = LATENT_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
                latent = latent.detach() - rate * unit * moments.direction(gradient)
    return best
