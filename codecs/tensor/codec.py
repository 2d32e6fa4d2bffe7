"""`TensorCodec`: named tensors to bytes and back. `file_api` does the same with files, piece by piece."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ...entropy_models.trellis import TRELLIS_CODERS
from .. import container, weights
from ..contract import Estimate, Progress
from .header import STREAM_ID, WORDS
from .reading import TensorFile, verified
from .sources import Tensors, TorchSource
from .torch_types import tensor_of
from .writing import Encoder, TensorSettings, write_stream


class TensorCodec:
    """Encode, decode and estimate dictionaries of tensors, which stay as they are."""

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(self, settings: TensorSettings | None = None) -> None:
        self.settings = settings or TensorSettings()

    @classmethod
    def load(
        cls, *, model: str | None = None, stream_hash: bytes | None = None, device: str = "auto", **settings: Any
    ) -> TensorCodec:
        """A codec with these `TensorSettings`. It has no weights and works on the CPU: ``device`` is not used.

        Raises:
            KeyError: a model is asked for.
            Unsupported: the hash of weights is.
        """
        weights.check_none_asked("tensor", model=model, stream_hash=stream_hash)
        return cls(TensorSettings(**settings))

    def encode(self, signal: Tensors, *, quality: int | None = None, progress: Progress | None = None) -> bytes:
        """A file of tensors; ``progress`` is called with bytes of tensors.

        Raises:
            InputError: a tensor that the mode does not take, or a quality for a mode that has none.
        """
        file = io.BytesIO()
        write_stream(file, TorchSource(signal.tensors, signal.metadata), self._settings(quality), progress)
        return file.getvalue()

    def decode(self, data: bytes | container.Stream, *, progress: Progress | None = None) -> Tensors:
        """The tensors of a file, on the CPU; BitstreamError for anything wrong with it, or a base not its own."""
        file, tensors, done = self._file(data), dict[str, Tensor](), 0
        for number, entry in enumerate(file.index.entries):
            words = np.empty(entry.words if entry.pieces != 1 else 0, f"<u{WORDS[entry.dtype].word}")
            for index in range(entry.pieces):
                inside, piece = entry.piece(index), file.piece(number, index)
                if entry.pieces == 1:
                    words = piece if piece.flags.writeable else piece.copy()
                else:
                    words[inside.start : inside.stop] = piece
                done += piece.nbytes
                if progress:
                    progress(done, file.index.raw_bytes)
            tensors[entry.name] = tensor_of(words, entry.dtype, entry.shape)
        file.check_remarks()
        return Tensors(tensors, dict(file.index.metadata))

    def estimate(self, signal: Tensors, *, quality: int | None = None) -> Estimate[Tensors]:
        """Ideal bits of all pieces, and what a decoder would get."""
        source = TorchSource(signal.tensors, signal.metadata)
        encoder, bits, tensors = Encoder(source, self._settings(quality)), 0.0, dict[str, Tensor]()
        for number, entry in enumerate(source.index.entries):
            words = np.empty(entry.words, f"<u{WORDS[entry.dtype].word}")
            for index in range(entry.pieces):
                inside = entry.piece(index)
                coders, words[inside.start : inside.stop] = encoder.piece(number, index, TRELLIS_CODERS.measure)
                for coder in coders:
                    coder.finish()
                    bits += float(coder.bits[0])
            tensors[entry.name] = tensor_of(words, entry.dtype, entry.shape)
        return Estimate(bits, Tensors(tensors, dict(signal.metadata)))

    def verify(self, data: bytes | container.Stream) -> list[str]:
        """Decode every piece; BitstreamError if anything is wrong with one. Without the base of a delta, checksums alone."""
        return verified(self._file(data))

    def _file(self, data: bytes | container.Stream) -> TensorFile:
        return TensorFile(container.parse(data, salvage=True), base=self.settings.base).of_right_length()

    def _settings(self, quality: int | None) -> TensorSettings:
        return self.settings if quality is None else replace(self.settings, quality=quality, bits=None, snr_db=None)


__all__ = ["TensorCodec", "TensorFile", "Tensors", "TensorSettings"]
