"""Fidelity of lossy caches, bits per element beside next-token KL, attention error and greedy tokens.

Each context is a prompt, whose cache is coded, and a tail of 64 tokens, which the model reads after it. The reference
is the same model on the uncompressed cache, in float32 so that its own rounding does not blur small divergences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...evaluation import points
from ...evaluation.plot import Panel
from ...evaluation.plot import plot as plot_panels
from ...text.cache_argument import cache_argument
from ..codec import Cache, KvCodec
from ..format.blocks import KvSettings
from ..hf.cache_io import load_cache, save_cache
from ..hf.inputs import as_layers
from ..hf.model import check_full_attention, rope_of
from ..modes.place import KEY
from ..modes.table import MODES
from ..splice import Layers

TAIL = 64
FLOOR_CHUNK = 256
"""Tokens of a part where a noise floor is prefilled in parts; half the prompt where that is shorter."""
_BATCH = 8
Coded = Callable[[Layers, np.ndarray], tuple[Layers, int]]
"""(layers, ids) to (layers after coding and decoding, bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """One line of the table. Errors are relative: root mean square of the error over that of the signal."""

    name: str
    bits_per_element: float
    """8 x bytes of the files over keys and values: headers, tables, ids, everything."""
    ratio: float
    """Bytes of the cache in its own element type over bytes of the files."""
    max_error: float
    key_error: float
    value_error: float
    attention_error: float
    """Error of the attention outputs of the tail's own queries, mean over layers; nan for attention not known here."""
    kl_mean: float
    """KL divergence of next-token distributions, bits, mean over tail tokens."""
    kl_p99: float
    top1_agreement: float
    greedy_first_divergence: float
    """Mean position of the first of 64 greedy tokens that differs; 64 where none does."""
    greedy_match: float
    """Share of equal greedy tokens."""
    contexts: int
    greedy_contexts: int
    seconds: float
    """Time of coding and decoding all contexts."""


class Evaluation:
    """A model, its contexts and their uncompressed caches.

    Args:
        model: a transformers decoder in float32.
        contexts: int64, shape (contexts, prompt + 64).
        caches: per context, (keys, values) per layer of shape (kv_heads, prompt, head_dim).
        greedy_contexts: how many contexts to continue greedily.
    """

    def __init__(self, model: Any, contexts: Tensor, caches: Sequence[Layers], greedy_contexts: int = 16) -> None:
        check_full_attention(model)
        self.model, self.contexts, self.caches = model, contexts, list(caches)
        self.greedy_contexts = min(greedy_contexts, len(contexts))
        self.queries: list[Tensor] = []
        self.clean = self._tail(self.caches, record_queries=True)
        self.greedy = self._greedy(self.caches[: self.greedy_contexts])
        # without these two it would be the error of another attention than the model's
        self.knows_attention = len(self.queries) == len(caches[0]) and rope_of(model) is not None
        self.outputs = [self._attention(cache, i) for i, cache in enumerate(self.caches)] if self.knows_attention else []

    def measure(self, name: str, coded: Coded) -> Fidelity:
        """Code every cache and compare."""
        start, found, size = time.perf_counter(), [], 0
        for cache, ids in zip(self.caches, self.contexts, strict=True):
            layers, spent = coded(cache, ids[:-TAIL].numpy())
            found.append(layers)
            size += spent
        seconds = time.perf_counter() - start
        return self.compare(name, found, size, seconds)

    def compare(self, name: str, found: Sequence[Layers], size: int, seconds: float = 0.0) -> Fidelity:
        """Fidelity of caches that were coded in ``size`` bytes."""
        elements = sum(x.numel() for cache in self.caches for pair in cache for x in pair)
        raw = sum(x.numel() * x.element_size() for cache in self.caches for pair in cache for x in pair)
        kl, agree = self._divergence(self._tail(found))
        greedy = self._greedy(found[: self.greedy_contexts]) == self.greedy
        first = torch.where(greedy.all(1), TAIL, (~greedy).int().argmax(1)).float()
        attention = [
            [_relative(a, b) for a, b in zip(self._attention(cache, i), outputs, strict=True)]
            for i, (cache, outputs) in enumerate(zip(found, self.outputs, strict=False))
        ]
        attention_error = float(np.mean(attention)) if attention else math.nan
        errors = [_errors(self.caches, found, kind) for kind in (0, 1)]
        return Fidelity(
            name=name,
            bits_per_element=8 * size / elements,
            ratio=raw / size if size else math.inf,
            max_error=max(worst for worst, _ in errors),
            key_error=errors[0][1],
            value_error=errors[1][1],
            attention_error=attention_error,
            kl_mean=float(kl.mean()),
            kl_p99=float(kl.quantile(0.99)),
            top1_agreement=agree,
            greedy_first_divergence=float(first.mean()),
            greedy_match=float(greedy.float().mean()),
            contexts=len(self.caches),
            greedy_contexts=self.greedy_contexts,
            seconds=seconds,
        )

    def _divergence(self, found: Tensor) -> tuple[Tensor, float]:
        """KL in bits of each tail token, and the share whose most probable next token is the same."""
        kl = torch.cat([(c.exp() * (c - f)).sum(-1) for c, f in zip(self.clean, found, strict=True)])
        agree = (self.clean.argmax(-1) == found.argmax(-1)).float().mean()
        return kl.clamp_min(0) / np.log(2), float(agree)

    @torch.no_grad()
    def _tail(self, caches: Sequence[Layers], record_queries: bool = False) -> Tensor:
        """Next-token log-probabilities of the tails, (contexts, 64, vocabulary)."""
        hooks = self._query_hooks() if record_queries else []
        out = []
        for at in range(0, len(caches), _BATCH):
            cache = _batched(caches[at : at + _BATCH])
            ids = self.contexts[at : at + _BATCH, -TAIL:]
            out.append(
                torch.log_softmax(self.model(ids, use_cache=True, **cache_argument(self.model, cache)).logits.float(), -1)
            )
        for hook in hooks:
            hook.remove()
        return torch.cat(out)

    def _query_hooks(self) -> list[Any]:
        """Record the queries of every layer, before RoPE: (contexts, tokens, heads * head_dim)."""
        hooks = []
        names = [n for n, _ in self.model.named_modules() if n.endswith(("self_attn.q_norm", "self_attn.q_proj"))]
        normed = any(n.endswith("q_norm") for n in names)
        self.queries = [torch.zeros(0)] * sum(n.endswith("q_norm") == normed for n in names)
        for name, module in self.model.named_modules():
            if not name.endswith("self_attn.q_norm" if normed else "self_attn.q_proj"):
                continue
            layer = int(name.split(".layers.")[1].split(".")[0])

            def record(_module: nn.Module, _inputs: Any, out: Tensor, layer: int = layer) -> None:
                self.queries[layer] = torch.cat([self.queries[layer], out.flatten(2)])

            hooks.append(module.register_forward_hook(record))
        return hooks

    def _attention(self, cache: Layers, context: int) -> list[Tensor]:
        """Attention outputs of the tail's queries on a cache, per layer, (heads, 64, head_dim)."""
        rope, out = rope_of(self.model), []
        for layer, (keys, values) in enumerate(cache):
            query = self.queries[layer][context].view(TAIL, -1, keys.shape[2]).transpose(0, 1)
            if rope:
                turned = rope.turned(query.transpose(1, 2).contiguous(), keys.shape[1], 1.0)
                query = turned.transpose(1, 2)
            repeat = query.shape[0] // keys.shape[0]
            k, v = (x.float().repeat_interleave(repeat, 0) for x in (keys, values))
            weights = torch.softmax(query @ k.transpose(1, 2) / keys.shape[2] ** 0.5, -1)
            out.append(weights @ v)
        return out

    @torch.no_grad()
    def _greedy(self, caches: Sequence[Layers]) -> Tensor:
        """64 greedy tokens after the first token of each tail, (contexts, 64)."""
        out = []
        for at in range(0, len(caches), _BATCH):
            cache, tokens = _batched(caches[at : at + _BATCH]), []
            ids = self.contexts[at : min(at + _BATCH, len(caches)), -TAIL : -TAIL + 1]
            for _ in range(TAIL):
                ids = self.model(ids, use_cache=True, **cache_argument(self.model, cache)).logits[:, -1:].argmax(-1)
                tokens.append(ids)
            out.append(torch.cat(tokens, 1))
        return torch.cat(out)


def prefill(model: Any, contexts: Tensor, chunk: int | None = None) -> list[Layers]:
    """Caches of the prompts (all but the last 64 tokens), in the model's type; ``chunk`` tokens at a time."""
    from transformers.cache_utils import DynamicCache

    caches = []
    with torch.no_grad():
        for context in contexts:
            cache: Any = DynamicCache()
            prompt = context[None, :-TAIL]
            for part in prompt.split(chunk or prompt.shape[1], 1):
                getattr(model, "model", model)(part, use_cache=True, **cache_argument(model, cache))
            caches.append(tuple((layer.keys[0], layer.values[0]) for layer in cache.layers))
    return caches


def noise_floors(evaluation: Evaluation, source: Any) -> list[Fidelity]:
    """Lines for what no codec is to blame for: the cache itself, and the same prompts prefilled again otherwise.

    Args:
        evaluation: on caches that ``source`` made in one part.
        source: the model in the type of the caches; recomputed in parts, and (unless it is float32) by the evaluation's
            float32 model, rounded to that type.
    """
    contexts, dtype = evaluation.contexts, evaluation.caches[0][0][0].dtype
    raw = sum(x.numel() * x.element_size() for cache in evaluation.caches for pair in cache for x in pair)
    chunk = min(FLOOR_CHUNK, -(-(contexts.shape[1] - TAIL) // 2))
    lines = [
        evaluation.compare("raw reload", evaluation.caches, raw),
        evaluation.compare(f"recomputed, chunks of {chunk}", prefill(source, contexts, chunk), raw),
    ]
    if dtype != torch.float32:
        exact = [tuple((k.to(dtype), v.to(dtype)) for k, v in cache) for cache in prefill(evaluation.model, contexts)]
        lines.append(evaluation.compare("recomputed in float32", exact, raw))
    return lines


def through(settings: KvSettings, model: Any = None) -> Coded:
    """Code to a real file's bytes and back: with `KvCodec`, or through ``model`` for modes that need it."""
    if MODES[settings.mode].needs_model:
        return _through_model(settings, model)
    codec = KvCodec(settings)

    def coded(layers: Layers, ids: np.ndarray) -> tuple[Layers, int]:
        data = codec.encode(Cache(ids, layers))
        return codec.decode(data).layers, len(data)

    return coded


def _through_model(settings: KvSettings, model: Any) -> Coded:
    """Code through a file that the model reads again, for modes that recompute."""

    def coded(layers: Layers, ids: np.ndarray) -> tuple[Layers, int]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "cache.rdc"
            size = save_cache(layers, ids, path, model, settings=settings)
            return as_layers(load_cache(path, model)), size

    return coded


def write_csv(path: Path, lines: Sequence[Fidelity]) -> None:
    """The table."""
    points.write_csv(path, [asdict(line) for line in lines])


def plot(path: Path, curves: Mapping[str, Sequence[Fidelity]], floors: Sequence[Fidelity] = (), title: str = "") -> None:
    """Bits per element, and above how many times smaller that is, against mean KL: a curve per mode and the highest noise
    floor above 0, to a PNG or SVG file. ``title``: of what model and text.
    """
    lines = {}
    raw = max(line.ratio * line.bits_per_element for measured in curves.values() for line in measured)
    for name, measured in curves.items():
        bits, kl = zip(*sorted((line.bits_per_element, max(line.kl_mean, 1e-9)) for line in measured), strict=True)
        lines[name] = (bits, kl)
    floor = max(floors, key=lambda line: line.kl_mean, default=None)
    level = (f"noise floor: {floor.name}", floor.kl_mean) if floor is not None and floor.kl_mean > 0 else None
    panel = Panel(label="mean next-token KL, bits", lines=lines, logarithmic=True, level=level)
    ratio = (f"times smaller than {raw:.0f} bits", raw) if np.isfinite(raw) else None
    plot_panels(path, [panel], "bits per element", title or None, ratio=ratio)


def bits_at(lines: Sequence[Fidelity], kl: float) -> float:
    """Bits per element at which a curve reaches a mean KL, between its points in log KL; nan outside them."""
    points = sorted((np.log(max(line.kl_mean, 1e-12)), line.bits_per_element) for line in lines)
    x, y = zip(*points, strict=True)
    return float(np.interp(np.log(kl), x, y, left=np.nan, right=np.nan))


def _batched(caches: Sequence[Layers]) -> Any:
    """A float32 ``DynamicCache`` of several sequences of one length."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    for i in range(len(caches[0])):
        keys, values = (torch.stack([c[i][kind] for c in caches]).float() for kind in (KEY, 1))
        cache.update(keys, values, i)
    return cache


def _relative(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm().clamp_min(1e-12))


def _errors(true: Sequence[Layers], found: Sequence[Layers], kind: int) -> tuple[float, float]:
    """(largest absolute, relative) error of all keys or all values."""
    worst = error = power = 0.0
    for a, b in zip(true, found, strict=True):
        for x, y in zip(a, b, strict=True):
            difference = y[kind].float() - x[kind].float()
            worst = max(worst, float(difference.abs().max()))
            error += float(difference.square().sum())
            power += float(x[kind].float().square().sum())
    return worst, (error / max(power, 1e-30)) ** 0.5
