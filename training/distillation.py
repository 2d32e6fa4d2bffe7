"""Distillation of a small network from a large one in three phases, after FEDS (Fu et al. 2025, arXiv 2503.06399).

1. Feature alignment: what chosen modules of the student return, through a linear adapter each, is drawn to what the
   teacher's return.
2. Channel alignment: the student's latent is drawn to the channels of the teacher's that hold the most bits, each weighted
   by its share of them; most channels of a latent hold hardly any.
3. Fine-tuning: the codec's own loss alone, and no teacher.

The paper's loss weights, phases and channels were not to be had; those here are ours. Its lower learning rate of phase 3 is
the end of the loop's cosine.

Networks are known by the names of their modules alone: features are caught by forward hooks, bits by the coder that is given
to the teacher. So any codec's training can distil that says how to run a network (`Run`), if features have their channels
last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..entropy_models.errors import InputError
from .coder import Charge, Train, expected_bits

Run = Callable[[nn.Module, Train], Any]
"""Runs a network on the batch in hand, with a coder for its coding pass."""
FEATURES, CHANNELS, FINE_TUNING = 1, 2, 3
"""Phases."""
_KEPT = 0.99
"""Of the moving averages of a channel's bits and energy, in a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSettings:
    """Settings of a recipe, ``model.distillation``."""

    teacher: str
    """Name of an installed model, or a checkpoint."""
    taps: Mapping[str, str]
    """Module of the student to the teacher's whose output it is drawn to in phase 1."""
    latent: Mapping[str, str]
    """The same for phase 2: one pair, whose outputs are what the coding pass codes."""
    phase_ends: tuple[float, float] = (0.4, 0.7)
    """Parts of the training after which phases 1 and 2 end."""
    feature_weight: float = 1.0
    """Of the mean over taps of the squared error over the teacher's energy."""
    channel_weight: float = 1.0
    """Of the same of the latent, channels weighted by their share of bits."""

    def __post_init__(self) -> None:
        if not 0 <= self.phase_ends[0] <= self.phase_ends[1] <= 1:
            raise InputError(f"phase_ends={self.phase_ends}; need two parts of the training, 0 to 1, that rise")
        if len(self.latent) != 1 or not self.taps:
            raise InputError(f"{len(self.taps)} taps and {len(self.latent)} latents; need some and one")

    def phase(self, progress: float) -> int:
        """The phase at a part of the training, 0..1."""
        return FEATURES + sum(progress >= end for end in self.phase_ends)


class ChannelBits(Train):
    """A coder that also tells how many bits each channel of the latent costs."""

    def by_channel(self) -> Tensor:
        """Bits of each channel of everything but side information, summed over the batch, (channels,)."""
        coded = [charge for charge in self._charges if not charge.side]
        assert coded, "nothing was coded"
        return torch.stack([expected_bits(by_channel(charge)) for charge in coded]).sum(0)


def by_channel(charge: Charge) -> Charge:
    """A charge whose first axis is the channels, in place of signals."""
    residual, symbols, level = (part.movedim(-1, 0) for part in (charge.residual, charge.symbols, charge.level))
    active = None if charge.active is None else charge.active.expand(charge.residual.shape).movedim(-1, 0)
    return Charge(residual, symbols, level, active, charge.side)


