# Everything sets itself up: a virtual environment in .venv, then the command. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PICTURES = demo/pictures

.PHONY: demo test bench evaluate lint texts

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	touch $@

## Color a drawing, a scene and a photograph from their references with the embedded model.
demo: $(VENV)/.ready
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/drawing-gray.png --reference $(PICTURES)/drawing-reference.png --output out/demo/drawing.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/scene-gray.png --reference $(PICTURES)/scene-reference.png --output out/demo/scene.png
	$(RUN) -m comfyui_exemplar colorize $(PICTURES)/photo-gray.png --reference $(PICTURES)/photo-reference.jpg --output out/demo/photo.png
	@echo "Look at out/demo/*_sheet.png"

test: $(VENV)/.ready
	$(RUN) -m pytest -q

bench: $(VENV)/.ready
	$(RUN) -m bench
	$(RUN) -m bench.ddcolor
	$(RUN) -m bench.lcad
	$(RUN) -m bench.vct
	$(RUN) -m bench.deadiff
	$(RUN) -m bench.lcad_instances
	$(RUN) -m bench.vct_control

## Write the English locale, the tables of help pages and the README's table of nodes from the nodes' schemas.
texts: $(VENV)/.ready
	$(RUN) -m texts write

## Measure the embedded model on held-out pairs beside simple ways to color. Fetches drawings with npm; about an hour.
evaluate: $(VENV)/.ready
	$(VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt -e ".[training]"
	$(RUN) -m training fetch
	$(RUN) -m training prepare
	$(RUN) -m training evaluate
	@echo "Look at out/evaluate/plot.png and out/evaluate/pairs.jpg"

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
