"""Colors as a file names them, converted to sRGB.

Profiles of curves and a matrix (cameras, scanners, working spaces, all gray ones) are evaluated here, in floats, so
that 16 bits stay 16 bits: littleCMS, as Pillow brings it, has only 8 there, and its shortcuts for gray are off by up to
10 levels. A test holds both together, without the shortcuts. Profiles of tables (CMYK, some scanners) are littleCMS's
alone, at 8 bits; for deeper samples a note says so.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Curve = Callable[[NDArray[Any]], NDArray[Any]]

#: Linear sRGB to XYZ with the white of profiles, D50.
SRGB = (
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
ADOBE_RGB = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))
#: White of D50, as the matrix above has it, so that gray stays gray; and of D65, as (x, y).
D50, D65 = (0.96422, 1.0, 0.82521), (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))

CHANNELS = {"gray": 1, "rgb": 3, "cmyk": 4}
SIGNATURES = {b"GRAY": "gray", b"RGB ": "rgb", b"CMYK": "cmyk", b"Lab ": "lab"}
#: littleCMS's flags; Pillow names them since 10.1.
BLACK_TO_BLACK, FINE_TABLES, NO_TABLES = 0x2000, 0x0400, 0x0100
#: Pixels in one go, since each step makes a copy.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Space:
    """Colors that are curves and, in color, a matrix: value -> curve -> matrix -> XYZ."""

    name: str
    curves: tuple[Curve, ...]
    #: Linear channels to XYZ, D50; none for gray.
    matrix: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class Colors:
    """What a file says about its colors: a profile, or a space that it names in another way, or nothing: sRGB."""

    icc: bytes | None = None
    space: Space | None = None
    #: Said when nothing can be converted.
    note: str | None = None


def to_srgb(samples: NDArray[Any], model: str, colors: Colors) -> tuple[NDArray[Any], str | None, list[str]]:
    """Samples as sRGB, the name of what they were stored in, and what a user should know.

    :param samples: (H, W, C), uint8 in 0..255 or float32 in 0..1.
    :param model: "gray", "rgb", "cmyk", or "lab" (float32: L in 0..100, a, b).
    :returns: (H, W, 1 or 3) float32 in 0..1.
    """
    notes = [colors.note] if colors.note else []
    if model == "lab":
        return lab_to_srgb(samples), "CIELAB", notes
    if colors.icc is not None:
        image, name, said = _by_profile(samples, model, colors.icc)
        return image, name, notes + said
    if colors.space is None or is_srgb(colors.space):
        return _plain(samples, model), colors.space.name if colors.space else None, notes
    return _in_floats(samples, colors.space), colors.space.name, notes


def _by_profile(samples: NDArray[Any], model: str, icc: bytes) -> tuple[NDArray[Any], str | None, list[str]]:
    """:func:`to_srgb` by an ICC profile; one that cannot be used is as good as none, with a note."""
    import numpy as np

    name, kind = profile_name(icc), SIGNATURES.get(icc[16:20])
    if kind is None or len(icc) < 132 or icc[36:40] != b"acsp":
        return _plain(samples, model), None, ["its color profile is broken: its values are taken as sRGB"]
    if (model, kind) == ("gray", "rgb"):
        samples, model = samples.repeat(3, axis=2), "rgb"
    if kind != model:
        said = f"its color profile {name!r} is for {kind}, its pixels are {model}: they are taken without it"
        return _plain(samples, model), None, [said]
    space, deep = read_space(icc), samples.dtype != np.uint8
    if space is not None:
        return _plain(samples, model) if is_srgb(space) else _in_floats(samples, space), name, []
    try:
        converted = by_littlecms(_to_bytes(samples) if deep else samples, model, icc)
    except (OSError, ValueError) as error:
        said = f"its color profile {name!r} cannot be used ({error}): its values are taken as sRGB"
        return _plain(samples, model), None, [said]
    notes = [f"its color profile {name!r} is one of tables: colors were converted at 8 bits"] if deep else []
    return floats(converted), name, notes


def by_littlecms(samples: NDArray[Any], model: str, icc: bytes, *, exact: bool = False) -> NDArray[Any]:
    """(H, W, C) uint8 in a profile's colors -> (H, W, 3) uint8, sRGB: relative colorimetric, black to black.

    :param exact: without the tables that littleCMS makes of a conversion, and with black as the profile has it; slow.
    :raises ValueError: littleCMS cannot use the profile.
    """
    import numpy as np
    from PIL import Image, ImageCms

    mode = {"gray": "L", "rgb": "RGB", "cmyk": "CMYK"}[model]
    flat = samples[..., 0] if model == "gray" else samples
    image = Image.fromarray(np.ascontiguousarray(flat))
    if model == "cmyk":  # four channels are taken for RGBA
        image = Image.frombytes("CMYK", image.size, image.tobytes())
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=NO_TABLES if exact else BLACK_TO_BLACK | FINE_TABLES,  # pyright: ignore[reportArgumentType]
        )
        return np.asarray(transform.apply(image))
    except ImageCms.PyCMSError as error:
        raise ValueError(str(error)) from error


def lab_to_srgb(samples: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 3) CIE L, a, b of D50 -> sRGB in 0..1; what sRGB does not hold is clipped."""
    import numpy as np

    def block(lab: NDArray[Any]) -> NDArray[Any]:
        fy = (lab[:, :1] + 16) / 116
        f = np.concatenate([fy + lab[:, 1:2] / 500, fy, fy - lab[:, 2:] / 200], 1)
        xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * D50
        return encode(xyz @ np.linalg.inv(SRGB).T)

    return _in_blocks(samples, block, 3)


