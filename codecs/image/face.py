"""The image codec on the command line: options, files in and out, and what is told of them. No numpy, no torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...entropy_models.errors import InputError
from .. import container, weights
from ..contract import Desk, Result
from ..terminal.files import parse_size, show_size
from ..terminal.options import Effort, Model, Quality, Size, Threads, check_rate, check_targets, names_of, suffix_for
from .effort import SHARES, TUNED_EFFORT, effort_of
from .formats import FORMATS, READ_ONLY, SHOWN, STRIPS, moves
from .header import ALPHA, LAYER, QUALITY, parse
from .tiles import Box

if TYPE_CHECKING:
    from .codec import ImageCodec

BPP_MAX = 1000.0


Tune = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"What the effort is for: {', '.join(SHARES)}; default both, mostly PSNR, of --model eyes eyes. "
        f"Alone: at effort {TUNED_EFFORT}.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    quality: Quality = None
    bpp: Annotated[float | None, typer.Option(help="The highest whole quality of at most this many bits per pixel.")] = None
    size: Size = None
    model: Model = None
    effort: Effort = None
    strip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Leave out metadata: {', '.join(STRIPS)}; may be given again. Colours and orientation stay.",
        ),
    ] = None
    tune: Tune = None
    threads: Threads = None

    def __post_init__(self) -> None:
        check_targets(self.quality, ("--bpp", self.bpp), self.size)
        check_rate("--bpp", self.bpp, BPP_MAX, "0.5")
        effort_of(self.effort, self.tune)
        if wrong := set(self.strip or ()) - set(STRIPS):
            raise InputError(f"--strip {', '.join(sorted(wrong))}; need one of {', '.join(STRIPS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""

    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help=f"{names_of(FORMATS)}; default OUT's, else png.")
    ] = None
    crop: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Only this part, as stored (not turned by EXIF); all is checked."),
    ] = None
    background: Annotated[
        str | None,
        typer.Option(metavar="COLOUR", help="Put alpha on a colour, like white or #336699, for formats that hold none."),
    ] = None
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Recover what is undamaged; exit code 0, a note and --json's lost_tiles name lost tiles.",
        ),
    ] = False
    threads: Threads = None

    def __post_init__(self) -> None:
        if self.crop is not None:
            parse_crop(self.crop)
        if self.background is not None:
            parse_colour(self.background)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Options of `codec verify`."""

    threads: Threads = None


