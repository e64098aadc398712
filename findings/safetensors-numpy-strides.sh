#!/usr/bin/env bash
# safetensors 0.8.0 (numpy 2.2.6): safetensors.numpy.save_file of an array that is not C-contiguous
#
# Expected: the array that was saved is read back, or saving refuses, as safetensors.torch does
#           ("You are trying to save a non contiguous tensor").
# Happens:  the array's memory is written in its own order under the logical shape. A transposed weight comes back
#           with its numbers in other places, with no error and no warning.
# Way out:  numpy.ascontiguousarray before saving.
#
# Seen on 2026-11-30:
#   saved     [[0, 3], [1, 4], [2, 5]]
#   read back [[0, 1], [2, 3], [4, 5]]
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

saved = np.arange(6).reshape(2, 3).T
save_file({"weight": saved}, "transposed.safetensors")
found = load_file("transposed.safetensors")["weight"]
print("saved    ", saved.tolist())
print("read back", found.tolist())

save_file({"weight": np.ascontiguousarray(saved)}, "copied.safetensors")
assert np.array_equal(load_file("copied.safetensors")["weight"], saved), "a contiguous copy must come back"

as_described = found.shape == saved.shape and found.tolist() == [[0, 1], [2, 3], [4, 5]]
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
