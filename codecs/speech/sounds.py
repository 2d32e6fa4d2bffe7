"""Sound files to samples, by blocks: through soundfile, and through PyAV MP3 and what soundfile does not read.

Memory does not grow with the sound. What ends before its header says, is damaged, or holds no finite samples is refused; an
MP3 without a count of its frames and an Ogg file that are cut off are whole, shorter ones.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
import numpy as np
import soundfile

from ...entropy_models.errors import InputError
from ..contract import Readable
from . import music
from .music import MusicMeter
from .offset import OffsetMeter
from .pcm import Layout, ends_early, pcm_blocks, read_wav_header
from .resampling import regrouped, resampled_blocks
from .sound import CHANNELS_MAX, Sound, check_rate, check_samples, mixed

TAGS = ("title", "artist", "album", "date", "tracknumber", "genre", "comment", "copyright", "license")
"""Names of tags that are kept."""
_ALIASES = {"track": "tracknumber", "year": "date"}
_FRAMES_AT_ONCE = 1 << 16
_UNKNOWN = 1 << 62
"""From so many frames on, soundfile does not know how many there are."""
_UNREAD = soundfile.LibsndfileError, av.FFmpegError, ValueError, EOFError
Input = str | Path | bytes | bytearray | memoryview | BinaryIO


@dataclass(slots=True, kw_only=True)
class SoundSource:
    """A sound that is read by blocks, once; a context manager."""

    sample_rate: int
    channels: int
    """1 or 2: more are mixed to one."""
    read: Iterator[np.ndarray]
    """What the file gives: float32 (channels of the file, n), unchecked."""
    frames: int | None = None
    """Frames, as the header announces them; None: not known before they are read."""
    tags: Mapping[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    """Notices of what is converted or left out."""
    close: Callable[[], Any] = lambda: None
    meter: OffsetMeter = field(default_factory=OffsetMeter)
    """Of the blocks that were read."""

    def blocks(self, frames: int | None = None) -> Iterator[np.ndarray]:
        """Blocks of float32 (channels, n), none of them empty.

        Args:
            frames: n of all but the last; None: as they come, which is soonest.

        Raises:
            ValueError: the file is damaged, cut off or empty, or its samples are not finite or far above full scale.
        """
        blocks = self._checked()
        return blocks if frames is None else regrouped(blocks, frames)

    def _checked(self) -> Iterator[np.ndarray]:
        came = 0
        try:
            for block in self.read:
                check_samples(block, came)
                came += block.shape[1]
                if block.size:
                    block = mixed(block) if self.channels == 1 else block
                    self.meter.push(block)
                    yield block
        except _UNREAD as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"damaged after {came / self.sample_rate:.2f} s: {_text(error)}") from None
        if not came:
            raise InputError("the sound is empty; need at least one sample")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_sound(source: Input, *, mono: bool = False) -> SoundSource:
    """A sound file, or the sound of a video, to be read by blocks.

    Args:
        source: a path, a whole file's bytes, or an open binary file; one that cannot seek, as a pipe, is read as it comes.
        mono: the mean of the channels.

    Raises:
        OSError: it cannot be read.
        ValueError: no sound, or none that soundfile or PyAV reads.
    """
    with ExitStack() as stack:
        file = _as_file(source, stack)
        sound = _opened(file) if file.seekable() else _piped(file)
        check_rate(sound.sample_rate)
        if sound.channels > CHANNELS_MAX:
            sound.notices.append(f"{sound.channels} channels are mixed to one")
        sound.channels = 1 if mono or sound.channels > CHANNELS_MAX else sound.channels
        stack.callback(sound.close)
        sound.close = stack.pop_all().close
        return sound


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundOnFile:
    """A sound in an open file that can seek, read by blocks as often as it is asked for (`sound.Recording`)."""

    open: Callable[[], SoundSource]
    sample_rate: int
    channels: int
    frames: int
    """Samples of each channel: those there are, not those that a header announces."""
    tags: Mapping[str, str]
    notices: tuple[str, ...]
    """Notices of what is converted or left out."""
    music: bool
    """Whether it sounds like music, and not like speech."""
    offset: float
    """A constant that has more power than the rest; 0.0: there is none."""

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks as `SoundSource.blocks`."""
        with self.open() as sound:
            yield from sound.blocks()


