"""Colours that a file describes by numbers, carried on as an ICC profile, which every format holds.

PNG's gAMA, cHRM and cICP, and AVIF's nclx, say which light a value means; nothing is converted. Code points are those of
ITU-T H.273. What says sRGB, or nothing, needs no profile. PQ and HLG stand in the profile's tag ``cicp`` (ICC.1:2022),
with curves beside it that end at reference white (BT.2408: 203 cd/m2), for programs that know no HDR.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

D65, DCI, C = (0.3127, 0.329), (0.314, 0.351), (0.31, 0.316)
PRIMARIES = {
    1: (D65, (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)),
    4: (C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (D65, (0.64, 0.33), (0.29, 0.6), (0.15, 0.06)),
    6: (D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    7: (D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: (D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    11: (DCI, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    12: (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
"""Chromaticities x, y of white, red, green and blue, by code point: BT.709, BT.470 M and BG, SMPTE 170M and 240M, BT.2020,
DCI P3, Display P3."""
SRGB, UNKNOWN, PQ, HLG = 13, 2, 16, 18
"""Transfer characteristics."""
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
AS_SRGB = frozenset({1, UNKNOWN, 6, SRGB, 14, 15})
"""Transfers that programs show as sRGB's: of cameras for television, whose screens undo another curve."""
FULL_RANGE = 1
_D50 = 0.9642, 1.0, 0.8249
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_CURVE_POINTS = 1024
_WHITE_NITS = 203.0
_SAME = 0.002
"""Difference of chromaticities that none can see; files round them."""
_SAME_GAMMA = 0.05
"""Difference of gammas that makes none: 2.2 and 2.2222 are written for sRGB."""


@dataclass(frozen=True, slots=True)
class Colour:
    """What a file says its values mean."""

    chromaticities: Sequence[tuple[float, float]] = PRIMARIES[1]
    """x, y of white, red, green and blue."""
    gamma: float | None = None
    """Exponent from values to light; None: what ``code`` says."""
    code: tuple[int, int] = (1, SRGB)
    """Code points of primaries and transfer."""

    @property
    def is_srgb(self) -> bool:
        curve = self.code[1] in AS_SRGB if self.gamma is None else abs(self.gamma - 2.2) < _SAME_GAMMA
        return curve and bool(np.abs(np.subtract(self.chromaticities, PRIMARIES[1])).max() < _SAME)


def of_codes(primaries: int, transfer: int) -> Colour | None:
    """The colour of two code points; None: unknown ones, which no profile can say."""
    if transfer not in AS_SRGB | GAMMAS.keys() | {PQ, HLG} or primaries not in PRIMARIES.keys() | {UNKNOWN}:
        return None
    return Colour(PRIMARIES.get(primaries, PRIMARIES[1]), GAMMAS.get(transfer), (primaries, transfer))


def of_png(found: dict[bytes, bytes]) -> tuple[Colour | None, str]:
    """The colour that a PNG's chunks tell, and what of them is not understood; None: a profile or sRGB at most."""
    code = found.get(b"cICP", b"")
    if len(code) == 4:
        colour = of_codes(code[0], code[1])
        return colour, "" if colour and code[3] == FULL_RANGE else f"cICP {code[0]}/{code[1]}/{code[2]}/{code[3]}"
    if b"iCCP" in found or b"sRGB" in found or not found.keys() & {b"gAMA", b"cHRM"}:
        return None, ""
    try:
        gamma = 1e5 / struct.unpack(">I", found[b"gAMA"])[0] if b"gAMA" in found else None
        numbers = np.array(struct.unpack(">8I", found[b"cHRM"])) / 1e5 if b"cHRM" in found else None
    except (struct.error, ZeroDivisionError):
        return None, "gAMA or cHRM"
    points = PRIMARIES[1] if numbers is None else [(x, y) for x, y in numbers.reshape(4, 2).tolist()]
    colour = Colour(points, gamma)
    return (colour, "") if _is_sane(colour) else (None, "gAMA or cHRM")


def of_avif(data: bytes) -> tuple[Colour | None, str]:
    """The colour that an AVIF's first nclx box tells, and what is not understood of it."""
    at = data.find(b"colrnclx", 0, 1 << 16)
    if at < 0 or len(data) < at + 15:
        return None, ""
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    colour = of_codes(primaries, transfer)
    return colour, "" if colour else f"nclx {primaries}/{transfer}"


