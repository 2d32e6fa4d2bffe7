"""What codec eval measures of tensors: rates and errors of each way, and the KL of the model that comes back."""

from __future__ import annotations

import csv
import math

import pytest
import safetensors.torch
import torch
from model_cases import VOCABULARY, tiny
from rdcodec.codecs.tensor import save_file
from rdcodec.codecs.tensor.evaluation import report
from rdcodec.codecs.tensor.evaluation.fidelity import Evaluation
from rdcodec.codecs.tensor.evaluation.methods import METHODS, chosen
from rdcodec.codecs.tensor.hf import collect_energy, load_model, model_of
from rdcodec.entropy_models.errors import InputError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(VOCABULARY)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny(dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=WORDS[0]).save_pretrained(folder)
    ids = torch.randint(0, VOCABULARY, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    (folder / "text.txt").write_text(" ".join(WORDS[i] for i in ids))
    return folder


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_command_measures_every_way(folder, run, tmp_path):
    line = f"eval tensors {folder}/model.safetensors --model {folder} --text {folder}/text.txt --contexts 3 --length 50"
    code, out, err = run(*line.split(), "-o", str(tmp_path / "report"))
    assert code == 0, err
    points = {(row["method"], float(row["setting"])): row for row in rows(tmp_path / "report" / report.POINTS)}
    assert {name for name, _ in points} == chosen("").keys()
    assert (tmp_path / "report" / report.PLOT).stat().st_size > 10_000
    exact, coarse, fine = (points[key] for key in (("lossless", 0), ("quantized", 40), ("quantized", 70)))
    assert float(exact["kl_bits"]) == 0 < float(fine["kl_bits"]) < float(coarse["kl_bits"])
    assert float(coarse["snr_db"]) < float(fine["snr_db"]) < math.inf == float(exact["snr_db"])
    assert float(coarse["bits_per_weight"]) < float(fine["bits_per_weight"]) < float(exact["bits_per_weight"]) < 16
    matched = {row["method"]: row for row in rows(tmp_path / "report" / report.MATCHED)}
    assert matched.keys() == {"int8", "int4 g128", "nf4 g64"}
    assert 5 < float(matched["int4 g128"]["fewer_bits_at_snr_percent"]) < 50
    assert "int4 g128" in out


def test_what_cannot_be_measured_is_said(folder, run, tmp_path):
    for line, message in (
        (f"{folder}/model.safetensors --model {folder}", "--model and --text belong together"),
        (f"{folder}/text.txt", "no safetensors file"),
        (f"{folder}/model.safetensors --model {folder} --text {folder}/text.txt --contexts 99", "99 contexts of 512 need"),
        (f"{folder}/model.safetensors --methods zstd,int3", "no method int3; there are lossless, quantized"),
    ):
        code, _, err = run("eval", "tensors", *line.split(), "-o", str(tmp_path / "other"))
        assert code == 1 and message in err.replace("\n", " "), err


@pytest.mark.parametrize(
    ("name", "bits", "snr_db"), [("int8", 8 + 16 / 512, 42.5), ("int4 g128", 4.125, 18.6), ("nf4 g64", 4.25, 20.7)]
)
def test_quantisers_have_the_rate_and_error_they_are_known_for(name, bits, snr_db):
    x = {
        "w": torch.randn(300, 512, generator=torch.Generator().manual_seed(0)),
        "odd": torch.randn(37, 41, generator=torch.Generator().manual_seed(1)),
    }
    raw, method = safetensors.torch.save(x), METHODS[name]
    coded = method.encode(raw, 0)
    found = method.decode(coded)
    assert abs(method.size([line for line in coded if line[0] == "w"]) * 8 / x["w"].numel() - bits) < 1e-6
    for key, tensor in x.items():
        assert found[key].shape == tensor.shape and found[key].dtype == tensor.dtype
        snr = -10 * math.log10(float((found[key] - tensor).square().mean() / tensor.square().mean()))
        assert abs(snr - snr_db) < (0.2 if key == "w" else 3), (key, snr)


def test_kl_and_perplexity_are_those_of_the_models(folder):
    model = tiny()
    tensors, ids = model.state_dict(), torch.arange(40).view(2, 20)
    evaluation = Evaluation(tensors, folder, ids)
    other = {name: x + 0.05 for name, x in tensors.items()}
    found = evaluation.measure(other)
    changed = model_of(other, folder, torch.float32)
    kl, loss = [], []
    with torch.no_grad():
        for row in ids:
            p, q = (torch.log_softmax(one(row[None]).logits[0, :-1], -1) for one in (model, changed))
            kl += [float((p[i].exp() * (p[i] - q[i])).sum()) / math.log(2) for i in range(19)]
            loss += [-float(q[i, row[i + 1]]) for i in range(19)]
    assert math.isclose(found.kl_bits, sum(kl) / len(kl), rel_tol=1e-4)
    assert math.isclose(found.perplexity, math.exp(sum(loss) / len(loss)), rel_tol=1e-4)
    assert evaluation.measure(tensors).kl_bits == 0 and evaluation.perplexity != found.perplexity


def test_a_model_loads_from_an_rdc_file(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    save_file(model.state_dict(), tmp_path / "model.rdc")
    with pytest.raises(InputError, match="no config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    ids = torch.arange(30)[None]
    for found in (load_model(tmp_path), load_model(tmp_path / "model.rdc", config=folder)):
        assert found.dtype == torch.bfloat16 and not found.training
        assert torch.equal(found(ids).logits, model(ids).logits)
    assert load_model(tmp_path, dtype=torch.float32).dtype == torch.float32
    part = {name: x for name, x in model.state_dict().items() if "layers.1." not in name}
    save_file(part, tmp_path / "model.rdc")
    with pytest.raises(InputError, match="weights do not fit, model.layers.1"):
        load_model(tmp_path)
    rest = {name: x for name, x in model.state_dict().items() if name not in part}
    save_file(rest, tmp_path / "model-2.rdc")
    assert torch.equal(load_model(tmp_path)(ids).logits, model(ids).logits)
    save_file(rest, tmp_path / "model-3.rdc")
    with pytest.raises(InputError, match="model.layers.1.* is in two of 3 .rdc files"):
        load_model(tmp_path)


def test_energy_is_the_mean_square_of_what_a_layer_meets(folder, run, tmp_path):
    model, ids = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), torch.arange(24).view(3, 8)
    found = collect_energy(model, ids)
    assert {name for name in found if "embed" not in name} == {
        name for name, x in model.named_parameters() if x.dim() == 2 and "embed" not in name
    }
    with torch.no_grad():
        states = model.model(ids).last_hidden_state.flatten(0, 1)
    assert torch.allclose(found["lm_head.weight"], states.square().mean(0), rtol=1e-3)
    assert not any(module._forward_pre_hooks for module in model.modules())
    line = f"eval tensors {folder}/model.safetensors --model {folder} --text {folder}/text.txt --contexts 2 --length 30"
    more = f"--calibration {folder}/text.txt --methods zstd -o {tmp_path / 'report'}"
    assert run(*line.split(), *more.split())[0] == 0
    points = rows(tmp_path / "report" / report.POINTS)
    assert {row["method"] for row in points} == {"zstd", "by activations", "by both"}
    activations = str(tmp_path / "report" / report.ENERGY)
    file = str(folder / "model.safetensors")
    assert run("encode", file, "--activations", activations, "-q", "60", "-o", str(tmp_path / "m.rdc"))[0] == 0
    (row,) = (row for row in points if (row["method"], row["setting"]) == ("by activations", "60"))
    assert (tmp_path / "m.rdc").stat().st_size == int(row["bytes"])


def test_capacity_is_the_formula_of_its_terms(folder, run, tmp_path):
    save_file(AutoModelForCausalLM.from_pretrained(folder).state_dict(), tmp_path / "two.rdc", mode="quantized", bits=2)
    line = f"eval capacity --model {folder} --text {folder}/text.txt --contexts 3 --length 40 --bias -3 -o {tmp_path / 'r'}"
    code, out, err = run(*line.split(), "--weights", str(tmp_path / "two.rdc"))
    assert code == 0, err
    own, coarse = (
        {key: float(value) for key, value in row.items() if key != "weights"} for row in rows(tmp_path / "r/capacity.csv")
    )
    for row in (own, coarse):
        top = row["text_bits_per_token"] - row["entropy_bits_per_token"]
        assert math.isclose(row["capacity_without_bias"], top / math.log2(row["flops_per_token"]), rel_tol=1e-4)
        assert math.isclose(row["capacity"], (top - 3) / row["log2_flops"], rel_tol=1e-4)
        claimed = row["coded_entropy_bits_per_token"]
        assert claimed - 0.01 < row["coded_bits_per_token"] < claimed + 2 * 32 / 39  # two words of the coder at most
    assert (
        own["bits_per_weight"] > 15 > 4 > coarse["bits_per_weight"] and own["flops_per_token"] == coarse["flops_per_token"]
    )
    words = (folder / "text.txt").read_text().split()
    assert 8 * 2 < own["text_bits_per_token"] < 8 * 4 and len(words) == 400
    matrices = sum(x.numel() for name, x in tiny().named_parameters() if x.dim() == 2 and "embed" not in name)
    attention = 3 * 4 * 16 * 40 * 2
    assert own["flops_per_token"] == 2 * (matrices + attention)
    assert "fitted, not universal" in out
