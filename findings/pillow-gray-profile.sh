#!/usr/bin/env bash
# Pillow 13.0.0 with the littleCMS in its wheel (numpy 2.2.6): ImageCms from a gray profile to sRGB
#
# Expected: 8-bit gray of a profile with a straight curve comes as sRGB of its tone, rounded: within one level.
# Happens:  up to 10 levels off in the dark, since littleCMS replaces gray conversions by a table that is too coarse for
#           a steep curve. Color profiles with the same curve are right, and so is gray with the flag NOOPTIMIZE.
# Way out:  ImageCms.buildTransform(..., flags=ImageCms.Flags.NOOPTIMIZE) for gray.
#
# Seen on 2026-11-30:
#   gray: up to 9.7 levels off, at value 2
#   gray, NOOPTIMIZE: up to 0.5 levels off
#   color: up to 0.5 levels off
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import io, struct, sys

import numpy as np
from PIL import Image, ImageCms

def numbers(*values):
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

def profile(space, tags):
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table, body = table + name + struct.pack(">II", place + len(body), len(data)), body + data
    head = struct.pack(">I4sI", place + len(body), b"lcms", 0x02400000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + numbers(0.9642, 1, 0.8249)[8:]
    return ImageCms.ImageCmsProfile(io.BytesIO(head.ljust(128, b"\0") + table + body))

white, straight = (b"wtpt", numbers(0.9642, 1, 0.8249)), b"curv\0\0\0\0" + struct.pack(">I", 0)
columns = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
srgb = [(c + b"XYZ", numbers(*column)) for c, column in zip((b"r", b"g", b"b"), columns)]
curves = [(c + b"TRC", straight) for c in (b"r", b"g", b"b")]
profiles = {"L": profile(b"GRAY", [white, (b"kTRC", straight)]), "RGB": profile(b"RGB ", [white, *srgb, *curves])}
tone = np.arange(256) / 255
expected = 255 * np.where(tone <= 0.0031308, tone * 12.92, 1.055 * tone ** (1 / 2.4) - 0.055)
off = {}
for name, mode, flags in (("gray", "L", 0), ("gray, NOOPTIMIZE", "L", ImageCms.Flags.NOOPTIMIZE), ("color", "RGB", 0)):
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)
    to = ImageCms.createProfile("sRGB")
    move = ImageCms.buildTransform(profiles[mode], to, mode, "RGB", renderingIntent=1, flags=flags)
    apart = np.abs(np.asarray(move.apply(ramp))[0, :, 0] - expected)
    off[name] = apart.max()
    print(f"{name}: up to {apart.max():.1f} levels off" + (f", at value {apart.argmax()}" if apart.max() > 1 else ""))
as_described = off["gray"] > 5 and max(off["gray, NOOPTIMIZE"], off["color"]) < 1
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
