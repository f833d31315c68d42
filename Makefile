# Thin wrappers: every target is one command that can be typed by hand.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORPUS ?= corpus/phantom
RUN ?= runs/smoke
ARGS ?=

# Of the downstream targets: the task, its folder (phantom draws one), the weights, and the size of recipe.
TASK ?= busi
DATA ?=
CKPT ?= none
SIZE ?= $(if $(shell command -v nvidia-smi),base,tiny_cpu)

.DEFAULT_GOAL := help
.PHONY: help setup pretrain finetune probe knn segment test test-slurm lint bench clean constraints

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Installed again when what is to be installed changes. torch and torchvision come together: they must match. OpenMMLab
# asks for opencv-python, which needs a display's libraries and shares its folder with the headless one: that comes last.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --force-reinstall opencv-python-headless
	touch $@

setup: $(VENV)/.installed ## Create .venv and install everything

$(CORPUS)/manifest.json: | $(VENV)/.installed
	$(BIN)/arl shards pack --source phantom --num_samples 640 --samples_per_shard 64 --out $(CORPUS)

pretrain: $(VENV)/.installed $(CORPUS)/manifest.json ## Run the smoke recipe on phantoms; a stopped run goes on
	$(BIN)/arl pretrain --config recipes/pretrain/smoke.yaml --data.shards $(CORPUS) \
		--run.folder $(RUN) --ckpt_path last $(ARGS)

finetune probe knn segment: $(VENV)/.installed
	$(BIN)/arl $@ $(TASK) $(if $(DATA),--root "$(DATA)") --checkpoint "$(CKPT)" \
		--config recipes/tasks/$(TASK).yaml --config recipes/$@/$(SIZE).yaml $(ARGS)

finetune: ## Train an encoder on a task: TASK=busi DATA=DIR [CKPT=FILE]
probe: ## Train a linear classifier on frozen features, likewise
knn: ## Classify by the nearest frozen features, likewise
segment: ## Train UPerNet on a task's masks, likewise

test: $(VENV)/.installed ## Run the tests
	$(BIN)/pytest $(ARGS)

test-slurm: $(VENV)/.installed ## Run the job scripts in a real Slurm; FULL=1 sends 20 signals, not 3
	FULL="$(FULL)" tests/slurm/run.sh $(BIN)/python $(ARGS)

lint: $(VENV)/.installed ## Check style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed ## Count and time A-ViT-B beside ViT-B
	$(BIN)/arl bench model $(ARGS)

clean: ## Remove runs and packed phantoms
	rm -rf $(RUN) $(CORPUS)

constraints: $(VENV)/.installed ## Pin what is installed now
	{ head -n 1 constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip; } > .constraints.tmp
	mv .constraints.tmp constraints.txt
