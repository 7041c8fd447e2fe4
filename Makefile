# Everything runs in .venv, which is made when it is missing and brought up to date when the sources have changed.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SOURCES := $(shell find facegm align eval configs -name '*.py' -o -name '*.yaml' -o -name '*.jinja' -o -name '*.schema.json' -o -name py.typed)

# Of attacks, apart from .venv and without their dependencies: torchattacks pins an old requests, adv-lib wants visdom.
PEERS := torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0 gitpython gitdb smmap adv-lib==0.2.8 pytorch-ood==0.4.0
PEERS_PATH := $(CURDIR)/$(VENV)/peers:$(CURDIR)/tests/support

.PHONY: demo test test-slow test-gpu test-peers lint format bench bench-adversarial bench-loss bench-align bench-bootstrap bench-classify bench-embed bench-embed-photos bench-gallery bench-gather bench-inspect bench-million bench-schedule bench-serve bench-shared-embedder bench-store bench-train bench-verify install clean

demo: install  ## the whole road on synthetic identities, to a report
	$(BIN)/facegm demo

# What the tests are compiled to is kept, whatever the environment says: each worker would take twenty seconds for it.
test: install  ## all tests but the long ones, on all cores, against the installed package
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n auto --maxprocesses=8 --dist=worksteal -m "not slow and not gpu and not peers"

test-slow: install  ## the tests that take minutes
	$(BIN)/pytest -m slow

test-gpu: install  ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu

test-peers: install $(VENV)/peers/installed  ## the tests against other libraries
	PYTHONPATH=$(PEERS_PATH) $(BIN)/pytest -m peers

lint: install  ## style, format and types; mypy reads the installed package, where the stages are in their places
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd tests && $(BIN)/mypy --config-file ../pyproject.toml -p facegm
	cd tests && $(BIN)/mypy --config-file ../pyproject.toml .

format: install  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install $(VENV)/peers/installed  ## measure, and write the figures to benchmarks/results
	for benchmark in benchmarks/bench_*.py; do PYTHONPATH=$(PEERS_PATH) $(BIN)/python $$benchmark || exit 1; done

bench-adversarial: install $(VENV)/peers/installed  ## C&W, DDN and K-density against other libraries', about five minutes
	PYTHONPATH=$(PEERS_PATH) $(BIN)/python benchmarks/bench_adversarial.py

bench-loss: install  ## each loss by each engine, against its bare products and others; ARGS="--losses gm --classes 1000000"
	$(BIN)/python benchmarks/bench_loss.py $(ARGS)

bench-align: install  ## the alignment alone, on LFW's photos, against facenet-pytorch's detector
	$(BIN)/python benchmarks/bench_align.py

bench-bootstrap: install  ## intervals of verification metrics: a thousand resamples of 6,000 pairs
	$(BIN)/python benchmarks/bench_bootstrap.py

bench-classify: install  ## training of small classifiers against a plain loop
	$(BIN)/python benchmarks/bench_classify.py

bench-embed: install  ## embedding LFW's aligned faces, against a plain loop; STORE=... (stores/lfw)
	$(BIN)/python benchmarks/bench_embed.py $(STORE)

bench-embed-photos: install  ## photos of LFW to embeddings, against one photo at a time; PHOTOS=all (1000)
	$(BIN)/python benchmarks/bench_embed_photos.py $(PHOTOS)

bench-gallery: install  ## search among 100,000 and a million faces, exact and by FAISS, on one thread; about ten minutes
	$(BIN)/python benchmarks/bench_gallery.py

bench-gather: install  ## a batch out of decoded faces in the host's memory
	$(BIN)/python benchmarks/bench_gather.py

bench-inspect: install  ## the inspection of half a million photos, on one thread
	$(BIN)/python benchmarks/bench_inspect.py

bench-million: install  ## a training step with a million identities, two processes, all classes and a tenth of them
	$(BIN)/python benchmarks/bench_million.py $(ARGS)

bench-schedule: install  ## how busy the fused kernels keep GPUs, simulated from the compiled kernels; without a GPU
	$(BIN)/python benchmarks/simulate_schedule.py

bench-serve: install  ## the server under 32 clients, with batching and without; MODEL=... (an untrained one)
	$(BIN)/python benchmarks/bench_serve.py $(MODEL)

bench-shared-embedder: install  ## eight threads on one embedder: same results, no growth of memory; MODEL=... (random weights)
	$(BIN)/python benchmarks/bench_shared_embedder.py $(MODEL)

bench-store: install  ## opening a store of ten million photos
	$(BIN)/python benchmarks/bench_store.py

bench-train: install  ## the training loop against its compute-only ceiling and a plain loop
	$(BIN)/python benchmarks/bench_train.py

bench-verify: install  ## the ten folds of the verification protocol, on one thread, against insightface's 400 steps
	$(BIN)/python benchmarks/bench_verify.py

install: $(VENV)/installed

$(VENV)/dependencies: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build
	$(BIN)/python -m pip install --quiet ".[dev]"
	touch $@

$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps .
	touch $@

$(VENV)/peers/installed: $(VENV)/dependencies Makefile
	rm -rf $(VENV)/peers
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/peers $(PEERS)
	touch $@

clean:  ## remove what was built or installed
	rm -rf $(VENV) build *.egg-info
