"""Command line: the pack's methods without ComfyUI.

python -m comfyui_exemplar colorize photo.png --reference example.png --model sd15.safetensors
python -m comfyui_exemplar auto photo.png --model ddcolor_modelscope.pth
python -m comfyui_exemplar translate photo.png --reference painting.png --model sd15.safetensors
python -m comfyui_exemplar describe photo.png --prompt "a green apple" --model lcad.ckpt
python -m comfyui_exemplar measure results --reference references --truth originals
python -m comfyui_exemplar doctor --json report.json
python -m comfyui_exemplar extract-deadiff deadiff.ckpt deadiff-adapter.safetensors
"""

import sys

# `python PATH/TO/PACK` has no package to import relatively from; say so instead of a puzzling traceback.
if not __package__:
    sys.exit("Run it as a module: python -m comfyui_exemplar (after `pip install -e .` in the pack's folder).")

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
