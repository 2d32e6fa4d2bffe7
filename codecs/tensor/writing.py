"""Sources to files, a piece at a time: no more than a piece is in memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...entropy_models.errors import InputError
from ...entropy_models.trellis import TRELLIS_CODERS
from .. import container
from ..contract import Progress
from ..terminal.paths import path_of, whole_file
from .base import Base
from .coding import DELTA, EXACT, STEPS, Given, Piece, code
from .delta import DIFFERENCE, XOR
from .header import BASE_NAME, INDEX, MODES, NESTED_BITS, REPORT, STREAM_ID, Entry, Layout, pack_report
from .rates import cheaper_exact, spreads_of, step_of_bits, step_of_quality, step_of_snr
from .scaling import SCALINGS, Factors, factors_of
from .sources import Source
from .steps import INTEGERS, Steps, exponents_of
from .torch_types import floats_of, words_from

DEFAULT_QUALITY = 60
LOSSY_MODES = ("quantized", "nested")
_TRIED_WORDS = 1 << 16
"""Words of a piece that are coded in every way to find the shortest."""
_NESTED_STEPS = (0.5, 0.5, 0.125)
"""Step of each section over the root mean square of what the earlier ones leave: 2, 2 and 4 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSettings:
    """How tensors are stored. Of quality, bits and snr one at most, for mode quantized."""

    mode: str = "lossless"
    """A key of `header.MODES`."""
    quality: int | None = None
    """0..100: 60 makes 4 bits a weight, ten points are a bit."""
    bits: float | None = None
    """Of a quantised weight."""
    snr_db: float | None = None
    """Squared error over the mean square of its tensor, the mean over quantised weights, in dB."""
    energy: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Mean squares of a matrix' inputs, (columns,), by the tensor's name: steps are finer where more energy comes in."""
    scaling: str = SCALINGS[0]
    """Of `SCALINGS`: what has a step of its own."""
    base: Base | None = None
    """Of mode delta: what the tensors differ from."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"no mode {self.mode!r} of tensor files; there are {', '.join(MODES)}")
        given = [name for name in ("quality", "bits", "snr_db") if getattr(self, name) is not None]
        if given and self.mode != "quantized":
            raise InputError(f"mode {self.mode} has no {given[0]}; its rate is fixed")
        if (self.mode == "delta") != (self.base is not None):
            raise InputError(f"mode {self.mode} {'needs a base' if self.base is None else 'has no base'} (--base)")
        if self.mode not in LOSSY_MODES and (self.scaling != SCALINGS[0] or self.energy):
            option = "energy (--activations)" if self.energy else f"scaling {self.scaling} (--steps)"
            raise InputError(f"mode {self.mode} has no {option}; {' and '.join(LOSSY_MODES)} have")
        if self.scaling not in SCALINGS:
            raise InputError(f"no scaling {self.scaling!r} (--steps); there are {', '.join(SCALINGS)}")
        if self.scaling == "balanced" and self.energy:
            raise InputError("scaling balanced (--steps) and energy (--activations) both set columns: one of them")
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: one of them")
        if self.quality is not None and (type(self.quality) is not int or not 0 <= self.quality <= 100):
            raise InputError(f"quality is {self.quality!r}; need a whole number 0..100")
        if self.bits is not None and not 0.5 <= self.bits <= 10:
            raise InputError(f"bits is {self.bits}; need 0.5 to 10")
        if self.snr_db is not None and not 1 <= self.snr_db <= 70:
            raise InputError(f"snr is {self.snr_db} dB; need 1 to 70")


