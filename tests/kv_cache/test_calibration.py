"""Calibrated profiles of a model, and how its fidelity is measured."""

from __future__ import annotations

import math

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import VOCABULARY, tiny
from rdcodec.codecs.kv_cache import KvSettings, calibrate
from rdcodec.codecs.kv_cache.evaluation import fidelity as evaluate
from rdcodec.codecs.kv_cache.hf import model
from rdcodec.entropy_models.errors import InputError


@pytest.mark.parametrize("kind", ["gpt2", "dynamic"])
def test_the_error_of_an_attention_that_is_not_known_here_is_not_made_up(kind):
    """GPT-2 has no q_proj, and RoPE that changes with length is not undone here."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 256}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**small, bos_token_id=0, eos_token_id=None)).eval()
    decoder = gpt2 if kind == "gpt2" else tiny(rope_parameters=rope)
    contexts = torch.randint(0, VOCABULARY, (2, 64 + 64), generator=torch.Generator().manual_seed(1))
    evaluation = evaluate.Evaluation(decoder, contexts, evaluate.prefill(decoder, contexts), greedy_contexts=1)
    found = evaluation.measure("quantized", evaluate.through(KvSettings()))
    assert math.isnan(found.attention_error) and 0 < found.kl_mean < 1


@pytest.mark.parametrize(
    ("contexts", "found"),
    [
        ([list(range(70))], "type list"), (torch.arange(70), r"shape \(70,\), torch.int64"),
        (torch.zeros(2, 64, dtype=torch.long), r"shape \(2, 64\)"), (torch.zeros(2, 70), r"shape \(2, 70\), torch.float32"),
    ],
)  # fmt: skip
def test_contexts_that_are_no_rows_of_token_ids_are_refused(contexts, found):
    with pytest.raises(InputError, match=f"contexts of {found}.*need a tensor of token ids"):
        calibrate(tiny(), contexts)


def test_calibration_and_evaluation(tmp_path):
    """A calibrated profile makes keys of known structure smaller at the same fidelity, and the table says so."""
    decoder = tiny("qwen3")
    contexts = torch.randint(0, VOCABULARY, (6, 128 + 64), generator=torch.Generator().manual_seed(1))
    profile = calibrate(decoder, contexts[:4])
    profile.write(tmp_path / "p.safetensors")
    assert type(profile).read(tmp_path / "p.safetensors").hash == profile.hash
    caches = evaluate.prefill(decoder, contexts[4:])
    evaluation = evaluate.Evaluation(decoder, contexts[4:], caches, greedy_contexts=2)
    same = evaluation.measure("raw", lambda layers, ids: (layers, 1))
    assert same.kl_mean == same.attention_error == same.max_error == 0 and same.greedy_match == same.top1_agreement == 1
    found = {}
    for mode in ("quantized", "transform", "predictive"):
        settings = KvSettings(mode=mode, profile=profile, rope=model.rope_of(decoder), quality=60)
        found[mode] = evaluation.measure(mode, evaluate.through(settings))
        assert 0 < found[mode].kl_mean < 0.01
    evaluate.write_csv(tmp_path / "t.csv", list(found.values()))
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 4
