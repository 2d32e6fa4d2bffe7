"""Examples in docstrings and documentation run, commands shown exist, and links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rdcodec.codecs
import rdcodec.entropy_models
import rdcodec.training
import typer
from PIL import Image
from rdcodec.codecs import REGISTRY
from rdcodec.codecs.cli import main as cli
from rdcodec.training import TRAININGS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NAMES = sorted(
    module.name
    for part in (rdcodec.codecs, rdcodec.entropy_models, rdcodec.training)
    for module in pkgutil.walk_packages(part.__path__, f"{part.__name__}.")
)
ELSEWHERE = {"arecord", "nc", "git", "pip", "python3", "source", "pre-commit", "tensorboard", "cat", "cd"}
"""Programs whose command lines are not ours to check."""


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    assert doctest.testmod(module).failed == 0


# Commands --------------------------------------------------------------------------------------------


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> Iterator[list[str]]:
    """Words of each command in indented blocks, without comments and variables."""
    for line in re.findall(r"^    (\S.*)$", without_fences(text), re.MULTILINE):
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def parse_codec(words: list[str], *, whole: bool = True) -> None:
    """Parse as `codec` would, without running anything; raises what it would say of wrong usage.

    ``whole``: False where arguments may be missing, as in a sentence that speaks of an option.
    """
    command: Any = typer.main.get_command(cli.app)
    context = None
    while hasattr(command, "get_command") and words and not words[0].startswith("--"):
        name, *words = words
        found = command.get_command(context, name)
        assert found, f"no command {name}"
        context = type(command).context_class(command, parent=context, info_name=name)
        command = found
    if words[-1:] == ["--help"] or (not words and not whole):
        return
    try:
        command.make_context(command.name, list(words), parent=context)
    except Exception as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise


def options_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def check_script(path: Path, words: list[str]) -> None:
    """A script that exists, and options that its source knows: argparse's by name, typer's as a parameter."""
    assert path.is_file(), path
    source = path.read_text()
    if "from references import" in source:
        source += path.with_name("references.py").read_text()
    for option in options_of(words):
        name = option.removeprefix("--").replace("-", "_")
        assert f'"{option}"' in source or re.search(rf"^    {name}:", source, re.MULTILINE), (path.name, option)


def check(words: list[str]) -> None:
    program, *rest = words
    if program == "codec":
        parse_codec(rest)
    elif program == "python" and rest[0] == "-m":
        part = rest[1].removeprefix("rdcodec.").replace(".", "/")
        check_script(ROOT / f"{part}.py", rest[2:])
    elif program == "python":
        check_script(ROOT / rest[0], rest[1:])
    elif program == "pytest" or program.startswith(".ci/"):
        for word in (program, *rest):
            assert "/" not in word or (ROOT / word).exists(), word
    else:
        assert program in ELSEWHERE, f"what is {program}?"


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_commands_shown_exist(page):
    for words in command_lines((ROOT / page).read_text()):
        try:
            check(words)
        except Exception as error:
            pytest.fail(f"{' '.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_commands_in_sentences_exist(page):
    for line in re.findall(r"`codec ([^`]+)`", without_fences((ROOT / page).read_text())):
        words = [word for word in shlex.split(line) if word != "..."]
        try:
            parse_codec(words[: words.index("|")] if "|" in words else words, whole=False)
        except Exception as error:
            pytest.fail(f"codec {line}: {error}")


def test_pages_show_commands():
    shown = [words for page in PAGES for words in command_lines(page.read_text())]
    assert len([words for words in shown if words[0] == "codec"]) > 30
    assert {words[1] for words in shown if words[0] == "codec"} >= {
        "encode", "decode", "info", "verify", "eval", "demo", "models", "train", "kv",
    }  # fmt: skip


def test_extras_shown_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    shown = {name for page in PAGES for name in re.findall(r"'\.\[(\w+)\]'", page.read_text())}
    assert len(shown) > 3
    assert shown <= set(extras)


def test_files_named_in_commands_are_there():
    for page in PAGES:
        for words in command_lines(page.read_text()):
            for word in words:
                if re.match(r"(tests|training/recipes|benchmarks)/", word):
                    assert (ROOT / word).exists(), (page.name, word)


def test_training_options_shown_exist(capsys):
    """Options of `codec train` are Lightning's, and only its parser knows them."""
    training = pytest.importorskip("rdcodec.training.main")
    text = "\n".join(page.read_text() for page in PAGES)
    shown = set(re.findall(r"--(?:model|data|trainer)\.[a-z_]+", text))
    assert len(shown) > 5
    for codec in TRAININGS:
        with pytest.raises(SystemExit):
            training.train(codec, ["fit", "--help"])
    known = capsys.readouterr().out
    for option in sorted(shown):
        assert re.search(rf"{re.escape(option)}\b", known), option


