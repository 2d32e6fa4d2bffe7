"""The table of model types in docs/kv-cache.md, made from transformers' own configs. Run as a script, this writes it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from hybrid_cases import with_states
from rdcodec.codecs.kv_cache.hf.fingerprint import _no_prefix
from rdcodec.codecs.kv_cache.hf.layer_kinds import _KIND_OF
from rdcodec.entropy_models.errors import Unsupported
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

PAGE = Path(__file__).parents[2] / "docs" / "kv-cache.md"
TABLE = re.compile(r"(?<=<!-- model types -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
ROWS = {
    "store, files": "keys and values of every position",
    "`HybridStore`, files whole: windows": "sliding windows",
    "`HybridStore`, files whole: states": "recurrent states, convolutions or an index of sparse attention",
    "files whole: prefixes": "RoPE that depends on the length, or attention that looks ahead",
    "refused: encoder": "an encoder and a decoder",
    "refused: own": "a cache of its own, or none",
    "not told": "no config by default",
}


def row_of(kind: str) -> str:
    """The row of `ROWS` that a model type belongs to, with the config it has by default."""
    try:
        config = CONFIG_MAPPING[kind]()
    except Exception:  # noqa: BLE001 transformers' own validation has errors of its own
        return "not told"
    try:
        forward = inspect.signature(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].forward).parameters
        if config.is_encoder_decoder:
            return "refused: encoder"
        if not {"cache", "past_key_values", "cache_params"} & set(forward) or _own_cache_class(type(config)):
            return "refused: own"
        layers = {type(layer).__name__ for layer in transformers.DynamicCache(config=config).layers}
    except (AttributeError, KeyError, ValueError, TypeError):
        return "refused: own"
    kinds = {_KIND_OF.get(name, "unknown") for name in layers}
    if "unknown" in kinds:
        return "refused: own"
    if _no_prefix(SimpleNamespace(config=config), contents_told_apart=True):
        return "files whole: prefixes"
    if any("states" in kind for kind in kinds):
        return "`HybridStore`, files whole: states"
    return "`HybridStore`, files whole: windows" if "window" in kinds else "store, files"


def _own_cache_class(config: type) -> bool:
    module = inspect.getmodule(MODEL_FOR_CAUSAL_LM_MAPPING[config])
    found = inspect.getmembers(module, inspect.isclass)
    return any(name.endswith("Cache") and value.__module__ == module.__name__ for name, value in found)


def table() -> str:
    rows: dict[str, list[str]] = {name: [] for name in ROWS}
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        rows[row_of(kind)].append(kind)
    lines = [f"Of transformers {transformers.__version__}, each with the config that it has by default.", ""]
    lines += ["| kept in | because its layers have | model types |", "|---|---|---|"]
    lines += [f"| {name.partition(':')[0]} | {ROWS[name]} | {', '.join(kinds)} |" for name, kinds in rows.items()]
    return "\n".join(lines) + "\n"


@with_states
def test_the_table_of_model_types_is_what_transformers_has():
    """Of a later version than the page's, types that both know; earlier ones had other layers, and other defaults."""
    (shown,) = TABLE.findall(PAGE.read_text())
    (version,) = re.findall(r"transformers ([\d.]+),", shown)
    if version == transformers.__version__:
        assert shown == table()
        return
    if Version(transformers.__version__) < Version(version):
        pytest.skip(f"the page is of transformers {version}")
    lines = shown.splitlines()[4:]
    assert len(lines) == len(ROWS)
    for line in lines:
        place, _, kinds = (part.strip() for part in line.strip("|").split("|"))
        for kind in kinds.split(", "):
            if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
                assert row_of(kind).partition(":")[0] == place, kind


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("llama", "store, files"), ("deepseek_v3", "store, files"), ("mistral", "`HybridStore`, files whole: windows"),
        ("gpt_oss", "`HybridStore`, files whole: windows"), ("mamba2", "`HybridStore`, files whole: states"),
        ("minimax", "refused: own"), ("bert", "files whole: prefixes"), ("gpt_neox", "store, files"),
        ("jamba", "`HybridStore`, files whole: states"), ("bart", "refused: encoder"),
    ],
)  # fmt: skip
@with_states
def test_types_whose_caches_were_tried_have_the_row_that_was_found(kind, row):
    assert row_of(kind) == row


def test_a_cache_class_of_a_models_own_is_refused_by_name():
    from rdcodec.codecs.kv_cache.hf.inputs import as_layers

    own = type("OwnCache", (transformers.DynamicCache,), {"__module__": "transformers.models.own.modeling_own"})()
    with pytest.raises(Unsupported, match="OwnCache is a cache class of modeling_own alone"):
        as_layers(own)


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text()))
