#!/usr/bin/env bash
# Pillow 13.0.0: saving JPEG, BMP, PPM and TIFF to a place where the last block does not fit whole
#
# Expected: an OSError, as when the disk is full earlier in the picture, and as Python's own file.write raises.
# Happens:  the encoders write straight to the file's descriptor, and a write that takes only a part of the last block
#           counts as done: save() returns, and the picture on disk is cut. PNG writes through Python and raises.
# Way out:  save into a BytesIO, and write its bytes with Python's own file.
# Shown by:  a limit on the size of files, which takes a part of a block and refuses the next one, as a full disk does.
#
# Seen on 2026-11-30, for room for 99 of 100 bytes, then for 50:
#   JPEG: nothing raised, 646384 of 652914 bytes; OSError
#   BMP: nothing raised, 3207653 of 3240054 bytes; OSError
#   PPM: nothing raised, 3207615 of 3240016 bytes; OSError
#   TIFF: nothing raised, 3207738 of 3240140 bytes; OSError
#   PNG: OSError; OSError
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import io
import os
import random
import resource
import signal
import sys

from PIL import Image

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error, not the end of the process
picture = Image.frombytes("RGB", (1200, 900), random.Random(0).randbytes(1200 * 900 * 3))


def saved(kind, room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        picture.save("picture", kind)
        return "nothing raised"
    except OSError:
        return "OSError"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


found = {}
for kind in ("JPEG", "BMP", "PPM", "TIFF", "PNG"):
    picture.save(whole := io.BytesIO(), kind)
    size = len(whole.getvalue())
    almost = saved(kind, size * 99 // 100)
    wrote = f", {os.path.getsize('picture')} of {size} bytes" if almost == "nothing raised" else ""
    found[kind] = (almost, saved(kind, size // 2))
    print(f"{kind}: {almost}{wrote}; {found[kind][1]}")

as_described = found.pop("PNG") == ("OSError", "OSError") and set(found.values()) == {("nothing raised", "OSError")}
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
