# `make demo` and `make test` need only Python 3.11 or newer and make; both use the environment in .venv.

# The first Python that is new enough; `make PYTHON=/some/python3.12` decides otherwise.
NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python $(NEW_ENOUGH) 2>/dev/null && echo $$python && break; done)

BIN = .venv/bin
READY = .venv/ready
PHOTO = diffusers_restore/assets/photos/chelsea.png

.DEFAULT_GOAL = help
.PHONY: help demo gallery test test-all package lint docs figures constraints clean

help: ## print the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(READY) ## restore a bundled photograph; pictures and figures go to demo/
	$(BIN)/python examples/demo.py --output_dir demo

test: $(READY) ## run the tests, but those of whole programs
	$(BIN)/python -m pytest

test-all: $(READY) ## run all tests: of several processes, a Hub, a browser, killed runs and each block of the docs, too
	$(BIN)/python -m pytest --all

gallery: $(READY) ## restore photographs by every task and method; pages go to gallery/
	$(BIN)/python examples/gallery.py

# What the wheel restores offline, in an empty environment without the extras, equals what the source tree restores.
package: $(READY) ## build and check the wheel and the sdist in dist/
	rm -rf dist build *.egg-info
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/package
	build/package/bin/python -m pip install --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/package && HF_HUB_OFFLINE=1 bin/diffusers-restore restore ../../$(PHOTO) -o installed.png --task sr2
	HF_HUB_OFFLINE=1 $(BIN)/diffusers-restore restore $(PHOTO) -o build/package/source.png --task sr2
	cmp build/package/installed.png build/package/source.png

lint: $(READY) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## build the documentation as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "to read it: python3 -m http.server --directory build/site"

# Written last, so that an interrupted installation is taken up again.
$(READY): pyproject.toml constraints.txt
	@$(if $(PYTHON),$(PYTHON),false) $(NEW_ENOUGH) || { \
		echo "Python 3.11 or newer is needed; $(or $(PYTHON),what PATH has) is not. Name one: make PYTHON=<path> <target>" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

figures: demo ## make the tables and pictures of README.md, docs/ and the cards of what the benchmarks measured
	cp demo/overview.png docs/images/overview.png
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/figures.py

# Resolved anew, except for torch: change its version in constraints.txt, then run this. A local suffix (+cpu) is dropped.
constraints: ## resolve the dependencies again and pin them in constraints.txt
	@mkdir -p build
	$(PYTHON) -m venv --clear build/venv
	build/venv/bin/python -m pip install --disable-pip-version-check --quiet --dry-run --ignore-installed --report build/resolved.json \
		"$$(grep '^torch==' constraints.txt)" ".[dev]"
	grep '^#' constraints.txt > build/constraints.txt
	build/venv/bin/python -c 'import json; \
		found = [item["metadata"] for item in json.load(open("build/resolved.json"))["install"]]; \
		pins = sorted((one["name"].lower() + "==" + one["version"].split("+")[0]) for one in found); \
		print(*(pin for pin in pins if not pin.startswith("diffusers-restore=")), sep="\n")' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## remove the environment and everything that was built
	rm -rf .venv demo gallery build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +
