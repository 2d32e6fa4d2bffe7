"""The video codec: clips to .rdc files and back. The file is specified in `header` and `container`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
import torch

from ...entropy_models.coder import Measure
from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Unsupported, raise_first
from ...entropy_models.tables import Tables
from .. import container, weights
from ..contract import Estimate, Progress
from ..device import resolve_device
from ..image.architectures import ARCHITECTURES as IMAGE_ARCHITECTURES
from ..image.dcvc_rt import ImageNetwork
from ..image.effort import effort_of
from ..image.tile_coder import NO_EFFORT
from ..symbols import LEAST_BYTES, reading
from ..torch_state import THREADED_WORK, checked_threads, own_state
from ..weights_file import read_weights
from ..workers import Told
from .architectures import ARCHITECTURES
from .clip import RATE, Clip
from .counting import Counted
from .group_work import GroupWork, checked_frame
from .groups import KINDS, GroupEncoder, GroupPass, RefinedPass
from .header import (
    GROUP,
    LOW_DELAY,
    PYRAMID,
    STREAM_ID,
    TAG_BYTES,
    VideoHeader,
    checked_header,
    checked_range,
    checked_rate,
    extras_of,
    parse,
)
from .ordering import chosen_lifts, tried
from .stem import StemNetwork

Source = Clip | np.ndarray | str | Path | BinaryIO
"""A clip; frames, uint8 (frames, height, width, 3); or a video file, by its path or open, or pictures (`VideoFile`). All
frames of these are held in memory, 3 bytes a pixel."""


class VideoCodec:
    """Variable-rate learned video codec: the image codec's transforms, and an entropy model of what changes; see `stem`.

    Use ``VideoCodec.load()``. Quality 0..100 is that of the image codec.
    """

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(
        self,
        image: ImageNetwork,
        stem: StemNetwork,
        tables: Tables,
        stream_hash: bytes,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self.image = image.eval().requires_grad_(False).to(device)
        self.stem = stem.eval().requires_grad_(False).to(device)
        self.tables, self.stream_hash, self.device = tables, stream_hash, torch.device(device)
        self.effort, self.threads = NO_EFFORT, checked_threads(threads)

    @classmethod
    def load(
        cls,
        *,
        model: str | None = None,
        stream_hash: bytes | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Weights by model name, or by the hash in a stream; else the default model. They name the image weights they need.

        Args:
            device: ``cpu``, ``cuda`` or ``auto`` (CUDA if there is one).
            threads: of a CPU; None: as many as torch has been given. Each does groups of small frames alone, and all share a
                large one.

        Raises:
            KeyError: no such model.
            Unsupported: no such weights.
            ValueError: CUDA asked for and not available, or a damaged weights file.
        """
        line = weights.line_for("video", model=model, stream_hash=stream_hash)
        stem, tables = read_weights(weights.verified_bytes(line), ARCHITECTURES)
        image_line = weights.line_of_stream("image", bytes.fromhex(stem.config.image))
        image, _ = read_weights(weights.verified_bytes(image_line), IMAGE_ARCHITECTURES)
        if not isinstance(image, ImageNetwork):
            raise Unsupported(f"{image_line.name}, a {type(image).__name__}: the pictures of a video need an ImageNetwork")
        return cls(image, stem, tables, line.stream_hash, resolve_device(device), threads)

    def with_effort(self, effort: int | None = None, *, tune: str | None = None) -> Self:
        """This codec with an encoder that refines each frame's symbols before it writes them; networks are shared.

        The same decoder and weights read what it writes. Two machines, or numbers of threads, may write other bytes.

        Args:
            effort, tune: as `ImageCodec.with_effort` has them; a frame's step costs what several decoded frames do.

        Raises:
            ValueError: there is no such effort or tune.
        """
        other = copy(self)
        other.effort = effort_of(effort, tune)
        return other

    def encode(
        self,
        signal: Source,
        *,
        rate: Fraction | float = RATE,
        quality: int | None = None,
        group: int = GROUP,
        low_delay: bool | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Compress a clip to the bytes of an .rdc file.

        Args:
            rate: of an array or pictures, in frames per second; others know their own.
            quality: 0..100; None: 50.
            group: frames from one that can be decoded on its own to the next.
            low_delay: code each frame as it comes, with the one before as its only reference: the very file that `recording`
                keeps. False: pyramids (`order`). None: what tells more in its bits, by trial of some frames.
            progress: called with (frames done, frames in all).

        Raises:
            ValueError: not frames this codec takes, or quality or group out of range.
            OSError: a file cannot be read.
        """
        clip = clip_of(signal, rate)
        header = self.header_of(clip, quality, group, low_delay)
        groups = self.encode_groups(clip.frames, header, progress=progress)
        chunks = [(container.DATA, body) for body in groups]
        chunks += [(container.METADATA, tag + body) for tag, body in clip.extras.items()]
        return container.write(stream_id=STREAM_ID, weights=self.stream_hash, signal=header.pack(), chunks=chunks)

    def encode_groups(
        self, frames: Iterable[np.ndarray], header: VideoHeader, *, progress: Progress | None = None
    ) -> Iterator[bytes]:
        """The chunk of each group, of frames that come one by one. Of small frames one group more is kept than there are
        threads; of large ones, and with one thread, no more frames than from an anchor to the next.

        Raises:
            ValueError: frames are of another size or number than the header says. No group is cut short: frames of a number
                that is not known beforehand, as a camera's, are for `streaming`.
        """
        work = GroupWork(self, header, header.groups)
        return work.done(work.encodings(frames), progress, header.frames)

    def encode_batch(self, signals: Iterable[Source], *, quality: int | None = None) -> list[bytes]:
        """Encode several clips; the very bytes `encode` gives for each."""
        return [self.encode(signal, quality=quality) for signal in signals]

    def decode(
        self,
        data: bytes | container.Stream,
        *,
        start: int | None = None,
        stop: int | None = None,
        every: int = 1,
        salvage: bool = False,
        progress: Progress | None = None,
    ) -> Clip:
        """Decompress to frames and what travels with them.

        Symbols are the same on every machine. Pixels may differ by a grey level where float rounding ties, and by some
        more late in a group, whose frames are made of those before.

        Args:
            start, stop: only these frames; of the groups that hold them, what they are made of is decoded.
            every: of these, every so many.
            salvage: grey frames for damaged groups, with ``notices`` and ``lost`` of them.
            progress: called with (frames done, frames that must be decoded).

        Raises:
            BitstreamError: anything wrong with the data that salvage does not cover, or nothing left to salvage.
            ValueError: the frames do not lie in the video.
        """
        stream, header = self.parsed(data, salvage=salvage)
        wanted = checked_range(start, stop, header)[:: checked_every(every)]
        if not salvage and len(wanted) == header.frames:
            stream.check()
        lost: dict[int, BitstreamError] = {}
        frames = np.empty((len(wanted), header.height, header.width, 3), np.uint8)
        for index, frame in enumerate(self.frames(stream, header, wanted, lost if salvage else None, progress)):
            frames[index] = frame
        notices: list[str] = []
        extras = extras_of(stream, header, notices if salvage else None)
        lost = dict(sorted(lost.items()))  # threads find them in any order
        notices = [f"{header.group_name(index)} is lost ({error})" for index, error in lost.items()] + notices
        if lost and len(lost) == len({number // header.group for number in wanted}):
            raise Corrupt(f"no group is undamaged; {notices[0]}")
        return Clip(
            frames=frames, rate=header.rate, extras=extras, source=header.source, notices=tuple(notices), lost=tuple(lost)
        )

    def decode_batch(self, streams: Iterable[bytes]) -> list[Clip]:
        """Decode several streams."""
        return [self.decode(data) for data in streams]

    def frames(
        self,
        stream: container.Stream,
        header: VideoHeader,
        wanted: Collection[int],
        lost: dict[int, BitstreamError] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """The wanted frames, uint8 (height, width, 3), one by one, ascending; groups without any are not read.

        Args:
            wanted: numbers of frames, looked up often: a range or a set.
            lost: is told damaged groups, whose frames are grey; None: they raise.
        """
        groups = [
            (index, [number for number in header.frames_of(index) if number in wanted])
            for index in sorted({number // header.group for number in wanted})
        ]
        return GroupWork(self, header, len(groups)).frames(stream, groups, lost, progress)

    def estimate(
        self,
        signal: Source,
        *,
        rate: Fraction | float = RATE,
        quality: int | None = None,
        group: int = GROUP,
        low_delay: bool | None = None,
        progress: Progress | None = None,
    ) -> Estimate[Clip]:
        """Ideal bits of the groups' symbols and what `decode` will return, without a stream. Arguments and errors as
        `encode`."""
        clip = clip_of(signal, rate)
        header = self.header_of(clip, quality, group, low_delay)
        frames, bits = np.empty_like(clip.frames), 0.0
        work, groups = GroupWork(self, header, header.groups), [header.frames_of(index) for index in range(header.groups)]
        jobs = (partial(work.estimated, list(clip.frames[numbers.start : numbers.stop])) for numbers in groups)
        for numbers, (more, shown) in zip(groups, work.done(jobs, progress, header.frames), strict=True):
            bits += more
            frames[numbers.start : numbers.stop] = shown
        return Estimate(bits, Clip(frames=frames, rate=clip.rate, extras=clip.extras, source=clip.source))

    def frame_bits(self, frames: Sequence[np.ndarray], header: VideoHeader) -> tuple[float, float]:
        """Ideal bits of the first frame of a group of these, and of each other on average."""
        measure, encoder = Measure(self.tables), self.encoder_of(header, len(frames))
        totals = []
        for frame in frames:
            with self.at_work(header):
                encoder.code(measure, checked_frame(frame, header))
            totals.append(float(measure.bits[0]))
        return totals[0], (totals[-1] - totals[0]) / max(1, len(frames) - 1)

    def verify(self, data: bytes | container.Stream) -> list[str]:
        """Check every chunk and decode every symbol, but no pixels. Returns an empty list: nothing is left unchecked.

        Raises:
            BitstreamError: anything wrong with the data; names the first damaged group, and how many more there are.
        """
        stream, header = self.parsed(data)
        work = GroupWork(self, header, 1)  # symbols alone are small tensors and much Python, which runs one thread at a time
        errors = [error for index in range(header.groups) if (error := work.damage(stream, index))]
        raise_first(errors, header.groups)
        extras_of(stream, header)
        return []

    def frame_table(self, data: bytes | container.Stream) -> list[dict[str, Any]]:
        """``frame``, ``group``, ``kind`` (of `KINDS`), ``references``, the frames it may be made of, and ideal ``bits`` of
        each frame, of symbols alone, as `verify` reads them. Errors as of `verify`, but of the first damaged group."""
        stream, header = self.parsed(data)
        table: list[dict[str, Any]] = []
        for index in range(header.groups):
            numbers = header.frames_of(index)
            group = GroupPass(self.image, self.stem, header, frames=len(numbers), pixels=())
            try:
                with self.at_work(header), reading(self.tables, header.pack(), stream.chunk(index)) as reader:
                    counted = Counted(reader, self.tables)
                    for _ in numbers:
                        kind = KINDS[group.code(counted)]
                        place = group.place
                        shown_again = {"intra": (), "same": (place.before,), "next": (place.after,)}
                        made_of = [numbers[n] for n in shown_again.get(kind, place.references) if n is not None]
                        frame = {"frame": numbers[group.place.number], "group": index, "kind": kind, "references": made_of}
                        table.append(frame | {"bits": round(counted.more_bits(), 2)})
            except BitstreamError as error:
                raise type(error)(f"{header.group_name(index)}: {error}") from None
        return sorted(table, key=lambda line: line["frame"])

    def measurer(
        self,
        signal: Source,
        *,
        rate: Fraction | float = RATE,
        group: int = GROUP,
        low_delay: bool | None = None,
        progress: Progress | None = None,
    ) -> Callable[[int], int]:
        """A function from quality to the bytes that `encode` writes at least: a few a group fewer."""
        clip = clip_of(signal, rate)
        extra = sum(container.ENTRY_BYTES + TAG_BYTES + len(body) for body in clip.extras.values())

        def measure(quality: int) -> int:
            header = self.header_of(clip, quality, group, low_delay)
            as_shown = header.lifts == LOW_DELAY
            fixed = container.table_end(len(header.pack()), header.groups) + LEAST_BYTES * header.groups
            bits = self.estimate(clip, quality=quality, group=group, low_delay=as_shown, progress=progress).bits
            return int(bits / 8) + fixed + extra

        return measure

    def header_of(
        self, clip: Clip, quality: int | None = None, group: int = GROUP, low_delay: bool | None = None
    ) -> VideoHeader:
        """The header that `encode` gives a clip. Arguments and errors as there."""
        frames, height, width, _ = clip.frames.shape
        header = checked_header(
            width=width, height=height, frames=frames, rate=clip.rate, quality=quality, group=group, source=clip.source
        )
        return self.with_order(header, low_delay, lambda numbers: list(clip.frames[numbers.start : numbers.stop]))

    def with_order(
        self, header: VideoHeader, low_delay: bool | None, frames: Callable[[range], Sequence[np.ndarray]]
    ) -> VideoHeader:
        """A header with the lifts of an order: the one that is asked for, or, None, what tells more in its bits.

        Args:
            frames: gives those of some numbers, for the trial.
        """
        if low_delay is None:
            samples = (frames(numbers) for numbers in tried(header))
            lifts = chosen_lifts(samples, self.with_effort(0), header)
        else:
            lifts = LOW_DELAY if low_delay else PYRAMID
        return replace(header, lifts=lifts)

    def encoder_of(self, header: VideoHeader, frames: int | None = None, told: Told | None = None) -> GroupEncoder:
        """An encoder of the frames of one group, by default as many as the header says, with this codec's effort.

        Args:
            told: is called with 1 after each frame.
        """
        group = partial(RefinedPass, tables=self.tables, effort=self.effort) if self.effort.steps else GroupPass
        return GroupEncoder(self.image, self.stem, self.tables, header, group, frames=frames, told=told)

    def parsed(self, data: bytes | container.Stream, *, salvage: bool = False) -> tuple[container.Stream, VideoHeader]:
        """Container and header of a file for these weights. Errors as `decode`."""
        stream, header = parse(data, salvage=salvage)
        stream.check_weights(self.stream_hash)
        return stream, header

    def at_work(self, header: VideoHeader) -> AbstractContextManager[None]:
        """torch's state for as long as networks run."""
        pixels = header.width * header.height if self.device.type == "cpu" else THREADED_WORK
        return own_state(pixels, self.threads if pixels >= THREADED_WORK else None)


def clip_of(signal: Source, rate: Fraction | float) -> Clip:
    """The clip that a source holds; InputError if it is none, OSError if it cannot be read."""
    if isinstance(signal, Clip):
        return signal
    rate = checked_rate(rate)
    if isinstance(signal, np.ndarray):
        return Clip(frames=signal, rate=rate)
    from .whole import read_clip  # imports PyAV

    return read_clip(signal, rate)


def checked_every(every: int) -> int:
    """A step between frames; ValueError if it is none."""
    if every < 1:
        raise InputError(f"every {every} frames; need at least 1")
    return every
