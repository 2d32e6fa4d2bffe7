"""What the prefix store saves on recorded sessions, and its eviction against LRU on a production trace.

    python benchmarks/kv_store_sessions.py sharing --data DATA    # 100 airline conversations, kv_store_sharing.csv
    python benchmarks/kv_store_sessions.py eviction --data DATA   # Mooncake's conversation trace: kv_store_eviction.csv

``sharing`` runs the model once over each conversation (cut to the model's 4,096 positions) and encodes every block
there is: once into a store of its own per conversation ("without"), once into one store ("with"), turn by turn as a
server would. A turn is every prompt up to a message of the assistant; it asks for its prefix, then stores prompt and
answer. ``eviction`` replays block hashes, lengths and times of 1,000 requests; no tensors. On hit rate and work saved,
"clairvoyant" (Belady's rule) is the bound, "worth" the store's default, "worth-attention" the same with the attention
term of the recompute cost.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.kv_store.eviction import RecomputeCost, ReuseModel, Value, recency, victims, worth
from rdcodec.codecs.kv_store.trie import ROOT_ID, Node, Trie, token_key
from rich.progress import track

CONVERSATIONS = "text/sessions/tau_airline_eval.jsonl"
TRACE = "text/sessions/mooncake_conversation_trace_first1000.jsonl"
MODEL = "lm/llama-7m"
MOONCAKE_BLOCK = 512
POSITIONS_MAX = 4096
CROSSOVER_TOKENS = 30_000
"""Of the trace's model, taken as one of 8 billion parameters; for the column ``recompute_saved``."""


# ---- sharing ----


def turns_of(messages: list[dict[str, Any]], tokenizer: Any) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Tokens of a conversation, and (prompt end, answer end) of each message of the assistant."""
    ids, turns = [0], []  # 0 begins a text
    for message in messages:
        calls = f" {json.dumps(message['tool_calls'])}" if message.get("tool_calls") else ""
        text = f"{message['role']}: {message['content'] or ''}{calls}\n"
        start = len(ids)
        ids += tokenizer.encode(text, add_special_tokens=False).ids
        if message["role"] == "assistant":
            turns.append((start, len(ids)))
    count = min(len(ids), POSITIONS_MAX)
    return np.array(ids[:count]), [(start, end) for start, end in turns if end <= count] or [(count - 1, count)]


def caches(data: Path, count: int) -> Iterator[tuple[np.ndarray, list[tuple[int, int]], list[Any]]]:
    """Tokens, turns and bf16 cache of each conversation; the model runs in float32 on the CPU."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(str(data / MODEL / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(data / MODEL, dtype=torch.float32)
    lines = (data / CONVERSATIONS).read_text().splitlines()[:count]
    for line in track(lines, "conversations"):
        tokens, turns = turns_of(json.loads(line)["messages"], tokenizer)
        with torch.inference_mode():
            cache = model.model(torch.from_numpy(tokens)[None], use_cache=True).cache
        layers = [(layer.keys[0].bfloat16(), layer.values[0].bfloat16()) for layer in cache.layers]
        yield tokens, turns, layers


def sharing(data: Path, count: int) -> list[dict[str, Any]]:
    """Bytes with and without the trie, and hit rates on replay in order, for two modes."""
    from rdcodec.codecs.kv_cache.format.blocks import KvSettings
    from rdcodec.codecs.kv_cache.modes.rope import Rope
    from rdcodec.codecs.kv_store.backends import open_backend
    from rdcodec.codecs.kv_store.store import PrefixStore

    config = json.loads((data / MODEL / "config.json").read_text())
    width, theta = config["head_dim"], config["rope_parameters"]["rope_theta"]
    rope = Rope((theta ** (-np.arange(0, width, 2) / width)).astype(np.float32))

    def opened(name: str, mode: str) -> PrefixStore:
        settings = KvSettings(mode=mode, rope=rope)
        return PrefixStore(open_backend(f"memory://{name}"), fingerprint=bytes(16), settings=settings)

    modes = ("quantized", "lossless")
    shared = {mode: opened(f"with-{mode}", mode) for mode in modes}
    alone: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    total: dict[str, int] = defaultdict(int)
    for number, (tokens, turns, layers) in enumerate(caches(data, count)):
        total["tokens"] += len(tokens)
        total["raw"] += sum(x.numel() * x.element_size() for pair in layers for x in pair)
        first = shared[modes[0]]
        total["first_found"] += first.longest_prefix(tokens)
        for mode in modes:
            alone[mode] += opened(f"alone-{mode}-{number}", mode).put(tokens, layers).new_bytes
            for i, (start, end) in enumerate(turns):
                end = len(tokens) if i == len(turns) - 1 else end
                if mode == modes[0]:
                    found = first.longest_prefix(tokens[:start])
                    total["asked"], total["found"] = total["asked"] + start, total["found"] + found
                    total["whole"] += sum(len(node.tokens) for node in first.index.match(tokens[:start]).path)
                    total["requests"] += 1
                before = time.perf_counter()
                shared[mode].put(tokens[:end], [(k[:, :end], v[:, :end]) for k, v in layers])
                seconds[mode] += time.perf_counter() - before
    return [_sharing_row(mode, shared[mode], alone[mode], seconds[mode], total, count) for mode in modes]


