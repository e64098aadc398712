"""`bench`, `training` and `texts` are folders beside the package, no part of it: they are found from the repository."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # last, so that no name of ours hides another
