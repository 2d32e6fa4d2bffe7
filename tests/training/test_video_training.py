"""Training of the video codec's entropy model from end to end on a tiny network, its chains, and its start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="needs the extra 'train'")

from clips import drawn_clip
from rdcodec.codecs import weights
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.groups import INTER, INTRA, GroupPass
from rdcodec.codecs.video.header import VideoHeader
from rdcodec.codecs.video.stem import Remembered, StemConfig, StemNetwork
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.errors import InputError
from rdcodec.entropy_models.hyperprior import float_knot_weights
from rdcodec.training.coder import SKIP_LEVEL, Train, start_tables
from rdcodec.training.export import export, load_checkpoint
from rdcodec.training.hyper import DEAD
from rdcodec.training.main import train
from rdcodec.training.quantisation import LAYERS
from rdcodec.training.video import module
from rdcodec.training.video.cache import RecordCache
from rdcodec.training.video.chains import Chain, ChainMaker, chain_cache, quality_at
from rdcodec.training.video.data import VideoData
from rdcodec.training.video.module import HYPER_DEVIATION, VideoTraining, coded, errors_left, revive_hyper_latents
from rdcodec.training.video.observations import Observation, ObservationMaker, observation_cache
from torch.utils.data import default_collate
from video_clips import encoded

RECIPES = Path(__file__).parents[2] / "training/recipes"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two short videos, and something else."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(2):
        (folder / f"{seed}.mkv").write_bytes(encoded(list(drawn_clip(8, 80, 96, seed=seed)), container="matroska"))
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def cache(videos, tmp_path_factory) -> RecordCache[Chain]:
    folder = tmp_path_factory.mktemp("cache")
    return chain_cache(videos, folder, count=3, image="image-10", frames=3, crop=64, seed=1)


def test_the_recipe_learns_and_exports(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = f"--data.train={videos}", f"--data.validation={videos}", f"--data.cache={tmp_path / 'cache'}"
    train("video", ["fit", "--config", str(RECIPES / "video_tiny.yaml"), *more, "--trainer.max_steps=11"])
    last = tmp_path / "runs/video_tiny/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 11
    with monkeypatch.context() as patch:
        patch.setattr(module, "revive_hyper_latents", None)  # a training that goes on must not start again
        resume = "--trainer.max_steps=12", f"--ckpt_path={last}"
        train("video", ["fit", "--config", str(RECIPES / "video_tiny.yaml"), *more, *resume])
    assert torch.load(last, weights_only=True)["global_step"] == 12
    image = weights.line_named("image", "image-10")
    export(
        last,
        "tiny",
        videos,
        tmp_path / "exported",
        batches=1,
        cache=tmp_path / "cache",
        chains=8,
        chain_frames=3,
        chain_crop=64,
    )
    monkeypatch.setenv(weights.MORE, str(tmp_path / "exported"))
    weights.manifest.cache_clear()
    try:
        codec, frames = VideoCodec.load(model="tiny", device="cpu"), drawn_clip(3, 64, 64)
        assert codec.stem.config.image == image.stream_hash.hex()
        data = codec.encode(frames, quality=40)
        np.testing.assert_array_equal(codec.decode(data).frames, codec.estimate(frames, quality=40).signal.frames)
    finally:
        weights.manifest.cache_clear()


def test_fusion_is_trained_on_what_a_model_decodes(videos, tmp_path, monkeypatch):
    """Nothing but fusion changes, and it leaves less error than it began with."""
    monkeypatch.chdir(tmp_path)
    name = next(name for name, line in weights.manifest().items() if line.codec == "video")
    more = [
        f"--data.train={videos}",
        f"--data.validation={videos}",
        f"--data.cache={tmp_path / 'cache'}",
        "--data.fused",
        name,
    ]
    more += ["--model.stage=fusion", "--trainer.max_steps=2"]
    train("video", ["fit", "--config", str(RECIPES / "video_tiny.yaml"), *more])
    assert load_checkpoint(tmp_path / "runs/video_tiny/last.ckpt").hyper_parameters["stage"] == "fusion"
    training = VideoTraining(stage="fusion")
    before = {key: value.clone() for key, value in training.network.state_dict().items()}
    batch = default_collate([observations(videos, tmp_path, name)[i] for i in range(4)])
    optimizer, losses = training.configure_optimizers(), []
    for _ in range(8):
        loss, _ = training.loss(batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    changed = {key.split(".")[0] for key, value in training.network.state_dict().items() if not value.equal(before[key])}
    assert changed == {"fusion"} and losses[-1] < losses[0]


def observations(videos: Path, tmp_path: Path, name: str) -> RecordCache[Observation]:
    """What the tiny recipe has made."""
    return observation_cache(videos, tmp_path / "cache", count=12, model=name, frames=3, crop=64, seed=1)


def test_observations_are_what_fusion_meets(videos, tmp_path):
    """Fused, copied and rounded, they are the frames that the codec decodes."""
    name = next(name for name, line in weights.manifest().items() if line.codec == "video")
    maker = ObservationMaker([videos / "0.mkv"], name, 3, 64)
    seen = maker(np.random.default_rng(5), 40)
    frames = np.stack([observation.original.numpy() for observation in seen])
    batch = default_collate(seen)
    left = errors_left(maker.codec.stem, batch)
    assert len(seen) == 2 and frames.shape == (2, 64, 64, 3) and (left > 0).all() and (left < 2).all()
    assert set(batch.copies.unique().tolist()) <= {0, 1}


def test_a_stage_needs_its_data(videos, tmp_path):
    for stage, fused in (("fusion", None), ("entropy", "video-x")):
        with pytest.raises(InputError, match="data.fused"):
            VideoTraining(stage=stage).check_data(VideoData(videos, fused=fused, cache=tmp_path))


def test_chains_are_what_a_codec_meets(cache):
    """Bits of the first frame, and its latent, are those of a group's."""
    maker = ChainMaker([Path("unused")], "image-10", 3, 64)
    pixels = torch.from_numpy(drawn_clip(3, 64, 64))
    chain = maker.chain(pixels, 50)
    assert chain.y.shape == (3, 4, 4, 384) and chain.moved.shape == (2, 4, 4, 384)
    assert float((chain.moved[0] - chain.y[1]).abs().mean()) < 0.7 * float((chain.y[0] - chain.y[1]).abs().mean())
    network = maker.codec.network
    stem = StemNetwork(StemConfig(), *LAYERS["integer"])
    header = VideoHeader(width=64, height=64, frames=3, quality=50, rate=25, lifts=(0, 0))
    group, measure = GroupPass(network, stem, header), Measure(maker.codec.tables)
    assert group.code(measure, INTRA, pixels[:1].float() / 255 - 0.5) == INTRA != INTER
    assert float(measure.bits[0]) == pytest.approx(float(chain.intra_bits[0]), rel=1e-4)
    torch.testing.assert_close(group.picture.past.y_hat[0], chain.y_hat.float(), rtol=2e-3, atol=2e-3)
    assert len(cache) == 3 and {int(cache[i].quality) for i in range(3)} == {quality_at(i, 1) for i in range(3)}


