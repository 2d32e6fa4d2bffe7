"""The weights file: what older files call by other names is read, what this program cannot run is refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.codecs.image.weights_file import packed, read_weights, weights_bytes
from rdcodec.entropy_models.tables import gaussian_tables

CONFIG = ImageConfig(
    latent_channels=16, latent_width=8, hyper_channels=4, context_channels=8, level_channels=8, trunk_channels=8,
    trunk_blocks=(1, 1), latent_blocks=(1, 2), knots=5,
)  # fmt: skip


def with_metadata(blob: bytes, **changes: object) -> bytes:
    """The same tensors with other fields in the architecture; None removes one."""
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    fields = json.loads(header["__metadata__"]["config"]) | changes
    kept = {name: value for name, value in fields.items() if value is not None}
    return safetensors.torch.save(safetensors.torch.load(blob), {"config": json.dumps(kept)})


def test_the_knots_former_name_is_read_and_other_steps_are_refused():
    network = ImageNetwork(CONFIG)
    blob = weights_bytes(CONFIG, packed(network.state_dict()), gaussian_tables())
    former = with_metadata(blob, knots=None, anchors=5, steps=5)
    for data in (blob, former):
        found, _ = read_weights(data)
        assert found.config == CONFIG
        assert torch.equal(found.synthesis.patch.weight, read_weights(blob)[0].synthesis.patch.weight)
    with pytest.raises(ValueError, match="coding steps"):
        read_weights(with_metadata(blob, steps=4))
