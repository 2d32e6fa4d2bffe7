"""How a prefix store opens and answers when it is large: many blocks, many tenants, many sessions, very long prompts.

    OMP_NUM_THREADS=1 python benchmarks/kv_store_scale.py

Blocks hold next to nothing (one layer, one head of 8), so that only the store's own work counts; a folder, without fsync,
and for "blocks in ..." a Redis server of its own on this machine (redis-server must be installed) and fsspec's file://.
Each figure is taken in a process of its own, with a warm disk cache, the least of five where it can be taken again.
An hour on one core.
Writes benchmarks/results/kv_store_scale.csv (-o: elsewhere). Columns: what, how many of it, figure, value, unit.
With --parts only those rows are measured again; the table's others stay.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from inputs import RESULTS, Output, show
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.kv_cache import KvSettings
from rdcodec.codecs.kv_store import PrefixStore, open_backend

FINGERPRINT = bytes(16)
SETTINGS = KvSettings(mode="lossless", block_tokens=256)
SHARED, PROMPT = 512, 2048
"""Tokens that all prompts of the large store begin with, and tokens of a prompt."""
BLOCKS_OF_TENANT = 10
REPEATS = 5


def cache(tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(1, tokens, 8).bfloat16(),) * 2]


def opened(where: Path | str, salt: bytes = b"") -> PrefixStore:
    return PrefixStore(open_backend(where), fingerprint=FINGERPRINT, salt=salt, settings=SETTINGS)


def ms_since(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)


def memory_mb() -> float:
    """What this process holds now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fill(where: Path | str, blocks: int) -> np.ndarray:
    """A store of so many blocks; the ids of its last prompt."""
    rng, made, store = np.random.default_rng(0), 0, opened(where)
    shared = rng.integers(0, 30_000, SHARED)
    while made < blocks:
        ids = np.concatenate([shared, rng.integers(0, 30_000, PROMPT - SHARED)])
        made += store.put(ids, cache(PROMPT)).new_blocks
    store.save()
    return ids


def opening(where: str, ids: np.ndarray) -> dict[str, float]:
    """Of a process that used another store before: opening and the first get, later ones, and the memory they took."""
    warm, few = opened(f"{where}-warm"), np.arange(PROMPT)
    warm.put(few, cache(PROMPT))
    warm.get(few)
    before = memory_mb()
    start = time.perf_counter()
    store = opened(where)
    store.longest_prefix(ids[:1])
    found = {"open and look up": ms_since(start)}
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        hit = store.get(ids)
        assert hit is not None and hit.tokens == len(ids)
        times.append(ms_since(start))
    found |= {"first get of 2,048 tokens": times[0], "get of 2,048 tokens": min(times)}
    found["memory that opening and reading take"] = memory_mb() - before
    return found


@contextmanager
def redis_server(folder: str) -> Iterator[str]:
    """The URL of a Redis server that keeps nothing on disk, for as long as the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"redis://127.0.0.1:{port}/0?prefix=large"
    finally:
        server.terminate()
        server.wait()


def long_prompt(where: Path, tokens: int) -> dict[str, float]:
    ids, store = np.random.default_rng(0).integers(0, 30_000, tokens), opened(where)
    found = {}
    for name, call in (
        ("put", lambda: store.put(ids, cache(tokens))),
        ("longest_prefix", lambda: store.longest_prefix(ids)),
        ("get", lambda: store.get(ids)),
    ):
        start = time.perf_counter()
        call()
        found[name] = ms_since(start)
    return found


def sessions(where: Path, count: int) -> dict[str, float]:
    """Sessions that read one prompt; opening after the last, and files of use that are left."""
    ids = np.arange(2560)
    with opened(where) as store:
        store.put(ids, cache(len(ids)))
    for _ in range(count):
        store.get(ids)
        store.save()
    start = time.perf_counter()
    opened(where).stats()
    return {"open and count": ms_since(start), "usage files": len(list((where / "usage").rglob("*.json")))}


def listing(where: Path, tenants: int) -> dict[str, float]:
    """``codec kv ls`` of so many tenants."""
    for tenant in range(tenants):
        ids = np.arange(256 * BLOCKS_OF_TENANT)
        with opened(where, b"%d" % tenant) as store:
            store.put(ids, cache(len(ids)))
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as installed
    wall, cpu = [], []
    for _ in range(REPEATS):
        before, start = os.times(), time.perf_counter()
        subprocess.run(["codec", "kv", "ls", str(where)], check=True, capture_output=True, env=compiled)
        after = os.times()
        wall.append(ms_since(start))
        used = after.children_user + after.children_system - before.children_user - before.children_system
        cpu.append(1e3 * used)
    return {"codec kv ls": min(wall), "codec kv ls, CPU time": min(cpu)}


LARGE, REDIS, FSSPEC = "blocks", "blocks in Redis", "blocks in file://"
PARTS: dict[str, Callable[[Path, Any], dict[str, float]]] = {
    "prompt of tokens": long_prompt,
    "sessions": sessions,
    "tenants of 10 blocks": listing,
}


def measured(part: str, where: Path | str, argument: Any) -> dict[str, float]:
    """A part's figures, from a process of its own."""
    call = [sys.executable, __file__, "--part", part, "--where", str(where), "--argument", json.dumps(argument)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(
    blocks: Annotated[list[int], typer.Option(help="Of the large stores.")] = [10_000, 100_000],  # noqa: B006
    parts: Annotated[list[str] | None, typer.Option(help="Rows to measure, by what they are of; all.")] = None,
    output: Output = RESULTS / "kv_store_scale.csv",
    part: Annotated[str, typer.Option(hidden=True)] = "",
    where: Annotated[str, typer.Option(hidden=True)] = "",
    argument: Annotated[str, typer.Option(hidden=True)] = "0",
) -> None:
    """Measure, print and write the table."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]
    if part:
        value = json.loads(argument)
        print(json.dumps(opening(where, np.array(value)) if part == "opening" else PARTS[part](Path(where), value)))
        return
    wanted = parts or [LARGE, REDIS, FSSPEC, *PARTS]
    rows = []

    def add(what: str, count: int, found: dict[str, float]) -> None:
        for name, value in found.items():
            unit = "" if name.endswith("files") else "MB" if name.startswith("memory") else "ms"
            rows.append({"what": what, "count": f"{count}", "figure": name, "value": f"{value:.1f}", "unit": unit})

    with tempfile.TemporaryDirectory() as folder:
        for count in blocks:
            for what, place in ((LARGE, nullcontext(f"{folder}/{count}")), (REDIS, redis_server(folder)),
                                (FSSPEC, nullcontext(f"file://{folder}/objects{count}"))):  # fmt: skip
                if what in wanted:
                    with place as where:
                        ids = fill(where, count)
                        add(what, count, measured("opening", where, ids.tolist()))
        for name, counts in (
            ("prompt of tokens", (100_000, 1_000_000)), ("sessions", (1000,)), ("tenants of 10 blocks", (1, 50, 200))
        ):  # fmt: skip
            for count in counts if name in wanted else ():
                add(name, count, measured(name, Path(folder, f"{name[:4]}{count}"), count))
    if parts and output.exists():
        with output.open() as table:
            rows += [row for row in csv.DictReader(table) if row["what"] not in wanted]
        order = [LARGE, REDIS, FSSPEC, *PARTS]
        rows.sort(key=lambda row: (order.index(row["what"]), int(row["count"])))
    write_csv(output, rows)
    for row in rows:
        show(row)


if __name__ == "__main__":
    typer.run(main)
