"""The video codec's architectures, by the name that weights files carry. A new one is a line here and needs no stream id."""

from __future__ import annotations

import re

from ..weights_file import Architecture
from .stem import StemConfig, StemNetwork

COARSE = re.compile(r"(.*\.(expand|project)|(hyper_analysis|mean_context|mean_synthesis|temporal_means)\..*)\.weight")
"""Matrices kept as int8: all of the float contexts."""

ARCHITECTURES = {"stem": Architecture(config=StemConfig, network=StemNetwork, coarse=COARSE)}