def test_chains_between_references_know_more(cache):
    """Made of both neighbours, which are coded better, a frame's latent is nearer to what is expected than of one."""
    maker = ChainMaker([Path("unused")], "image-10", 3, 64)
    pixels = torch.from_numpy(drawn_clip(4, 64, 64, speed=2))
    between, alone = maker.chain_between(pixels, 40, 12), maker.chain(pixels[:-1], 40)
    assert between.moved.shape == alone.moved.shape and torch.equal(between.y, alone.y)
    assert torch.equal(between.intra_bits, alone.intra_bits) and not torch.equal(between.y_hat, alone.y_hat)
    left = [float((chain.moved - chain.y[1:]).float().square().mean()) for chain in (between, alone)]
    assert left[0] < 0.9 * left[1]
    network, quality = maker.codec.network, torch.tensor([52])
    y_hat = network.coding_pass(
        Measure(maker.codec.tables), network.to_latent(pixels[:1].float() / 255 - 0.5, quality), quality
    )
    torch.testing.assert_close(between.y_hat.float(), y_hat[0], rtol=2e-3, atol=2e-3)


def test_chains_are_kept_and_gone_on_with(videos, tmp_path):
    options = {"image": "image-10", "frames": 2, "crop": 64, "seed": 3}
    first = chain_cache(videos, tmp_path, count=2, **options)
    (path,) = tmp_path.iterdir()
    before, size = path.read_bytes(), first.kind.itemsize
    path.write_bytes(before[: size + 5])  # killed in the second
    again = chain_cache(videos, tmp_path, count=2, **options)
    assert path.stat().st_size == 2 * size and path.read_bytes()[:size] == before[:size]
    assert torch.equal(again[0].y, first[0].y)


