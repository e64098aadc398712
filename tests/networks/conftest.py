"""`bench` is a folder of commands beside the package, not a part of it: it is found from the repository's root."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # last, so that no name of ours hides another