def sound_on_file(file: BinaryIO, *, mono: bool = False, layout: Layout | None = None) -> SoundOnFile:
    """A sound in a file that can seek, which is read through once: what is wrong with it is found before work begins.

    Args:
        layout: of raw samples.

    Raises:
        ValueError: as `open_sound` and `SoundSource.blocks`.
    """

    def opened() -> SoundSource:
        file.seek(0)
        return open_pcm(file, layout, mono=mono) if layout else open_sound(file, mono=mono)

    frames, meter = 0, MusicMeter()

    def heard(sound: SoundSource) -> Iterator[np.ndarray]:
        nonlocal frames
        for block in sound.blocks():
            frames += block.shape[1]
            yield mixed(block)

    with opened() as sound:
        for block in resampled_blocks(heard(sound), sound.sample_rate, music.RATE, 1):
            meter.push(block[0])
        return SoundOnFile(
            open=opened, sample_rate=sound.sample_rate, channels=sound.channels, frames=frames, tags=sound.tags,
            notices=tuple(sound.notices), music=meter.music, offset=sound.meter.offset,
        )  # fmt: skip


def read_sound(source: Input, *, mono: bool = False) -> Sound:
    """A whole sound file, as `open_sound`.

    Raises:
        OSError, ValueError: as `open_sound` and `SoundSource.blocks`.
    """
    with open_sound(source, mono=mono) as sound:
        samples = np.concatenate(list(sound.blocks()), axis=1)
        return Sound(samples=samples, sample_rate=sound.sample_rate, tags=sound.tags, notices=tuple(sound.notices))


def open_pcm(file: Readable, layout: Layout, *, mono: bool = False) -> SoundSource:
    """Raw samples, to be read by blocks as they come."""
    channels = 1 if mono else layout.channels
    return SoundSource(sample_rate=layout.sample_rate, channels=channels, read=pcm_blocks(file, layout))


def _as_file(source: Input, stack: ExitStack) -> BinaryIO:
    if isinstance(source, str | Path):
        return stack.enter_context(open(source, "rb"))
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return source


def _opened(file: BinaryIO) -> SoundSource:
    """A file that can seek."""
    file.seek(0)
    head = file.read(1 << 16)
    if not head:
        raise InputError("the file is empty")
    try:
        sound = _with_soundfile(file, head)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a name that ends with .raw
        sound = None
    if sound is None:
        counted = _counts_frames(file)
        file.seek(0)
        sound = _with_pyav(file, counted)
    return sound


def _with_soundfile(file: BinaryIO, head: bytes) -> SoundSource | None:
    """Through soundfile.

    None for a WAV that says it is empty, as one whose writer could not go back, and for MP3: libmpg123 guesses the length
    where it is not given, ends there, and writes to standard error.
    """
    file.seek(0)
    sound = soundfile.SoundFile(file)
    frames = sound.frames if sound.frames < _UNKNOWN else None
    if not frames or sound.format == "MP3":
        sound.close()
        return None
    announced = max(frames, _announced(file, head))
    tags = {name: value for name, value in sound.copy_metadata().items() if name in TAGS and value}

    def blocks() -> Iterator[np.ndarray]:
        came = 0
        while len(block := sound.read(_FRAMES_AT_ONCE, dtype="float32", always_2d=True)):
            came += len(block)
            yield np.ascontiguousarray(block.T)
        if came < announced:
            raise InputError(ends_early(came, announced, sound.samplerate))

    return SoundSource(
        sample_rate=sound.samplerate, channels=sound.channels, read=blocks(), frames=announced, tags=tags, close=sound.close
    )


