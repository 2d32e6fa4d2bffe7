"""``codec kv``: one round trip through every command, and what the user is told when something is wrong."""

import json
import subprocess
import sys

import pytest
import torch
from rdcodec.codecs.kv_cache import read_block_header
from rdcodec.codecs.kv_cache.modes.table import MODE_NAMES, MODES
from rdcodec.codecs.kv_store import PrefixStore
from rdcodec.codecs.kv_store.commands.main import app
from rdcodec.codecs.kv_store.store import Hit
from safetensors.torch import load, load_file, save_file
from typer.testing import CliRunner

NAME = "00112233445566778899aabbccddeeff"
MODEL = ["--fingerprint", NAME]
BLOCKS = ["--block-tokens", "8"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def cache_file(path, tokens, seed=0, with_tokens=True):
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"layers.{i}.{n}": torch.randn(2, 40, 16, generator=generator).bfloat16() for i in range(3) for n in "kv"}
    tensors = {name: x[:, : len(tokens)].contiguous() for name, x in tensors.items()}
    save_file(tensors | ({"tokens": torch.tensor(tokens)} if with_tokens else {}), path)
    return tensors


def ids_file(path, ids):
    path.write_text(json.dumps(ids))
    return path


@pytest.fixture
def filled(tmp_path):
    """A store with two prompts that share two blocks, and the first one's tensors."""
    first, second = list(range(30)), [*range(16), *range(100, 110)]
    tensors = cache_file(tmp_path / "a.safetensors", first)
    cache_file(tmp_path / "b.safetensors", second)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    done = run("put", tmp_path / "store", *files, *MODEL, *BLOCKS, "--mode", "lossless", "--json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["shared_tokens"], line["new_blocks"]) for line in lines] == [(0, 4), (16, 2)]
    return tmp_path, tensors


def test_get_writes_to_standard_output_and_refuses_a_folder(filled):
    tmp_path, tensors = filled
    ids = ids_file(tmp_path / "ids", list(range(30)))
    arguments = ["get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-o"]
    done = run(*arguments, "-")
    assert done.exit_code == 0 and "30 of 30 tokens" in done.stderr
    assert torch.equal(load(done.stdout_bytes)["layers.0.k"], tensors["layers.0.k"])
    done = run(*arguments, tmp_path / "store")
    assert done.exit_code == 1 and "is a folder; -o takes a file" in done.stderr


def test_a_miss_names_what_else_is_there(filled):
    tmp_path, _ = filled
    other = ["--fingerprint", "22" * 16]
    assert run("put", tmp_path / "store", tmp_path / "a.safetensors", *other, *BLOCKS).exit_code == 0
    ids = ids_file(tmp_path / "ids", [7, 7, 7])
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-o", tmp_path / "o")
    assert done.exit_code == 1 and "caches of 1 other models or element types (--dtype) are there" in done.stderr


def test_get_says_what_it_could_not_give(filled):
    tmp_path, _ = filled
    ids = ids_file(tmp_path / "ids", [list(range(30))])  # a batch of one, as tokenizers return it
    blocks = list((tmp_path / "store").rglob("*.rdc"))
    tokens = {path: read_block_header(path.read_bytes()).tokens.tolist() for path in blocks}
    (last,) = [path for path in blocks if tokens[path] == list(range(24, 30))]
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-o", tmp_path / "o.safetensors")
    assert done.exit_code == 0 and "24 of 30 tokens" in done.stdout
    assert "note: tokens 24 to 29 were stored too, in blocks that are damaged" in done.stderr
    for first, said in ((16, "16 of 30 tokens"), (0, "no beginning of the 30 tokens is stored")):
        (block,) = [path for path in blocks if tokens[path] == list(range(first, first + 8))]
        data = block.read_bytes()
        block.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
        done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-fo", tmp_path / "o.safetensors")
        assert said in done.output and done.exit_code == (0 if first else 1)
        assert f"a block of tokens {first} to {first + 7} is there, with a damaged header; put" in done.stderr
    assert run("put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS).exit_code == 0
    done = run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, "-fo", tmp_path / "o.safetensors")
    assert "30 of 30 tokens" in done.stdout and not done.stderr


def test_ids_in_the_file_and_beside_it_may_both_have_the_last_one_of_generation(tmp_path):
    tensors = cache_file(tmp_path / "a", list(range(30)))
    save_file(tensors | {"tokens": torch.arange(31)}, tmp_path / "a")
    ids = ids_file(tmp_path / "ids", list(range(31)))
    assert "30 new" in run("put", tmp_path / "store", tmp_path / "a", "--tokens", ids, *MODEL, *BLOCKS).stdout
    ids_file(ids, [*range(29), 7])
    done = run("put", tmp_path / "store", tmp_path / "a", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 1 and "are others than those of" in done.stderr


def test_get_writes_the_names_and_shapes_asked_for(filled):
    tmp_path, tensors = filled
    ids, target = ids_file(tmp_path / "ids", list(range(30))), tmp_path / "o.safetensors"
    options = ["--keys", "{i}.{k}", "--batch", "--layers", "1:3"]
    assert run("get", tmp_path / "store", "--tokens", ids, *MODEL, *BLOCKS, *options, "-o", target).exit_code == 0
    found = load(target.read_bytes())
    assert set(found) == {"1.0", "1.1", "2.0", "2.1", "tokens"}
    assert torch.equal(found["2.1"][0], tensors["layers.2.v"])


def test_a_lost_block_in_the_middle_shows(filled):
    tmp_path, _ = filled
    for path in (tmp_path / "store").rglob("*.rdc"):
        if read_block_header(path.read_bytes()).tokens.tolist() == list(range(16, 24)):
            path.unlink()
    assert "unreachable: what comes before 24 25" in run("ls", tmp_path / "store").stdout
    done = run("verify", tmp_path / "store")
    assert done.exit_code == 0 and "1 blocks follow a lost one; a put of their prompts heals them" in done.stderr


def test_put_says_which_blocks_stay_in_another_mode(filled):
    tmp_path, _ = filled
    again = run("put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS, "--mode", "quantized")
    assert again.exit_code == 0 and "stored already: 4 as lossless" in again.stderr
    assert "RoPE stays in the keys" in again.stderr
    same = run("put", tmp_path / "store", tmp_path / "a.safetensors", *MODEL, *BLOCKS, "--mode", "lossless")
    assert same.exit_code == 0 and "stored already" not in same.stderr


def test_put_and_get_round_trip(filled):
    tmp_path, tensors = filled
    ids = ids_file(tmp_path / "ids.json", [*range(27), 500])
    late = run("get", tmp_path / "store", "-o", tmp_path / "no" / "out", "--tokens", ids, *MODEL, *BLOCKS)
    assert late.exit_code == 1 and "no: no such folder" in late.stderr
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 0 and "27 of 28 tokens, 3 layers" in done.stdout
    back = load_file(tmp_path / "out.safetensors")
    assert back.pop("tokens").tolist() == list(range(27)) and set(back) == set(tensors)
    assert all(torch.equal(x, tensors[name][:, :27]) for name, x in back.items())
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 1 and "--force" in done.stderr
    words = tmp_path / "ids.txt"
    words.write_text("0 1 2\n3")
    options = ["--layers", "1:3", "--force", "--json"]
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", words, *MODEL, *BLOCKS, *options)
    assert json.loads(done.stdout)["tokens"] == 4
    assert set(load_file(tmp_path / "out.safetensors")) == {
        "layers.1.k",
        "layers.1.v",
        "layers.2.k",
        "layers.2.v",
        "tokens",
    }


def test_ls_and_stats(filled):
    tmp_path, _ = filled
    rows = json.loads(run("ls", tmp_path / "store", "--json").stdout)
    assert sorted((row["tokens"], row["blocks"], row["mode"]) for row in rows) == [
        (26, 4, "lossless"),
        (30, 4, "lossless"),
    ]
    assert all(row["begins"] == "0 1 2 3 4 5" and row["namespace"].startswith(NAME) for row in rows)
    (row,) = json.loads(run("stats", tmp_path / "store", "--json").stdout)
    assert (row["blocks"], row["tokens"], row["prompt_tokens"], row["sharing"]) == (6, 40, 56, 1.4)
    files = list((tmp_path / "store").glob("blocks/*/*/*.rdc"))
    assert row["size_bytes"] == sum(path.stat().st_size for path in files) and row["modes"] == {"lossless": 6}
    for command, words in (("ls", ("own", "begins", "0 1 2 3 4 5")), ("stats", ("prompt tokens", "unreachable", "1.4"))):
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


def test_a_salt_hides_blocks(filled, monkeypatch):
    tmp_path, _ = filled
    ids = ids_file(tmp_path / "ids.json", list(range(8)))
    arguments = ["get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS]
    monkeypatch.setenv("RDCODEC_SALT", "tenant")
    done = run(*arguments)
    assert done.exit_code == 1 and "no beginning of the 8 tokens is stored" in done.stderr
    monkeypatch.delenv("RDCODEC_SALT")
    assert run(*arguments).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["put", "{store}", "{cache}"], "which model?"),
        (["put", "{store}", "{cache}", "--fingerprint", "12"], "32 hexadecimal digits"),
        (["put", "{store}", "{bare}", *MODEL], "no tensor 'tokens'"),
        (["put", "{store}", "{junk}", *MODEL], "not a safetensors file"),
        (["put", "{store}", "{cache}", "{cache}", "--tokens", "{ids}", *MODEL], "--tokens is of one cache"),
        (["put", "{store}", "{bare}", "--tokens", "{ids}", *MODEL], "bare: 3 token ids for a cache of 30 tokens; need one"),
        (["put", "{store}", "{cache}", "--tokens", "{ids}", *MODEL], "its 'tokens' (30) are others than"),
        (["put", "{store}", "{cache}", "--mode", "tokens", *MODEL], "mode tokens needs the model to encode and"),
        (["put", "{store}", "{cache}", "--mode", "residual", *MODEL], "mode residual needs the model"),
        (["put", "{store}", "{cache}", "--mode", "fp8", "-q", "60", *MODEL], "mode fp8 has no --quality"),
        (["transcode", "{store}", "--mode", "lossless", "--bits", "3", *MODEL], "mode lossless has no --bits"),
        (["transcode", "{store}", "--mode", "residual", *MODEL], "mode residual needs the model"),
        (["put", "{store}", "{cache}", "--tokens", "{junk}", *MODEL], "not a list of token ids"),
        (["put", "{store}", "{cache}", "--mode", "zip", *MODEL], f"no mode 'zip'; there are {MODE_NAMES}\n"),
        (["put", "{store}", "{store}/none", *MODEL], "No such file"),
        (["put", "nosuch://x", "{cache}", *MODEL], "nosuch"),
        (["put", "redis://127.0.0.1:1/0", "{cache}", *MODEL], "does not answer"),
        (["get", "{store}", "-o", "{store}/o", "--tokens", "{ids}", "--layers", "4", *MODEL], "--layers 4; need first:last"),
        (["get", "{store}", "-o", "{store}/o", "--tokens", "{ids}", *MODEL], "no beginning of the 3 tokens"),
        (["ls", "{store}/none"], "no store there"),
        (["put", "{store}/none", "{store}/none", *MODEL], "{store}/none: No such file"),
        (["put", "{store}/none", "{cache}", "--mode", "zip", *MODEL], "no mode 'zip'"),
        (["get", "{store}/none", "-o", "{store}/o", "--tokens", "{ids}", *MODEL], "no store there"),
        (["transcode", "{store}/none", "--mode", "fp8", *MODEL], "no store there"),
        (["transcode", "{store}", "--mode", "fp8", "--model", "/absent"], "/absent: no model there"),
        (["transcode", "{store}", "--mode", "fp8", *MODEL], "no block is stored for this model and tenant"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_1(tmp_path, arguments, message):
    (tmp_path / "store").mkdir()
    cache_file(tmp_path / "cache", list(range(30)))
    cache_file(tmp_path / "bare", list(range(30)), with_tokens=False)
    (tmp_path / "junk").write_bytes(b"junk")
    ids_file(tmp_path / "ids", [1, 2, 3])
    places = {name: str(tmp_path / name) for name in ("store", "cache", "bare", "junk", "ids")}
    done = run(*(argument.format(**places) for argument in arguments))
    message = message.format(**places)
    assert done.exit_code == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.output
    assert not (tmp_path / "store" / "none").exists()


def test_put_goes_on_after_a_bad_file_and_names_it(tmp_path):
    for name in ("a", "c"):
        cache_file(tmp_path / name, list(range(30 if name == "a" else 40)))
    (tmp_path / "bad").write_bytes(b"junk")
    files = [tmp_path / name for name in ("a", "bad", "absent", "c")]
    done = run("put", tmp_path / "store", *files, *MODEL, *BLOCKS, "--json")
    assert done.exit_code == 1 and [json.loads(line)["new_tokens"] for line in done.stdout.splitlines()] == [30, 16]
    assert f"{tmp_path}/bad: not a safetensors file" in done.stderr and f"{tmp_path}/absent: No such file" in done.stderr
    assert done.stderr.count("\n") == 3 and "RoPE stays in the keys" in done.stderr


def test_a_first_put_that_is_refused_leaves_no_folder(tmp_path):
    tensors = {f"layers.0.{n}": torch.full((2, 8, 16), torch.inf) for n in "kv"} | {"tokens": torch.arange(8)}
    save_file(tensors, tmp_path / "inf")
    done = run("put", tmp_path / "new" / "store", tmp_path / "inf", *MODEL)
    assert done.exit_code == 1 and "are not all finite; mode lossless takes them" in done.stderr
    assert not (tmp_path / "new").exists()


def test_blocks_without_keys_and_values_are_no_cache(filled, monkeypatch):
    """No put makes them any more; a store written by another version may hold them."""
    tmp_path, _ = filled
    ids = ids_file(tmp_path / "ids.json", list(range(30)))
    monkeypatch.setattr(PrefixStore, "get", lambda *_, **__: Hit(30, ()))
    done = run("get", tmp_path / "store", "-o", tmp_path / "out.safetensors", "--tokens", ids, *MODEL, *BLOCKS)
    assert done.exit_code == 1 and "hold token ids only" in done.stderr and not (tmp_path / "out.safetensors").exists()


def test_modes_that_need_the_running_model_are_not_offered():
    offered = MODE_NAMES.replace("; with --profile ", ", ").split(", ")
    assert set(offered) == set(MODES) - {"tokens", "residual"} and len(offered) == len(set(offered))
    assert MODE_NAMES.endswith("; with --profile transform, predictive")


def test_help_needs_no_torch():
    script = "import sys, rdcodec.codecs.kv_store.commands.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
