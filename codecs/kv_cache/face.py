"""The cache codec on the command line: options, safetensors in and out, and what is told of them. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...entropy_models.errors import Unsupported
from .. import container
from ..contract import Desk, Result, Slicing
from ..terminal.options import Model, Quality, Threads
from .format.describe import describe_kv, kv_rows
from .format.header import BLOCK, width_text
from .ids_file import check_one_cache, held_or_given_ids
from .modes.table import MODES
from .options import Batch, FileBits, Keys, Mode, ProfileFile, Tokens, kv_settings, read_profile, whole_bits
from .recognised import holds_cache

NO_TOKENS = "no tensor 'tokens': ids are stored as 0, so no prefix is matched (--tokens FILE gives them)"
ROPE_KEPT = (
    "RoPE stays in the keys, which takes more bytes (some 5 % at quality 60 with a small Llama); "
    "--model FOLDER of the transformers model undoes it"
)
Salt = Annotated[
    str | None,
    typer.Option(help="A tenant's, hashed into block ids; decode and verify check it. Else the variable RDCODEC_SALT."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    quality: Quality = None
    mode: Mode = None
    bits: FileBits = None
    model: Model = None
    profile: ProfileFile = None
    keys: Keys = None
    tokens: Tokens = None
    salt: Salt = None
    threads: Threads = None

    def check_jobs(self, jobs: int) -> None:
        """ValueError where one file of ids is given for several caches."""
        check_one_cache(self.tokens, jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""

    prefix: Annotated[int | None, typer.Option(min=1, help="Only the first so many tokens.")] = None
    profile: ProfileFile = None
    keys: Keys = None
    batch: Batch = False
    salt: Salt = None
    threads: Threads = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Options of `codec verify`."""

    profile: ProfileFile = None
    salt: Salt = None


class KvFace(Slicing):
    """`contract.Face` of the cache codec."""

    people = "KV caches"
    single = "a KV cache"
    reads = frozenset({".safetensors"})
    writes = {".safetensors": "safetensors"}
    chunk_kinds: dict[int, str] = {}
    examples = {
        "Encode": ("codec encode cache.safetensors --model FOLDER",),
        "Decode": ("codec decode cache.rdc --prefix 512 -o cache.safetensors",),
    }
    cuda = False
    Encode, Decode, Verify = EncodeOptions, DecodeOptions, VerifyOptions

    def takes(self, data: bytes | container.FileBytes, suffix: str) -> bool:
        """A safetensors file with keys and values by name, or other tensors of a cache; others are tensor files."""
        return holds_cache(data)

    def encode(self, data: bytes, options: EncodeOptions, desk: Desk) -> Result:
        """A safetensors file with keys and values of shape (kv_heads, n, head_dim) or (1, kv_heads, n, head_dim) for each
        layer and, if there, ``tokens``, the ids, to a cache file.

        Raises:
            ValueError: the file does not hold a cache, or not of these ids; the message says what it holds.
        """
        import numpy as np

        from .codec import Cache, KvCodec
        from .hf.inputs import as_token_ids, held_ids
        from .layout import layout_of
        from .safetensors_file import read_tensors

        settings = kv_settings(options.mode or "quantized", options.quality, whole_bits(options.bits), options.profile)
        layers, held, notices = read_tensors(data, options.keys)
        ids, name = held_or_given_ids(held, options.tokens), bytes(16)
        if options.model:
            from .hf.identity import identity_of

            name, rope = identity_of(options.model, layout_of(layers))
            settings = replace(settings, rope=rope)
        elif MODES[settings.mode].option == "quality":
            notices = [*notices, ROPE_KEPT]
        if ids is None:
            ids = np.zeros(layers[0][0].shape[1], np.int64)
            notices = [*notices, NO_TOKENS]
        codec = KvCodec(settings, name, _salt(options.salt) or b"", options.threads)
        stream = codec.encode(Cache(held_ids(as_token_ids(ids), layers), layers), progress=desk.progress)
        tensors = [x for pair in layers for x in pair]
        rate = 8 * len(stream) / sum(x.numel() for x in tensors)
        facts = {"mode": settings.mode, "bits_per_element": rate, **_shape(layers)}
        facts["raw_bytes"] = sum(x.numel() * x.element_size() for x in tensors)
        return Result(stream, facts, f"{rate:.3f} bits per element", tuple(notices))

    def suffix(self, options: DecodeOptions) -> str:
        """``.safetensors``."""
        return ".safetensors"

    def decode(self, stream: container.Stream, target: Path | None, options: DecodeOptions, desk: Desk) -> Result:
        """A cache file to a safetensors file: ``layers.{i}.k``, ``layers.{i}.v``, ``tokens``.

        Raises:
            ValueError: no such pattern of names.
            BitstreamError: anything wrong with the file, or it is one block of a store (`Unsupported`).
        """
        from .format.blocks import read_block_header
        from .format.sequence import decode_blocks, join_blocks
        from .safetensors_file import KEYS, cache_file, check_pattern

        check_pattern(options.keys or KEYS)
        profile = read_profile(options.profile)
        if _is_block(stream):
            head = read_block_header(stream)
            raise Unsupported(
                f"one block of a store, tokens {head.start} to {head.start + head.count} of a prompt; "
                "`codec kv get STORE --tokens IDS` reads whole caches"
            )
        blocks = decode_blocks(
            stream, prefix=options.prefix, salt=_salt(options.salt), profile=profile, progress=desk.progress,
            threads=options.threads,
        )  # fmt: skip
        tokens, layers = join_blocks(blocks)
        if not layers or not layers[0][1].shape[-1]:
            raise Unsupported("the file holds layer inputs; the model must project keys and values: load_cache in Python")
        data = cache_file(tokens, layers, 0, options.keys, options.batch)
        short = options.prefix is not None and len(tokens) < options.prefix
        notices = (f"it holds {len(tokens)} tokens, fewer than --prefix {options.prefix}",) if short else ()
        facts = _shape(layers)
        width = width_text(facts["key_width"], facts["value_width"])
        line = f"{facts['layers']} layers x {facts['kv_heads']} heads x {facts['tokens']} tokens x {width}"
        return Result(data, facts, line, notices)

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Every symbol of a cache file or of one block of a store; what only the model can decode is named."""
        from .codec import verify_sequence
        from .format.blocks import decode_block

        profile, salt = read_profile(options.profile), _salt(options.salt)
        if _is_block(stream):
            decode_block(stream, salt=salt, profile=profile)
            return []
        return verify_sequence(stream, salt=salt, profile=profile)

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Mode, tokens, bits per element of each layer."""
        return describe_kv(stream)

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returned, for people."""
        return kv_rows(facts)


def _salt(text: str | None) -> bytes | None:
    text = os.environ.get("RDCODEC_SALT") if text is None else text
    return None if text is None else text.encode()


def _is_block(stream: container.Stream) -> bool:
    return stream.signal[:1] == bytes([BLOCK])


def _shape(layers: Any) -> dict[str, int]:
    """Size of a cache, for ``--json``."""
    (heads, count, width), values = layers[0][0].shape, layers[0][1].shape[2]
    return {"layers": len(layers), "kv_heads": heads, "tokens": count, "key_width": width, "value_width": values}


FACE = KvFace()