def _sharing_row(mode: str, store: Any, alone: int, seconds: float, total: dict[str, int], count: int) -> dict[str, Any]:
    stats = store.stats()
    return {
        "mode": mode,
        "conversations": count,
        "turns": total["requests"],
        "tokens": total["tokens"],
        "stored_tokens": stats.tokens,
        "raw_bf16_bytes": total["raw"],
        "bytes_without_trie": alone,
        "bytes_with_trie": stats.size_bytes,
        "saved_by_sharing": round(1 - stats.size_bytes / alone, 4),
        "ratio_to_raw": round(total["raw"] / stats.size_bytes, 3),
        "hit_rate_conversations": round(total["first_found"] / total["tokens"], 4),
        "hit_rate_turns": round(total["found"] / total["asked"], 4),
        "hit_rate_turns_whole_blocks_only": round(total["whole"] / total["asked"], 4),
        "put_seconds": f"{seconds:.1f}",
    }


# ---- eviction ----


def _id(number: int) -> bytes:
    return (number + 1).to_bytes(16, "big")  # zero is the root's


class Replay:
    """A trie of the trace's blocks under a byte budget; a byte stands for a token's cache."""

    def __init__(self, budget: float, policy: Callable[[Replay], Value]) -> None:
        self.budget, self.policy = budget, policy
        self.trie, self.reuse, self.now, self.size = Trie(), ReuseModel(MOONCAKE_BLOCK), 0.0, 0
        self.asked = self.found = self.asked_tokens = self.found_tokens = 0
        self.saved = self.work = 0.0
        self.cost = RecomputeCost(CROSSOVER_TOKENS)

    def request(self, hashes: list[int], length: int, now: float) -> None:
        """Ask for a prompt's prefix, then store all of it."""
        self.now = now
        parent = self.trie.root
        for i, number in enumerate(hashes):
            block, count = _id(number), min(MOONCAKE_BLOCK, length - i * MOONCAKE_BLOCK)
            node, work = self.trie.nodes.get(block), self.cost.of(i * MOONCAKE_BLOCK, count)
            self.asked, self.asked_tokens, self.work = self.asked + 1, self.asked_tokens + count, self.work + work
            if node is not None:
                self.found, self.found_tokens, self.saved = self.found + 1, self.found_tokens + count, self.saved + work
                self.reuse.hit(node, now)
                node.hits, node.last_used = node.hits + 1, now
            else:
                node = self._add(block, number, parent, count)
            parent = node
        if self.size > self.budget:
            for victim in victims(self.trie, int(np.ceil(self.size - self.budget)), self.policy(self)):
                self.trie.remove(victim)
                self.size -= victim.size_bytes

    def _add(self, block: bytes, number: int, parent: Node, count: int) -> Node:
        tokens = np.full(count, number)  # the trace tells blocks apart, not tokens
        before = ROOT_ID if parent is self.trie.root else parent.id
        node = Node(id=block, parent_id=before, key=token_key(tokens), start=parent.end, size_bytes=count)
        node.last_used = node.accounted = self.now
        self.size += count
        return self.trie.add(node)


def clairvoyant(requests: list[dict[str, Any]]) -> Callable[[Replay], Value]:
    """Belady's rule, leaf first: drop what is needed again last. Nothing can do better on equal sizes."""
    uses: dict[bytes, list[float]] = defaultdict(list)
    for request, now in zip(requests, _times(requests), strict=True):
        for number in request["hash_ids"]:
            uses[_id(number)].append(now)

    def policy(replay: Replay) -> Value:
        def value(node: Node) -> float:
            times = uses[node.id]
            at = np.searchsorted(times, replay.now, "right")
            return -times[at] if at < len(times) else -np.inf

        return value

    return policy


def _times(requests: list[dict[str, Any]]) -> list[float]:
    """Seconds; the trace rounds to 3 s, requests of one instant follow each other by a millisecond here."""
    return [request["timestamp"] / 1000 + number / 1000 for number, request in enumerate(requests)]


def eviction(data: Path) -> list[dict[str, Any]]:
    """Hit rates of the store's policy, LRU and the clairvoyant bound at shares of the full size."""
    requests = [json.loads(line) for line in (data / TRACE).read_text().splitlines()]
    policies: dict[str, Callable[[Replay], Value]] = {
        "lru": lambda _: recency,
        "worth": lambda replay: worth(replay.trie, replay.reuse, replay.now),
        "worth-attention": lambda replay: worth(replay.trie, replay.reuse, replay.now, replay.cost),
        "clairvoyant": clairvoyant(requests),
    }
    unlimited = _replayed(requests, float("inf"), policies["lru"])
    rows = [_eviction_row("unlimited", 1.0, unlimited)]
    for share in (0.25, 0.5):
        for name, policy in policies.items():
            rows.append(_eviction_row(name, share, _replayed(requests, share * unlimited.size, policy)))
            print(rows[-1])
    return rows


def _replayed(requests: list[dict[str, Any]], budget: float, policy: Callable[[Replay], Value]) -> Replay:
    replay = Replay(budget, policy)
    for request, now in zip(requests, _times(requests), strict=True):
        replay.request(request["hash_ids"], request["input_length"], now)
    return replay


def _eviction_row(name: str, share: float, replay: Replay) -> dict[str, Any]:
    return {
        "policy": name,
        "share_of_full_size": str(share),
        "full_tokens": replay.size if name == "unlimited" else "",
        "block_hit_rate": round(replay.found / replay.asked, 4),
        "token_hit_rate": round(replay.found_tokens / replay.asked_tokens, 4),
        "recompute_saved": round(replay.saved / replay.work, 4),
    }


def main() -> None:
    """Run one of the two, print its rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sharing", "eviction"])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds text/ and lm/")
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--output", "-o", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    args = parser.parse_args()
    started = time.perf_counter()
    rows = sharing(args.data, args.conversations) if args.what == "sharing" else eviction(args.data)
    path = args.output / f"kv_store_{args.what}.csv"
    write_csv(path, rows)
    for row in rows:
        print(row)
    print(f"{time.perf_counter() - started:.0f} s -> {path}")


if __name__ == "__main__":
    main()
