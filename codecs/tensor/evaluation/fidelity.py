"""A model with other weights beside the model itself: next-token KL divergence and perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..hf import model_of


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over all tokens but the first of each context."""

    kl_bits: float
    """KL divergence of next-token distributions from the model's own, bits."""
    perplexity: float


class Evaluation:
    """A model and the distributions it gives, in float32, which take 4 bytes for each token and entry of the vocabulary.

    Args:
        tensors: its weights.
        folder: of its config.
        contexts: token ids, int64 (contexts, length).
    """

    def __init__(self, tensors: Mapping[str, Tensor], folder: Path, contexts: Tensor) -> None:
        self.folder, self.contexts = folder, contexts
        self.own = self._log_probabilities(tensors)

    @property
    def perplexity(self) -> float:
        """The model's own."""
        return self._perplexity(self.own)

    def measure(self, tensors: Mapping[str, Tensor]) -> Fidelity:
        """The same model with these weights."""
        found = self._log_probabilities(tensors)
        divergence = [
            torch.sum(mine.exp() * (mine - other), -1).double().mean() for mine, other in zip(self.own, found, strict=True)
        ]
        return Fidelity(float(torch.stack(divergence).mean()) / math.log(2), self._perplexity(found))

    @torch.no_grad()
    def _log_probabilities(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        model: Any = model_of(tensors, self.folder, torch.float32)
        return [torch.log_softmax(model(ids[None, :-1]).logits[0].float(), -1) for ids in self.contexts]

    def _perplexity(self, log_probabilities: list[Tensor]) -> float:
        losses = [
            -one.gather(1, ids[1:, None]).double().mean() for one, ids in zip(log_probabilities, self.contexts, strict=True)
        ]
        return math.exp(float(torch.stack(losses).mean()))