def _is_sane(colour: Colour) -> bool:
    """Whether chromaticities span a triangle and gamma is one: files hold anything."""
    try:
        matrix = _to_xyz(colour.chromaticities)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return False
    fits = bool(np.isfinite(matrix).all() and np.abs(matrix).max() < 100)
    return fits and (colour.gamma is None or 0.1 < colour.gamma < 10)


def profile(colour: Colour, *, grey: bool) -> bytes:
    """An ICC profile (version 4.4) of a colour, for RGB pixels or grey ones."""
    curve = _curve(colour)
    tags = [(b"desc", _text(f"rdcodec {colour.code[0]}/{colour.code[1]}")), (b"cprt", _text("CC0")), (b"wtpt", _xyz(_D50))]
    if colour.gamma is None and colour.code[1] in (PQ, HLG):
        tags.append((b"cicp", b"cicp\0\0\0\0" + bytes([colour.code[0], colour.code[1], 0, FULL_RANGE])))
    if grey:
        tags.append((b"kTRC", curve))
    else:
        adaptation = _adaptation(colour.chromaticities[0])
        columns = (adaptation @ _to_xyz(colour.chromaticities)).T
        tags.append((b"chad", b"sf32\0\0\0\0" + _fixed(*adaptation.ravel())))
        tags += [(name + b"XYZ", _xyz(column)) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)]
        tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    return _assembled(tags, b"GRAY" if grey else b"RGB ")


def code_of(icc: bytes | None) -> bytes | None:
    """The four code points in a profile's tag ``cicp``, as PNG's chunk has them; None: there is none."""
    try:
        (count,) = struct.unpack_from(">I", icc or b"", 128)
        for at in range(132, 132 + 12 * min(count, 100), 12):
            name, offset, size = struct.unpack_from(">4sII", icc or b"", at)
            if name == b"cicp" and size == 12:
                return (icc or b"")[offset + 8 : offset + 12]
    except struct.error:
        pass
    return None


def _to_xyz(chromaticities: Sequence[tuple[float, float]]) -> np.ndarray:
    """Matrix from linear RGB to XYZ, white of luminance 1."""
    white, *corners = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in chromaticities)
    columns = np.stack(corners, axis=1)
    return columns * np.linalg.solve(columns, white)


def _adaptation(white: tuple[float, float]) -> np.ndarray:
    """Bradford's matrix from a white to D50."""
    x, y = white
    cones = _BRADFORD @ [x / y, 1.0, (1 - x - y) / y]
    return np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / cones) @ _BRADFORD


def _curve(colour: Colour) -> bytes:
    """The tone curve, from values to light."""
    if colour.gamma is not None:
        return b"para\0\0\0\0\0\0\0\0" + _fixed(colour.gamma)
    table: dict[int, Callable[[np.ndarray], np.ndarray]] = {PQ: _pq, HLG: _hlg}
    if make := table.get(colour.code[1]):
        points = np.rint(65535 * make(np.linspace(0, 1, _CURVE_POINTS)).clip(0, 1)).astype(">u2")
        return b"curv\0\0\0\0" + struct.pack(">I", len(points)) + points.tobytes()
    return b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _pq(value: np.ndarray) -> np.ndarray:
    """Light of PQ values (SMPTE ST 2084), in units of reference white."""
    power = value ** (32 / 2523)
    return 10000 / _WHITE_NITS * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)


def _hlg(value: np.ndarray) -> np.ndarray:
    """Light of HLG values (BT.2100) on a screen of 1,000 cd/m2, in units of reference white."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    return 1000 / _WHITE_NITS * scene**1.2


def _fixed(*numbers: float) -> bytes:
    """Numbers as ICC's signed 15.16."""
    return struct.pack(f">{len(numbers)}i", *(round(65536 * float(number)) for number in numbers))


def _xyz(numbers: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _text(text: str) -> bytes:
    body = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(body), 28) + body


def _assembled(tags: list[tuple[bytes, bytes]], space: bytes) -> bytes:
    """Header, tag table and tags; equal tags are stored once, each at a multiple of four."""
    offset, table, bodies, known = 132 + 12 * len(tags), b"", b"", dict[bytes, int]()
    for name, body in tags:
        if body not in known:
            known[body] = offset + len(bodies)
            bodies += body + bytes(-len(body) % 4)
        table += struct.pack(">4sII", name, known[body], len(body))
    size = offset + len(bodies)
    head = struct.pack(">I4xI4s4s4s12x4s", size, 0x04400000, b"mntr", space, b"XYZ ", b"acsp")
    head += bytes(28) + _fixed(*_D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + bodies