def read_space(icc: bytes) -> Space | None:
    """The curves and the matrix of a profile; none where it consists of tables, or cannot be read."""
    try:
        count = struct.unpack(">I", icc[128:132])[0]
        table = [struct.unpack(">4sII", icc[132 + 12 * i : 144 + 12 * i]) for i in range(min(count, 200))]
        tags = {name: icc[start : start + size] for name, start, size in table}
        if icc[20:24] != b"XYZ " or any(name in tags for name in (b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1")):
            return None
        name = profile_name(icc)
        if icc[16:20] == b"GRAY":
            return _checked(Space(name, (_curve(tags[b"kTRC"]),)))
        curves = tuple(_curve(tags[key]) for key in (b"rTRC", b"gTRC", b"bTRC"))
        columns = [struct.unpack(">3i", tags[key][8:20]) for key in (b"rXYZ", b"gXYZ", b"bXYZ")]
        rows = [[column[i] / 65536 for column in columns] for i in range(3)]
        return _checked(Space(name, curves, tuple(tuple(_to_white(row, D50[i])) for i, row in enumerate(rows))))
    except (KeyError, struct.error, ValueError, ArithmeticError):
        return None


def _checked(space: Space) -> Space:
    """A space whose curves and matrix give numbers.

    :raises ValueError: they do not.
    """
    import numpy as np

    steps = np.linspace(0, 1, 256, dtype=np.float32)
    with np.errstate(all="ignore"):
        linear = np.concatenate([curve(steps) for curve in space.curves])
    numbers = np.concatenate([linear, np.ravel(space.matrix or ())])
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > 100:
        raise ValueError("curves or primaries that give no numbers")
    return space


def _to_white(row: list[float], white: float) -> list[float]:
    """A row of a matrix whose sum, white, is off by the rounding of profiles, without that."""
    found = sum(row)
    return [value * white / found for value in row] if abs(found - white) < 2e-3 else row


def _curve(tag: bytes) -> Curve:
    """Encoded value -> linear, from a profile's curve of points, power or formula."""
    import numpy as np

    if tag[:4] == b"curv":
        count = struct.unpack(">I", tag[8:12])[0]
        points = np.frombuffer(tag[12 : 12 + 2 * count], ">u2").astype(np.float64)
        if len(points) != count:
            raise ValueError("a curve that ends early")
        if count == 0:
            return lambda v: v
        if count == 1:
            return power(points[0] / 256)
        return lambda v: np.interp(v, np.linspace(0, 1, count), points / 65535)
    if tag[:4] != b"para":
        raise ValueError("an unknown curve")
    kind = struct.unpack(">H", tag[8:10])[0]
    size = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}[kind]
    p = [value / 65536 for value in struct.unpack(f">{size}i", tag[12 : 12 + 4 * size])]
    if kind == 0:
        return power(p[0])
    g, a, b = p[:3]
    c, d, e, f = {
        1: lambda: (0.0, -b / a, 0.0, 0.0),
        2: lambda: (0.0, -b / a, p[3], p[3]),
        3: lambda: (p[3], p[4], 0.0, 0.0),
        4: lambda: (p[3], p[4], p[5], p[6]),
    }[kind]()
    return lambda v: np.where(v >= d, np.clip(a * v + b, 0, None) ** g + e, c * v + f)


def power(exponent: float) -> Curve:
    """Encoded value -> its power."""
    return lambda v: v.clip(0, None) ** exponent


def decode(v: NDArray[Any]) -> NDArray[Any]:
    """sRGB -> linear."""
    import numpy as np

    return np.where(v <= 0.04045, v / 12.92, ((v.clip(0, None) + 0.055) / 1.055) ** 2.4)


def encode(v: NDArray[Any]) -> NDArray[Any]:
    """Linear -> sRGB, clipped to 0..1."""
    import numpy as np

    v = v.clip(0, 1)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * (v ** (1 / 2.4) - 1) + 1)  # 1 is 1


