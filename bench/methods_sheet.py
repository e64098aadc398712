"""Both methods of exemplar colorization beside each other, from the pictures that `make demo` left in a folder.

python -m bench.methods_sheet out/demo     writes out/demo/methods.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import torch

from comfyui_exemplar.color.heat import side_by_side
from comfyui_exemplar.demo import ExampleSettings, example_paths
from comfyui_exemplar.files.pictures import load_picture, save_picture
from comfyui_exemplar.pipelines.sheet import labeled, scaled

HEIGHT = 256


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.methods_sheet", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with NAME.png by attention and NAME-memory.png by a memory")
    folder = parser.parse_args().folder
    rows = []
    for name in get_args(get_type_hints(ExampleSettings)["pictures"]):
        gray, reference = example_paths(ExampleSettings(name))
        found = (folder / f"{name}.png", folder / f"{name}-memory.png")
        if not all(path.exists() for path in found):
            continue
        columns = zip(("gray", "reference", "attention", "memory"), (gray, reference, *found), strict=True)
        pictures = [labeled(scaled(load_picture(path), HEIGHT), label) for label, path in columns]
        rows.append(side_by_side(pictures, gap=6))
    if not rows:
        print(f"error: {folder} has no pictures by both methods; `make demo` makes them.", file=sys.stderr)
        return 1
    width = max(row.shape[2] for row in rows)
    # on white, so that rows of several widths make one picture
    padded = [torch.cat([row, torch.ones(1, row.shape[1], width - row.shape[2], 3)], 2) for row in rows]
    save_picture(torch.cat(padded, 1), folder / "methods.png")
    print(folder / "methods.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