class Encoder:
    """Codes the pieces of a source; keeps the errors of each tensor."""

    def __init__(self, source: Source, settings: TensorSettings) -> None:
        self.source, self._base, self._settings = source, settings.base, settings
        if self._base:
            self._base.check_worth(source)
        self.lossy = settings.mode in LOSSY_MODES
        self._spreads, self.notices = spreads_of(source) if self.lossy else ({}, ())
        if settings.energy and not settings.energy.keys() & self._spreads.keys():
            like = f"the {len(settings.energy)} energies (--activations), like {min(settings.energy)}"
            self.notices += (f"no matrix here has the name of one of {like}; steps do not follow them",)
        depth = len(NESTED_BITS) if settings.mode == "nested" else 1
        if exact := cheaper_exact(source, self._spreads, _relative_step(source, self._spreads, settings)):
            self._spreads = {name: spread for name, spread in self._spreads.items() if name not in exact}
        sections = tuple(depth if entry.name in self._spreads else 1 for entry in source.index.entries)
        self.layout = Layout(settings.mode, source.index, sections, *([settings.base.digest] if settings.base else []))
        self._step = _relative_step(source, self._spreads, settings)
        self._kept: tuple[str, Factors] = "", Factors()
        self._errors: dict[str, list[float]] = {}
        self._powers: dict[str, float] = {}

    def piece(self, number: int, index: int, make: Callable[[], Any]) -> tuple[list[Any], np.ndarray]:
        """Coders of a piece, one for each of its sections, and the words that a reader of all gets.

        Raises:
            InputError: numbers that the mode does not take; the message names the tensor.
        """
        entry, coder = self.source.index.entries[number], make()
        words, piece = self.source.words(entry, entry.piece(index)), Piece.of(entry, index, self._base)
        if entry.name not in self._spreads:
            coding, given = _shortest(words, piece)
            code(coder, coding, piece, given)
            return [coder], words
        values = floats_of(words, entry.dtype).reshape(piece.shape)
        try:
            coders, known = self._lossy(entry, index, values, make)
        except InputError as error:
            raise InputError(f"{entry.name}: {error}") from None
        return coders, words_from(known.reshape(-1), entry.dtype)

    def _lossy(self, entry: Entry, index: int, values: np.ndarray, make: Callable[[], Any]) -> tuple[list[Any], np.ndarray]:
        coders, known, scale = [], np.zeros(values.shape, np.float32), self._spreads[entry.name]
        piece, steps, depth = Piece.of(entry, index), self._steps(entry, index), self.layout.depth
        errors = self._errors.setdefault(entry.name, [0.0] * depth)
        self._powers[entry.name] = self._powers.get(entry.name, 0.0) + float(np.square(values, dtype=np.float64).sum())
        for section in range(depth):
            rest = values - known
            relative, plain = self._step if depth == 1 else _NESTED_STEPS[section], rest / steps.factors()
            size = scale if not section else float(np.sqrt(np.square(plain).mean())) or scale * 1e-6
            coders.append(make())
            step = max(relative * size, float(np.abs(plain).max()) / INTEGERS)  # a coarser one where outliers need it
            given = Given(values=rest, steps=replace(steps, step=step))
            known = known + code(coders[-1], STEPS, piece, given)
            errors[section] += float(np.square(values - known, dtype=np.float64).sum())
        return coders, known

    def _steps(self, entry: Entry, index: int) -> Steps:
        """Exponents of a piece's rows and columns, with a step of 1."""
        if self._kept[0] != entry.name:
            found = factors_of(self.source, entry, self._settings.scaling, self._settings.energy.get(entry.name))
            self._kept = entry.name, found.normalised(to_error=self._settings.snr_db is not None)
        rows, columns, span = self._kept[1].rows, self._kept[1].columns, entry.piece(index)
        if rows is not None:
            rows = exponents_of(rows[span.start // entry.row_words : span.stop // entry.row_words])
        return Steps(step=1, rows=rows, columns=None if columns is None else exponents_of(columns))

    def report(self) -> dict[str, dict[str, float]]:
        """Signal-to-noise ratio of each tensor that was quantised, in dB; of nested files also of the coarser ones."""
        out = {}
        for name, errors in self._errors.items():
            ratios = [10 * math.log10(max(self._powers[name], 1e-300) / max(error, 1e-300)) for error in errors]
            if not errors[-1]:
                continue  # exact
            out[name] = {"snr_db": round(ratios[-1], 3)}
            out[name] |= {f"snr_db_{bits}_bits": round(r, 3) for bits, r in zip(NESTED_BITS, ratios[:-1], strict=False)}
        return out


def _shortest(words: np.ndarray, piece: Piece) -> tuple[int, Given]:
    """The exact coding that is shortest on the middle of a piece."""
    if piece.base is None:
        return EXACT, Given(words=words)
    part = slice(max(piece.count - _TRIED_WORDS, 0) // 2, (piece.count + _TRIED_WORDS) // 2)
    count = len(words[part])
    tried = Piece(dtype=piece.dtype, count=count, columns=count, base=piece.base[part])
    ways = [(DELTA, DIFFERENCE), (DELTA, XOR), (EXACT, DIFFERENCE)]
    sizes = []
    for number, how in ways:
        coder = TRELLIS_CODERS.write()
        code(coder, number, tried, Given(words=words[part], how=how))
        sizes.append(len(coder.chunk()))
    number, how = ways[sizes.index(min(sizes))]
    return number, Given(words=words, how=how)


def _relative_step(source: Source, spreads: Mapping[str, float], settings: TensorSettings) -> float:
    if settings.mode == "nested":
        return _NESTED_STEPS[0]
    if settings.bits is not None:
        return step_of_bits(source, spreads, settings.bits)
    if settings.snr_db is not None:
        return step_of_snr(source, spreads, settings.snr_db)
    return step_of_quality(DEFAULT_QUALITY if settings.quality is None else settings.quality)


def write_stream(
    file: BinaryIO, source: Source, settings: TensorSettings, progress: Progress | None = None
) -> tuple[str, ...]:
    """Write a file; returns notices of tensors that a lossy mode kept exact, as it cannot quantise them.

    Args:
        file: that can seek, at its beginning.
        progress: called with (bytes of tensors done, bytes in all).

    Raises:
        InputError: a tensor that the mode does not take; the message has its name.
    """
    encoder = Encoder(source, settings)
    layout = encoder.layout
    signal, index = layout.pack()
    name = settings.base.name.encode() if settings.base else b""
    count = 1 + layout.chunks + encoder.lossy + bool(name)
    if count > container.CHUNKS_MAX:
        raise InputError(f"{layout.chunks} pieces of tensors; at most {container.CHUNKS_MAX - 2} (join small tensors)")
    writer = container.Writer(file, stream_id=STREAM_ID, weights=bytes(8), signal=signal, count=count)
    writer.add(INDEX, index)
    later = [_Spool() for _ in range(layout.depth - 1)]
    done = 0
    for number, entry in enumerate(source.index.entries):
        for piece in range(entry.pieces):
            coders, words = encoder.piece(number, piece, TRELLIS_CODERS.write)
            writer.add(container.DATA, coders[0].chunk())
            for spool, coder in zip(later, coders[1:], strict=False):
                spool.add(coder.chunk())
            done += words.nbytes
            if progress:
                progress(done, layout.index.raw_bytes)
    for spool in later:
        for body in spool.bodies():
            writer.add(container.DATA, body)
    if encoder.lossy:
        writer.add(REPORT, pack_report(encoder.report()))
    if name:
        writer.add(BASE_NAME, name)
    writer.close()
    return encoder.notices


class _Spool:
    """Chunks that come later in the file, kept on disk."""

    def __init__(self) -> None:
        self._file, self._sizes = tempfile.TemporaryFile(), list[int]()  # noqa: SIM115

    def add(self, body: bytes) -> None:
        self._file.write(body)
        self._sizes.append(len(body))

    def bodies(self) -> Iterator[bytes]:
        self._file.seek(0)
        yield from map(self._file.read, self._sizes)
        self._file.close()


def save_source(path: str | Path, source: Source, settings: TensorSettings) -> tuple[str, ...]:
    """Write a file, here or at a URL, that takes the place of ``path`` when it is whole; as `write_stream`, and OSError."""
    with whole_file(path_of(path)) as file:
        return write_stream(file, source, settings)
