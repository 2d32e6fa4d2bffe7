"""The import graph and the package's contents are part of the design, so they have tests."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
import torch
from rdcodec.codecs import REGISTRY, load, weights
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.tables import gaussian_tables
from rdcodec.training.manifest import write_line
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
PARTS = "codecs", "entropy_models", "training"
BASE = {"entropy_models", "container"}
ARROWS = {
    "entropy_models": set(),
    "container": {"entropy_models"},
    "contract": {"container"},
    "registry": {"entropy_models", "contract", "evaluation"},
    "weights": BASE,
    "weights_file": {*BASE, "weights"},
    "device": {"entropy_models"},
    "symbols": {"entropy_models"},
    "torch_state": {"entropy_models"},
    "workers": set(),
    "rate_control": {*BASE, "contract"},
    "refinement": {"entropy_models"},
    "evaluation": {*BASE, "contract"},
    "terminal": BASE,
    "cli": {*BASE, "contract", "device", "registry", "weights", "evaluation", "terminal", "training"},
    "image": {
        *BASE, "contract", "weights", "weights_file", "device", "symbols", "rate_control", "refinement", "torch_state",
        "evaluation", "terminal",
    },
    "pillow": {*BASE, "image"},
    "torch_data": {*BASE, "contract", "registry", "terminal"},
    "speech": {
        *BASE, "contract", "weights", "weights_file", "device", "symbols", "rate_control", "refinement", "torch_state",
        "evaluation", "terminal",
    },
    "tensor": {*BASE, "contract", "weights", "evaluation", "terminal", "text"},
    "video": {
        *BASE, "contract", "weights", "weights_file", "device", "symbols", "rate_control", "torch_state", "workers",
        "evaluation", "terminal", "image", "speech",
    },
    "text": {*BASE, "contract", "terminal"},
    "kv_cache": {*BASE, "contract", "weights", "torch_state", "evaluation", "terminal", "tensor", "text"},
    "kv_store": {*BASE, "contract", "torch_state", "terminal", "kv_cache"},
    "training": {
        *BASE, "contract", "registry", "weights", "weights_file", "device", "refinement", "evaluation", "image", "speech",
        "video",
    },
}  # fmt: skip
"""Which room may know of which: a folder or module of codecs/, or a whole part. The registry is `rdcodec.codecs` itself.

