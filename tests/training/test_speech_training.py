"""Training of speech from end to end on a tiny network, its losses beside the measures, and its crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="needs the extra 'train'")
soundfile = pytest.importorskip("soundfile")

from rdcodec.codecs import weights
from rdcodec.codecs.speech.codec import SpeechCodec
from rdcodec.codecs.speech.ecc import SpeechConfig, SpeechNetwork
from rdcodec.codecs.speech.hearing.intelligibility import Unintelligibility
from rdcodec.codecs.speech.hearing.perceptual import Disturbance
from rdcodec.codecs.speech.hearing.similarity import Dissimilarity
from rdcodec.codecs.speech.hearing.spectra import RESOLUTIONS, level_error, spectral_errors
from rdcodec.entropy_models.errors import InputError
from rdcodec.training.export import export
from rdcodec.training.hyper import DEAD
from rdcodec.training.main import train
from rdcodec.training.quantisation import LAYERS
from rdcodec.training.speech.data import Crops, SampleCache, SpeechData
from rdcodec.training.speech.initialise import HYPER_DEVIATION, revive_hyper_latents
from rdcodec.training.speech.pool import LIFE, LatentPool
from rdcodec.training.speech.signals import latent
from voices import RATE, voice

RECIPES = Path(__file__).parents[2] / "training/recipes"


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> Path:
    """Three sound files, one of them in stereo at another rate."""
    folder = tmp_path_factory.mktemp("voices")
    for seed in range(2):
        soundfile.write(folder / f"{seed}.wav", voice(3.0, seed=seed), RATE)
    soundfile.write(folder / "2.flac", np.stack([voice(2.0, 44100)] * 2, 1), 44100)
    return folder


def test_the_recipe_learns_and_exports(voices, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("pesq")
    more = f"--data.train={voices}", f"--data.validation={voices}", f"--data.cache={tmp_path / 'cache'}"
    train(
        "speech",
        ["fit", "--config", str(RECIPES / "speech_tiny.yaml"), *more, "--trainer.max_steps=31", "--model.refined_crops=2"],
    )
    last = tmp_path / "runs/speech_tiny/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 31
    path = export(last, "tiny", voices, tmp_path / "exported", batches=1, cache=tmp_path / "cache", frames=40)
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "exported")
    weights.manifest.cache_clear()
    try:
        codec, sound = SpeechCodec.load(model="tiny"), voice(1.0)
        data = codec.encode(sound, quality=90)
        np.testing.assert_array_equal(codec.decode(data).samples, codec.estimate(sound, quality=90).signal.samples)
        assert path.stat().st_size < 1_000_000 and 8 * len(data) < 60_000
        assert np.corrcoef(codec.decode(data).array(), sound)[0, 1] > 0.4, "principal components carry the sound"
    finally:
        weights.manifest.cache_clear()


def test_the_transforms_are_trained_alone(voices, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("pesq")
    more = f"--data.train={voices}", f"--data.validation={voices}", f"--data.cache={tmp_path / 'cache'}"
    steps = "--trainer.max_steps=4", "--trainer.val_check_interval=3", "--model.quantised=false"
    train("speech", ["fit", "--config", str(RECIPES / "speech_tiny.yaml"), *more, *steps])
    assert (tmp_path / "runs/speech_tiny/last.ckpt").exists()


def test_crops_of_the_pool_are_refined_and_replaced():
    torch.manual_seed(0)
    network = SpeechNetwork(SpeechConfig(channels=32, latent_channels=64, slices=(24, 40)), *LAYERS["integer"])
    pool, fresh = LatentPool(4), torch.from_numpy(np.stack([voice(0.64, seed=seed)[:10240] for seed in range(4)])).float()
    samples, quality, y = pool.drawn(network, fresh)
    start, places = y.detach().clone(), [place.samples for place in pool._places]
    torch.testing.assert_close(start, latent(network, samples, quality).detach())
    assert sorted(quality.tolist()) == quality.tolist() and quality[-1] >= 75
    (y.square() * torch.tensor(1e3)).sum().backward()
    pool.step()
    moved = pool.drawn(network, fresh.flip(0))[2].detach()
    stayed = [place.samples is before for place, before in zip(pool._places, places, strict=True)]
    assert stayed == [False, True, True, True], "the first one's time is over"
    assert (moved[1:].square().sum((1, 2)) < start[1:].square().sum((1, 2))).all()
    for _ in range(LIFE):
        pool.drawn(network, fresh)
        pool.step()
    assert not any(place.samples is before for place, before in zip(pool._places, places, strict=True))


def test_the_pool_leaves_crops_to_the_analysis(voices, tmp_path):
    more = f"--data.train={voices}", f"--data.validation={voices}", f"--data.cache={tmp_path / 'cache'}"
    with pytest.raises(InputError, match=r"refined_crops=4 of a batch of 4; need 0\.\.3"):
        train("speech", ["fit", "--config", str(RECIPES / "speech_tiny.yaml"), *more, "--model.refined_crops=4"])


def degraded(noise: float) -> tuple[np.ndarray, np.ndarray]:
    clean = voice(4.0, seed=1)
    return clean, clean + noise * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)


def test_disturbance_is_pesqs():
    pesq = pytest.importorskip("pesq")
    for noise in (1e-3, 3e-3, 1e-2):
        clean, noisy = degraded(noise)
        raw = 4.5 - float(Disturbance()(torch.from_numpy(clean)[None], torch.from_numpy(noisy)[None]))
        mapped = 0.999 + 4 / (1 + np.exp(-1.3669 * raw + 3.8224))  # P.862.2
        assert mapped == pytest.approx(pesq.pesq(RATE, clean, noisy, "wb"), abs=0.25)


def test_unintelligibility_is_stois():
    pystoi = pytest.importorskip("pystoi")
    for noise in (1e-2, 1e-1):
        clean, noisy = degraded(noise)
        found = 1 - float(Unintelligibility()(torch.from_numpy(clean)[None], torch.from_numpy(noisy)[None]))
        assert found == pytest.approx(pystoi.stoi(clean, noisy, RATE), abs=0.1)


def test_dissimilarity_is_visqols():
    """Of noise at several levels: the same order, and about the same size."""
    api = pytest.importorskip("visqol").VisqolApi()
    api.create(mode="speech")
    clean = voice(4.0, seed=1)
    clean += 1e-4 * np.random.default_rng(1).standard_normal(len(clean)).astype(
        np.float32
    )  # digital silence is not counted there
    scores = []
    for noise in (3e-4, 3e-3, 3e-2):
        noisy = clean + noise * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
        similarity = 1 - float(Dissimilarity()(torch.from_numpy(clean)[None], torch.from_numpy(noisy)[None]))
        visqol = api.measure_from_arrays(clean.astype(float), noisy.astype(float), RATE).vnsim
        assert similarity == pytest.approx(visqol, abs=0.15)
        scores.append(similarity)
    assert scores == sorted(scores, reverse=True)


def test_the_level_error_hears_what_pesq_does_not():
    clean = torch.from_numpy(voice(2.0))[None]
    louder = 2 * clean
    spectrum = torch.fft.rfft(clean)
    spectrum[:, : int(600 / RATE * clean.shape[1])] *= 4
    coloured = torch.fft.irfft(spectrum, clean.shape[1])
    assert float(level_error(clean, clean)) == 0
    assert float(level_error(clean, louder)) == pytest.approx(6.02, abs=0.3)
    assert float(level_error(clean, coloured)) > 1
    assert float(Disturbance()(clean, louder)) < 0.1


def test_dead_hyper_latents_are_revived(voices, tmp_path):
    network = SpeechNetwork(
        SpeechConfig(channels=32, latent_channels=64, slices=(24, 40), hyper_channels=8), *LAYERS["integer"]
    )
    data = SpeechData(voices, frames=40, batch_size=4, cache=tmp_path)
    spread = []
    network.hyper_analysis.register_forward_hook(lambda module, inputs, z: spread.append(z.flatten(0, -2).std(0)))
    for _ in range(3):
        torch.manual_seed(0)
        revive_hyper_latents(network, data)
    assert spread[0].max() < DEAD
    torch.testing.assert_close(spread[1], torch.full_like(spread[1], HYPER_DEVIATION), rtol=0.3, atol=0)
    torch.testing.assert_close(spread[2], spread[1], rtol=0.3, atol=0)


def test_losses_are_zero_for_equal_sounds_and_have_gradients():
    clean = torch.from_numpy(voice(2.0))[None]
    other = (clean + 0.01 * torch.randn_like(clean)).requires_grad_()
    for window in RESOLUTIONS:
        errors = spectral_errors(clean, clean, window)
        assert float(errors.magnitude + errors.mel) < 1e-6 and float(errors.complex_) < 2e-3
        sum(vars_of(spectral_errors(clean, other, window))).sum().backward()
    assert float(Disturbance()(clean, clean)) < 1e-2 and float(Unintelligibility()(clean, clean)) < 1e-3
    assert abs(float(Dissimilarity()(clean, clean))) < 1e-3
    perceptual = Disturbance()(clean, other) + Unintelligibility()(clean, other) + Dissimilarity()(clean, other)
    (perceptual + level_error(clean, other)).sum().backward()
    assert torch.isfinite(other.grad).all() and other.grad.abs().max() > 0


def vars_of(errors) -> list[torch.Tensor]:
    return [errors.magnitude, errors.complex_, errors.mel]


def test_crops_have_their_length_and_differ(voices, tmp_path):
    cache = SampleCache(voices, tmp_path)
    assert len(cache) == 3 and len(cache[2]) == 2 * RATE
    torch.manual_seed(0)
    crops = iter(Crops(cache, 25_600))
    found = [next(crops) for _ in range(20)]
    assert {tuple(crop.shape) for crop in found} == {(25_600,)} and len({float(crop.sum()) for crop in found}) == 20
    assert all(crop.abs().max() <= 1 and torch.isfinite(crop).all() for crop in found)


def test_longer_crops_than_files_are_filled_up(voices, tmp_path):
    torch.manual_seed(0)
    crops = iter(Crops(SampleCache(voices, tmp_path), 100_000))
    assert all(len(next(crops)) == 100_000 for _ in range(5))


def test_folders_without_sounds_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sound files"):
        SpeechData(tmp_path, cache=tmp_path / "cache").prepare_data()
    (tmp_path / "a.wav").write_bytes(b"RIFFjunk")
    with pytest.raises(InputError, match="a.wav"):
        SpeechData(tmp_path, cache=tmp_path / "cache").prepare_data()