def _announced(file: BinaryIO, head: bytes) -> int:
    """Frames that the header of a WAV or AIFF file announces, of which soundfile tells only those there are; 0: unknown."""
    at = file.tell()
    try:
        if head[:4] in (b"RIFF", b"RF64", b"BW64"):
            file.seek(0)
            return read_wav_header(file)[1] or 0
    finally:
        file.seek(at)
    common = head.find(b"COMM") if head.startswith(b"FORM") else -1
    return int.from_bytes(head[common + 10 : common + 14], "big") if common > 0 else 0


def _with_pyav(file: Any, counted: bool = False) -> SoundSource:
    """Through PyAV: also the sound of a video, and files that cannot seek.

    Args:
        counted: an MP3 tells how many frames it has.

    Raises:
        ValueError: FFmpeg does not know the format, or there is no sound in it.
    """
    try:
        container = av.open(file, metadata_errors="ignore")
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise InputError(f"no sound that soundfile or FFmpeg reads: {_text(error)}") from None
    stream = container.streams.best("audio")
    if stream is None:
        container.close()
        raise InputError(f"no sound in this {container.format.long_name} file")
    notices = []
    if (tracks := len(container.streams.audio)) > 1:
        notices.append(f"one of {tracks} sound tracks is kept")
    if any(not _is_cover(video) for video in container.streams.video):
        notices.append("only the sound of the video is kept")
    found = {**container.metadata, **stream.metadata}
    tags = {_ALIASES.get(name.lower(), name.lower()): value.strip("\0 ") for name, value in found.items()}
    decoded = container.decode(stream)
    try:
        first = next(decoded)  # some formats tell their rate only here
    except StopIteration:
        container.close()
        raise InputError("the sound is empty; need at least one sample") from None
    except (av.FFmpegError, ValueError, EOFError) as error:
        container.close()
        raise InputError(f"damaged from its start: {_text(error)}") from None
    counted |= "mp4" in container.format.name  # other lengths are guessed
    announced = int(stream.duration * stream.time_base * first.sample_rate) if counted and stream.duration else None
    return SoundSource(
        sample_rate=first.sample_rate,
        channels=len(first.layout.channels),
        read=_decoded(first, decoded, announced),
        frames=announced,
        tags={name: tags[name] for name in TAGS if tags.get(name)},
        notices=notices,
        close=container.close,
    )


def _decoded(first: Any, rest: Iterator[Any], announced: int | None) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler(format="fltp")
    came = 0
    for frame in (f for part in ([first], rest) for f in part):
        for planar in resampler.resample(frame):
            came += planar.samples
            yield planar.to_ndarray()
    if announced and came < announced - first.sample_rate // 2:
        raise InputError(ends_early(came, announced, first.sample_rate))


def _counts_frames(file: BinaryIO) -> bool:
    """Whether an MP3's first frame, behind its tags, counts the others."""
    file.seek(0)
    head = file.read(10)
    if head.startswith(b"ID3") and len(head) == 10:
        file.seek(10 + sum((head[9 - i] & 0x7F) << 7 * i for i in range(4)))
    first = file.read(256)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _is_cover(video: Any) -> bool:
    return bool(video.disposition & av.stream.Disposition.attached_pic)


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)


class _Pipe:
    """A file that cannot seek, whose beginning can be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._kept, self._again = file, io.BytesIO(), False

    def read(self, size: int = -1) -> bytes:
        if self._again and (data := self._kept.read(size)):
            return data
        data = self._file.read(size)
        if not self._again:
            self._kept.write(data)
        return data

    def from_start(self) -> None:
        """Read again what was read."""
        self._kept.seek(0)
        self._again = True


def _piped(file: BinaryIO) -> SoundSource:
    """A file that cannot seek: WAV as it comes, others as FFmpeg takes them."""
    pipe = _Pipe(file)
    try:
        layout, frames = read_wav_header(pipe)
    except InputError:  # not a WAV file, or one for FFmpeg to complain of
        layout, frames = None, None
    if layout:
        read = pcm_blocks(file, layout, frames)
        return SoundSource(sample_rate=layout.sample_rate, channels=layout.channels, read=read, frames=frames)
    pipe.from_start()
    return _with_pyav(pipe)
