#!/usr/bin/env bash
# Pillow 13.0.0 (numpy 2.2.6): an uncompressed gray TIFF with orientation 5 to 8, opened by its path
#
# Expected: Image.open(path) and Image.open(an open file) of the same file give the same pixels.
# Happens:  by path the pixels are scrambled and of another shape than Pillow's own .size: the file is mapped into
#           memory with the turned width, so rows are cut at the wrong length. A scan that lies on its side comes as
#           stripes, without an error.
# Way out:  hand Pillow an open file object, or save with a compression: neither is mapped. Right in Pillow 10.4.
#
# Seen on 2026-11-30:
#   orientation 1: size (96, 64), by path (64, 96) the picture, by file (64, 96) the picture
#   orientation 3: size (96, 64), by path (64, 96) the picture, by file (64, 96) the picture
#   orientation 6: size (64, 96), by path (64, 96) scrambled, by file (96, 64) the picture
#   orientation 8: size (64, 96), by path (64, 96) scrambled, by file (96, 64) the picture
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
from PIL import Image

picture = Image.fromarray(np.add.outer(np.arange(64) * 3, np.arange(96) // 16).astype(np.uint8))
turns = {1: 0, 3: 2, 6: -1, 8: 1}
right = {}
for orientation, turn in turns.items():
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save("turned.tif", exif=exif)
    expected = np.rot90(np.asarray(picture), turn)
    with Image.open("turned.tif") as by_path, open("turned.tif", "rb") as file, Image.open(file) as by_file:
        size = by_path.size
        arrays = {"path": np.asarray(by_path), "file": np.asarray(by_file)}
    right[orientation] = {name: np.array_equal(array, expected) for name, array in arrays.items()}
    said = [f"by {n} {a.shape} {'the picture' if right[orientation][n] else 'scrambled'}" for n, a in arrays.items()]
    print(f"orientation {orientation}: size {size}, {', '.join(said)}")

as_described = all(right[o]["file"] and right[o]["path"] == (o < 5) for o in turns)
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
