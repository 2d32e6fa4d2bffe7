"""Stepwise spatial and channel context (DCVC-DC, Li et al., CVPR 2023, Sec. 3.2; DCVC-RT's one-network version).

The latent's channels form four groups and its positions four phases of a 2x2 pattern. Turn k codes, at
each position, the group that a Latin square assigns to it, so that every step sees all channels near
and all positions far of what came before:

    phase   0 1      turn of group g at phase p = (g + order(p)) mod 4
            2 3

The first turn, which knows nothing but the hyper-latent, is coded in two steps: phase 0, a sixteenth of all entries, and
then the other phases, which see it. The other turns are one step each.

After each step the decoded values update a float mean context, and the integer symbols update an
integer level context. Means may use anything decoded; levels may use integers only (parse path).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from types import EllipsisType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .hyperprior import LayerFactory, as_activation
from .integer_net import ACTIVATION_MAX
from .layers import GatedBlock, Linear, linear
from .tables import LEVELS

GROUPS = 4
"""Channel groups, and phases, and turns. Group g is every fourth channel, from the g-th on."""
STEPS = GROUPS + 1
"""Steps of the coding pass."""
_ORDER = (0, 2, 3, 1)  # phases of one group: first the diagonal pair, then the other


class Place(NamedTuple):
    """What is coded of a latent at the positions of one phase."""

    at: tuple[EllipsisType, slice, slice, slice]
    """Those positions, in a tensor (..., rows, columns, channels)."""
    channels: slice


def turn_of(step: int) -> int:
    """The turn that a step belongs to."""
    return max(step - 1, 0)


def places(turn: int, phases: Iterable[int] = range(GROUPS)) -> list[Place]:
    """What a turn codes, by phase."""
    return [
        Place(
            (..., slice(p // 2, None, 2), slice(p % 2, None, 2), slice(None)),
            slice((turn - _ORDER[p]) % GROUPS, None, GROUPS),
        )
        for p in phases
    ]


PLACES = [places(0, [0]), places(0, [1, 2, 3]), *(places(turn) for turn in range(1, GROUPS))]
"""What each step codes."""


def by_place(places: Iterable[Place], run: Callable[[Tensor, slice], Tensor], x: Tensor) -> Tensor:
    """``run`` on the part of ``x`` (B, H, W, C) at each place, with the channels coded there; zeros at other positions."""
    result: Tensor | None = None
    for at, channels in places:
        part = run(x[at], channels)
        if result is None:
            result = part.new_zeros(*x.shape[:-1], part.shape[-1])
        result[at] = part
    assert result is not None, "no step codes nothing"
    return result


def gathered(x: Tensor, step: int, *, whole_turn: bool = False) -> Tensor:
    """What a step codes of ``x`` (B, H, W, latent): at each position its group, (B, H, W, latent / 4).

    Positions of which the step codes nothing hold zeros, or what the rest of the turn codes of them.
    """
    where = places(turn_of(step)) if whole_turn else PLACES[step]
    return by_place(where, lambda part, channels: part[..., channels], x)


def scattered(x: Tensor, step: int) -> Tensor:
    """Inverse of `gathered`: to (B, H, W, latent), zeros elsewhere."""
    return _filled([(x, PLACES[step])])


def add_to_turn(turns: list[Tensor], x: Tensor, step: int) -> None:
    """Note down what a step codes: of the turn before, if it is its other half, or of a new one."""
    turns.append(turns.pop() + x if turn_of(step) < len(turns) else x)


def of_turns(turns: Sequence[Tensor]) -> Tensor:
    """A latent (B, H, W, latent), from what each turn codes of it."""
    return _filled([(x, places(turn)) for turn, x in enumerate(turns)])


def _filled(parts: list[tuple[Tensor, list[Place]]]) -> Tensor:
    like = parts[0][0]
    result = like.new_zeros(*like.shape[:-1], like.shape[-1] * GROUPS)
    for x, where in parts:
        for at, channels in where:
            result[at][..., channels] = x[at]
    return result


@lru_cache(maxsize=4 * STEPS)
@torch.inference_mode(False)
def active_mask(rows: int, columns: int, channels: int, step: int, device: torch.device) -> Tensor:
    """Which entries of a (rows, columns, channels) latent a step codes. Bool; kept, so not to be written to."""
    return scattered(torch.ones(rows, columns, channels // GROUPS, dtype=torch.bool, device=device), step)


def phases(rows: int, columns: int, device: torch.device) -> Tensor:
    """Phase 0..3 of each position, shape (rows, columns)."""
    return torch.arange(rows, device=device)[:, None] % 2 * 2 + torch.arange(columns, device=device) % 2


class MeanContext(nn.Module):
    """Float half: context (B, H, W, width) to the means of what a step codes, and its update."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.mean = nn.ModuleList(Linear(width, latent_channels) for _ in range(STEPS))
        self.add = nn.ModuleList(Linear(latent_channels, width) for _ in range(STEPS - 1))
        self.block = nn.ModuleList(GatedBlock(width) for _ in range(STEPS))

    def refine(self, context: Tensor, step: int) -> Tensor:
        return self.block[step](context)

    def means(self, context: Tensor, step: int) -> Tensor:
        """As `gathered` gives them, (B, H, W, latent / 4)."""
        layer: Any = self.mean[step]
        return by_place(PLACES[step], lambda x, own: linear(x, layer.weight[own], layer.bias[own]), context)

    def update(self, context: Tensor, y_step: Tensor, step: int) -> Tensor:
        """``y_step``: decoded values of this step, as `gathered` gives them."""
        layer: Any = self.add[step]
        return context + (by_place(PLACES[step], lambda x, own: linear(x, layer.weight[:, own]), y_step) + layer.bias)


