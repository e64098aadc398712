"""Odd values on the nodes' widgets are refused before anything of ComfyUI is asked, so that no ComfyUI is needed here.

The sockets, and what is right, are tried within ComfyUI: ``tests/comfy/inside/values``.
"""

import json
import subprocess
import sys
from pathlib import Path

WALK = Path(__file__).parent / "values_walk.py"


def test_every_widget_of_every_node():
    walked = subprocess.run([sys.executable, str(WALK)], capture_output=True, text=True)
    assert walked.returncode == 0, walked.stderr[-2000:]
    told = json.loads(walked.stdout)
    assert not told["wrong"], told["wrong"][:20]
    assert told["runs"] > 3000
