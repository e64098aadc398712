#!/usr/bin/env bash
# color-matcher 0.6.0 (numpy 2.2.6): ColorMatcher().transfer(src, ref, method="reinhard") on float32 pictures in 0..1
#
# Expected: src and ref are read, the result is a new array. So it is with method="mkl".
# Happens:  "reinhard" takes the logarithm after it has replaced what is 0 in place: black pixels of the caller's src and
#           ref are 1/255 from then on. Whoever passes a view of a tensor or of a cached picture (tensor.numpy()) changes
#           that, too, and a second call gives another result.
# Way out:  pass copies: transfer(src=src.copy(), ref=ref.copy(), method="reinhard").
#
# Seen on 2026-12-01:
#   color-matcher 0.6.0
#   reinhard: 192 values of src changed, 96 of ref; the first of src is 1.000 / 255
#   mkl: 0 values of src changed, 0 of ref; the first of src is 0.000 / 255
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
changed = {}
for method in ("reinhard", "mkl"):
    generator = np.random.default_rng(0)
    src, ref = (generator.random((16, 16, 3)).astype(np.float32) for _ in range(2))
    src[:4], ref[:2] = 0, 0
    before = src.copy(), ref.copy()
    ColorMatcher().transfer(src=src, ref=ref, method=method)
    counts = [int((now != then).sum()) for now, then in zip((src, ref), before)]
    changed[method] = counts
    print(f"{method}: {counts[0]} values of src changed, {counts[1]} of ref; the first of src is {src[0, 0, 0] * 255:.3f} / 255")

as_described = changed == {"reinhard": [192, 96], "mkl": [0, 0]}
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