class LevelContext(nn.Module):
    """Integer half: context (B, H, W, width) of integers to the level of every latent entry, and its update."""

    def __init__(
        self,
        latent_channels: int,
        width: int,
        knots: int,
        integer_linear: LayerFactory,
        depthwise: LayerFactory,
        steps: int = STEPS,
    ) -> None:
        super().__init__()
        self.others = width + knots + GROUPS
        """What `mix` sees beside symbols."""
        inputs = [self.others] + [self.others + latent_channels] * (steps - 1)
        self.mix = nn.ModuleList(integer_linear(n, width) for n in inputs)
        self.spread = nn.ModuleList(depthwise(width) for _ in range(steps))
        self.join = nn.ModuleList(integer_linear(2 * width, width) for _ in range(steps))
        self.level = nn.ModuleList(integer_linear(width, latent_channels, ceiling=LEVELS - 1) for _ in range(steps))

    def refine(self, context: Tensor, symbols: Tensor | None, knot_weights: Tensor, step: int) -> Tensor:
        """``symbols``: integers of the step before, zero elsewhere; None at step 0."""
        batch, rows, columns, _ = context.shape
        phase = nn.functional.one_hot(phases(rows, columns, context.device), GROUPS) * ACTIVATION_MAX
        side = torch.cat(
            [
                knot_weights[:, None, None].expand(batch, rows, columns, -1),
                phase[None].expand(batch, -1, -1, -1),
            ],
            dim=-1,
        ).to(context.dtype)
        mixed = self.mixed(
            torch.cat([context, side], dim=-1), None if symbols is None else as_activation(symbols.abs()), step
        )
        return self.join[step](torch.cat([mixed, self.spread[step](mixed)], dim=-1))

    def mixed(self, others: Tensor, symbols: Tensor | None, step: int) -> Tensor:
        """Output of `mix`. ``symbols``: as activations."""
        return self.mix[step](others if symbols is None else torch.cat([others, symbols], dim=-1))

    def levels(self, context: Tensor, step: int) -> Tensor:
        return self.level[step](context)


class TurnLevelContext(LevelContext):
    """`LevelContext` that computes what a step codes and nothing else, the same integers. Symbols, of the turn so far or the
    one before, and levels are as `gathered` gives them."""

    def mixed(self, others: Tensor, symbols: Tensor | None, step: int) -> Tensor:
        """Output of `mix`. ``symbols``: as activations."""
        if symbols is None:
            return super().mixed(others, None, step)
        layer: Any = self.mix[step]
        weight, bias, shift = layer.integers()
        of_others, of_symbols = weight.split([self.others, weight.shape[1] - self.others], dim=1)
        seen = by_place(places(turn_of(step - 1)), lambda x, own: linear(x, of_symbols[:, own]), symbols.to(weight.dtype))
        return layer.settled(linear(others.to(weight.dtype), of_others) + seen, bias, shift)

    def levels(self, context: Tensor, step: int) -> Tensor:
        layer: Any = self.level[step]
        weight, bias, shift = layer.integers()
        return by_place(
            PLACES[step],
            lambda x, own: layer.settled(linear(x, weight[own]), bias[own], shift[own]),
            context.to(weight.dtype),
        )
