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

from functools import lru_cache

import torch
from torch import Tensor, nn

from .hyperprior import LayerFactory, as_activation
from .integer_net import ACTIVATION_MAX
from .layers import GatedBlock, Linear
from .tables import LEVELS

GROUPS = 4
"""Channel groups, and phases, and turns."""
STEPS = GROUPS + 1
"""Steps of the coding pass."""
_ORDER = (0, 2, 3, 1)  # phases of one group: first the diagonal pair, then the other


@lru_cache(maxsize=4 * STEPS)
@torch.inference_mode(False)
def active_mask(rows: int, columns: int, channels: int, step: int, device: torch.device) -> Tensor:
    """Which entries of a (rows, columns, channels) latent a step codes. Bool; kept, so not to be written to."""
    phase = phases(rows, columns, device)[..., None]
    turn = (torch.arange(channels, device=device) + torch.tensor(_ORDER, device=device)[phase]) % GROUPS
    return turn == step - 1 if step > 1 else (turn == 0) & ((phase > 0) == step)


def phases(rows: int, columns: int, device: torch.device) -> Tensor:
    """Phase 0..3 of each position, shape (rows, columns)."""
    return torch.arange(rows, device=device)[:, None] % 2 * 2 + torch.arange(columns, device=device) % 2


class MeanContext(nn.Module):
    """Float half: context (B, H, W, width) to the mean of every latent entry, and its update."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.mean = nn.ModuleList(Linear(width, latent_channels) for _ in range(STEPS))
        self.add = nn.ModuleList(Linear(latent_channels, width) for _ in range(STEPS - 1))
        self.block = nn.ModuleList(GatedBlock(width) for _ in range(STEPS))

    def refine(self, context: Tensor, step: int) -> Tensor:
        return self.block[step](context)

    def update(self, context: Tensor, y_step: Tensor, step: int) -> Tensor:
        """``y_step``: decoded values of this step, zero elsewhere."""
        return context + self.add[step](y_step)


class LevelContext(nn.Module):
    """Integer half: context (B, H, W, width) of integers to the level of every latent entry, and its update."""

    def __init__(
        self,
        latent_channels: int,
        width: int,
        knots: int,
        linear: LayerFactory,
        depthwise: LayerFactory,
        steps: int = STEPS,
    ) -> None:
        super().__init__()
        side = knots + GROUPS
        inputs = [width + side] + [width + side + latent_channels] * (steps - 1)
        self.mix = nn.ModuleList(linear(n, width) for n in inputs)
        self.spread = nn.ModuleList(depthwise(width) for _ in range(steps))
        self.join = nn.ModuleList(linear(2 * width, width) for _ in range(steps))
        self.level = nn.ModuleList(linear(width, latent_channels, ceiling=LEVELS - 1) for _ in range(steps))

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
        parts = [context, side] if symbols is None else [context, side, as_activation(symbols.abs())]
        mixed = self.mix[step](torch.cat(parts, dim=-1))
        return self.join[step](torch.cat([mixed, self.spread[step](mixed)], dim=-1))

    def levels(self, context: Tensor, step: int) -> Tensor:
        return self.level[step](context)
