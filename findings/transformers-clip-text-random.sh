#!/usr/bin/env bash
# transformers 4.57.6 (torch 2.13.0): CLIPTextModel.from_pretrained of a folder that transformers 5.24.0 saved
#
# Expected: the weights that were saved, or an error: the configuration is the same, and so is every tensor's shape.
# Happens:  5 saves CLIPTextModel without `text_model.` in front of its tensors' names (CLIPTextModelWithProjection keeps
#           it), 4 asks for the names with it, finds none, fills the whole model with random numbers and goes on. There
#           is a warning among the others; two loads of one folder give two different models. diffusers folders of
#           Stable Diffusion hold such a text encoder: pictures then have nothing to do with their prompts.
# Way out:  from_pretrained(..., output_loading_info=True), and refuse missing keys; or put the prefix there.
#
# Seen on 2026-11-30 (the numbers of the second and third line are random):
#   saved by 5.24.0:  embeddings.token_embedding.weight, first number 0.0095
#   read by 4.57.6:   20 of 20 weights missing, first number -0.0112
#   read once more:   20 of 20 weights missing, first number 0.0115
#   as described
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
install=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0)
cd "$folder"
"${install[@]}" transformers==5.24.0
HF_HUB_OFFLINE=1 venv/bin/python - 2>progress <<'PYTHON'
import torch
import transformers
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel

torch.manual_seed(0)
sizes = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
model = CLIPTextModel(CLIPTextConfig(**sizes, max_position_embeddings=8, bos_token_id=48, eos_token_id=49))
model.save_pretrained("text_encoder")
with safe_open("text_encoder/model.safetensors", "pt") as file:
    name = next(key for key in file.keys() if key.endswith("token_embedding.weight"))
    number = float(file.get_tensor(name)[0, 0])
print(f"saved by {transformers.__version__}:  {name}, first number {number:.4f}")
PYTHON
"${install[@]}" transformers==4.57.6
HF_HUB_OFFLINE=1 venv/bin/python - 2>warnings <<'PYTHON'
import sys

import transformers
from transformers import CLIPTextModel

numbers = []
for said in (f"read by {transformers.__version__}: ", "read once more: "):
    model, report = CLIPTextModel.from_pretrained("text_encoder", output_loading_info=True)
    weights, missing = dict(model.named_parameters()), report["missing_keys"]
    numbers.append(float(model.get_input_embeddings().weight[0, 0]))
    print(f"{said}  {len(missing)} of {len(weights)} weights missing, first number {numbers[-1]:.4f}")
as_described = len(missing) == len(weights) and numbers[0] != numbers[1]
print("as described" if as_described else "changed: say so in the head of this file")
sys.exit(not as_described)
PYTHON
