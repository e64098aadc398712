#!/usr/bin/env bash
# Pillow 13.0.0 (opencv-python-headless 4.12.0.88, numpy 2.2.6): JPEG 2000 in color with 16 bits of a sample
#
# Expected: 16 bits become 8, since Pillow has no deeper color, and white stays white.
# Happens:  values are rounded, not cut, and what rounds up to 256 wraps around to 0: white comes as black. Each channel
#           does so alone, so highlights turn into strong colors. Gray with 16 bits is read to its full depth, rightly.
# Way out:  PyAV or OpenCV read such files with all 16 bits.
#
# Seen on 2026-11-30:
#   stored 65279: Pillow 255, OpenCV 65279
#   stored 65407: Pillow 255, OpenCV 65407
#   stored 65408: Pillow 0, OpenCV 65408
#   stored 65535: Pillow 0, OpenCV 65535
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pillow==13.0.0 opencv-python-headless==4.12.0.88 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import cv2
import numpy as np
from PIL import Image

lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
found = {}
for value in (65279, 65407, 65408, 65535):
    cv2.imwrite("even.jp2", np.full((64, 64, 3), value, np.uint16), lossless)
    stored = cv2.imread("even.jp2", cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16 and (stored == value).all()
    with Image.open("even.jp2") as opened:
        assert opened.mode == "RGB"
        found[value] = opened.getpixel((5, 5))[0]
    print(f"stored {value}: Pillow {found[value]}, OpenCV {stored[5, 5, 0]}")

as_described = found == {65279: 255, 65407: 255, 65408: 0, 65535: 0}
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
