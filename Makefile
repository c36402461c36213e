# The environment is made once, and again when what it is made from changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS := -n logical --maxprocesses 4 --dist loadfile
PORT ?= 8866
# The last cells are for paper; an upload is one message.
MESSAGE := {'websocket_max_message_size':120000000}
VOILA := "--Voila.tornado_settings=$(MESSAGE)" --VoilaConfiguration.preheat_kernel=True --MappingKernelManager.cull_idle_timeout=1200 --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=static

export PROFILE DATA DATASET SKIP_BROKEN

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16
	@echo 'PROFILE=smoke|quick|photos|full (default quick) and DATA=<folder> choose what the report runs on; DATASET=folders reads a folder a class, SKIP_BROKEN=1 leaves out images that cannot be read.'
	@echo 'PROFILE=photos DATA=<folder> runs it on photographs, with models pre-trained on photographs: hours on two CPU cores.'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, this is %d.%d: set PYTHON, as in make report PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,app,photos]'
	touch $@

env: $(READY)  ## make the environment in .venv

report: $(READY)  ## run every notebook in order, write build/report/index.html
	$(BIN)/python -m fgvc_lib report

publish: $(READY)  ## renew the committed notebooks, figures and tables from the last report
	$(BIN)/python -m fgvc_lib publish
	$(BIN)/python -m pytest -q tests/test_texts.py

pdf: $(READY)  ## print the report that is built as one PDF, build/report/report.pdf
	$(BIN)/python -m fgvc_lib pdf

test: lint  ## the linter, the unit tests and the notebooks in profile smoke
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(WORKERS)
	OMP_NUM_THREADS=1 RUNS=$$(mktemp -d) FIGURES=$$(mktemp -d) PROFILE=smoke DATA= $(BIN)/python -m pytest -q $(WORKERS) --nbval-lax -p no:cacheprovider notebooks

check: $(READY)  ## run every notebook in profile quick and compare the outputs with the committed ones
	PROFILE=quick DATA= DATASET= SKIP_BROKEN= OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q --nbval --nbval-cell-timeout=7200 -p no:cacheprovider notebooks

lint: $(READY)  ## check the style of the library, the tests and the notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lab: $(READY)  ## open JupyterLab on the first notebook
	$(BIN)/jupyter lab "--ServerApp.tornado_settings=$(MESSAGE)" notebooks/01_data.ipynb

app: $(READY)  ## serve the explorer as a page of its own, on http://localhost:8866
	$(BIN)/voila notebooks/07_explorer.ipynb --no-browser --port=$(PORT) $(VOILA)

data: $(READY)  ## fetch CUB-200-2011 and the pre-trained weights for PROFILE=full
	$(BIN)/python -m fgvc_lib data

clean:  ## remove runs, drawn birds, decoded images and the built report, and keep .venv and what was fetched
	rm -rf runs build data/cache data/synthbirds-*

.PHONY: help env report publish pdf test check lint lab app data clean
