"""``codec kv ls``, ``stats``, ``evict``, ``verify`` and ``transcode``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rdcodec.codecs.kv_store.commands.main import app
from store_commands import BLOCKS, MODEL, NAME, cache_file, run
from typer.testing import CliRunner


def test_ls_and_stats(filled):
    tmp_path, _ = filled
    rows = json.loads(run("ls", tmp_path / "store", "--json").stdout)
    assert sorted((row["tokens"], row["shared_tokens"], row["blocks"], row["mode"]) for row in rows) == [
        (26, 16, 4, "lossless"),
        (30, 16, 4, "lossless"),
    ]
    assert all(row["begins"] == "0 1 2 3 4 5" and row["namespace"].startswith(NAME) for row in rows)
    (row,) = json.loads(run("stats", tmp_path / "store", "--json").stdout)
    assert (row["blocks"], row["tokens"], row["prompt_tokens"], row["sharing"]) == (6, 40, 56, 1.4)
    assert row["shared_tokens"] == 16 and "shared_bits" not in row
    files = list((tmp_path / "store").glob("blocks/*/*/*.rdc"))
    assert row["size_bytes"] == sum(path.stat().st_size for path in files) and row["modes"] == {"lossless": 6}
    for command, words in (
        ("ls", ("own", "shared tokens", "begins", "0 1 2 3 4 5")),
        ("stats", ("prompt tokens", "unreachable", "1.4")),
    ):
        shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [command, str(tmp_path / "store")]).stdout
        assert all(word in shown for word in (*words, NAME[:8], "lossless")) and NAME not in shown, shown
    (tmp_path / "bare").mkdir()
    assert run("ls", tmp_path / "bare").stdout.endswith("bare: empty\n")


def test_ls_cuts_nothing_and_tells_tenants_apart(tmp_path):
    for file, first in (("a", 128_000), ("b", 120_000)):
        cache_file(tmp_path / file, list(range(first, first + 9)))
    caches, mode = [tmp_path / "a", tmp_path / "b"], ["--mode", "quantized-small"]
    for tenant in ("", "secret"):
        assert run("put", tmp_path / "store", *caches, *MODEL, *BLOCKS, *mode, "--salt", tenant).exit_code == 0
    shown = CliRunner(env={"COLUMNS": "40"}).invoke(app, ["ls", str(tmp_path / "store")]).stdout
    rows = json.loads(run("ls", tmp_path / "store", "--json").stdout)
    assert len(rows) == 4 and "\u2026" not in shown and "secret" not in shown
    for row in rows:
        (line,) = [line for line in shown.splitlines() if row["block"][:8] in line]
        assert row["begins"] in line and "quantized-small" in line
    tenants = {row["namespace"].partition("-")[2] for row in rows}
    assert shown.count(f"model {NAME[:8]}, no salt\n") == 1
    assert sum(f"model {NAME[:8]}, tenant {tenant}\n" in shown for tenant in tenants) == 1


def test_evict(filled):
    tmp_path, _ = filled
    (row,) = json.loads(run("evict", tmp_path / "store", "--budget", "5kB", "--json").stdout)
    kept = sum(path.stat().st_size for path in (tmp_path / "store").glob("blocks/*/*/*.rdc"))
    assert 0 < kept == row["kept_bytes"] <= 5000
    done = run("evict", tmp_path / "store", "--budget", "0")
    assert done.exit_code == 0 and "evicted" in done.stdout and " kB" in done.stdout
    assert "empty" in run("ls", tmp_path / "store").stdout
    for bad in (["--budget", "many"], ["--budget", "1GB", "--policy", "random"]):
        done = run("evict", tmp_path / "store", *bad)
        assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "size 'many'; need a number and a unit" in run("evict", tmp_path / "store", "--budget", "many").stderr


def test_evict_to_a_share_of_what_is_stored(filled):
    tmp_path, _ = filled

    def kept():
        return sum(path.stat().st_size for path in (tmp_path / "store").glob("blocks/*/*/*.rdc"))

    whole = kept()
    assert run("evict", tmp_path / "store", "--budget", "100%").exit_code == 0 and kept() == whole
    assert run("evict", tmp_path / "store", "--budget", "50.5 %").exit_code == 0 and 0 < kept() <= 0.505 * whole
    for bad in ("101%", "-1%", "half%", "5%GB", "%"):
        done = run("evict", tmp_path / "store", f"--budget={bad}")
        assert done.exit_code == 1 and f"budget '{bad}'; need a size like 20GB, or 0% to 100%" in done.stderr


def sizes_by_tenant(store):
    """Bytes of each block, by namespace."""
    spaces = {path.name: path for path in (store / "blocks").iterdir()}
    return {name: [file.stat().st_size for file in path.glob("*/*.rdc")] for name, path in spaces.items()}


@pytest.mark.parametrize("percent", [20, 50, 80])
def test_evict_spends_the_budget_over_all_tenants(tmp_path, percent):
    """Each tenant's share ends within a block; together they come as close to the budget as one block does."""
    for tenant, tokens in (("a", 32), ("b", 24), ("c", 24)):
        cache_file(tmp_path / tenant, list(range(tokens)))
        assert run("put", tmp_path / "store", tmp_path / tenant, *MODEL, *BLOCKS, "--salt", tenant).exit_code == 0
    before = sum(sizes_by_tenant(tmp_path / "store").values(), [])
    assert len(before) == 10
    done = run("evict", tmp_path / "store", "--budget", f"{percent}%", "--json")
    kept = sum(map(sum, sizes_by_tenant(tmp_path / "store").values()))
    budget = sum(before) * percent / 100
    assert budget - max(before) < kept <= budget and kept == sum(row["kept_bytes"] for row in json.loads(done.stdout))


