# The two commands of README.md; each makes its virtual environment if there is none.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo check hosts clean

demo: .venv/ready
	$(BIN)/python experiments/run_expid.py --expid Transformer_DCNv2_MMCTR

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

.venv/ready: setup.py .ci/install .ci/requirements.lock .ci/torch.txt
	PYTHON=$(PYTHON) .ci/install
	touch $@

# Suite and main job on every supported fuxictr; environments of its own.
hosts:
	tests/hosts.sh --main-job

clean:
	rm -rf .venv .venv-hosts build *.egg-info .pytest_cache .mypy_cache .ruff_cache