def test_it_starts_as_the_image_model_and_better_than_that(cache):
    """Without any training, frames that were moved cost less than on their own."""
    training = VideoTraining()
    batch = default_collate([cache[i] for i in range(3)])
    with torch.no_grad():
        bits = sum(frame.coder.bits() for frame in coded(training.network, batch, Train))
    assert float((bits / batch.intra_bits[:, 1:].sum(1)).mean()) < 0.9
    loss, figures = training.loss(batch)
    loss.backward()
    assert {"share_first", "share_last", "distortion"} <= figures.keys()
    assert training.network.gain.log_gain.grad is None, "quality does not depend on how a frame is coded"


def test_dead_hyper_latents_are_revived(videos, tmp_path):
    training = VideoTraining()
    chains = chain_cache(videos, tmp_path, count=6, image="image-10", frames=3, crop=64, seed=1)
    batch = default_collate([chains[i] for i in range(6)])  # of fewer, deviations are those of rounding
    revive_hyper_latents(training.network, batch)
    y, moved = (training.network.to_synthesis(part.float(), batch.quality) for part in (batch.y[:, 1], batch.moved[:, 0]))
    with torch.no_grad():
        z = training.network.hyper_analysis(y - moved, float_knot_weights(batch.quality, 9, torch.float32))
    deviation = z.flatten(0, -2).std(0)
    assert deviation.min() > DEAD * 0.99 and deviation.median() <= HYPER_DEVIATION * 1.5


def test_an_honest_coder_charges_what_the_dead_zone_takes():
    """And returns what a decoder knows."""
    residual = torch.tensor([[0.6, 0.6, 2.0]])
    level = torch.tensor([[8.0, float(SKIP_LEVEL - 1), 20.0]])
    plain, honest = Train(), Train(honest=True)
    torch.manual_seed(0)
    assert plain.code(residual, level).tolist()[0][0] == 0
    assert honest.code(residual, level).tolist() == [[0, 0, 2]]
    assert float(honest.bits()) > float(plain.bits()) + 1
    assert Measure(start_tables()).code(residual, level).tolist() == [[0, 0, 2]]


def test_a_remembered_pass_knows_symbols_and_levels():
    remembered = Remembered(Measure(start_tables()))
    values = torch.tensor([[1.2, -3.1]])
    for step in range(2):
        active = torch.tensor([[step == 0, step == 1]])
        remembered.code(values * active, torch.full((1, 2), 30.0), active)
    remembered.code(values, torch.full((1, 2), 9.0), side=True)
    past = remembered.past(values)
    assert past.symbols.tolist() == [[1, -3]] and past.levels.tolist() == [[30, 30]]


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos"):
        VideoData(tmp_path, cache=tmp_path).prepare_data()
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.mp4"):
        VideoData(tmp_path, cache=tmp_path, chains=1, crop=64).prepare_data()
