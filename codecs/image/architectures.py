"""The image codec's architectures, by the name that weights files carry. A new one is a line here and needs no stream id."""

from __future__ import annotations

import re
from typing import Any

from ...entropy_models.channel_context import STEPS
from ...entropy_models.errors import Unsupported
from ..weights_file import Architecture
from .dcvc_rt import ImageConfig, ImageNetwork
from .s2lic import S2licConfig, S2licNetwork

COARSE = re.compile(r"(.*\.(expand|project)|(hyper_analysis|mean_context|mean_synthesis)\..*)\.weight")
"""Matrices kept as int8. A picture at 45 dB sees the rounding of those that begin and end a transform, not that of these."""
FORMER_NAMES = {"anchors": "knots"}
"""Fields of `ImageConfig` as older files have them."""


def renewed(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of `ImageConfig` from those of any file.

    Raises:
        Unsupported: they are for another coding pass.
    """
    fields = {FORMER_NAMES.get(name, name): value for name, value in fields.items()}
    if fields.pop("steps", STEPS) != STEPS:
        raise Unsupported(f"weights for another number of coding steps than {STEPS}")
    return fields


S2LIC_COARSE = re.compile(r"(analysis|synthesis)\.blocks\..*\.(query|key|value|expand|project)\.weight")
"""Matrices of S2LIC kept as int8: those inside attention layers."""

ARCHITECTURES: dict[str, Architecture[Any]] = {
    "dcvc-rt": Architecture(config=ImageConfig, network=ImageNetwork, coarse=COARSE, renewed=renewed),
    "s2lic": Architecture(config=S2licConfig, network=S2licNetwork, coarse=S2LIC_COARSE),
}
"""The first is that of weights without a name."""
