# make demo | view | quick | test | bench | gpu | lint. Each target prepares what it needs, once; later calls start at once.
#
# With a ROS 2 installation sourced, its packages are used. Otherwise ROS 2 comes from Python wheels, Kilted or, with
# ROS=jazzy, Jazzy, and the interface packages which no wheel carries are built from underlay/. Each has an environment
# of its own. Everything lands in this folder: .venv*/ and out/.

PYTHON ?= python3
ROS ?= kilted
PYTEST_ARGS ?=
# One more than there are cores: tests of nodes wait for one another's messages.
PROCESSES ?= $(shell expr $$(nproc) + 1)

OUT := out
NATIVE := $(if $(ROS_DISTRO),$(shell $(PYTHON) -c 'import rclpy' 2>/dev/null && echo yes))
WHEELS_kilted := requirements/ros.txt
WHEELS_jazzy := requirements/ros-jazzy.txt
WHEELS := $(WHEELS_$(ROS))
$(if $(NATIVE)$(WHEELS),,$(error ROS=$(ROS): there are wheels of kilted and jazzy; others need a sourced installation))
VENV := $(if $(NATIVE),.venv-$(ROS_DISTRO),$(if $(filter kilted,$(ROS)),.venv,.venv-$(ROS)-wheels))
PY := $(VENV)/bin/python
SETS := requirements/runtime.txt requirements/eval.txt requirements/train.txt
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
# A build names the environment that it was made with: one folder for each.
BUILD := $(OUT)/colcon$(patsubst .venv%,%,$(VENV))
COLCON := $(PY) -m colcon --log-base $(BUILD)/log
COLCON_BASES := --base-paths . --build-base $(BUILD)/build
RESULTS := $(BUILD)/build/sparse4d_ros/pytest.xml
# Fast DDS 3 (Kilted) reads the first, Fast DDS 2 (Humble, Jazzy) the second.
PROFILES := $(CURDIR)/config/fastdds_shm.xml
LARGE_MESSAGES := FASTDDS_DEFAULT_PROFILES_FILE='$(PROFILES)' FASTRTPS_DEFAULT_PROFILES_FILE='$(PROFILES)'

# Where it is set, every process of the tests compiles the package's sources anew.
unexport PYTHONDONTWRITEBYTECODE
# Set by the start-up file of the ROS 2 wheels of another environment; there it would stop ours from finding its libraries.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help check-interpreter setup operator demo view quick test bench faults soak gpu lint format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      render driving scenes, run the node on them over ROS 2, score and draw the result in $(OUT)/demo"
	@echo "make view      the same node and scenes without an end, live in a browser: http://127.0.0.1:8080"
	@echo "make quick     the tests of what changes most, in under a minute"
	@echo "make test      build with colcon, run all tests, count them      (PYTEST_ARGS='-k tracking' to select,"
	@echo "               PROCESSES=0 for one after the other; by default one more than cores)"
	@echo "make bench     measure operator, model, transport and intake; JSON in $(OUT)/bench"
	@echo "               (KEEP=amd-epyc-2-cores: also in benchmarks/results, under that name of the machine)"
	@echo "make faults    put faults on the running node, one after another; outcomes in $(OUT)/faults and docs/faults.md"
	@echo "make soak      run the node for long on full-size images; figures and picture in $(OUT)/soak  (MINUTES=60)"
	@echo "make gpu       on a GPU: build, run the tests that need one, measure; with the PYTHON at hand (torch, nvcc, pytest)"
	@echo "make lint      style of Python and C++                           (make format corrects it)"
	@echo "make setup     the environment alone: $(VENV)                    (make operator compiles the kernels as well)"
	@echo "make clean     remove $(OUT)/, the environment and the compiled operator"

# --- environment ------------------------------------------------------------------------------------------------------

# An environment keeps the Python that made it, and what is sourced comes before its packages: rather than run something else
# than was asked for, make says so.
python_version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

check-interpreter:
	$(if $(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),$(if $(NATIVE),,$(error \
	    ROS 2 $(ROS_DISTRO) is sourced, but $(PYTHON) cannot import its rclpy: call make PYTHON=/usr/bin/python3, or make in \
	    a shell in which no ROS 2 is sourced)))
	$(if $(filter-out file,$(origin PYTHON)),$(if $(filter-out $(call python_version,$(PYTHON)),$(call python_version,$(PY))),\
	    $(error PYTHON=$(PYTHON): $(VENV) has Python $(call python_version,$(PY)), this is $(or $(call python_version,$(PYTHON)),none): \
	    call make clean first, or remove $(VENV))))

