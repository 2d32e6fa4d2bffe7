"""Mode tokens: the ids alone are kept, and the model computes the cache again."""

from __future__ import annotations

import kv_files
import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import VOCABULARY, prefilled, prompt, tiny
from rdcodec.codecs.kv_cache import KvSettings, load_cache, save_cache
from rdcodec.codecs.kv_cache.format.header import parse_sequence
from rdcodec.codecs.kv_cache.hf import token_sequence
from rdcodec.codecs.text import token_model as tokens
from rdcodec.entropy_models.errors import BitstreamError, Unsupported


def test_tokens_mode_recomputes(tmp_path):
    decoder, ids = tiny(), prompt(60)
    cache = prefilled(decoder, ids)
    steps: list[tuple[int, int]] = []
    size = save_cache(
        cache, ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode="tokens"), progress=lambda *s: steps.append(s)
    )
    assert size < 60 * 2 + 200
    threads = torch.get_num_threads()
    assert parse_sequence((tmp_path / "a.rdc").read_bytes())[1].threads == threads
    assert steps == sorted(steps) and len(set(steps)) >= 60 and steps[-1] == (60, 60)
    steps.clear()
    torch.set_num_threads(threads + 1)  # sums in another order, where threads share them
    try:
        seen: list[int] = []
        loaded = load_cache(
            tmp_path / "a.rdc", decoder, progress=lambda *s: (steps.append(s), seen.append(torch.get_num_threads()))
        )
        assert seen == [threads] * 60 and torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(loaded.layers[2].keys, cache.layers[2].keys, atol=1e-5)
    assert steps == [(i, 60) for i in range(1, 61)]
    with pytest.raises(Unsupported, match="keeps the ids alone, and keys of layer 0 .* are the ids those of the cache"):
        save_cache(cache, (ids + 1) % VOCABULARY, tmp_path / "b.rdc", decoder, settings=KvSettings(mode="tokens"))
    assert not (tmp_path / "b.rdc").exists()
    with pytest.raises(Unsupported, match="token ids only"):
        load_cache(tmp_path / "a.rdc")
    data = (tmp_path / "a.rdc").read_bytes()
    assert kv_files.verify_bytes(data) == [
        "checksums are right; 60 token ids were not decoded, which takes the model (load_cache)"
    ]
    for at in range(0, len(data), 7):
        with pytest.raises(BitstreamError):
            kv_files.verify_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(Unsupported, match="another salt"):
        load_cache(tmp_path / "a.rdc", decoder, salt=b"x")


def test_a_prefix_of_token_ids_reads_only_the_runs_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(token_sequence, "RUN_TOKENS", 16)
    decoder, ids = tiny(), prompt(60)
    save_cache(prefilled(decoder, ids), ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode="tokens"))
    steps: list[tuple[int, int]] = []
    loaded = load_cache(tmp_path / "a.rdc", decoder, prefix=20, progress=lambda *s: steps.append(s))
    assert loaded.get_seq_length() == 20 and len(steps) == 32


def test_token_code_is_as_long_as_the_cross_entropy():
    decoder, ids = tiny(), prompt(200)[0].numpy()
    data = tokens.encode_ids(tokens.TokenModel(decoder), ids)
    with torch.no_grad():
        logits = decoder(torch.from_numpy(ids)[None]).logits[0, :-1].double()
    ideal = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[1:]), reduction="sum")) / np.log(2)
    assert 8 * len(data) - 32 <= 1.001 * ideal + 64
    assert np.array_equal(tokens.decode_ids(tokens.TokenModel(decoder), data, len(ids)), ids)


def test_tokens_that_do_not_come_back_are_stored_plainly(monkeypatch):
    decoder, ids = tiny(), prompt(20)[0].numpy()
    monkeypatch.setattr(token_sequence, "_comes_back", lambda *_: False)
    data = token_sequence.encode_tokens(decoder, ids, fingerprint=bytes(16))
    assert np.array_equal(token_sequence.decode_tokens(data, decoder, fingerprint=bytes(16), salt=b""), ids)
    stream = parse_sequence(data)[0]
    assert stream.chunk(0)[0] == 0 and len(stream.chunk(0)) == 21 + 4 * 20
    assert kv_files.verify_bytes(data) == []