Of codecs, ``kv_cache`` stands on ``tensor`` and ``text``, ``kv_store`` on ``kv_cache``, and ``video`` on ``image``; no other
knows of another.
``cli`` reaches them by the registry alone, and ``training`` by the command that starts it.
"""
KV_ARROWS = {
    "registry": set(),
    "splice": set(),
    "ids_file": set(),
    "modes": set(),
    "format": {"modes", "splice"},
    "layout": {"format", "modes", "splice"},
    "hf": {"format", "layout", "modes", "splice"},
    "codec": {"format", "modes", "splice"},
    "options": {"format", "modes"},
    "recognised": set(),
    "safetensors_file": {"hf", "recognised", "splice"},
    "lmcache": {"format", "hf", "modes"},
    "llama_cpp": {"codec"},
    "evaluation": {"codec", "format", "hf", "modes", "splice"},
    "face": {"codec", "format", "hf", "ids_file", "layout", "modes", "options", "recognised", "safetensors_file"},
}
"""The same within ``kv_cache``, where ``registry`` is its public names: what needs a model is in ``hf`` and above."""
WITH_TRANSFORMERS = {"codecs/text", "codecs/kv_cache/hf", "codecs/kv_cache/evaluation", "codecs/tensor/hf.py"}


@cache
def imports() -> dict[str, set[str]]:
    """Modules of the package that each module imports; names without ``rdcodec.``.

    An import within a function or for type checking alone counts as any other: it is what a module knows of another.
    So does ``"codecs.tensor.fp8:code"``, a module and a name in it to import later. Those of the registry, which are
    meant to lead around the table, begin below ``codecs``.
    """
    files = {_name(path): path for part in PARTS for path in (ROOT / part).rglob("*.py")}
    return {name: set(_imported(name, path, files)) - {name} for name, path in files.items()}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(name, path, files):
    package = name.split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if node.level or base.startswith("rdcodec."):
                inner = [f"{base}.{alias.name}".lstrip(".").removeprefix("rdcodec.") for alias in node.names]
                yield from (one if one in files else one.rpartition(".")[0] for one in inner)
        elif isinstance(node, ast.Import):
            yield from (one.name.removeprefix("rdcodec.") for one in node.names if one.name.startswith("rdcodec."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if match := re.fullmatch(r"((?:codecs|entropy_models|training)(?:\.\w+)*):\w+", node.value):
                yield match[1]


def room_of(module: str, part: str = "codecs") -> str:
    """The room of a module: what follows ``part``, a package; of other packages their first name."""
    if module != part and not module.startswith(f"{part}."):
        return module.partition(".")[0]
    return module[len(part) + 1 :].partition(".")[0] or "registry"


@pytest.mark.parametrize(("part", "arrows"), [("codecs", ARROWS), ("codecs.kv_cache", KV_ARROWS)])
def test_rooms_know_of_each_other_as_drawn(part, arrows):
    graphlib.TopologicalSorter(arrows).prepare()  # which raises on a circle
    for module, found in imports().items():
        if part == "codecs" or module == part or module.startswith(f"{part}."):
            room = room_of(module, part)
            assert room in arrows, f"{module}: say in the table what the new room {room} may import"
            inside = [other for other in found if part == "codecs" or other == part or other.startswith(f"{part}.")]
            wrong = [other for other in inside if room_of(other, part) not in {room, *arrows[room]}]
            assert not wrong, f"{module} imports {', '.join(wrong)}"


def test_no_module_imports_itself_by_way_of_others():
    graphlib.TopologicalSorter(imports()).prepare()
    known = {target for found in imports().values() for target in found}
    assert known <= set(imports()), "an import of the package that is not understood"
    assert "entropy_models.rows" in imports()["codecs.tensor.lossless"]
    assert {"codecs.tensor.fp8", "entropy_models.rows", "codecs.kv_cache.modes.place"} <= imports()[
        "codecs.kv_cache.modes.table"
    ]
    assert "codecs.contract" in imports()["codecs"] and "training.main" in imports()["codecs.cli.main"]


def test_only_what_runs_a_model_imports_transformers():
    for path in (ROOT / "codecs").rglob("*.py"):
        if "transformers" in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE):
            assert any(path.is_relative_to(ROOT / folder) for folder in WITH_TRANSFORMERS), path


def test_saving_and_loading_a_cache_file_imports_no_store_and_no_transformers(tmp_path):
    script = f"""
import sys, numpy, torch
from rdcodec.codecs.kv_cache import Cache, KvCodec
from rdcodec.codecs.kv_cache.hf.cache_io import save_cache
layers = ((torch.ones(1, 5, 4), torch.ones(1, 5, 4)),)
assert save_cache(layers, range(5), {str(tmp_path / "a.rdc")!r}) > 0
with open({str(tmp_path / "a.rdc")!r}, "rb") as file:
    assert len(KvCodec().decode(file.read()).tokens) == 5
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "rdcodec.codecs.kv_cache.format.blocks" in loaded
    assert not [
        name for name in loaded if name.startswith(("rdcodec.codecs.kv_store", "transformers", "rdcodec.codecs.image"))
    ]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("rdcodec.entropy_models.coder", ("rdcodec.codecs", "rdcodec.training", "lightning")),
        ("rdcodec.codecs.image.codec", ("rdcodec.training", "lightning", "compressai", "torchvision", "matplotlib")),
        ("rdcodec.codecs", ("torch", "numpy", "rdcodec.training")),
        ("rdcodec.codecs.cli.main", ("torch", "numpy", "PIL", "rdcodec.training")),
    ],
)
def test_arrows_run_one_way(module, forbidden):
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded and not set(loaded) & set(forbidden)


def test_codecs_never_mention_training():
    for path in (ROOT / "codecs").rglob("*.py"):
        text = path.read_text()
        assert "self.training" not in text, path
        if path != ROOT / "codecs/cli/main.py":
            assert "from ..training" not in text and "from ...training" not in text and "rdcodec.training" not in text, path


def test_the_package_holds_every_module_and_weight_file():
    pillow = ROOT / "codecs/pillow"  # the package rdcodec.pillow
    for part in (*PARTS, "pillow"):
        installed, folder = Path(str(resources.files(f"rdcodec.{part}"))), pillow if part == "pillow" else ROOT / part
        for path in folder.rglob("*"):
            shipped = path.suffix in {".py", ".yaml", ".safetensors", ".json", ".txt"}
            if shipped and "__pycache__" not in path.parts and (folder == pillow or pillow not in path.parents):
                assert (installed / path.relative_to(folder)).is_file(), path


