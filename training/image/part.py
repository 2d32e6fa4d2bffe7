"""A small network that starts as part of a large one: the blocks whose loss would cost most, and of every layer the channels
that matter most.

A channel is worth the mean square of what it holds times the squares of the weights that read it, as pruning by magnitude
has it (Li et al., ICLR 2017, whose filters are ranked by weights alone). On two pictures such a student needed 29 % more
rate than its teacher after 300 steps, and one that starts as a DCT 40 % more after 2,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from ...entropy_models.channel_context import GROUPS, STEPS
from ...entropy_models.errors import InputError
from ..distillation import ChannelBits

Run = Callable[[nn.Module, ChannelBits], Tensor]
"""Runs a network, with a coder for its coding pass; gives the loss."""
NEIGHBOURS = 4
"""Positions of a 2x2 square, whose channels stand one after another where resolution changes."""
BLOCKS = "analysis.trunk", "analysis.latent", "synthesis.latent", "synthesis.trunk"


@torch.no_grad()
def start_as_part(network: ImageNetwork, whole: ImageNetwork, runs: Iterable[Run]) -> Tensor:
    """Overwrite a network with parts of a larger one.

    Args:
        runs: over some batches, each of which is taken several times.

    Returns:
        numbers of the latent channels kept, int64.

    Raises:
        InputError: it is no part of it; names the field of the config.
    """
    check_part(network.config, whole.config)
    runs = list(runs)
    part = Part(whole, network.config, *_measured(whole, runs))
    counts = {name: len(list(network.get_submodule(name).children())) for name in BLOCKS}
    blocks = {name: blocks_kept(whole, name, count, runs) for name, count in counts.items()}
    part.transforms(blocks)
    part.hyper_networks()
    part.mean_context()
    part.level_context()
    network.load_state_dict({name: value.contiguous() for name, value in part.state.items()})
    return part.latent


def check_part(config: Any, whole: Any) -> None:
    """InputError where a network of a config is no part of one of another; only those of `ImageConfig` have parts."""
    for of, found in (("part", config), ("whole", whole)):
        if not isinstance(found, ImageConfig):
            raise InputError(f"the {of} has a {type(found).__name__}; a part can be taken of ImageConfig alone")
    direct, whole_direct = config.latent_channels - config.latent_width, whole.latent_channels - whole.latent_width
    for name, own, other in (
        ("trunk_channels", config.trunk_channels, whole.trunk_channels), ("knots", config.knots, whole.knots),
        ("latent_channels - latent_width", direct, whole_direct),
    ):  # fmt: skip
        if own != other:
            raise InputError(f"{name}={own} of the part; the whole has {other}, and it must be the same")
    if config.latent_width % GROUPS:
        raise InputError(f"latent_width={config.latent_width} of the part; need a multiple of {GROUPS}")
    for name in ("latent_width", "hyper_channels", "context_channels", "level_channels", "trunk_blocks", "latent_blocks"):
        sizes = (torch.tensor(getattr(one, name)) for one in (config, whole))
        if torch.gt(*sizes).any():
            raise InputError(f"{name}={getattr(config, name)} of the part; the whole has {getattr(whole, name)}")


class Part:
    """The state of a part, layer by layer.

    Args:
        bits: of each latent channel.
        squares: means over positions of what modules return, by their names, and of what a block's last layer and a
            context's filters take.
    """

    def __init__(self, whole: ImageNetwork, config: ImageConfig, bits: Tensor, squares: dict[str, Tensor]) -> None:
        self.whole, self.sizes, self.config, self._squares = whole.state_dict(), whole.config, config, squares
        self.state: dict[str, Tensor] = {}
        each = config.latent_width // GROUPS  # a channel stays in its group of the coding pass: its number modulo four
        deep = [torch.arange(group, self.sizes.latent_width, GROUPS) for group in range(GROUPS)]
        self.deep = torch.stack([group[most(bits[group], each)] for group in deep], dim=1).flatten()
        self.direct = torch.arange(self.sizes.latent_width, self.sizes.latent_channels)
        self.latent = torch.cat([self.deep, self.direct])

    def worth(self, name: str, readers: Tensor) -> Tensor:
        """Of each channel that a module returns, to weights (rows, channels)."""
        return self._squares[name][: readers.shape[-1]] * readers.square().sum(0)

    def layer(self, name: str, outputs: Tensor, inputs: Tensor) -> None:
        """A linear layer."""
        self.state[f"{name}.weight"] = self.whole[f"{name}.weight"][outputs][:, inputs]
        self.state[f"{name}.bias"] = self.whole[f"{name}.bias"][outputs]

    def columns(self, name: str, channels: Tensor, field: str = "weight") -> None:
        """What has a column for each channel: gains, and filters of the level branch."""
        self.state[f"{name}.{field}"] = self.whole[f"{name}.{field}"][:, channels]
        if f"{name}.bias" in self.whole:
            self.state[f"{name}.bias"] = self.whole[f"{name}.bias"][channels]

    def block(self, name: str, channels: Tensor, of: str | None = None) -> None:
        """A gated block on some channels, from block ``of``; inside it as many are kept."""
        of = of or name
        inner = most(self.worth(f"{of}.project/in", self.whole[f"{of}.project.weight"]), len(channels))
        both = torch.cat([inner, inner + self.whole[f"{of}.project.weight"].shape[1]])  # gates, then values
        rows = {"expand": (both, channels), "depthwise": (both, slice(None)), "project": (channels, inner)}
        for layer, (outputs, inputs) in rows.items():
            self.state[f"{name}.{layer}.weight"] = self.whole[f"{of}.{layer}.weight"][outputs][:, inputs]
            self.state[f"{name}.{layer}.bias"] = self.whole[f"{of}.{layer}.bias"][outputs]

    def transforms(self, blocks: dict[str, list[int]]) -> None:
        """Analysis and synthesis; ``blocks``: numbers of those kept."""
        whole, trunk = self.whole, torch.arange(self.config.trunk_channels)
        inside = {
            "analysis.latent": self.worth("analysis.latent", whole["analysis.last.weight"][self.deep]),
            "synthesis.latent": self.worth("synthesis.latent", whole["synthesis.up.weight"][:, : self.sizes.latent_width]),
        }
        kept = {name: most(worth, self.config.latent_width) for name, worth in inside.items()}
        for name, numbers in blocks.items():
            for own, number in enumerate(numbers):
                self.block(f"{name}.{own}", kept.get(name, trunk), f"{name}.{number}")
        every = torch.arange(NEIGHBOURS * len(trunk))
        self.layer("analysis.patch", trunk, torch.arange(whole["analysis.patch.weight"].shape[1]))
        self.layer("analysis.down", torch.cat([kept["analysis.latent"], self.direct]), every)
        self.layer("analysis.last", self.deep, kept["analysis.latent"])
        self.layer("synthesis.first", kept["synthesis.latent"], self.deep)
        self.layer("synthesis.up", every, torch.cat([kept["synthesis.latent"], self.direct]))
        self.layer("synthesis.patch", torch.arange(whole["synthesis.patch.weight"].shape[0]), trunk)
        for name, channels in (
            ("analysis.gain", trunk), ("synthesis.gain", trunk), ("gain", self.latent), ("inverse_gain", self.latent)
        ):  # fmt: skip
            self.columns(name, channels, "log_gain")

    def hyper_networks(self) -> None:
        """Hyper analysis and mean synthesis, and what of the hyper-latent is kept."""
        width = self.config.level_channels
        self.hyper = most(self._squares["hyper_analysis"], self.config.hyper_channels)
        first, middle = (
            self._narrowed("hyper_analysis", *pair, width) for pair in (("first", "down1"), ("block1", "down2"))
        )
        last = most(self.worth("hyper_analysis.block2", self.whole["hyper_analysis.last.weight"]), width)
        old = self.sizes.level_channels
        self.layer("hyper_analysis.first", first, self.latent)
        self.layer("hyper_analysis.down1", middle, four(first, old))
        self.block("hyper_analysis.block1", middle)
        self.layer("hyper_analysis.down2", last, four(middle, old))
        self.block("hyper_analysis.block2", last)
        self.layer("hyper_analysis.last", self.hyper, last)
        self.columns("hyper_analysis.gain", self.hyper, "log_gain")
        self.layer("hyper_prior.level", self.hyper, torch.arange(self.config.knots))
        early = most(self.worth("mean_synthesis.block1", self.whole["mean_synthesis.up1.weight"]), width)
        late = most(self.worth("mean_synthesis.block2", self.whole["mean_synthesis.up2.weight"]), width)
        self.layer("mean_synthesis.first", early, self.hyper)
        self.block("mean_synthesis.block1", early)
        self.layer("mean_synthesis.up1", four(late, old), early)
        self.block("mean_synthesis.block2", late)
        self._late = late

    def mean_context(self) -> None:
        """The float context, whose channels run through all steps."""
        readers = [self.whole[f"mean_context.mean.{step}.weight"][self.latent] for step in range(STEPS)]
        worth = sum(self.worth(f"mean_context.block.{step}", weight) for step, weight in enumerate(readers))
        context = most(torch.as_tensor(worth), self.config.context_channels)
        self.layer("mean_synthesis.up2", four(context, self.sizes.context_channels), self._late)
        self.columns("mean_synthesis.gain", context, "log_gain")
        for step in range(STEPS):
            self.block(f"mean_context.block.{step}", context)
            self.layer(f"mean_context.mean.{step}", self.latent, context)
            if step + 1 < STEPS:
                self.layer(f"mean_context.add.{step}", context, self.latent)

    def level_context(self) -> None:
        """The integer branch: hyper-latent to context, and the context's steps."""
        width, old, knots = self.config.level_channels, self.sizes.level_channels, torch.arange(self.config.knots)
        mixes = [self.whole[f"level_context.mix.{step}.weight"][:, :old] for step in range(STEPS)]
        first, middle = (self._narrowed("level_synthesis", *pair, width) for pair in (("first", "up1"), ("mix1", "up2")))
        context = most(self.worth("level_synthesis.mix2", mixes[0]), width)
        self.layer("level_synthesis.first", first, torch.cat([self.hyper, self.sizes.hyper_channels + knots]))
        self.layer("level_synthesis.up1", four(middle, old), first)
        self.columns("level_synthesis.mix1", middle)
        self.layer("level_synthesis.up2", four(context, old), middle)
        self.columns("level_synthesis.mix2", context)
        side = old + torch.arange(self.config.knots + GROUPS)
        for step in range(STEPS):
            join, levels = (self.whole[f"level_context.{name}.{step}.weight"] for name in ("join", "level"))
            mixed = self.worth(f"level_context.spread.{step}/in", join[:, :old])
            inner = most(mixed + self.worth(f"level_context.spread.{step}", join[:, old:]), width)
            readers = [levels[self.latent], *mixes[step + 1 : step + 2]]
            shares = [self.worth(f"level_context.join.{step}", weight / weight.norm()) for weight in readers]
            following = most(torch.stack(shares).sum(0), width)
            symbols = [side[-1] + 1 + self.latent] * (step > 0)
            self.layer(f"level_context.mix.{step}", inner, torch.cat([context, side, *symbols]))
            self.columns(f"level_context.spread.{step}", inner)
            self.layer(f"level_context.join.{step}", following, torch.cat([inner, old + inner]))
            self.layer(f"level_context.level.{step}", self.latent, following)
            context = following

    def _narrowed(self, network: str, layer: str, reader: str, count: int) -> Tensor:
        """The channels of a layer that are most worth to one that reads them, at another resolution perhaps."""
        weight = self.whole[f"{network}.{reader}.weight"]
        return most(self.worth(f"{network}.{layer}", weight.reshape(-1, self.sizes.level_channels)), count)