@dataclass(slots=True)
class Caught:
    """Outputs of modules in the last run, by their names, as hooks catch them while ``open``."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    open: bool = False

    def watch(self, network: nn.Module, names: list[str]) -> None:
        """Put hooks on modules.

        Raises:
            InputError: the network has no such module.
        """
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules:
                raise InputError(f"no module {name} to distil; there are {', '.join(list(modules)[1:12])} ...")
            modules[name].register_forward_hook(lambda module, given, output, name=name: self._note(name, output))

    def _note(self, name: str, output: Tensor) -> None:
        if self.open:
            self.outputs[name] = output

    def clear(self) -> None:
        """Forget them, so that no graph is kept from one step to the next."""
        self.outputs.clear()


class Distillation(nn.Module):
    """The teacher's part of a student's loss.

    Args:
        settings: of the recipe.
        teacher: frozen here; no part of this module's state, so that checkpoints do not hold it.
        student: in training.
        run: runs either network on something small, to learn how wide their features are.

    Raises:
        InputError: a network has no such module, or fewer channels in the teacher's latent than in the student's.
    """

    bits: Tensor
    energy: Tensor
    given: Tensor

    def __init__(self, settings: DistillationSettings, teacher: nn.Module, student: nn.Module, run: Run) -> None:
        super().__init__()
        self.settings = settings
        self._teacher = [teacher.eval().requires_grad_(False)]
        self._of_student, self._of_teacher = Caught(), Caught()
        pairs = {**settings.taps, **settings.latent}
        self._of_student.watch(student, list(pairs))
        self._of_teacher.watch(teacher, list(pairs.values()))
        with torch.no_grad():
            found = [self._run(run, network, caught) for network, caught in self._sides(student)]
        widths = [{name: output.shape[-1] for name, output in outputs.items()} for outputs in found]
        self.adapters = nn.ModuleDict(
            {_key(own): nn.Linear(widths[0][own], widths[1][other]) for own, other in settings.taps.items()}
        )
        ((own, other),) = settings.latent.items()
        if widths[0][own] > widths[1][other]:
            raise InputError(f"{own} of the student has {widths[0][own]} channels, the teacher's {other} {widths[1][other]}")
        self.kept = widths[0][own]
        self.register_buffer("bits", torch.zeros(widths[1][other]))
        self.register_buffer("energy", torch.zeros(widths[1][other]))
        self.register_buffer("given", torch.full((self.kept,), -1))

    def watch(self) -> None:
        """Watch the student's next run, whose loss `term` belongs to."""
        self._of_student.open = True

    def term(self, run: Run, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """What to add to the loss of the batch that the student has just been run on, and figures for the log.

        Args:
            run: runs the teacher on the same batch.
            progress: part of the training that is done, 0..1.
        """
        phase, self._of_student.open = self.settings.phase(progress), False
        student = dict(self._of_student.outputs)
        self._of_student.clear()
        unused = sum((parameter.sum() * 0 for parameter in self.adapters.parameters()), torch.zeros(()))
        if phase == FINE_TUNING:
            return unused, {}
        coder = ChannelBits()
        with torch.no_grad():
            teacher = self._run(run, self._teacher[0].to(self.bits.device), self._of_teacher, coder)
            self._learn(coder, teacher)
        if phase == FEATURES:
            error = self._feature_error(student, teacher)
            return unused + self.settings.feature_weight * error, {"feature_error": error.detach()}
        error = self._channel_error(student, teacher)
        return unused + self.settings.channel_weight * error, {"channel_error": error.detach()}

    def channels(self) -> Tensor:
        """The teacher's channels that the student's stand for, int64: those of the most bits, in their order, unless others
        are `given`, where it starts with the teacher's own channels."""
        if self.given[0] >= 0:
            return self.given
        return self.bits.topk(self.kept).indices.sort().values

    def _sides(self, student: nn.Module) -> list[tuple[nn.Module, Caught]]:
        return [(student, self._of_student), (self._teacher[0], self._of_teacher)]

    def _run(self, run: Run, network: nn.Module, caught: Caught, coder: Train | None = None) -> dict[str, Tensor]:
        """Outputs of a network's watched modules."""
        caught.open = True
        run(network, coder or Train())
        caught.open, outputs = False, dict(caught.outputs)
        caught.clear()
        return outputs

    def _learn(self, coder: ChannelBits, teacher: Mapping[str, Tensor]) -> None:
        """Moving averages of the teacher's bits and energy of each channel."""
        (latent,) = self.settings.latent.values()
        energy = teacher[latent].float().flatten(0, -2).var(0, correction=0)
        share = 1.0 if not self.energy.any() else 1 - _KEPT
        self.bits.lerp_(coder.by_channel().to(self.bits), share)
        self.energy.lerp_(energy.to(self.energy), share)

    def _feature_error(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        errors = []
        for own, other in self.settings.taps.items():
            wanted = teacher[other].float()
            given = self.adapters[_key(own)](student[own].float())
            if given.shape != wanted.shape:
                raise InputError(
                    f"{own} of the student is {tuple(given.shape)}, {other} of the teacher {tuple(wanted.shape)}"
                )
            errors.append((given - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12))
        return torch.stack(errors).mean()

    def _channel_error(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        ((own, other),) = self.settings.latent.items()
        chosen = self.channels()
        squares = (student[own].float() - teacher[other].float()[..., chosen]).square().flatten(0, -2).mean(0)
        shares = self.bits[chosen] / self.bits[chosen].sum().clamp_min(1e-12)
        return (shares * squares / self.energy[chosen].clamp_min(1e-12)).sum()


def _key(name: str) -> str:
    """A module's name as torch's dictionaries of modules take it."""
    return name.replace(".", "/")
