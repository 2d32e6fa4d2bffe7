"""The speech codec's architectures, by the name that weights files carry. A new one is a line here and needs no stream
id."""

from __future__ import annotations

import re

from ..weights_file import Architecture
from .ecc import SpeechConfig, SpeechNetwork

COARSE = re.compile(r"(.*\.(expand|project|keys|down|up)|(hyper_analysis|mean_slices|mean_synthesis)\..*)\.weight")
"""Matrices kept as int8: those inside the transforms, and all of the float contexts."""

ARCHITECTURES = {"ecc": Architecture(config=SpeechConfig, network=SpeechNetwork, coarse=COARSE)}
