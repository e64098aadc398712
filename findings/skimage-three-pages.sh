#!/usr/bin/env bash
# scikit-image 0.26.0 (tifffile 2026.3.3, numpy 2.2.6): skimage.io.imread of a TIFF with several gray pages
#
# Expected: n pages of H x W come as (n, H, W), whatever n is: frames of a gray film, slices of a stack.
# Happens:  exactly three pages (or four) come as (H, W, 3): the pages have become the channels of one picture in color.
#           Two or five pages come as expected, so a program that worked on those colors the third kind silently.
# Way out:  tifffile.imread, or moving the last axis back where the file's page count says so.
#
# Seen on 2026-11-30:
#   2 pages: (2, 8, 10)
#   3 pages: (8, 10, 3)
#   4 pages: (8, 10, 4)
#   5 pages: (5, 8, 10)
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-image==0.26.0 tifffile==2026.3.3 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import tifffile
from skimage import io

shapes = {}
for pages in (2, 3, 4, 5):
    stack = np.stack([np.full((8, 10), 40 * page, np.uint8) for page in range(pages)])
    tifffile.imwrite("stack.tif", stack, photometric="minisblack")
    assert len(tifffile.TiffFile("stack.tif").pages) == pages and tifffile.imread("stack.tif").shape == stack.shape
    shapes[pages] = io.imread("stack.tif").shape
    print(f"{pages} pages: {shapes[pages]}")

as_described = shapes == {2: (2, 8, 10), 3: (8, 10, 3), 4: (8, 10, 4), 5: (5, 8, 10)}
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
