# SPDX-License-Identifier: Apache-2.0
# make demo [RECORDING=path] [QUERIES="sofa,backpack"] [OUT=demo_out] [VIEW=1]    make test    make test-quick    make lint
SHELL := /bin/bash
.DEFAULT_GOAL := help
RUN := source scripts/env.sh &&
# What is compiled is kept, whatever the shell says: two workers and each program that the tests start would compile it again.
PYTEST := PYTHONDONTWRITEBYTECODE= python -m pytest -n auto --dist loadfile --no-loadscope-reorder
OUT ?= demo_out

.PHONY: help setup demo test test-quick lint clean
help:
	@echo "make demo        map a recording through ROS 2 and ask it for things (RECORDING=path QUERIES=\"sofa,backpack\" VIEW=1)"
	@echo "make test        run every test        make test-quick   without the slow ones"
	@echo "make lint        style and types       make clean        remove everything that was built"

setup:
	@scripts/setup.sh

demo: setup
	@$(RUN) python -m radseg_ros.demo.run --out "$(OUT)" $(if $(RECORDING),--recording "$(RECORDING)") $(if $(QUERIES),--queries "$(QUERIES)") $(if $(VIEW),--view)

test: setup lint
	@$(RUN) $(PYTEST) $(PYTEST_ARGS)

test-quick: setup
	@$(RUN) $(PYTEST) -m "not slow" $(PYTEST_ARGS)

# The annotations of NumPy 1, which an installed ROS may bring, do not know that a shape has a length.
lint: setup
	@$(RUN) ruff check . && ruff format --check --quiet . && if python -c 'import numpy; exit(numpy.__version__ < "2")'; then mypy; \
	else echo "types are not checked: that needs NumPy 2"; fi

clean:
	rm -rf .venv .ros build install log *.egg-info
