"""The weights file: rounded once, read under older names, refused where this program cannot run it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from rdcodec.codecs import weights
from rdcodec.codecs.image.architectures import ARCHITECTURES
from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.codecs.speech.architectures import ARCHITECTURES as SPEECH_ARCHITECTURES
from rdcodec.codecs.video.architectures import ARCHITECTURES as VIDEO_ARCHITECTURES
from rdcodec.codecs.weights_file import packed, read_weights, unpacked, weights_bytes
from rdcodec.entropy_models.errors import Unsupported
from rdcodec.entropy_models.tables import gaussian_tables

DCVC_RT = ARCHITECTURES["dcvc-rt"]
CONFIG = ImageConfig(
    latent_channels=16, latent_width=8, hyper_channels=4, context_channels=8, level_channels=8, trunk_channels=8,
    trunk_blocks=(1, 1), latent_blocks=(1, 2), knots=5,
)  # fmt: skip


@pytest.fixture
def blob() -> bytes:
    """The file of a random network."""
    tensors = packed(ImageNetwork(CONFIG).state_dict(), DCVC_RT.coarse)
    return weights_bytes("dcvc-rt", CONFIG, tensors, gaussian_tables())


def metadata(blob: bytes) -> dict[str, str]:
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    return header["__metadata__"]


def with_config(blob: bytes, **changes: object) -> bytes:
    """The same tensors with other fields in the config; None removes one."""
    fields = json.loads(metadata(blob)["config"]) | changes
    kept = {name: value for name, value in fields.items() if value is not None}
    return safetensors.torch.save(safetensors.torch.load(blob), metadata(blob) | {"config": json.dumps(kept)})


def with_architecture(blob: bytes, name: str | None) -> bytes:
    """The same tensors under another architecture's name, or none."""
    fields = {"config": metadata(blob)["config"]} | ({"architecture": name} if name else {})
    return safetensors.torch.save(safetensors.torch.load(blob), fields)


def test_the_knots_former_name_is_read_and_other_steps_are_refused(blob):
    former = with_config(blob, knots=None, anchors=5, steps=5)
    for data in (blob, former):
        found, _ = read_weights(data, ARCHITECTURES)
        assert found.config == CONFIG
        weight = read_weights(blob, ARCHITECTURES)[0].synthesis.patch.weight
        assert torch.equal(found.synthesis.patch.weight, weight)
    with pytest.raises(Unsupported, match="coding steps"):
        read_weights(with_config(blob, steps=4), ARCHITECTURES)


def test_the_architecture_is_named_and_looked_up_in_the_codecs_table(blob):
    """Two architectures that differ in nothing but what their networks are called."""

    class Other(ImageNetwork):
        pass

    table = ARCHITECTURES | {"other": replace(DCVC_RT, network=Other)}
    assert metadata(blob)["architecture"] == "dcvc-rt"
    assert type(read_weights(blob, table)[0]) is ImageNetwork
    assert type(read_weights(with_architecture(blob, "other"), table)[0]) is Other
    assert type(read_weights(with_architecture(blob, None), table)[0]) is ImageNetwork
    with pytest.raises(Unsupported, match="architecture 'unheard'; this program knows dcvc-rt, s2lic, other"):
        read_weights(with_architecture(blob, "unheard"), table)


def test_shipped_weights_name_an_architecture_of_their_table():
    tables = {"image": ARCHITECTURES, "speech": SPEECH_ARCHITECTURES, "video": VIDEO_ARCHITECTURES}
    for line in weights.manifest().values():
        name = metadata(weights.verified_bytes(line)).get("architecture", "dcvc-rt")
        assert name in tables[line.codec]


def test_every_architecture_keeps_its_file_promises():
    """Configs are frozen dataclasses that survive JSON; networks build from them alone and know them."""
    for architecture in ARCHITECTURES.values():
        config = architecture.config()
        fields = json.loads(json.dumps(dataclasses.asdict(config)))
        assert architecture.configured(architecture.renewed(fields)) == config
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.knots = 3
        assert architecture.network(config).config == config


def test_a_weights_file_rounds_once():
    """Matrices inside a transform lose half a step of 127 or less in a row's peak, the others two bits more than float16."""
    network = ImageNetwork(CONFIG)
    network.analysis.trunk[0].expand.weight.data[0, 0] = 900.0  # one far value makes its row's steps coarser, not others'
    before = network.state_dict()
    tensors = packed(before, DCVC_RT.coarse)
    after = unpacked(tensors)
    assert after.keys() == before.keys()
    coarse = {name for name in before if f"{name}.exponent" in tensors}
    assert {"mean_context.mean.0.weight", "synthesis.trunk.0.project.weight"} <= coarse
    assert not coarse & {"synthesis.up.weight", "analysis.patch.weight", "hyper_analysis.gain.log_gain"}
    for name, value in before.items():
        error = (after[name].double() - value.double()).abs()
        if name in coarse:
            assert (error.amax(1) <= value.abs().amax(1) / 127).all() and error.max() > 0, name
        elif value.is_floating_point():
            assert (error <= value.abs() * (2**-9 + 2**-11) + 3e-7).all(), name
        else:
            assert not error.any(), name
    again = unpacked(packed(after, DCVC_RT.coarse))
    assert all(torch.equal(again[name], value) for name, value in after.items())