def most(worth: Tensor, count: int) -> Tensor:
    """Numbers of the most worth, in their order."""
    return worth.topk(count).indices.sort().values


def four(channels: Tensor, width: int) -> Tensor:
    """Channels of four neighbours, one after another."""
    return torch.cat([channels + width * place for place in range(NEIGHBOURS)])


def _measured(whole: ImageNetwork, runs: list[Run]) -> tuple[Tensor, dict[str, Tensor]]:
    """Bits of each latent channel, and `Part`'s mean squares."""
    squares: dict[str, Tensor] = {}

    def note(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            squares[name] = squares.get(name, 0) + value.float().flatten(0, -2).square().mean(0)

    hooks = []
    for name, module in whole.named_modules():
        hooks.append(module.register_forward_hook(lambda module, given, output, name=name: note(name, output)))
        if name.endswith(".project") or ".spread." in name:
            hooks.append(module.register_forward_pre_hook(lambda module, given, name=name: note(f"{name}/in", given[0])))
    bits = torch.zeros(whole.config.latent_channels)
    for run in runs:
        run(whole, coder := ChannelBits())
        bits += coder.by_channel()
    for hook in hooks:
        hook.remove()
    return bits, squares


def blocks_kept(whole: nn.Module, name: str, count: int, runs: list[Run]) -> list[int]:
    """Numbers of the blocks in a row without which the loss is highest, each alone."""
    blocks: Any = whole.get_submodule(name)
    losses = torch.zeros(len(blocks))
    for number in range(len(blocks)):
        with _without(blocks, number):
            losses[number] = sum(float(run(whole, ChannelBits())) for run in runs)
    return [int(number) for number in most(losses, count)]


@contextmanager
def _without(blocks: nn.Sequential, number: int) -> Iterator[None]:
    """A row of blocks less one."""
    block, blocks[number] = blocks[number], nn.Identity()
    try:
        yield
    finally:
        blocks[number] = block
