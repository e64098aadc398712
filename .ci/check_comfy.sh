#!/usr/bin/env bash
# What the registry's own tools say of the pack: its configuration, and whether every name of ComfyUI's is there.
#
# COMFYUI_PATH names the checkout (with its history or not) whose names count; without it they are looked up in a clone
# that the checker makes. Tools and settings live in .venv-comfy and a temporary folder; nothing is reported to anybody.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=.venv-comfy
if [ ! -x $tools/bin/comfy ]; then
    "${PYTHON:-python3}" -m venv $tools
    $tools/bin/pip install --disable-pip-version-check -q comfy-cli==1.23.0 comfy-import-guard==1.3.0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pack="$scratch/install/custom_nodes/exemplar"
mkdir -p "$pack" "$scratch/home"
# what git knows and the registry's archive leaves in, as it stands now
git ls-files -z -- . ':!tests' ':!bench' ':!training' ':!findings' | xargs -0 cp --parents -t "$pack"

export DO_NOT_TRACK=1 NO_COLOR=1
# it ends with status 0 whatever it finds, so what it says is looked at
(cd "$pack" && HOME="$scratch/home" "$OLDPWD/$tools/bin/comfy" --skip-prompt node validate 2>&1) | tee "$scratch/said"
grep -q "All validation checks passed" "$scratch/said"

guard=("$tools/bin/comfy-import-guard" -q)
where=()
if [ -n "${COMFYUI_PATH:-}" ]; then
    mkdir "$scratch/cache"
    ln -s "$COMFYUI_PATH" "$scratch/cache/ComfyUI"
    guard+=(--cache-dir "$scratch/cache" --offline)
    where=(--target HEAD --no-update)
fi
"${guard[@]}" check --comfy-dir "$scratch/install" --strict "${where[@]}"
