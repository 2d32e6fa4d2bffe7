"""State files of llama.cpp: layouts, damage, and that program itself, where `pip install xllamacpp gguf` was run."""

from __future__ import annotations

import json
import socket
import urllib.request

import numpy as np
import pytest
import torch
from rdcodec.codecs import load
from rdcodec.codecs.kv_cache import Cache
from rdcodec.codecs.kv_cache.llama_cpp import read_state, write_state
from rdcodec.entropy_models.errors import BitstreamError, InputError, Truncated, Unsupported

LAYERS, HEADS, WIDTH, VOCABULARY = 3, 2, 32, 260


def cache_of(tokens=9, dtype=torch.float16):
    made = [torch.randn(HEADS, tokens, WIDTH).to(dtype) for _ in range(2 * LAYERS)]
    return Cache(np.arange(5, 5 + tokens), tuple(zip(made[::2], made[1::2], strict=True)))


def assert_same(one, other):
    assert (one.tokens == other.tokens).all() and len(one.layers) == len(other.layers)
    assert all(torch.equal(a, b) for x, y in zip(one.layers, other.layers, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"transposed": True}, {"server": False}])
def test_what_is_written_is_read(dtype, options):
    cache = cache_of(dtype=dtype)
    data = write_state(cache, **options)
    assert_same(read_state(data, head_dim=WIDTH), cache)
    packed = load("kv", mode="lossless").encode(read_state(data, head_dim=WIDTH))
    assert write_state(load("kv").decode(packed), **options) == data


def test_other_files_are_refused_by_name():
    data = write_state(cache_of())
    for end in range(len(data)):
        with pytest.raises(BitstreamError):
            read_state(data[:end], head_dim=WIDTH)
    with pytest.raises(Truncated):
        read_state(data[:40], head_dim=WIDTH)
    words = np.frombuffer(data[:400], "<i4")
    at = 3 + words[2]  # of the number of streams
    for place, value, message in (
        (1, 3, "version 3; known is"), (4, 2, "pictures or sounds"), (at, 2, "several sequences"),
        (at + 2, 7, "gaps between positions"), (at + 2 + 27 + 2, 1, "that are rotated"), (at + 2 + 27 + 4, 8, "ggml type 8"),
    ):  # fmt: skip
        bad = words.copy()
        bad[place] = value
        with pytest.raises(Unsupported, match=message):
            read_state(bad.tobytes() + data[400:], head_dim=WIDTH)
    with pytest.raises(Unsupported, match="4 bytes after the last layer"):
        read_state(data + bytes(4), head_dim=WIDTH)
    with pytest.raises(InputError, match="no multiple of head_dim 48"):
        read_state(data, head_dim=48)
    with pytest.raises(InputError, match="element types of llama.cpp"):
        write_state(cache_of(dtype=torch.float64))


# ---- the program ----


def model_file(path):
    """A random llama in GGUF."""
    gguf = pytest.importorskip("gguf", reason="needs gguf")
    writer, rng, size = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0), HEADS * WIDTH
    writer.add_context_length(512)
    writer.add_embedding_length(size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([chr(0x100 + i) for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges([f"{chr(0x100)} {chr(0x101)}"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    matrices = {"token_embd": (VOCABULARY, size)}
    for i in range(LAYERS):
        matrices |= {f"blk.{i}.attn_{name}": (size, size) for name in ("q", "k", "v", "output")}
        matrices |= {f"blk.{i}.ffn_{name}": (2 * size, size) for name in ("gate", "up")} | {
            f"blk.{i}.ffn_down": (size, 2 * size)
        }
    for name, shape in matrices.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.2, shape).astype(np.float32))
    for name in ["output_norm", *(f"blk.{i}.{kind}_norm" for i in range(LAYERS) for kind in ("attn", "ffn"))]:
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("transposed", [False, True])
def test_llama_cpp_reads_what_is_written_for_it(tmp_path, transposed):
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp")
    model_file(tmp_path / "model.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = xllamacpp.CommonParams()
    options.model.path, options.slot_save_path, options.port = str(tmp_path / "model.gguf"), f"{tmp_path}/", port
    options.n_ctx, options.n_parallel, options.warmup = 256, 1, False
    kinds = xllamacpp.llama_flash_attn_type
    options.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED if transposed else kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED
    server = xllamacpp.Server(options)

    def post(path, content):
        body, head = json.dumps(content).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(server.listening_address + path, body, head)) as answer:
            return json.loads(answer.read())

    def text(ids):
        return post("/completion", {"prompt": ids, "n_predict": 6, "temperature": 0, "id_slot": 0, "cache_prompt": True})

    prompt = [10, *range(10, 60)]
    post("/completion", {"prompt": prompt, "n_predict": 0, "id_slot": 0, "cache_prompt": True})
    post("/slots/0?action=save", {"filename": "slot.bin"})
    data = (tmp_path / "slot.bin").read_bytes()
    cache = read_state(data, head_dim=WIDTH)
    count = len(cache.tokens)
    assert cache.tokens.tolist() == prompt[:count] and count >= len(prompt) - 1 and len(cache.layers) == LAYERS
    keys, values = cache.layers[0]
    assert torch.equal(values[:, 0], values[:, 1]) and not torch.equal(keys[:, 0], keys[:, 1]), "one token at two places"
    packed = load("kv", mode="lossless").encode(cache)
    assert write_state(load("kv").decode(packed), transposed=transposed) == data, "the same bytes"
    right = text([*prompt, 7, 8])["content"]
    for mode in ("lossless", "quantized"):
        again = load("kv").decode(load("kv", mode=mode).encode(cache))
        (tmp_path / "back.bin").write_bytes(write_state(again, transposed=transposed))
        post("/slots/0?action=erase", {})
        assert post("/slots/0?action=restore", {"filename": "back.bin"})["n_restored"] == count
        found = text([*prompt, 7, 8])
        assert found["timings"]["prompt_n"] == len(prompt) + 2 - count, "the cache was gone on from"
        assert mode == "quantized" or found["content"] == right
