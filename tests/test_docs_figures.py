"""Figures in README and docs are those that benchmarks wrote to benchmarks/results."""

from __future__ import annotations

import csv
import math
import re
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
from rdcodec.codecs import weights
from rdcodec.codecs.kv_cache.modes.table import MODES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
SHAPES_8 = "8 x 8 x 1024 x 64", "4 x 8 x 1024 x 128"
LOSSLESS = "lossless", "lossless-1"
LOSSLESS_COLUMNS = "bits_per_element", "encode_mb_s", "decode_mb_s"
FAST = "image-fast-2"
SHAPES = "8 x 2 x 1024 x 64", *SHAPES_8


def page(name: str) -> str:
    return (ROOT / name).read_text()


@cache
def rows(file: str) -> list[dict[str, str]]:
    with (RESULTS / file).open() as text:
        return list(csv.DictReader(text))


def figure(file: str, column: str, *keys: str) -> float:
    """A cell: of the row that begins with these cells."""
    found = [row for row in rows(file) if tuple(row.values())[: len(keys)] == keys]
    assert len(found) == 1, (file, keys, len(found))
    return float(found[0][column])


def bd_rate(reference: str, metric: str = "psnr") -> float:
    return figure("kodak_bd_rate.csv", f"bd_rate_{metric}_percent", reference)


def fewer(baseline: str, mode: str = "quantized") -> float:
    """Per cent of bytes that a mode saves at a baseline's KL."""
    return figure("kv_fidelity_matched.csv", f"{mode}: fewer bytes %", baseline)


def speed(what: str, measure: str) -> float:
    return figure("image_speed.csv", "value", what, measure)


def access(what: str, measure: str) -> float:
    """Of the row of video_access.csv that begins so."""
    (row,) = [row for row in rows("video_access.csv") if row["what"].startswith(what) and row["measure"] == measure]
    return float(row["value"])


def coder(column: str, name: str = "rdcodec") -> float:
    return figure("entropy_coder.csv", column, name)


def small_saves(quality: int) -> tuple[float, float]:
    """Least and most per cent of bytes that quantized-small saves, over the shapes and contexts that were measured."""
    pairs = [
        [
            figure("kv_speed.csv", "bits_per_element", shape, f"{mode} q{quality}")
            for mode in ("quantized", "quantized-small")
        ]
        for shape in SHAPES
    ]
    name = f"q{quality}"
    pairs.append([figure("kv_fidelity.csv", "bits_per_element", f"{m} {name}") for m in ("quantized", "quantized-small")])
    saved = [100 * (1 - small / large) for large, small in pairs]
    return min(saved), max(saved)


def over(column: str, mode: str, shapes: tuple[str, ...]) -> tuple[float, float]:
    """Least and most of a column of kv_speed.csv over shapes and qualities."""
    values = [figure("kv_speed.csv", column, shape, f"{mode} q{quality}") for shape in shapes for quality in (40, 50, 60)]
    return min(values), max(values)


