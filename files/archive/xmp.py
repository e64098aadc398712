"""What a result says of itself: XMP that its color was made by a trained model, beside what the picture's XMP said.

IPTC's vocabulary of digital source types calls media that existed and was augmented, corrected or enhanced by a
generative model ``compositeWithTrainedAlgorithmicMedia`` ("Edited using Generative AI"). That is what colorization
does: the picture is still the camera's, its colors are a model's. ``trainedAlgorithmicMedia`` is for what a model
created as a whole, ``algorithmicallyEnhanced`` for corrections that add nothing a model has learned.

https://cv.iptc.org/newscodes/digitalsourcetype/ and, for the property, the IPTC Photo Metadata Standard.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from ..png import SIGNATURE

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
#: Suffixes of files that have a place for XMP. OpenEXR and BMP have none that other programs read.
HOLD_XMP = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_NAMESPACE = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_OWN = f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_NAMESPACE}" Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>'
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
#: The property as an attribute and as an element, whatever its namespace's prefix; the packet is text from anyone.
_FORMER = re.compile(
    r"""\s[\w.-]+:DigitalSourceType\s*=\s*("[^"]*"|'[^']*')|<([\w.-]+:DigitalSourceType)\b[^>]*?(/>|>.*?</\2\s*>)""",
    re.DOTALL,
)
_JPEG_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
#: Bytes of a packet that is kept: more is a picture's history, or worse.
_LONGEST = 1_000_000
_LONGEST_IN_JPEG = 65533 - len(_JPEG_HEAD)
_TIFF_XMP = 700


def read_xmp(path: Path) -> str | None:
    """The packet of a picture file; none where there is none that can be kept."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            said = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
            tags = getattr(image, "tag_v2", None)
            if said is None and tags is not None:
                said = tags.get(_TIFF_XMP)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if isinstance(said, bytes):
        try:
            said = said.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if not isinstance(said, str) or len(said) > _LONGEST or len(re.findall(r"</rdf:RDF\s*>", said)) != 1:
        return None
    return said.strip("\0")


def described(said: str | None) -> str:
    """A packet that says where the colors are from, and all else that the picture's own said."""
    if said is None:
        return _EMPTY.format(_OWN)
    kept = _FORMER.sub("", said)
    return re.sub(r"</rdf:RDF\s*>", lambda end: _OWN + end[0], kept)


def add_xmp(path: Path, said: str | None) -> bool:
    """Put a packet into a picture file that this pack wrote just now.

    :param said: the picture's own.
    :returns: False where the format has no place for it. In a JPEG a packet that is too long for one segment is left
        out, and what is said of the colors stays.
    :raises OSError: it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in HOLD_XMP:
        return False
    packet = described(said).encode()
    data = path.read_bytes()
    if suffix == ".png":
        made = _in_png(data, packet)
    elif suffix in (".jpg", ".jpeg"):
        if len(packet) > _LONGEST_IN_JPEG:
            packet = described(None).encode()
        made = _in_jpeg(data, packet)
    elif suffix == ".webp":
        made = _in_webp(data, packet)
    else:
        made = _in_tiff(data, packet)
    path.write_bytes(made)
    return True


def _in_png(data: bytes, packet: bytes) -> bytes:
    body = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + packet
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    place = len(SIGNATURE) + 25  # behind the header
    return data[:place] + chunk + data[place:]


def _in_jpeg(data: bytes, packet: bytes) -> bytes:
    place = 2
    while data[place] == 0xFF and data[place + 1] in (0xE0, 0xE1):  # JFIF and EXIF stay first
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    body = _JPEG_HEAD + packet
    return data[:place] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[place:]


def _in_webp(data: bytes, packet: bytes) -> bytes:
    """The extended header is there already, since the profile is."""
    assert data[12:16] == b"VP8X", "written with a profile"
    flagged = data[:20] + bytes([data[20] | 4]) + data[21:]
    made = flagged + b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    return made[:4] + struct.pack("<I", len(made) - 8) + made[8:]


def _in_tiff(data: bytes, packet: bytes) -> bytes:
    """The directory anew at the end, with one entry more; little-endian, as this pack writes it."""
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    entries = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    place = len(data) + len(data) % 2
    entries.append(struct.pack("<HHII", _TIFF_XMP, 1, len(packet), place))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    body = packet + b"\0" * (len(packet) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    return data[:4] + struct.pack("<I", place + len(body)) + data[8:] + b"\0" * (len(data) % 2) + body + directory
