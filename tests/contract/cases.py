"""One line for each codec of the registry, and the toy codec: a codec without one fails the tests. No tests here."""

from __future__ import annotations

from functools import cache

import pytest
from contract.image import IMAGE
from contract.kv import KV
from contract.speech import SPEECH
from contract.subject import Cases
from contract.tensor import TENSOR
from contract.toy import TOY
from contract.video import VIDEO
from rdcodec.codecs.contract import Codec

CASES: dict[str, Cases] = {"image": IMAGE, "speech": SPEECH, "video": VIDEO, "kv": KV, "tensor": TENSOR, "toy": TOY}

each_codec = pytest.mark.parametrize("name", CASES)
each_variant = pytest.mark.parametrize(
    ("name", "variant"), [pytest.param(n, v, id=n if n == v else f"{n}-{v}") for n, c in CASES.items() for v in c.variants]
)
each_signal = pytest.mark.parametrize(
    ("name", "variant", "signal", "quality"),
    [
        pytest.param(n, v, s, q, id=f"{n if n == v else f'{n}-{v}'}-{s}" + ("" if q is None else f"-{q}"))
        for n, cases in CASES.items()
        for v, setting in cases.variants.items()
        for s in cases.signals
        for q in setting.qualities
    ],
)


@cache
def loaded(name: str, variant: str) -> Codec:
    """A codec that all tests share: it may keep nothing from one call to the next."""
    return CASES[name].variants[variant].load()