def tens(values: tuple[float, float]) -> tuple[float, float]:
    return 10 * (values[0] // 10), 10 * (values[1] // 10)


def excess_of_token_files() -> float:
    """Per cent that the coded ids are longer than the model's cross-entropy; the worst context, rounded up to a tenth."""
    each = rows("kv_tokens.csv")
    worst = max(float(r["coded_bits_per_token"]) / float(r["cross_entropy_bits_per_token"]) for r in each)
    return math.ceil(1000 * (worst - 1)) / 10


def expectation_saves() -> float:
    """Mean bits per element that the expectation over next tokens saves."""
    tensors = [row for row in rows("kv_predictors.csv") if row["tensor"] in "kv"]
    return sum(float(row["none"]) - float(row["expectation over top 4"]) for row in tensors) / len(tensors)


def bd_between(file: str, key: str, ours: str, reference: str) -> float:
    """BD-rate of one of a file's curves against another, PSNR, per cent."""
    bjontegaard = pytest.importorskip("bjontegaard")
    curve = {
        name: [[float(row[column]) for row in rows(file) if row[key] == name] for column in ("rate_bpp", "psnr_db")]
        for name in (ours, reference)
    }
    return float(bjontegaard.bd_rate(*curve[reference], *curve[ours], method="akima"))


ENTROPY_RATIOS = ("encode_time_over_ours", "decode_time_over_ours")
HYPERPRIOR = "hyperprior encode / rdcodec encode", "hyperprior decode / rdcodec decode"


def times_hyperprior() -> list[float]:
    return [speed(what, "ratio of times") for what in HYPERPRIOR]


def reading(name: str) -> list[float]:
    """Pictures per second of a DataLoader with two workers: whole and crops."""
    whats = [f"DataLoader, 2 workers: {name}, {part}" for part in ("whole", "crops of 128x128")]
    return [figure("datasets.csv", "value", what, "speed") for what in whats]


def matched_tensors(method: str) -> list[float]:
    """Per cent of bits that mode quantized of tensors saves at a quantiser's error and KL."""
    return [figure("tensor_matched.csv", f"fewer_bits_at_{at}_percent", method) for at in ("snr", "kl")]


def over_zipnn(file: str) -> float:
    """Speed of decoding of mode lossless over zipnn's in the same run."""
    return figure(file, "decode_mb_s", "lossless") / figure(file, "decode_mb_s", "zipnn")


CLAIMS = [
    (
        "docs/video.md",
        r"\(250 frames of a pan at quality 50\) go in at ([\d.]+) frames a second and come out at ([\d.]+),",
        lambda: [access(f"{verb} 250 frames of 352x288", "speed") for verb in ("encode", "decode")],
    ),
    (
        "docs/video.md",
        r"1920x1080 is slow: ten frames go in at ([\d.]+) and come out at ([\d.]+) a second",
        lambda: [access(f"{verb} 10 frames of 1920x1080", "speed") for verb in ("encode", "decode")],
    ),
    (
        "docs/video.md",
        r"takes ([\d.]+) s as a whole process with `--threads 2`, .*, and the last frame of a group ([\d.]+) s",
        lambda: [access(f"frame {which}", "whole process") for which in ("1000,", "1023,")],
    ),
    (
        "docs/video.md",
        r"At 1920x1080, encoding and decoding take up to ([\d.]+) GiB of memory",
        lambda: [max(access(f"{verb} 10 frames of 1920x1080", "peak memory") for verb in ("encode", "decode"))],
    ),
    (
        "docs/tensors.md",
        r"int4 in groups of 128 `quantized` takes ([\d.]+) % fewer bits, at its KL ([\d.]+) %; .* ([\d.]+) % and ([\d.]+) %",
        lambda: [*matched_tensors("int4 g128"), *matched_tensors("nf4 g64")],
    ),
    (
        "README.md",
        r"(\d+) % fewer bits than int4 in groups of 128 at equal error, (\d+) % at equal KL",
        lambda: matched_tensors("int4 g128"),
    ),
    (
        "docs/tensors.md",
        r"the KL of int4 ([\d.]+) % fewer bits instead of ([\d.]+) %, at that of NF4 ([\d.]+) % instead of ([\d.]+) %",
        lambda: [
            figure(file, column, method)
            for method in ("int4 g128", "nf4 g64")
            for file, column in (
                ("tensor_activations_matched.csv", "fewer_bits_at_kl_by_activations_percent"),
                ("tensor_matched.csv", "fewer_bits_at_kl_percent"),
            )
        ],
    ),
    (
        "docs/tensors.md",
        r"takes ([\d.]+) % fewer bits than int4 at its KL and ([\d.]+) % fewer than NF4",
        lambda: [
            figure("tensor_matched.csv", "fewer_bits_at_kl_by_channel_percent", name) for name in ("int4 g128", "nf4 g64")
        ],
    ),
    (
        "docs/tensors.md",
        r"With `--steps channel` as well it is ([\d.]+) % and ([\d.]+) %",
        lambda: [
            figure("tensor_activations_matched.csv", "fewer_bits_at_kl_by_both_percent", name)
            for name in ("int4 g128", "nf4 g64")
        ],
    ),
    (
        "docs/tensors.md",
        r"does ([\d.]+) of its MB/s on the Llama, .*? small, ([\d.]+) on the sentence encoder in bf16 "
        r"\(45 MB, ([\d.]+) % of raw against ([\d.]+) %\), and ([\d.]+) in fp32",
        lambda: [
            over_zipnn("tensor_points.csv"),
            over_zipnn("tensor_bf16_points.csv"),
            *(figure("tensor_bf16_points.csv", "percent_of_raw", name) for name in ("lossless", "zipnn")),
            over_zipnn("tensor_fp32_points.csv"),
        ],
    ),
    (
        "docs/tensors.md",
        r"half of the numbers move by (\d+) units or more in ten steps, and by (\d+) in a hundred",
        lambda: [figure("tensors_delta.csv", "median_change_units", "float32", f"0 to {steps}") for steps in (10, 100)],
    ),
    (
        "docs/tensors.md",
        r"Text bits are ([\d.]+) per token, log2 of the FLOPs ([\d.]+):",
        lambda: [figure("capacity.csv", column, "as they are") for column in ("text_bits_per_token", "log2_flops")],
    ),
    (
        "docs/tensors.md",
        r"in fp32 `lossless` takes ([\d.]+) % of raw, zipnn ([\d.]+) %, zstd ([\d.]+) %",
        lambda: [
            figure("tensor_fp32_points.csv", "percent_of_raw", name, setting)
            for name, setting in (("lossless", "0"), ("zipnn", "0"), ("zstd", "3"))
        ],
    ),
    (
        "docs/tensors.md",
        r"it takes ([\d.]+) % in E4M3 and ([\d.]+) % in E5M2, as zstd does",
        lambda: [figure("tensors_fp8.csv", "lossless_percent", name) for name in ("float8_e4m3fn", "float8_e5m2")],
    ),
    (
        "docs/tensors.md",
        r"takes (\d+) MB to encode and (\d+) MB to decode, and one of 0.5 MB (\d+) MB",
        lambda: [figure("tensors_large.csv", "memory_mb", name) for name in ("encode", "decode", "encode 0.5 MB")],
    ),
    (
        "docs/datasets.md",
        r"killed ten times with all its processes, after (\d+) to (\d+) files, left (\d+) and none that differs",
        lambda: [
            figure("datasets_kills.csv", "value", "killed runs", what)
            for what in ("files after kill 1", "files after kill 10", "files at the end")
        ],
    ),
    (
        "docs/datasets.md",
        r"`-j 2` does ([\d.]+) pictures a second, no option ([\d.]+), `-j 0` ([\d.]+), and `-j 0 --threads 2` ([\d.]+)\.",
        lambda: [
            figure("datasets.csv", "value", f"encode {how}", "speed")
            for how in ("-j 2", "without -j", "-j 0", "-j 0 --threads 2")
        ],
    ),
    (
        "docs/datasets.md",
        r"quality 60, (\d+) bytes on average \| ([\d.]+) \| ([\d.]+)",
        lambda: [figure("datasets.csv", "value", "rdc at quality 60", "mean size"), *reading("rdc")],
    ),
    (
        "docs/datasets.md",
        r"through Pillow, (\d+) bytes on average \| ([\d.]+) \| ([\d.]+)",
        lambda: [figure("datasets.csv", "value", "JPEG at quality 90", "mean size"), *reading("JPEG through Pillow")],
    ),
    (
        "docs/datasets.md",
        r"same through torchvision \| ([\d.]+) \| ([\d.]+)",
        lambda: reading("JPEG through torchvision"),
    ),
    ("README.md", r"takes (\d+) % fewer bytes than as JPEG", lambda: [-bd_rate("jpeg")]),
    ("README.md", r"and (\d+) % fewer than as WebP", lambda: [-bd_rate("webp")]),
    (
        "README.md",
        r"(-[\d.]+) % of rate against JPEG, (-[\d.]+) % against WebP, (-[\d.]+) % against AVIF",
        lambda: [bd_rate("jpeg"), bd_rate("webp"), bd_rate("avif")],
    ),
    ("README.md", r"\+([\d.]+) % against VTM", lambda: [bd_rate("vtm")]),
    (
        "README.md",
        r"([\d.]+) times smaller than bf16 at a KL of ([\d.]+) bits, (\d+) of 64 greedy tokens alike; "
        r"([\d.]+) times without loss",
        lambda: [
            figure("kv_fidelity.csv", "ratio", "quantized q60"),
            figure("kv_fidelity.csv", "kl_mean", "quantized q60"),
            figure("kv_fidelity.csv", "greedy_first_divergence", "quantized q60"),
            figure("kv_fidelity.csv", "ratio", "lossless"),
        ],
    ),
    (
        "README.md",
        r"([\d.]+) to ([\d.]+) % fewer bytes than lossy WebP on ten screenshots",
        lambda: sorted(-float(row["at_equal_psnr_percent"]) for row in rows("drawn.csv"))[:: len(rows("drawn.csv")) - 1],
    ),
    ("README.md", r"encoding is ([\d.]+) times and decoding ([\d.]+) times as fast", times_hyperprior),
    ("docs/image.md", r"encoding is ([\d.]+) times as fast, decoding ([\d.]+) times", times_hyperprior),
    (
        "docs/image.md",
        r"at quality 100 Kodak comes back at ([\d.]+) dB",
        lambda: [figure("kodak_means.csv", "psnr_db", "rdcodec", "100")],
    ),
    (
        "docs/image.md",
        r"equal MS-SSIM is (-[\d.]+) % against JPEG, (-[\d.]+) % against WebP and (-[\d.]+) % against AVIF",
        lambda: [figure("kodak_eyes_bd_rate.csv", "bd_rate_ms_ssim_percent", name) for name in ("jpeg", "webp", "avif")],
    ),
    (
        "docs/image.md",
        r"equal PSNR it is (-[\d.]+) %, (-[\d.]+) % and (-[\d.]+) %",
        lambda: [figure("kodak_eyes_bd_rate.csv", "bd_rate_psnr_percent", name) for name in ("jpeg", "webp", "avif")],
    ),
    (
        "docs/image.md",
        r"`--effort 5` its rate at equal MS-SSIM is (-[\d.]+) % against AVIF, at equal PSNR (-[\d.]+) %",
        lambda: [figure("kodak_eyes_effort_bd_rate.csv", f"bd_rate_{of}_percent", "avif") for of in ("ms_ssim", "psnr")],
    ),
    (
        "docs/image.md",
        r"768x512 ([\d.]+) times as fast, encodes it ([\d.]+) times as fast",
        lambda: [
            figure("models.csv", f"{way}_s", "image-10") / figure("models.csv", f"{way}_s", FAST)
            for way in ("decode", "encode")
        ],
    ),
    (
        "docs/image.md",
        r"needs ([\d.]+) % more bytes at equal PSNR, ([\d.]+) % more at equal MS-SSIM",
        lambda: [figure("models.csv", f"bd_rate_{metric}_percent", FAST) for metric in ("psnr", "ms_ssim")],
    ),
    (
        "docs/image.md",
        r"worth ([\d.]+) % of rate",
        lambda: [-bd_between("correction.csv", "codec", "rdcodec", "uncorrected")],
    ),
    (
        "docs/benchmarks.md",
        r"result is ([\d.]+) % of rate at equal PSNR",
        lambda: [-bd_between("correction.csv", "codec", "rdcodec", "uncorrected")],
    ),
    (
        "docs/benchmarks.md",
        r"result is ([\d.]+) % of rate\.",
        lambda: [bd_between("level_branch.csv", "level_branch", "integer", "float")],
    ),
    (
        "docs/architecture.md",
        r"integers is ([\d.]+) % of rate",
        lambda: [bd_between("level_branch.csv", "level_branch", "integer", "float")],
    ),
    (
        "docs/architecture.md",
        r"take ([\d.]+) ns each to encode and ([\d.]+) ns to decode, "
        r"([\d.]+) and ([\d.]+) times as fast as CompressAI's coder, ([\d.]+) % over",
        lambda: [
            coder("encode_ns_per_symbol"),
            coder("decode_ns_per_symbol"),
            *(coder(column, "CompressAI") for column in ENTROPY_RATIOS),
            100 * (coder("bits_per_symbol") / coder("ideal_bits_per_symbol") - 1),
        ],
    ),
    ("docs/architecture.md", r"answer in ([\d.]+) s", lambda: [speed("codec info, 768x512", "whole process")]),
    (
        "docs/kv-cache.md",
        r"keeps ([\d.]+) of 64 tokens at `predictive` q40, and ([\d.]+) at `quantized` q20",
        lambda: [figure("kv_fidelity.csv", "greedy_first_divergence", name) for name in ("predictive q40", "quantized q20")],
    ),
    (
        "docs/kv-cache.md",
        r"([\d.]+) bits at (\d+) and (\d+) MB/s, where `zstd -3` takes ([\d.]+) at (\d+) and (\d+), "
        r"and `zstd -1` on the byte planes of the whole cache, without blocks, ([\d.]+) at (\d+) and (\d+)\. "
        r"With 2 KV heads (\d+) and (\d+) MB/s",
        lambda: [
            *(
                figure("kv_lossless.csv", column, SHAPES_8[0], mode)
                for mode in ("lossless", "zstd -3", "zstd -1, byte planes")
                for column in LOSSLESS_COLUMNS
            ),
            *(figure("kv_lossless.csv", column, SHAPES[0], "lossless") for column in LOSSLESS_COLUMNS[1:]),
        ],
    ),
    (
        "docs/kv-cache.md",
        r"One core decodes ([\d.]+) thousand tokens a second",
        lambda: [1e3 * figure("kv_speed.csv", "decode_mb_s", SHAPES_8[1], "quantized q60") / (32 * 2 * 8 * 128 * 2)],
    ),
    (
        "docs/kv-cache.md",
        r"published 4 and 3 bits it needs (\d+) and (\d+) % fewer",
        lambda: [fewer("turboquant 4 bit"), fewer("turboquant 3 bit")],
    ),
    (
        "docs/kv-cache.md",
        r"4 bits: (\d+) % fewer than hqq, (\d+) % fewer than quanto; against int4 in groups of 64, (\d+) % fewer",
        lambda: [fewer("hqq 4 bit"), fewer("quanto 4 bit"), fewer("int4 group 64")],
    ),
    (
        "docs/kv-cache.md",
        r"hqq's KL is ([\d.]+), (\d+) % fewer",
        lambda: [figure("kv_fidelity.csv", "kl_mean", "hqq 2 bit"), fewer("hqq 2 bit")],
    ),
    (
        "docs/kv-cache.md",
        r"([\d.]+) to ([\d.]+) % fewer at quality 60, ([\d.]+) to ([\d.]+) % at quality 50, (\d+) to (\d+) % at quality 40",
        lambda: [*small_saves(60), *small_saves(50), *small_saves(40)],
    ),
    (
        "docs/kv-cache.md",
        r"Below some (\d+) MB/s",
        lambda: [figure("kv_speed.csv", "break_even_mb_s", SHAPES_8[0], "quantized q50") // 100 * 100],
    ),
    (
        "docs/kv-cache.md",
        r"share is larger: (\d+) MB/s",
        lambda: [over("break_even_mb_s", "quantized", SHAPES[:1])[0] // 100 * 100],
    ),
    (
        "docs/kv-cache.md",
        r"pays below (\d+) to (\d+) MB/s, and (\d+) to (\d+)",
        lambda: [
            *tens(over("break_even_mb_s", "quantized-small", SHAPES_8)),
            *tens(over("break_even_mb_s", "quantized-small", SHAPES[:1])),
        ],
    ),
    (
        "docs/kv-cache.md",
        r"takes `quantized` ([\d.]+) to ([\d.]+) ns with 8 KV heads, and `quantized-small` (\d+) to (\d+)",
        lambda: [
            *over("decode_ns_per_saved_byte", "quantized", SHAPES_8),
            *over("decode_ns_per_saved_byte", "quantized-small", SHAPES_8),
        ],
    ),
    (
        "docs/kv-cache.md",
        r"raw bytes takes ([\d.]+)\.",
        lambda: [figure("kv_speed.csv", "decode_ns_per_saved_byte", SHAPES_8[0], "zstd -3")],
    ),
    ("docs/kv-cache.md", r"within ([\d.]+) % of the model's cross-entropy", lambda: [excess_of_token_files()]),
    (
        "docs/kv-cache.md",
        r"language tries, ([\d.]+) bits per element",
        lambda: [figure("kv_predictors_bound.csv", "bound_bits_per_element")],
    ),
    ("docs/kv-cache.md", r"saves ([\d.]+) bits per\selement", lambda: [expectation_saves()]),
    (
        "docs/kv-cache.md",
        r"takes ([\d.]+) s a prompt",
        lambda: [figure("kv_predictors_bound.csv", "expectation_s_per_context")],
    ),
    (
        "docs/kv-cache.md",
        r"([\d.]+) against ([\d.]+) bits per element, with random weights",
        lambda: [figure("kv_shapes.csv", "bits_per_element", f"MHA: {mode} q60") for mode in ("residual", "quantized")],
    ),
    (
        "docs/kv-store.md",
        r"sharing saves (\d+) % of the bytes",
        lambda: [100 * figure("kv_store_sharing.csv", "saved_by_sharing", "quantized")],
    ),
    (
        "docs/kv-store.md",
        r"(\d+) % of the tokens of each turn",
        lambda: [100 * figure("kv_store_sharing.csv", "hit_rate_turns", "quantized")],
    ),
    ("docs/kv-store.md", r"one system prompt, (\d+) turns", lambda: [figure("kv_store_sharing.csv", "turns", "quantized")]),
]
"""A page, a sentence of it with figures as groups, and the measured values of these."""


def shown(value: float, like: str) -> str:
    """A value with as many decimals as the page shows."""
    return f"{value:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize(("name", "pattern", "measured"), CLAIMS, ids=[f"{name}: {text[:30]}" for name, text, _ in CLAIMS])
def test_figures_in_sentences_are_those_of_the_csv(name, pattern, measured):
    match = re.search(pattern.replace(" ", r"\s+"), page(name))
    assert match, f"{name} has no such sentence any more; take it out of CLAIMS"
    values = measured()
    assert [shown(value, like) for value, like in zip(values, match.groups(), strict=True)] == list(match.groups())


def table(name: str, head: str) -> dict[str, list[str]]:
    """Cells of the table that begins so, by their row's first, without backquotes and remarks in brackets."""
    text = page(name)
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.sub(r"`| \(.*\)", "", first): rest for first, *rest in cells}


def test_bd_rates():
    listed = table("docs/image.md", "| against |")
    assert set(listed) == {next(iter(row.values())) for row in rows("kodak_bd_rate.csv")}
    for name, cells in listed.items():
        for cell, metric in zip(cells, ("psnr", "ms_ssim"), strict=True):
            figures = cell.removesuffix(" %")
            assert figures == f"{bd_rate(name, metric):+.1f}", (name, metric)


def same_as_csv(listed: dict[str, list[str]], csv: str, columns: tuple[str, ...], codec: str | None = None) -> None:
    """Cells of a table are those of a CSV: of one codec by its settings, or, without one, by codec and setting."""
    for name, cells in listed.items():
        row = (codec, name) if codec else name.split()
        for cell, column in zip(cells, columns, strict=True):
            assert cell == shown(figure(csv, column, *row), cell), (name, column)


REFINED = "rdcodec effort 9"
SPEECH_COLUMNS = "rate_kbps", "pesq_wb", "stoi", "estoi", "visqol_lattice", "visqol_polynomial"
VIDEO_COLUMNS = "rate_bpp", "psnr_rgb_db", "psnr_yuv_db", "ms_ssim", "flicker"


def test_speech():
    for codec, head in (("rdcodec", "| quality | kbit/s |"), (REFINED, "| quality at effort 9 | kbit/s |")):
        listed = table("docs/speech.md", head)
        assert len(listed) == len([row for row in rows("speech_means.csv") if row["codec"] == codec]) >= 6
        same_as_csv(listed, "speech_means.csv", (*SPEECH_COLUMNS, "level_error_db"), codec)
    columns = [f"bd_rate_{name}_percent" for name in ("pesq_wb", "stoi", "visqol_lattice")]
    listed = table("docs/speech.md", "| against Opus, 60 ms |")
    for first, file in (("effort 0", "speech_bd_rate.csv"), ("effort 9", "speech_effort_bd_rate.csv")):
        (against,) = [row for row in rows(file) if row["anchor"] == "opus"]
        assert listed[first] == [f"{float(against[column]):+.0f} %" for column in columns]
        assert f"{listed[first][0]} of rate against Opus at equal PESQ" in page("README.md")
    best = [f"{figure('speech_means.csv', c, REFINED, '30'):.{n}f}" for c, n in (("pesq_wb", 2), ("stoi", 3))]
    opus = [f"{figure('speech_anchors_means.csv', c, 'opus', '6'):.{n}f}" for c, n in (("pesq_wb", 2), ("stoi", 3))]
    rates = [f"{figure('speech_means.csv', 'rate_kbps', REFINED, '30'):.1f}"]
    rates += [f"{figure('speech_anchors_means.csv', 'rate_kbps', 'opus', '6'):.1f}"]
    ahead = f"at {rates[0]} kbit/s a PESQ of {best[0]} and a STOI of {best[1]}"
    assert f"{ahead}, where Opus has {opus[0]} and {opus[1]} at {rates[1]}" in page("README.md")


@pytest.mark.parametrize(
    ("codec", "first"), [("opus", "asked for, kbit/s"), ("opus20", "20 ms, kbit/s"), ("codec2", "mode, bit/s")]
)
def test_speech_anchors(codec, first):
    listed = table("docs/speech.md", f"| {first} |")
    assert len(listed) == len([row for row in rows("speech_anchors_means.csv") if row["codec"] == codec]) >= 6
    same_as_csv(listed, "speech_anchors_means.csv", SPEECH_COLUMNS, codec)


def test_speech_cost():
    listed, measured = table("docs/speech.md", "| | processor, s |"), rows("speech_cost.csv")
    assert set(listed) == {f"{row['command']} {row['sound_s']} s" for row in measured}
    for row in measured:
        cells = listed[f"{row['command']} {row['sound_s']} s"]
        found = [float(row[column]) for column in ("processor_s", "wall_s", "peak_mib")]
        assert cells == [shown(value, cell) for value, cell in zip(found, cells, strict=True)], row
    share = sum(float(row["processor_s"]) for row in measured if row["sound_s"] == "3600") / 3600
    assert f"both ways together take {share:.3f} of its time" in page("docs/speech.md")


def test_speech_parts():
    listed, measured = table("docs/speech.md", "| without |"), rows("speech_parts.csv")
    assert set(listed) == {row["part"] for row in measured}
    for part, cells in listed.items():
        found = [float(row["bd_rate_percent"]) for row in measured if row["part"] == part]
        assert cells == [shown(value, cell) for value, cell in zip(found, cells, strict=True)], part


def test_video():
    listed = table("docs/video.md", "| quality | bpp |")
    assert len(listed) == len([row for row in rows("video_means.csv") if row["codec"] == "rdcodec"]) >= 4
    same_as_csv(listed, "video_means.csv", VIDEO_COLUMNS, "rdcodec")
    (against,) = [r for r in rows("video_bd_rate.csv") if (r["anchor"], r["clip"]) == ("x265-veryfast-g12", "all")]
    for name, where in (("psnr_rgb", ("README.md", "docs/video.md")), ("ms_ssim", ("docs/video.md",))):
        more = f"{float(against[f'bd_rate_{name}_percent']):.0f} %"
        assert all(more in " ".join(page(path).split()) for path in where), (name, more)


def test_video_effort_and_frames_on_their_own():
    def rates(name: str, anchor: str) -> list[float]:
        (row,) = [r for r in rows(name) if (r["anchor"], r["clip"]) == (anchor, "all")]
        return [float(row[f"bd_rate_{metric}_percent"]) for metric in ("psnr_rgb", "ms_ssim")]

    text = " ".join(page("docs/video.md").split())
    effort = rates("video_effort_bd_rate.csv", "rdcodec")
    assert "effort 3 takes {:+.1f} % of rate at equal PSNR and {:+.1f} % at equal MS-SSIM".format(*effort) in text
    against = rates("video_effort_bd_rate.csv", "x265-veryfast-g12")
    assert "{:.0f} % and {:.0f} % with [`--effort 3`]".format(*against) in text
    alone = rates("video_bd_rate.csv", "every frame on its own")
    assert "take {:+.1f} % of bytes at equal PSNR, {:+.1f} % at equal MS-SSIM".format(*alone) in text
    means = {codec: [r for r in rows("video_means.csv") if r["codec"] == codec] for codec in ("rdcodec", "rdcodec effort 3")}
    plain, refined = (sum(float(r["encode_s"]) for r in found) for found in means.values())
    assert f"and {refined / plain:.1f} times the CPU time of encoding" in text


def test_image_architectures():
    """Rates of the lowest and the highest quality, BD-rates against the first, multiplications, seconds."""
    listed, measured = table("docs/image.md", "| | steps | bpp |"), rows("image_architectures.csv")
    points = rows("image_architectures_points.csv")
    assert list(listed) == [row["architecture"] for row in measured]
    for row, cells in zip(measured, listed.values(), strict=True):
        steps, *ranges, psnr, ms_ssim, encode, decode, encode_s, decode_s = cells
        assert [steps, encode, decode] == [row["steps"], row["encode_kmac_per_pixel"], row["decode_kmac_per_pixel"]]
        for cell, column in zip(ranges, ("rate_bpp", "psnr_db"), strict=True):
            own = [p for p in points if p["codec"] == row["architecture"]]
            means = [fmean(float(p[column]) for p in own if p["quality"] == q) for q in ("10", "90")]
            assert cell.split(" to ") == [shown(value, like) for value, like in zip(means, cell.split(" to "), strict=True)]
        for cell, metric in ((psnr, "psnr"), (ms_ssim, "ms_ssim")):
            percent = float(row[f"bd_rate_{metric}_percent"])
            assert cell == ("do not meet" if math.isnan(percent) else f"{percent:+.0f} %" if percent else "")
        for cell, way in ((encode_s, "encode"), (decode_s, "decode")):
            assert cell == f"{float(row[f'{way}_s']):.2f}"
    rate = {row["architecture"]: float(row["bd_rate_ms_ssim_percent"]) for row in measured}
    told = f"(+{rate['ours, steps of s2lic']:.0f} % at equal MS-SSIM, not +{rate['s2lic']:.0f} %)"
    assert told in page("docs/image.md")
    more = figure("image_architectures.csv", "bd_rate_psnr_percent", "our transforms, s2lic's context")
    assert f"its context takes {more:.0f} % more than ours" in page("docs/image.md")


def test_sizes_of_architectures():
    listed, measured = table("docs/image.md", "| untrained | parameters |"), rows("image_architecture_sizes.csv")
    assert list(listed) == [row["architecture"] for row in measured]
    for row, (parameters, *cells) in zip(measured, listed.values(), strict=True):
        assert parameters == f"{int(row['parameters']) / 1e6:.1f} million"
        parts = "analysis", "coding_pass", "synthesis"
        seconds = [f"{float(row[f'{part}_s']):.2f}" for part in parts]
        assert cells == [row[f"{part}_kmac_per_pixel"] for part in parts] + seconds


def test_what_effort_takes():
    (cells,) = table("docs/image.md", "| effort | 0 | 1 |").values()
    assert cells == [f"{float(row['encode_s_per_megapixel']):.0f}" for row in rows("effort_times.csv")]


def test_students():
    """Rows of the table are those of the file, in its order, after the teacher's."""
    text = page("docs/training.md")
    lines = text[text.index("| starts as |") :].split("\n\n")[0].splitlines()[2:]
    measured = rows("students.csv")[1:]
    assert len(lines) == len(measured)
    for line, row in zip(lines, measured, strict=True):
        told = [f"{float(row[f'bd_rate_{metric}_percent']):+.1f} %" for metric in ("psnr", "ms_ssim")]
        assert [cell.strip() for cell in line.strip("|").split("|")][2:] == told


def test_pages_with_noise():
    listed, measured = table("docs/image.md", "| page with noise, 640x400 |"), rows("drawn_noise.csv")
    assert list(listed) == list(dict.fromkeys(row["file"].removesuffix(".png").replace("_", " ") for row in measured))
    for page_name, cells in listed.items():
        own = [row for row in measured if row["file"].removesuffix(".png").replace("_", " ") == page_name]
        assert cells == [f"{float(row['at_equal_psnr_percent']):+.1f} %" for row in own]
        assert [row["part"] for row in own] == ["jpeg", "scan", "uneven light"]
        assert min(int(row["lossy_points"]) for row in own) >= 6
    worst = max(float(row["at_equal_psnr_percent"]) for row in measured)
    assert f"at most {worst:.1f} % more than lossy WebP" in page("README.md")


def test_seams():
    """The table has means over pictures of a kind."""
    measured = rows("seams.csv")
    for kind, cells in table("docs/image.md", "| smooth pictures |").items():
        own = [row for row in measured if row["picture"].startswith("kodim") == (kind == "enlarged skies")]
        columns = "line_border_levels", "line_within_levels", "step_border_levels", "step_within_levels"
        assert cells == [f"{fmean(float(row[column]) for row in own):.1f}" for column in columns]


def test_screenshots():
    listed, measured = table("docs/image.md", "| screenshot, 1280x800 |"), rows("drawn.csv")
    assert len(measured) == 10 and list(listed) == [row["file"].removesuffix(".png").replace("_", " ") for row in measured]
    for row, (lossy, exact) in zip(measured, listed.values(), strict=True):
        assert row["lossy_points"] == "9" and lossy == f"{float(row['at_equal_psnr_percent']):+.0f} %"
        assert exact == (f"{float(row['exact_percent']):+.1f} %" if row["exact_percent"] else "")


def test_video_parts():
    """Rows of the table are parts of the file, in another order; columns are its clips."""
    names = {
        "copies of blocks": "no copies", "motion": "no motion", "fusion": "no fusion",
        "pyramids: frames as shown": "frames as shown, without pyramids",
        "a better first frame": "first frames at the quality of the rest",
        "symbols and levels of the nearest reference": "no symbols and levels of the nearest reference",
        "its latent, beside the moved one": "no latent of the nearest reference, but the moved one",
        "hyper-latents": "no hyper-latents", "frames on their own after the first": "no frame on its own but the first",
        "all of it: every frame on its own": "every frame on its own",
    }  # fmt: skip
    listed, measured = table("docs/video.md", "| without |"), rows("video_parts.csv")
    assert {names[part] for part in listed} == {row["part"] for row in measured}
    for part, cells in listed.items():
        found = [float(row["bd_rate_percent"]) for row in measured if row["part"] == names[part]]
        assert [float(cell) for cell in cells] == pytest.approx(found, abs=0.051), part


def test_video_anchors():
    listed = table("docs/video.md", "| reference and its factor |")
    assert len(listed) == len(rows("video_anchors_means.csv")) >= 20
    same_as_csv(listed, "video_anchors_means.csv", VIDEO_COLUMNS)


def test_speed_of_whole_processes():
    listed = table("docs/image.md", "| as a whole process")
    assert len(listed) == 5
    for name, (time, memory) in listed.items():
        assert time == f"{speed(name, 'whole process'):.1f} s", name
        assert memory == f"{speed(name, 'peak memory'):.2f} GiB", name


def test_speed_of_the_coder():
    listed = table("docs/benchmarks.md", "| coder |")
    assert len(listed) == len(rows("entropy_coder.csv"))
    for name, cells in listed.items():
        for cell, column in zip(cells, ("encode_ns_per_symbol", "decode_ns_per_symbol"), strict=True):
            assert cell == shown(coder(column, name), cell), (name, column)


def test_eviction():
    for name, share in ("a quarter", "0.25"), ("half", "0.5"):
        cells = table("docs/kv-store.md", "| room for |")[name]
        for cell, policy in zip(cells, ("worth", "lru", "clairvoyant"), strict=True):
            number = cell.removesuffix(" %")
            assert number == shown(100 * figure("kv_store_eviction.csv", "block_hit_rate", policy, share), number), (
                name,
                policy,
            )


def modes() -> dict[str, list[str]]:
    return table("docs/kv-cache.md", "| mode | what |")


def test_every_cache_mode_has_a_row():
    assert {name.split()[0].rstrip(",") for name in modes()} >= set(MODES)


def test_cache_modes():
    measured = {row["name"]: row for row in rows("kv_fidelity.csv")}
    checked = 0
    for name, (_, *cells) in modes().items():
        row = measured.get(re.sub(r"^(quantized-small) (q\d+), calibrated", r"\1, calibrated \2", name))
        if row is None:
            continue
        checked += 1
        columns = "bits_per_element", "ratio", "kl_mean", "kl_p99", "top1_agreement", "attention_error"
        for cell, column, scale in zip(cells, columns, (1, 1, 1, 1, 100, 100), strict=False):
            number = cell.removesuffix(" %")
            assert number == shown(float(row[column]) * scale, number), (name, column)
        first = int(float(row["greedy_first_divergence"]) + 0.5), round(float(row["greedy_first_divergence"]))
        assert cells[6] in {f"{count} of 64" for count in first}, name
    assert checked >= 12


SCALE = {
    "open with 100,000 blocks, and look up": ("blocks", "100000", "open and look up"),
    "get of 2,048 tokens in 8 of them": ("blocks", "100000", "get of 2,048 tokens"),
    "memory that both take": ("blocks", "100000", "memory that opening and reading take"),
    "longest_prefix of 1,000,000 tokens": ("prompt of tokens", "1000000", "longest_prefix"),
    "put of 1,000,000 tokens": ("prompt of tokens", "1000000", "put"),
    "open with 100,000 blocks in Redis, and look up": ("blocks in Redis", "100000", "open and look up"),
    "get of 2,048 tokens in Redis": ("blocks in Redis", "100000", "get of 2,048 tokens"),
    "open with 100,000 blocks in file://, and look up": ("blocks in file://", "100000", "open and look up"),
    "get of 2,048 tokens in file://": ("blocks in file://", "100000", "get of 2,048 tokens"),
    "memory that both take in file://": ("blocks in file://", "100000", "memory that opening and reading take"),
    "files of use after 1,000 sessions": ("sessions", "1000", "usage files"),
    "codec kv ls of one tenant": ("tenants of 10 blocks", "1", "codec kv ls, CPU time"),
    "codec kv ls of 200 tenants": ("tenants of 10 blocks", "200", "codec kv ls, CPU time"),
}


def test_a_large_store():
    listed = table("docs/kv-store.md", "| what | figure |")
    assert listed.keys() == SCALE.keys()
    for name, (cell,) in listed.items():
        number, _, unit = cell.partition(" ")
        value = figure("kv_store_scale.csv", "value", *SCALE[name]) / (1000 if unit == "s" else 1)
        assert number == shown(value, number), name
    for where in ("blocks", "blocks in Redis", "blocks in file://"):
        opened, got, memory = (
            figure("kv_store_scale.csv", "value", where, "100000", name)
            for name in ("open and look up", "get of 2,048 tokens", "memory that opening and reading take")
        )
        assert opened < 300 and got < 10 and memory < 100, f"what the store promises of {where}"


TENSOR_METHODS = {"zstd -3": "zstd", "int4": "int4 g128", "NF4": "nf4 g64"}
TENSOR_COLUMNS = "bits_per_weight", "percent_of_raw", "snr_db", "kl_bits", "perplexity"


def test_modes_of_tensors():
    listed = table("docs/tensors.md", "| stored as |")
    assert {name.split()[0] for name in listed} >= {"lossless", "quantized", "nested", "zipnn"} and len(listed) >= 10
    for name, cells in listed.items():
        mode, _, quality = name.partition(" q")
        keys = (TENSOR_METHODS.get(mode, mode), quality) if quality else (TENSOR_METHODS.get(mode, mode),)
        row = [row for row in rows("tensor_points.csv") if tuple(row.values())[: len(keys)] == keys]
        assert len(row) == 1, name
        for cell, column in zip(cells, TENSOR_COLUMNS, strict=False):
            number = cell.removesuffix(" %")
            assert number == ("exact" if row[0][column] == "inf" else shown(float(row[0][column]), number)), (name, column)
        assert cells[-1] == f"{float(row[0]['encode_mb_s']):.0f}, {float(row[0]['decode_mb_s']):.0f}", name


def test_capacity():
    listed = table("docs/tensors.md", "| weights | bits per weight |")
    found = {"as they are": "as they are"} | {f"quantized, {bits} bits": f"llama-{bits}.rdc" for bits in (4, 3, 2)}
    assert listed.keys() == found.keys() and len(rows("capacity.csv")) == 4
    columns = "bits_per_weight", "entropy_bits_per_token", "coded_bits_per_token", "coded_entropy_bits_per_token"
    for name, cells in listed.items():
        for cell, column in zip(cells, (*columns, "capacity", "capacity_without_bias"), strict=True):
            assert cell == shown(figure("capacity.csv", column, found[name]), cell), (name, column)


def test_deltas_of_tensors():
    text = page("docs/tensors.md")
    for row in rows("tensors_delta.csv"):
        cells = [f"{float(row[name]):.1f} %" for name in ("lossless_percent", "delta_percent")]
        cells = [row["weights"], row["steps"], *cells, f"{float(row['delta_over_lossless']):.2f}"]
        cells.append(f"{float(row['entropy_percent']):.1f} %")
        assert f"| {' | '.join(cells)} |" in text


def test_speed_of_cache_modes():
    checked = 0
    for name, (*_, cell) in modes().items():
        if cell:
            checked += 1
            row = re.sub(r" 4 bit$", "", name)
            file = "kv_lossless.csv" if name.startswith("lossless") else "kv_speed.csv"
            each = [figure(file, f"{way}_mb_s", SHAPES_8[0], row) for way in ("encode", "decode")]
            assert cell == f"{each[0]:.0f}, {each[1]:.0f}", name
    assert checked >= 8


def test_a_mode_has_the_same_size_in_both_tables_of_speed():
    for row in rows("kv_speed.csv"):
        if row["mode"] in LOSSLESS:
            size = figure("kv_lossless.csv", "bits_per_element", row["shape"], row["mode"])
            assert float(row["bits_per_element"]) == size, row


def test_lossless_is_as_fast_and_small_as_promised():
    for shape in SHAPES_8:
        now, before = ([figure("kv_lossless.csv", c, shape, mode) for c in LOSSLESS_COLUMNS] for mode in LOSSLESS)
        assert now[0] <= 1.03 * before[0] and min(now[1:]) >= 300, shape


def test_ratios_of_token_files():
    ratios = sorted(float(row["ratio_to_bf16"]) for row in rows("kv_tokens.csv"))
    _, bits, ratio, *_ = modes()["tokens"]
    assert bits == f"{16 / ratios[-1]:.4f} to {16 / ratios[0]:.4f}"
    assert ratio == f"{round(ratios[0], -2):,.0f} to {round(ratios[-1], -2):,.0f}"


def test_the_manifest_says_what_the_default_model_measured():
    measured = weights.line_named("image").measured["kodak_bd_rate_psnr_percent"]
    assert measured == {name: bd_rate(name) for name in ("jpeg", "webp", "avif")}


def test_training_data_is_what_the_manifest_says():
    text, line = page("docs/training.md"), weights.line_named("image")
    count, share = re.search(r"\| ([\d,]+) photographs: (\d+) % CC BY-SA", text).groups()
    assert line.data.startswith(f"{count} photographs") and f"({share} % CC BY-SA" in line.data


def test_effort_against_others():
    listed = table("docs/image.md", "| effort 9 against |")
    measured = {row["anchor"]: row for row in rows("effort_bd_rate.csv") if row["setting"] == "effort 9"}
    assert listed.keys() == measured.keys() and len(listed) >= 9
    for anchor, cells in listed.items():
        found = [float(measured[anchor][f"bd_rate_{metric}_percent"]) for metric in ("psnr", "ms_ssim")]
        assert cells == [f"{value:+.1f} %" for value in found], anchor
    best = [float(measured[anchor]["bd_rate_psnr_percent"]) for anchor in ("jpeg", "webp", "avif")]
    assert "with `--effort 9` {:.1f}, {:.1f} and {:.1f} %".format(*best) in page("README.md")


def test_what_effort_is_worth():
    def rates(effort: str) -> list[float]:
        return [figure("effort.csv", f"bd_rate_{metric}_percent", effort) for metric in ("psnr", "ms_ssim")]

    images = {figure("effort.csv", "images", effort) for effort in ("effort 5", "effort 9")}
    psnr, ms_ssim = rates("effort 5")
    text = f"takes {psnr:+.1f} % of rate at equal PSNR and {ms_ssim:+.1f} % at equal MS-SSIM"
    assert images == {24} and f"On Kodak's 24 images (four qualities, 12 to 72), effort 5 {text}" in page("docs/image.md")
    assert "effort 9 takes {:+.1f} % and {:+.1f} %".format(*rates("effort 9")) in page("docs/image.md")