class ImageFace:
    """`contract.Face` of the image codec."""

    people = "images"
    single = "an image"
    reads = READ_ONLY | FORMATS.keys()
    writes = FORMATS
    chunk_kinds = {ALPHA: "alpha", LAYER: "drawn"}
    examples = {
        "Encode": (
            "codec encode photo.png                   photo.rdc, quality 60",
            "codec encode holiday/ -o packed/ -q 40   a folder",
            "codec encode photo.png --size 50kB       at most 50,000 bytes",
            "codec encode photo.png --effort 5        some 3 % smaller at the same PSNR, takes fifteen times as long",
            "cat photo.jpg | codec encode - > photo.rdc",
        ),
        "Decode": (
            "codec decode photo.rdc                   photo.png",
            "codec decode packed/ -o back/ --format jpg",
            "codec decode photo.rdc --crop 0,0,512,512 -o part.png",
        ),
    }
    cuda = True
    shown = SHOWN
    Encode, Decode, Verify = EncodeOptions, DecodeOptions, VerifyOptions

    def takes(self, data: bytes, suffix: str) -> bool:
        """Whether Pillow knows the format. A GIF that moves is a video."""
        from .pictures import looks_like_image

        return looks_like_image(data) and not (data.startswith(b"GIF8") and moves(data))

    def encode(self, data: bytes, options: EncodeOptions, desk: Desk) -> Result:
        """An image file to a stream.

        Raises:
            ValueError: a damaged image, or a target out of reach.
            KeyError: no such model.
        """
        from ..rate_control import encode_to_size
        from .codec import ImageCodec
        from .pictures import read_picture
        from .stripping import stripped

        picture = read_picture(data)
        for name in options.strip or ():
            picture = stripped(picture, name)
        plain = desk.codec(
            "encode", lambda: ImageCodec.load(model=options.model, device=desk.device, threads=options.threads)
        )
        codec = plain.with_effort(options.effort, tune=options.tune)
        pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        size = parse_size(options.size) if options.size else None
        size = size if options.bpp is None else int(options.bpp * pixels / 8)
        quality = QUALITY if options.quality is None else options.quality
        if size is None:
            stream = codec.encode(picture, quality=quality, progress=desk.progress)
        else:

            def shown(size: int) -> str:
                return f"{size} bytes ({size * 8 / pixels:.3f} bpp)"

            stream, quality = encode_to_size(
                codec, picture, size, progress=desk.progress, shown=shown, draft=plain if codec.effort.steps else None
            )
        rate_bpp = len(stream) * 8 / pixels
        raw_bytes = picture.pixels.nbytes + (picture.alpha.nbytes if picture.alpha is not None else 0)
        notices = picture.notices
        if len(stream) > len(data):
            notices += (f"larger than the input of {show_size(len(data))}; keep that, or take a lower quality",)
        facts = {"quality": quality, "rate_bpp": rate_bpp, "raw_bytes": raw_bytes}
        return Result(stream, facts, f"{rate_bpp:.3f} bpp", notices)

    def suffix(self, options: DecodeOptions) -> str:
        """``.png``, or what --format says."""
        return suffix_for(options.format, FORMATS, self.people, ".png")

    def decode(self, stream: container.Stream, target: Path | None, options: DecodeOptions, desk: Desk) -> Result:
        """A stream to an image file; for standard output a PNG, unless --format says otherwise.

        Raises:
            BitstreamError: anything wrong with the data.
            ValueError: a crop outside the image, or a format that cannot hold it.
        """
        from .picture_writing import check_sides, fitting, flattened, format_of, write_picture

        image_format = FORMATS[self.suffix(options)] if options.format or not target else format_of(target)
        if target and FORMATS.get(target.suffix.lower(), image_format) != image_format:
            found = f"would be {self.suffix(options)}, not {target.suffix}"
            raise InputError(f"the output {target} {found}; give -o another name")
        stream, header = parse(stream, salvage=options.salvage)
        box = parse_crop(options.crop) if options.crop else None
        if box is None:
            check_sides(header.height, header.width, image_format)
        codec = _codec_of(stream, desk, options.threads)
        picture = codec.decode(stream, crop=box, salvage=options.salvage, progress=desk.progress)
        if options.background is not None:
            picture = flattened(picture, parse_colour(options.background))
        picture = fitting(picture, image_format)
        height, width = picture.pixels.shape[:2]
        facts = {"width": width, "height": height, "lost_tiles": picture.lost_tiles}
        return Result(write_picture(picture, image_format), facts, f"{width}x{height}", picture.notices)

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Every checksum and every symbol, no pixels."""
        parse(stream)
        return _codec_of(stream, desk, options.threads).verify(stream)

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Pixels, bits per pixel, bytes; also of an image cut short or with more behind it."""
        stream, header = parse(stream, salvage=True)
        tiles, drawn, metadata, alpha = (
            sum(stream.entries[i].length for i in stream.indices(kind))
            for kind in (container.DATA, LAYER, container.METADATA, ALPHA)
        )
        tags = [bytes(stream.data[stream.entries[i].offset :][:4]) for i in stream.indices(container.METADATA)]
        return {
            "width": header.width,
            "height": header.height,
            "channels": header.channels,
            "alpha": header.alpha,
            "bits_per_channel": header.depth,
            "quality": header.quality,
            "rate_bpp": round(stream.expected_bytes * 8 / (header.width * header.height), 4),
            "weights": stream.weights.hex(),
            "model": weights.model_of("image", stream.weights),
            "tile_columns": header.grid.columns,
            "tile_rows": header.grid.rows,
            "tile_bytes": tiles + drawn,
            "drawn": [name for name in ("layers", "sketches") if getattr(header, name)],
            "alpha_bytes": alpha,
            "metadata": [tag.decode("ascii", "replace").upper() for tag in tags],
            "metadata_bytes": metadata,
        }

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returned, for people."""
        columns, lines = facts["tile_columns"], facts["tile_rows"]
        names = ", ".join(facts["metadata"])
        return {
            "size": f"{facts['width']}x{facts['height']}",
            "channels": f"{facts['channels']}{' + alpha' if facts['alpha'] else ''}, {facts['bits_per_channel']} bits",
            "quality": facts["quality"],
            "rate_bpp": facts["rate_bpp"],
            "weights": weights.shown(facts["model"], facts["weights"]),
            "tiles": f"{columns * lines} ({columns}x{lines}), {show_size(facts['tile_bytes'])}"
            + (f", with {' and '.join(facts['drawn'])}" if facts["drawn"] else ""),
            "alpha": show_size(facts["alpha_bytes"]) if facts["alpha"] else "none",
            "metadata": f"{names}, {show_size(facts['metadata_bytes'])}" if names else "none",
        }

    def demo(
        self, source: Path | None, folder: Path, desk: Desk, note: Callable[[str], None], effort: int | None = None
    ) -> Iterable[Any]:
        """A photograph (else one that matplotlib ships) at three qualities, decoded again, on a sheet beside JPEG at equal
        bytes."""
        from .codec import ImageCodec
        from .demo import figures, run, sample_photograph

        codec = ImageCodec.load(device=desk.device).with_effort(effort)
        rows, sheet = run(codec, source or sample_photograph(), folder, note, effort or 0)
        return figures(rows), f"the sheet to look at: {sheet}"


def _codec_of(stream: container.Stream, desk: Desk, threads: int | None) -> ImageCodec:
    """The codec with the weights that a stream names."""
    from .codec import ImageCodec

    def load() -> ImageCodec:
        return ImageCodec.load(stream_hash=stream.weights, device=desk.device, threads=threads)

    codec: ImageCodec = desk.codec(stream.weights, load)
    return codec


def parse_crop(text: str) -> Box:
    """``X,Y,W,H`` to (top, left, bottom, right).

    >>> parse_crop("10,20,30,40")
    (20, 10, 60, 40)

    Raises:
        ValueError: not four whole numbers, or an empty crop.
    """
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"crop {text!r}; write X,Y,W,H in whole pixels, like 0,0,256,256") from None
    if width < 1 or height < 1 or x < 0 or y < 0:
        raise InputError(f"crop {text!r}; X and Y start at 0, W and H at 1")
    return y, x, y + height, x + width


def parse_colour(text: str) -> tuple[int, int, int]:
    """A colour's name in CSS or its number, as red, green and blue.

    >>> parse_colour("#336699")
    (51, 102, 153)

    Raises:
        ValueError: no such colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise InputError(f"colour {text!r}; write a name like white, or #rrggbb") from None
    return red, green, blue


FACE = ImageFace()
