# Everything sets itself up: a virtual environment in .venv, then the command. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PICTURES = demo/pictures
# Where benches run: cpu, cuda, xpu, mps ..., and in which dtype.
DEVICE ?= cpu
DTYPE ?= float32
ON = --device $(DEVICE) --dtype $(DTYPE)

# One thread a test process: on two cores, two of them with two threads each wait for one another most of the time.
test quick: export OMP_NUM_THREADS ?= 1

.PHONY: demo test quick bench evaluate lint check-comfy texts hooks

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	touch $@

## Color a drawing, a scene and a photograph from their references with the embedded model, by both methods.
demo: $(VENV)/.ready
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/drawing-gray.png --reference $(PICTURES)/drawing-reference.png --output out/demo/drawing.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/scene-gray.png --reference $(PICTURES)/scene-reference.png --output out/demo/scene.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/photo-gray.png --reference $(PICTURES)/photo-reference.jpg --output out/demo/photo.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/drawing-gray.png --reference $(PICTURES)/drawing-reference.png --method memory --output out/demo/drawing-memory.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/scene-gray.png --reference $(PICTURES)/scene-reference.png --method memory --output out/demo/scene-memory.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/photo-gray.png --reference $(PICTURES)/photo-reference.jpg --method memory --output out/demo/photo-memory.png
	$(RUN) -m bench.methods_sheet out/demo
	@echo "Look at out/demo/methods.png and out/demo/*_sheet.png"

## Everything: the tests of the README. With COMFYUI_PATH also those inside a real ComfyUI (CONTRIBUTING.md).
test: $(VENV)/.ready
	$(RUN) -m pytest -q

## What to run while working: all but what takes seconds, in under a minute.
quick: $(VENV)/.ready
	$(RUN) -m pytest -q -m "not slow" --ignore=tests/comfy

## Cost beside the naive way; `make bench DEVICE=cuda DTYPE=float16` on a GPU. The last one needs none and says what a GPU would need.
bench: $(VENV)/.ready
	$(RUN) -m bench $(ON)
	$(RUN) -m bench.ddcolor $(ON)
	$(RUN) -m bench.lcad $(ON)
	$(RUN) -m bench.vct $(ON)
	$(RUN) -m bench.deadiff $(ON)
	$(RUN) -m bench.lcad_instances $(ON)
	$(RUN) -m bench.vct_control $(ON)
	$(RUN) -m bench.color_memory $(ON)
	$(RUN) -m bench.transfer
	$(RUN) -m bench.match
	$(RUN) -m bench.film
	$(RUN) -m bench.archive
	$(RUN) -m bench.memory

## Write the English locale, the tables of help pages and the README's table of nodes from the nodes' schemas.
texts: $(VENV)/.ready
	$(RUN) -m texts write

## Measure the embedded model on held-out pairs beside simple ways to color, and colors of drifted copies beside the plain
## merge. Fetches drawings with npm; about an hour and a half.
evaluate: $(VENV)/.ready
	$(VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt -e ".[training]"
	$(RUN) -m training fetch
	$(RUN) -m training prepare
	$(RUN) -m training evaluate
	$(RUN) -m training evaluate-memory
	$(RUN) -m training evaluate-transfer
	@echo "Look at out/evaluate/plot.png, pairs.jpg, memory.png, memory.jpg, transfer.png and transfer.jpg"

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright
	$(RUN) .ci/tidy.py

## What the registry's tools say of the pack, and whether ComfyUI (COMFYUI_PATH, else its newest) has all that it uses.
check-comfy:
	.ci/check_comfy.sh

## Look at every commit before it is made (.pre-commit-config.yaml).
hooks: $(VENV)/.ready
	$(VENV)/bin/pre-commit install
