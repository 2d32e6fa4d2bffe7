"""Cases of the toy codec, which is registered for these tests alone."""

from __future__ import annotations

import numpy as np
from contract.subject import Cases, Variant
from toy_codec import STREAM_ID, ToyCodec

TEXT = "To be, or not to be, that is the question: "
TOY = Cases(
    stream_id=STREAM_ID,
    variants={"toy": Variant(load=ToyCodec, qualities=(0, 60))},
    signals={f"{length} letters": lambda length=length: (9 * TEXT)[:length] for length in (1, 2, 3, 131)},
    small=lambda: TEXT,
    large=lambda: "".join(map(str, range(20_000))) + 9 * TEXT,
    same=str.__eq__,
    array=lambda text: np.frombuffer(text.encode(), np.uint8),
)
