#!/usr/bin/env bash
# color-matcher 0.6.0 (numpy 2.2.6): ColorMatcher().transfer(src, ref, method="reinhard") of a gray ramp
#
# Expected: a smooth ramp of gray (three equal channels) becomes a smooth ramp with one tint. So it is with "mkl".
# Happens:  colored grain: neighbors that differ by 0.01 in lightness differ by 0.25 in color. Both axes of color are
#           constant but for rounding, and the method divides by their deviation: it stretches rounding errors to the
#           spread of the reference.
# Way out:  "mkl" for gray pictures.
#
# Seen on 2026-12-01:
#   color-matcher 0.6.0
#   reinhard: the color of neighbors differs by up to 0.247
#   mkl: the color of neighbors differs by up to 0.001
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check color-matcher==0.6.0 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from color_matcher import ColorMatcher

print("color-matcher", version("color-matcher"))
generator = np.random.default_rng(0)
ramp = np.linspace(0.2, 0.8, 64)[None, :, None]
gray = np.repeat(np.repeat(ramp, 64, 0), 3, -1).astype(np.float32)
ref = (0.5 + 0.1 * generator.standard_normal((64, 64, 3)) * (0.3, 1.0, 0.6)).clip(0, 1).astype(np.float32)
jump = {}
for method in ("reinhard", "mkl"):
    made = ColorMatcher().transfer(src=gray.copy(), ref=ref.copy(), method=method)
    color = made - made.mean(-1, keepdims=True)
    jump[method] = np.abs(np.diff(color, axis=1)).max()
    print(f"{method}: the color of neighbors differs by up to {jump[method]:.3f}")

as_described = jump["reinhard"] > 0.1 and jump["mkl"] < 0.01
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