def from_primaries(name: str, primaries, white: tuple[float, float], curve: Curve) -> Space:
    """The space of three primaries and a white, as (x, y) each; white is moved to D50 by Bradford's matrix.

    :raises ValueError: they make no space.
    """
    import numpy as np

    if np.abs(np.subtract([*primaries, white], [*SRGB_PRIMARIES, D65])).max() < 2e-4:
        return Space(name, (curve,) * 3, SRGB)

    def xyz(x: float, y: float) -> NDArray[Any]:
        return np.array([x / y, 1, (1 - x - y) / y])

    columns = np.stack([xyz(*each) for each in primaries], 1)
    matrix = columns * np.linalg.solve(columns, xyz(*white))
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = (bradford @ D50) / (bradford @ xyz(*white))
    matrix = np.linalg.inv(bradford) @ np.diag(scale) @ bradford @ matrix
    return _checked(Space(name, (curve,) * 3, tuple(tuple(map(float, row)) for row in matrix)))


def adobe_rgb() -> Space:
    """What cameras mean by "uncalibrated" with interoperability R03."""
    return Space("Adobe RGB (1998)", (power(563 / 256),) * 3, ADOBE_RGB)


def linear_srgb(name: str) -> Space:
    """sRGB's primaries with linear values: EXR and HDR."""
    return Space(name, (lambda v: v,) * 3, SRGB)


def is_srgb(space: Space) -> bool:
    """Every color comes out as it went in, to what profiles are rounded to: nothing is to be converted."""
    import numpy as np

    steps = np.linspace(0, 1, 52, dtype=np.float32)
    if space.matrix is None:
        colors = steps[:, None]
    else:
        some = np.stack(np.meshgrid(*(np.linspace(0, 1, 6, dtype=np.float32),) * 3), -1).reshape(-1, 3)
        colors = np.concatenate([steps[:, None].repeat(3, 1), some])
    return bool(np.abs(_convert(space, colors) - colors).max() < 0.75 / 255)


def _convert(space: Space, values: NDArray[Any]) -> NDArray[Any]:
    """(N, C) encoded values of a space -> (N, C) sRGB."""
    import numpy as np

    linear = np.stack([curve(values[:, i]) for i, curve in enumerate(space.curves)], 1)
    if space.matrix is not None:
        linear = linear @ (np.linalg.inv(SRGB) @ np.array(space.matrix)).T.astype(linear.dtype)
    return encode(linear)


def _in_floats(samples: NDArray[Any], space: Space) -> NDArray[Any]:
    """(H, W, C) -> (H, W, 1 or 3) float32 sRGB; a gray picture in a space of colors has its first curve's tone."""
    channels = samples.shape[2]
    if channels == 1 and space.matrix is not None:
        space = replace(space, matrix=None, curves=space.curves[:1])
    return _in_blocks(floats(samples), lambda block: _convert(space, block), channels)


def _in_blocks(samples: NDArray[Any], convert: Curve, channels: int) -> NDArray[Any]:
    """(H, W, C) float32 -> (H, W, ``channels``) float32, some pixels at a time."""
    import numpy as np

    flat = samples.reshape(-1, samples.shape[2])
    result = np.empty((len(flat), channels), np.float32)
    for start in range(0, len(flat), BLOCK):
        result[start : start + BLOCK] = convert(flat[start : start + BLOCK])
    return result.reshape(*samples.shape[:2], channels)


def _plain(samples: NDArray[Any], model: str) -> NDArray[Any]:
    """(H, W, C) -> (H, W, 1 or 3) float32, taken as sRGB; inks multiply."""
    plain = floats(samples)
    return (1 - plain[..., :3]) * (1 - plain[..., 3:]) if model == "cmyk" else plain


def floats(samples: NDArray[Any]) -> NDArray[Any]:
    """Samples as float32 in 0..1: uint8 is divided by 255, all else is that already and returned itself."""
    import numpy as np

    if samples.dtype != np.uint8:
        return samples
    divided = samples.astype(np.float32)
    divided /= 255
    return divided


def _to_bytes(samples: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return (samples * 255).round().astype(np.uint8)


def profile_name(icc: bytes) -> str:
    """What a profile calls itself, from its description tag."""
    try:
        for i in range(min(struct.unpack(">I", icc[128:132])[0], 200)):
            tag, start, size = struct.unpack(">4sII", icc[132 + 12 * i : 144 + 12 * i])
            data = icc[start : start + size]
            if tag == b"desc" and data[:4] == b"desc":
                length = struct.unpack(">I", data[8:12])[0]
                return data[12 : 12 + length].split(b"\0")[0].decode("latin-1").strip() or "unnamed"
            if tag == b"desc" and data[:4] == b"mluc":
                length, place = struct.unpack(">II", data[20:28])
                return data[place : place + length].decode("utf-16-be", "replace").strip("\0 ") or "unnamed"
    except struct.error:
        pass
    return "unnamed"