$(VENV)/.created: requirements/check.py | check-interpreter
	@$(PYTHON) requirements/check.py $(if $(NATIVE),--native)
	$(PYTHON) -m venv $(if $(NATIVE),--system-site-packages) $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created $(SETS) requirements/constraints.txt
	$(PIP) $(addprefix --requirement ,$(SETS))
	@touch $@

ifdef NATIVE
$(VENV)/.ros: $(VENV)/.runtime
	@touch $@
else
$(VENV)/.wheels: $(VENV)/.runtime $(WHEELS) requirements/constraints-$(ROS).txt
	$(PIP) --requirement $(WHEELS)
	@touch $@

$(VENV)/.ros: $(VENV)/.wheels $(shell find underlay -type f -not -path '*/__pycache__/*')
	$(PY) underlay/build.py --work $(BUILD)/underlay
	@touch $@
endif

$(VENV)/.export: $(VENV)/.ros requirements/export.txt
	$(PIP) --requirement requirements/export.txt
	@touch $@

$(VENV)/.view: $(VENV)/.ros requirements/view.txt
	$(PIP) --requirement requirements/view.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.export $(VENV)/.view requirements/dev.txt requirements/ray.txt
	$(PIP) --requirement requirements/dev.txt --requirement requirements/ray.txt
	@touch $@

setup: $(VENV)/.ros
	@echo "To use this environment in a shell: . $(VENV)/bin/activate"

# Where it fails everything works on the slower PyTorch path, and it says so.
operator: $(VENV)/.ros
	@$(PY) -m cuda_ops.build || true

# --- what people call -------------------------------------------------------------------------------------------------

demo: operator $(VENV)/.export
	$(PY) -m sparse4d_ros.demo --out $(OUT)/demo

view: operator $(VENV)/.export $(VENV)/.view
	$(PY) -m sparse4d_ros.live_view --demo

# Geometry, the network's blocks against recorded data, one step, the way of a message in and out, and who imports what.
QUICK := test/core/test_geometry.py test/core/test_preprocess.py test/core/inference/test_pipeline.py \
    test/golden/test_golden_blocks.py test/golden/test_golden_temporal.py test/ops/test_operator.py \
    test/ros/perception test/ros/messages test/test_boundaries.py

quick: $(VENV)/.dev operator
	$(PY) -m pytest -q -m 'not slow and not ros' $(QUICK) $(PYTEST_ARGS)

test: $(VENV)/.dev operator
	$(COLCON) build $(COLCON_BASES) --install-base $(BUILD)/install
	@rm -f $(RESULTS)
	-OMP_NUM_THREADS=1 $(COLCON) test $(COLCON_BASES) --install-base $(BUILD)/install \
	    --event-handlers console_direct+ --pytest-args " -n" $(PROCESSES) " --dist=loadfile" " --no-loadscope-reorder" \
	    $(foreach argument,$(PYTEST_ARGS)," $(argument)")
	-@$(COLCON) test-result --test-result-base $(BUILD)/build
	@$(PY) test/summary.py $(RESULTS)

PARTS := operator transport intake model loader

bench: $(VENV)/.dev operator
	@mkdir -p $(OUT)/bench
	$(PY) -m cuda_ops.benchmark --out $(OUT)/bench/operator.json
	$(LARGE_MESSAGES) $(PY) -m sparse4d_ros.benchmark.transport --out $(OUT)/bench/transport.json
	$(LARGE_MESSAGES) $(PY) -m sparse4d_ros.benchmark.intake --out $(OUT)/bench/intake.json
	$(PY) -m sparse4d_core.benchmark --out $(OUT)/bench/model.json
	$(PY) -m sparse4d_core.benchmark.loader_throughput --model demo --out $(OUT)/bench/loader.json
	$(foreach part,$(if $(KEEP),$(PARTS)),cp $(OUT)/bench/$(part).json benchmarks/results/$(KEEP)-$(part).json &&) true

faults: operator
	@mkdir -p $(OUT)/faults
	$(PY) -m sparse4d_ros.campaign.node_faults --out $(OUT)/faults --table docs/faults.md

MINUTES ?= 60

soak: operator
	@mkdir -p $(OUT)/soak
	$(PY) -m sparse4d_ros.campaign.soak --minutes $(MINUTES) --out $(OUT)/soak

# No environment of ours: a GPU host has its own torch, and needs nvcc, NumPy, OpenCV, Pillow, SciPy and pytest beside it.
# GPU_ARGS='--device cpu --quick' rehearses it without a GPU.
GPU_ARGS ?=

gpu:
	$(PYTHON) -m sparse4d_core.benchmark.gpu --out 'benchmarks/results/<hardware>-gpu.json' $(GPU_ARGS)

CPP = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

clean:
	rm -rf $(OUT) $(VENV) cuda_ops/_build