def test_every_manifest_line_has_its_file_and_the_whole_stays_small():
    lines = weights.manifest()
    assert {line.codec for line in lines.values()} <= set(REGISTRY)
    for line in lines.values():
        assert len(weights.verified_bytes(line)) <= 12_000_000
    source = ROOT / "codecs/weights_files"
    files = {str(path.relative_to(source)) for path in source.rglob("*.safetensors")}
    assert files == {line.file for line in lines.values()}
    assert len({line.stream_hash for line in lines.values()}) == len(lines)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    line = weights.line_named("image")
    data = bytearray(weights.verified_bytes(line))
    data[1000] ^= 1
    (tmp_path / line.file).write_bytes(data)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="manifest says"):
        weights.verified_bytes(line)


@pytest.fixture
def more_weights(tmp_path, monkeypatch):
    """Name folders in RDCODEC_WEIGHTS."""

    def name(*folders: Path) -> None:
        monkeypatch.setenv(weights.MORE, os.pathsep.join(map(str, folders)))
        weights.manifest.cache_clear()

    yield name
    weights.manifest.cache_clear()


def test_own_weights_are_found_in_a_folder_of_ones_own(tmp_path, more_weights):
    default = weights.line_named("image")
    fields = {"licence": "x", "data": "x", "recipe": "x", "steps": 1, "hardware": "x"}
    write_line(tmp_path, "mine", "image", b"weights", **fields)
    write_line(tmp_path, default.name, "image", b"other", **fields)
    more_weights(tmp_path)
    assert weights.verified_bytes(weights.line_named("image", "mine")) == b"weights"
    assert weights.line_named("image") == weights.line_named("image", default.name) == default
    for number in (2, 10):
        write_line(tmp_path, f"image-mine-{number}", "image", b"weights", **fields)
    more_weights(tmp_path)
    assert weights.line_named("image", "mine").name == "mine"
    assert weights.line_named("image", "image-mine-2").name == "image-mine-2"
    assert weights.line_named("image", "eyes").name.startswith("image-eyes-")
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text().replace('"mine"', '"other"'))
    more_weights(tmp_path)
    assert weights.line_named("image", "mine").name == "image-mine-10"
    for unknown in ("image", "10", "min", ".*"):
        with pytest.raises(KeyError, match="no image model"):
            weights.line_named("image", unknown)
    more_weights(tmp_path / "gone")
    with pytest.raises(ValueError, match="RDCODEC_WEIGHTS: .*gone is no folder"):
        weights.line_named("image")
    for broken in ("{", "[]", '{"mine": {"codec": "image"}}'):
        (tmp_path / "manifest.json").write_text(broken)
        more_weights(tmp_path)
        with pytest.raises(ValueError, match="manifest.json: no manifest of weights"):
            weights.line_named("image")


def test_manifest_lines_are_complete():
    for name, line in json.loads((weights.FOLDER / "manifest.json").read_text()).items():
        for key in ("licence", "data", "recipe", "steps", "hardware"):
            assert line[key], (name, key)
        assert (ROOT / line["recipe"]).is_file()


def test_the_shipped_network_stays_small():
    """At most 6 M parameters, and 20 thousand multiplications per pixel each way, on a picture of whole tiles."""
    network = load("image", device="cpu").network
    assert sum(value.numel() for value in network.state_dict().values()) <= 6_000_000
    image, quality = torch.zeros(1, 128, 128, 3), torch.tensor([50])
    with torch.no_grad():
        y = network.to_latent(image, quality)
    parts = {
        "analysis": lambda: network.to_latent(image, quality),
        "coding pass": lambda: network.coding_pass(Measure(gaussian_tables()), y, quality),
        "synthesis": lambda: network.to_image(y, quality),
    }
    per_pixel = {}
    for name, part in parts.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            part()
        per_pixel[name] = counter.get_total_flops() / 2 / image[..., 0].numel()
    assert 12_000 < per_pixel["analysis"] + per_pixel["coding pass"] <= 20_000, per_pixel
    assert 12_000 < per_pixel["coding pass"] + per_pixel["synthesis"] <= 20_000, per_pixel