def test_what_evict_has_left_over_goes_to_the_tenants_used_last(tmp_path):
    cache_file(tmp_path / "cache", list(range(8)))  # one block each, more than a tenant's share
    latest = []
    for tenant in "dbca":
        known = set(sizes_by_tenant(tmp_path / "store")) if latest else set()
        assert run("put", tmp_path / "store", tmp_path / "cache", *MODEL, *BLOCKS, "--salt", tenant).exit_code == 0
        latest += set(sizes_by_tenant(tmp_path / "store")) - known
    assert run("evict", tmp_path / "store", "--budget", "50%").exit_code == 0
    assert {name for name, blocks in sizes_by_tenant(tmp_path / "store").items() if blocks} == set(latest[2:])


def test_verify_exits_with_1_on_damage_and_repairs(filled):
    tmp_path, _ = filled
    assert run("verify", tmp_path / "store").exit_code == 0
    path = sorted((tmp_path / "store").glob("blocks/*/*/*.rdc"))[2]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = run("verify", tmp_path / "store", "--json")
    assert done.exit_code == 1 and path.stem in done.stderr and json.loads(done.stdout)[0]["damaged"] == 1
    done = run("verify", tmp_path / "store", "--repair")
    assert done.exit_code == 0 and "repaired: 1 damaged blocks deleted" in done.stderr
    assert run("verify", tmp_path / "store").exit_code == 0 and not path.exists()


def test_transcode(filled):
    tmp_path, _ = filled
    done = run("transcode", tmp_path / "store", "--mode", "fp8", *MODEL, *BLOCKS)
    assert done.exit_code == 0 and "->" in done.stdout
    assert json.loads(run("stats", tmp_path / "store", "--json").stdout)[0]["modes"] == {"fp8": 6}
    sizes = []
    for bits in ("4", "2"):
        assert run("transcode", tmp_path / "store", "--mode", "turboquant", "--bits", bits, *MODEL, *BLOCKS).exit_code == 0
        sizes.append(json.loads(run("stats", tmp_path / "store", "--json").stdout)[0]["size_bytes"])
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("command", [["ls"], ["stats", "--json"], ["evict", "--budget", "50%"]])
def test_looking_at_a_store_and_evicting_need_no_torch(filled, command):
    """Which takes seconds to import."""
    tmp_path, _ = filled
    script = (
        "import sys\n"
        "from rdcodec.codecs.cli.main import main\n"
        "sys.argv[1:1] = ['kv']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    sys.exit('torch' in sys.modules or end.code)\n"
    )
    name, *options = command
    done = subprocess.run(
        [sys.executable, "-c", script, name, str(tmp_path / "store"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert NAME[:8] in done.stdout


def test_put_with_a_limit_evicts(filled):
    tmp_path, _ = filled
    store = tmp_path / "store"
    cache_file(tmp_path / "c", list(range(500, 530)))
    assert run("put", store, tmp_path / "c", *MODEL, *BLOCKS, "--mode", "lossless", "--limit", "9kB").exit_code == 0
    (row,) = json.loads(run("stats", store, "--json").stdout)
    assert row["size_bytes"] <= 9000 and row["prompts"] >= 1
    assert "500 501" in run("ls", store).stdout, "what was put last goes last"
    assert "size 'much'" in run("put", store, tmp_path / "c", *MODEL, *BLOCKS, "--limit", "much").stderr