# Python ----------------------------------------------------------------------------------------------


@pytest.fixture
def names(photograph, image_codec, tmp_path, monkeypatch) -> dict[str, Any]:
    """What examples may use: photo.png and photo.rdc in the folder they run in, and of caches what `cache_names` makes."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photograph[:96, :128]).save("photo.png")
    Path("photo.rdc").write_bytes(image_codec.encode(photograph[:96, :128]))
    return {}


def cache_names() -> dict[str, Any]:
    """A small random model, its cache of a prompt, and the prompt's ids; in the folder a state file of llama.cpp."""
    transformers = pytest.importorskip("transformers")
    import torch
    from rdcodec.codecs.kv_cache import Cache
    from rdcodec.codecs.kv_cache.llama_cpp import write_state

    Path("slot.bin").write_bytes(write_state(Cache(np.arange(3), ((torch.ones(2, 3, 64).half(),) * 2,))))

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.arange(40) % 64
    with torch.no_grad():
        cache = transformers.DynamicCache()
        model(tokens[None], use_cache=True, cache=cache)
    return {"model": model, "cache": cache, "tokens": tokens}


@pytest.mark.parametrize("page", [name for name in PAGE_NAMES if blocks((ROOT / name).read_text(), "python")])
def test_python_shown_runs(page, names, monkeypatch):
    monkeypatch.setitem(REGISTRY, "toy", None)  # a page that registers a codec does so for its own test
    code = blocks((ROOT / page).read_text(), "python")
    if "kv_" in "".join(code):
        names |= cache_names()
    for block in code:
        exec(compile(block, page, "exec"), names)


def test_the_codec_that_is_added_is_the_one_that_is_tested():
    """The page shows tests/toy_codec.py, all but its docstring; tests/cli/test_toy_codec.py runs every command on it."""
    code = blocks((ROOT / "docs/adding-a-codec.md").read_text(), "python")
    shown = "\n\n".join(block for block in code if "class Toy" in block or "TASK: Task" in block)
    tested = (ROOT / "tests/toy_codec.py").read_text()
    assert shown == tested[tested.index("from __future__") :]


# Links -----------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = without_fences(text)
    kept = string.ascii_lowercase + string.digits + "-_ "
    titles = (title.lower() for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {"".join(c for c in title if c in kept).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text()):
        path, _, anchor = target.partition("#")
        found = Path(os.path.normpath((ROOT / page).parent / path)) if path else ROOT / page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(found.read_text()), target


def test_readme_links_to_every_page():
    """And every picture beside them is shown by one."""
    readme = (ROOT / "README.md").read_text()
    shown = "\n".join(page.read_text() for page in PAGES)
    for path in (ROOT / "docs").iterdir():
        if path.suffix == ".md":
            assert f"(docs/{path.name})" in readme, path.name
        else:
            assert f"({path.name})" in shown, path.name


def test_every_benchmark_is_described():
    text = (ROOT / "docs/benchmarks.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        is_script = '__name__ == "__main__"' in path.read_text()
        assert f"### {path.name}\n" in text if is_script else f"`{path.name}`" in text, path.name
    results = {path.name for path in (ROOT / "benchmarks/results").iterdir()}
    named = set(re.findall(r"`([\w.]+\.(?:csv|png|jpg))`", text))
    assert results <= named, results - named
    assert named <= results, named - results
