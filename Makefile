# scdivad: one Makefile, no recursion. `make help` lists the targets.
#
# B            build directory (default build, or build/SANITIZER)
# SANITIZE     address (with undefined), thread, or empty
# CC           gcc (default) or clang; both are clean under -Werror
# NVCC         found on the PATH or in /usr/local/cuda; without it (NVCC=) there is no CUDA backend
# V=1          show the commands

.DEFAULT_GOAL := all
SHELL := /bin/bash
.DELETE_ON_ERROR:

MAKEFLAGS += -j$(shell nproc)

# ---- what is installed ---------------------------------------------------------------------------
PACKAGES := gcc libc6-dev pkg-config libmicrohttpd-dev libdnnl-dev libcjson-dev libsqlite3-dev \
            libssl-dev zlib1g-dev libinih-dev libcurl4-openssl-dev libhdf5-dev libarchive-dev libseccomp-dev
TEST_PACKAGES := $(PACKAGES) g++ libcmocka-dev curl python3 python3-numpy python3-h5py libopenblas0-pthread
PYTHON ?= $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),clang++,g++)
endif
Q := $(if $(V),,@)
SANITIZE ?=
B ?= build$(if $(SANITIZE),/$(SANITIZE))

# ---- flags ---------------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Werror
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_thread := -fsanitize=thread
SAN := $(SAN_$(SANITIZE))
OPT ?= -O2 -g
VERSION := 0.1.0
CPPFLAGS += -D_GNU_SOURCE -I. -DSCD_VERSION='"$(VERSION)"'
FUZZING ?=
CFLAGS := -std=c11 $(OPT) -fno-math-errno -ffp-contract=off $(WARN) $(SAN) $(if $(FUZZING),-fsanitize=fuzzer-no-link) -pthread -fPIC
LDFLAGS := $(SAN) -pthread
# Debian keeps its serial HDF5 beside the parallel ones.
HDF5_CFLAGS = $(shell pkg-config --cflags hdf5 2>/dev/null)
HDF5_LIBS = $(shell pkg-config --libs hdf5 2>/dev/null || echo -lhdf5)
LIBS_engine := -ldnnl -lgomp -lcjson -lcrypto -lm -ldl
LIBS_api = $(LIBS_engine) -lz -larchive -lcurl -lseccomp $(HDF5_LIBS)
LIBS_server = $(LIBS_api) -lmicrohttpd -lsqlite3 -linih

# CUDA: one fat binary, and PTX for what comes after. Kernels are compiled for the host as well, by
# CXX, for the emulator of the tests.
ifeq ($(origin NVCC),undefined)
NVCC := $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
endif
CUDA_HOME := $(if $(NVCC),$(abspath $(dir $(realpath $(shell command -v $(NVCC))))/..))
# CUDA 12 or later, whole, and a compiler for its host side: or there is none.
CUDA := $(if $(NVCC),$(if $(wildcard $(CUDA_HOME)/include/cublasLt.h),$(if $(wildcard $(CUDA_HOME)/lib*/libcudart_static.a),$(shell \
          command -v $(CXX) >/dev/null && $(NVCC) --version | grep -o 'release 1[2-9]'))))
CUDA_ARCHS := 80 86 89 90a
NVCC_FLAGS = -std=c++20 -O3 $(CPPFLAGS) -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-fno-exceptions,-fvisibility=hidden \
             $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) -gencode arch=compute_90,code=compute_90
# The thread sanitizer sees the emulator's callers, not its fibers, which are one thread's.
CXXFLAGS := -std=c++20 $(OPT) -fno-math-errno -ffp-contract=off -fno-exceptions -fno-rtti \
            -Wall -Wextra -Wshadow -Wconversion -Werror -Wno-psabi $(if $(filter thread,$(SANITIZE)),-DSCD_EMU_NO_JUMPS,$(SAN)) \
            -pthread -fPIC -DSCD_CUDA_HOST

# Files whose name ends in an instruction set are compiled for it and chosen at run time.
isa_flags = $(if $(findstring _avx512bf16,$1),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mf16c, \
            $(if $(findstring _avx512,$1),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c, \
            $(if $(findstring _avx2,$1),-mavx2 -mfma -mf16c)))

# ---- sources: a layer is a folder ----------------------------------------------------------------
DIR_base := engine/base
DIR_backend := engine/backend
DIR_cpu := engine/cpu
DIR_model := engine/model
DIR_denoise := engine/denoise
DIR_engine := engine
DIR_config := config
DIR_api := api
DIR_cli := api/cli
DIR_server := server
DIR_train := engine/train
LAYERS ?= train server cli api config engine denoise model cpu backend base
MAINS := server/main.c engine/train/main.c api/cli/main.c

layer_src = $(filter-out $(MAINS),$(wildcard $(DIR_$1)/*.c))
layer_obj = $(patsubst %.c,$(B)/obj/%.o,$(call layer_src,$1))
archive = $(B)/lib/lib$1.a
CUDA_SRC := $(wildcard engine/cuda/*.cu)
# wgmma and its kin are sm_90a's alone: without it among the archs Hopper runs what Ampere runs.
$(B)/obj/engine/cuda/device.o: CPPFLAGS += -DSCD_CUDA_GROUPS=$(if $(filter 90a,$(CUDA_ARCHS)),1,0)
# The device's side of engine/cuda that has a twin in tests/cuda_host.
CUDA_DEVICE := $(addprefix $(B)/obj/engine/cuda/,runtime.o cublaslt.o gemm_lt.o gemm_f32_lt.o)
CUDA_SHARED := $(filter-out $(CUDA_DEVICE),$(patsubst %.c,$(B)/obj/%.o,$(wildcard engine/cuda/*.c)))
UNIT := $(basename $(notdir $(wildcard tests/unit/test_*.c)))
OPS := $(basename $(notdir $(wildcard tests/ops/test_*.c) $(wildcard tests/cuda_host/test_*.cc)))
# The emulator's fibers are one thread's: nothing there for the thread sanitizer.
TESTS := $(UNIT) $(if $(filter thread,$(SANITIZE)),$(filter-out test_cuda_%,$(OPS)),$(OPS))
# What the operation tests share: the float64 reference and the fixture.
OPS_SHARED := $(patsubst %.c,$(B)/obj/%.o,$(filter-out tests/ops/test_%,$(wildcard tests/ops/*.c)))
FUZZERS := $(basename $(notdir $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SHARED := $(B)/obj/tests/fuzz/h5_mutate.o
BENCH_SHARED := $(patsubst %.c,$(B)/obj/%.o,$(filter-out tests/bench/bench_%,$(wildcard tests/bench/*.c)))
BENCHES := $(basename $(notdir $(wildcard tests/bench/bench_*.c)))

ARCHIVES := $(foreach l,$(LAYERS),$(call archive,$l))
DAEMON_ARCHIVES := $(foreach l,$(filter-out train cli,$(LAYERS)),$(call archive,$l))
CLI_ARCHIVES := $(foreach l,$(filter-out train server config,$(LAYERS)),$(call archive,$l))
TRAIN_ARCHIVES := $(foreach l,$(filter-out server cli config,$(LAYERS)),$(call archive,$l))

# ---- packages ------------------------------------------------------------------------------------
# $(call install,PACKAGES): nothing when all are there; as root apt-get, else the line to type.
APT := apt-get -qq -o APT::Sandbox::User=root
install = missing=; for p in $1; do \
  [ "$$(dpkg-query -W -f='$${Status}' $$p 2>/dev/null)" = "install ok installed" ] || missing="$$missing $$p"; done; \
  if [ -z "$$missing" ]; then :; \
  elif ! command -v apt-get >/dev/null; then echo "not a Debian system: needed are$$missing or their like" >&2; \
  elif [ "$$(id -u)" = 0 ]; then echo "installing$$missing" >&2; $(APT) update && \
    DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends $$missing >/dev/null; \
  else echo "packages are missing; install them with:" >&2; echo "    sudo apt-get install$$missing" >&2; exit 1; fi

DEPS := $(B)/deps
TEST_DEPS := $(B)/deps-test
$(DEPS): Makefile
	$(Q)mkdir -p $(@D)
	$(Q)$(call install,$(PACKAGES))
	$(Q)touch $@
$(TEST_DEPS): Makefile | $(DEPS)
	$(Q)$(call install,$(TEST_PACKAGES))
	$(Q)touch $@

# ---- the programs --------------------------------------------------------------------------------
.PHONY: all programs
all: programs ## build everything into build/ (installs missing packages when run as root; the CUDA backend only where CUDA's nvcc is)

# Built where nvcc is there; sanitizers see the CPU's side, and the emulator's.
CUDA_SO := $(if $(CUDA),$(if $(SANITIZE)$(FUZZING),,$(B)/scdiva_cuda.so))
programs: $(B)/scdivad $(B)/scdiva $(B)/scdiva-train $(CUDA_SO)

$(B)/scdivad: $(B)/obj/server/main.o $(DAEMON_ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(DAEMON_ARCHIVES) -Wl,--end-group $(LIBS_server)

$(B)/scdiva: $(B)/obj/api/cli/main.o $(CLI_ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(CLI_ARCHIVES) -Wl,--end-group $(LIBS_api)

$(B)/scdiva-train: $(B)/obj/engine/train/main.o $(TRAIN_ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(TRAIN_ARCHIVES) -Wl,--end-group $(LIBS_api)

# One symbol goes out (exports.map); cuBLASLt is loaded at run time, when a GPU has answered.
$(B)/scdiva_cuda.so: $(CUDA_SRC:%.cu=$(B)/obj/%.cu.o) $(CUDA_DEVICE) $(CUDA_SHARED) $(call archive,base) engine/cuda/exports.map
	$(Q)$(CXX) -shared -pthread -static-libstdc++ -static-libgcc -o $@ $(filter %.o,$^) $(call archive,base) -Wl,--no-undefined -Wl,--gc-sections \
	  -Wl,--version-script=engine/cuda/exports.map -Wl,-rpath,$(CUDA_HOME)/lib64 \
	  -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcudart_static -lm -ldl -lrt
$(CUDA_DEVICE): CPPFLAGS += -isystem $(CUDA_HOME)/include
$(B)/obj/%.cu.o: %.cu $(STAMP) | $(DEPS)
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

define layer_rules
$(call archive,$1): $(call layer_obj,$1) | $(DEPS)
	$(Q)mkdir -p $$(@D)
	$(Q)rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach l,$(LAYERS),$(eval $(call layer_rules,$l)))

# A change of compiler or flags rebuilds.
STAMP := $(B)/flags
FLAGS_NOW := $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)
ifneq ($(strip $(file <$(STAMP))),$(strip $(FLAGS_NOW)))
$(shell mkdir -p $(B))
$(file >$(STAMP),$(FLAGS_NOW))
endif

$(B)/obj/api/h5%.o $(B)/obj/api/result%.o $(FUZZ_SHARED): CPPFLAGS += $(HDF5_CFLAGS)
$(B)/obj/%.o: %.c $(STAMP) | $(DEPS)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(call isa_flags,$(notdir $<)) -MMD -MP -c -o $@ $<

$(B)/obj/api/openapi.o: api/openapi.json
$(B)/obj/api/page.o: $(wildcard api/web/page.html api/web/*.css api/web/*.js)

# ---- tests ---------------------------------------------------------------------------------------
TEST_LINK = $(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) \
            -Wl,--start-group $(ARCHIVES) -Wl,--end-group -lcmocka $(LIBS_server)
# Named one by one: a pattern rule without a recipe would add nothing.
$(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/*/*.c)): | $(TEST_DEPS)
# The CUDA backend on the emulator: the same kernels, compiled for the host.
CUDA_HOST := $(CUDA_SRC:%.cu=$(B)/obj/%.host.o) $(CUDA_SHARED) \
             $(patsubst %.cc,$(B)/obj/%.o,$(filter-out tests/cuda_host/test_%,$(wildcard tests/cuda_host/*.cc)))
CUDA_TEST_LINK = $(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,-u,scd_backend_cuda \
                 -Wl,--start-group $(filter %.a,$^) -Wl,--end-group -lcmocka $(LIBS_server)
$(B)/lib/libcuda_host.a: $(CUDA_HOST)
	$(Q)mkdir -p $(@D)
	$(Q)rm -f $@ && ar rcs $@ $^
# The programs with the emulator as their GPU, for the end-to-end tests.
EMULATED := $(if $(FUZZING),,$(addprefix $(B)/emulated/,scdiva_cuda.so scdivad scdiva-train))
$(B)/emulated/scdiva_cuda.so: $(CUDA_HOST) $(call archive,base) engine/cuda/exports.map
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -shared $(LDFLAGS) -o $@ $(CUDA_HOST) $(call archive,base) -Wl,--no-undefined -Wl,--gc-sections \
	  -Wl,--version-script=engine/cuda/exports.map -lm -ldl
$(B)/emulated/%: $(B)/%
	$(Q)mkdir -p $(@D) && ln -f $< $@
$(B)/obj/tests/ops/test_cuda_%.o: CPPFLAGS += -DSCD_CUDA_HOST
$(B)/obj/%.host.o: %.cu $(STAMP) | $(TEST_DEPS)
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -x c++ -MMD -MP -c -o $@ $<
$(B)/obj/%.o: %.cc $(STAMP) | $(TEST_DEPS)
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<
$(B)/tests/test_cuda_%: $(B)/obj/tests/cuda_host/test_cuda_%.o $(OPS_SHARED) $(B)/lib/libcuda_host.a $(ARCHIVES)
	$(CUDA_TEST_LINK)
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(ARCHIVES)
	$(TEST_LINK)
ifeq ($(SANITIZE),thread)
$(B)/tests/%: $(B)/obj/tests/ops/%.o $(OPS_SHARED) $(ARCHIVES)
	$(TEST_LINK)
else
$(B)/tests/%: $(B)/obj/tests/ops/%.o $(OPS_SHARED) $(B)/lib/libcuda_host.a $(ARCHIVES)
	$(CUDA_TEST_LINK)
endif
$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(B)/obj/tests/fuzz/replay.o $(FUZZ_SHARED) $(ARCHIVES)
	$(TEST_LINK)
$(B)/bench/%: $(B)/obj/tests/bench/%.o $(BENCH_SHARED) $(ARCHIVES)
	$(TEST_LINK)

.PHONY: run-test test test-programs test-gpu
run-test: $(B)/tests/$(T) ## build and run one test: make run-test T=test_vocab
	$(Q)$(B)/tests/$(T)

test-programs: programs $(EMULATED) $(TESTS:%=$(B)/tests/%) $(FUZZERS:%=$(B)/fuzz/%)

test: test-programs ## run every test (SANITIZE=address or thread for those builds)
	$(Q)$(PYTHON) tests/run.py --build $(B) $(if $(SANITIZE),--sanitizer $(SANITIZE))

# The tests that a real device can run too, linked with the object itself.
GPU_TESTS := $(addprefix $(B)/gpu/,test_ops test_attention test_pick test_weights $(basename $(notdir $(wildcard tests/ops/test_train_*.c))) test_net_gradient \
             test_cuda_exact test_cuda_model)
$(B)/obj/gpu/%.o: tests/ops/%.c $(STAMP) | $(TEST_DEPS)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/gpu/%: $(B)/obj/gpu/%.o $(OPS_SHARED) $(B)/scdiva_cuda.so $(ARCHIVES)
	$(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -Wl,--no-as-needed -l:scdiva_cuda.so -Wl,--as-needed \
	  -Wl,-rpath,'$$ORIGIN/..' \
	  -Wl,--start-group $(ARCHIVES) -Wl,--end-group -lcmocka $(LIBS_server)
test-gpu: $(if $(CUDA_SO),programs $(GPU_TESTS),no-nvcc) ## the CUDA tests on a GPU (needs nvcc to build, a GPU to run)
	$(Q)for t in $(GPU_TESTS); do SCDIVA_TEST_DEVICES=cuda $$t || exit 1; done
	$(Q)for k in measured next; do SCDIVA_CUDA_KERNELS=$$k SCDIVAD=$(B)/scdivad SCDIVA_TRAIN=$(B)/scdiva-train \
	  $(PYTHON) tests/e2e/run.py parity || exit 1; done
	$(Q)tests/ops/sanitize.sh $(CUDA_HOME)/bin/compute-sanitizer $(B)/gpu
.PHONY: no-nvcc
no-nvcc:
	$(Q)echo "test-gpu and bench-gpu need CUDA 12 or later with nvcc, on the PATH or in /usr/local/cuda, and no SANITIZE" >&2; exit 1

test-valgrind: test-programs ## the unit tests under valgrind
	$(Q)$(PYTHON) tests/run.py --build $(B) --valgrind

# ---- the demonstration ---------------------------------------------------------------------------
.PHONY: demo
demo: programs | $(TEST_DEPS) ## serve real blood cells and look at the answer
	$(Q)$(PYTHON) tests/e2e/demo.py --build $(B)

# ---- benchmarks: they print, they never fail -------------------------------------------------------
.PHONY: bench bench-gpu bench-gpu-dry
bench: programs $(BENCHES:%=$(B)/bench/%) | $(TEST_DEPS) ## engine, HTTP, cache, start-up and PyTorch, beside their ceilings
	$(Q)$(call install,wrk)
	$(Q)$(PYTHON) tests/bench/run.py --build $(B)

# The backend lies beside the program that loads it.
$(B)/bench/scdiva_cuda.so: $(B)/scdiva_cuda.so
	$(Q)mkdir -p $(@D) && ln -f $< $@
$(B)/emulated/bench_gpu: $(B)/bench/bench_gpu
	$(Q)mkdir -p $(@D) && ln -f $< $@
bench-gpu: $(if $(CUDA_SO),programs $(B)/bench/bench_gpu $(B)/bench/scdiva_cuda.so,no-nvcc) | $(TEST_DEPS) ## one table of a GPU's figures beside its ceilings and PyTorch (TORCH_PYTHON), in eight minutes
	$(Q)$(PYTHON) tests/bench/gpu.py --build $(B)
bench-gpu-dry: programs $(EMULATED) $(B)/emulated/bench_gpu | $(TEST_DEPS) ## the same on the emulator and a tiny model: does all of it work? Its figures mean nothing
	$(Q)$(PYTHON) tests/bench/gpu.py --build $(B) --dry-run --out $(B)/bench-gpu-dry.md

# ---- the bundled model: made again from its data, and judged ------------------------------------
DATA ?= ../shared/data
OUT ?= $(B)/models/pbmc
.PHONY: model-pbmc bench-quality
model-pbmc: programs ## train the bundled model again (half an hour): make model-pbmc DATA=../shared/data
	$(Q)config/models/pbmc/train.sh $(DATA) $(OUT) $(B)

# The field's own libraries judge, in a virtual environment of their own.
QUALITY := $(B)/quality
$(QUALITY)/done: tests/bench/quality/requirements.txt
	$(Q)$(call install,python3-venv)
	$(Q)/usr/bin/python3 -m venv $(QUALITY) && $(QUALITY)/bin/pip -q install -r $< && touch $@
bench-quality: programs $(QUALITY)/done ## the environment of tests/bench/quality, and its unit checks
	$(Q)cd tests/bench/quality && $(abspath $(QUALITY))/bin/python test_metrics.py && $(abspath $(QUALITY))/bin/python test_perturb_metrics.py

# ---- fuzzing: make fuzz T=fuzz_request SECONDS=60 --------------------------------------------------
# FUZZ_FLAGS: of libFuzzer. fuzz_h5ad and fuzz_cells, whose files grow as they are changed: FUZZ_FLAGS='-max_len=262144
# -detect_leaks=0' (libhdf5 forgets to free where it fails).
SECONDS ?= 60
FUZZ_FLAGS ?=
.PHONY: fuzz
fuzz: | $(TEST_DEPS) ## fuzz one reader with libFuzzer: make fuzz T=fuzz_request SECONDS=600
	$(Q)$(call install,clang libclang-rt-14-dev)
	$(Q)$(MAKE) --no-print-directory CC=clang SANITIZE=address B=build/fuzz FUZZING=1 build/fuzz/libfuzzer/$(T)
	$(Q)mkdir -p build/fuzz/found/$(T)
	$(Q)build/fuzz/libfuzzer/$(T) -max_total_time=$(SECONDS) -rss_limit_mb=4096 $(FUZZ_FLAGS) \
	  -artifact_prefix=build/fuzz/found/$(T)/ build/fuzz/found/$(T) tests/fuzz/corpus/$(T:fuzz_%=%)
build/fuzz/libfuzzer/%: $(B)/obj/tests/fuzz/%.o $(FUZZ_SHARED) $(ARCHIVES)
	$(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) \
	  -Wl,--start-group $(ARCHIVES) -Wl,--end-group $(LIBS_server)

# ---- keeping house -------------------------------------------------------------------------------
.PHONY: lint format check-headers install docker docker-cuda clean help
lint: | $(TEST_DEPS) ## layers, third-party homes, sizes, and that documents agree with the code
	$(Q)$(PYTHON) tests/lint/lint.py

check-headers: ## every header compiles on its own
	$(Q)for h in $$(git ls-files '*.h' | grep -v -e _body.h -e cublaslt.h -e gemm_lt.h); do \
	  $(CC) $(CPPFLAGS) $(HDF5_CFLAGS) $(CFLAGS) -x c -fsyntax-only $$h || exit 1; done

format: ## clang-format everything
	$(Q)$(call install,clang-format)
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cc')

PREFIX ?= /usr/local
install: programs ## install into PREFIX (default /usr/local)
	$(Q)install -D -m 755 $(B)/scdivad $(DESTDIR)$(PREFIX)/bin/scdivad
	$(Q)install -D -m 755 $(B)/scdiva $(DESTDIR)$(PREFIX)/bin/scdiva
	$(Q)install -D -m 644 api/cli/scdiva.1 $(DESTDIR)$(PREFIX)/share/man/man1/scdiva.1
	$(Q)$(B)/scdiva completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/scdiva
	$(Q)$(B)/scdiva completion zsh | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_scdiva
	$(Q)$(B)/scdiva completion fish | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/scdiva.fish
	$(Q)install -D -m 755 $(B)/scdiva-train $(DESTDIR)$(PREFIX)/bin/scdiva-train
	$(Q)$(if $(CUDA_SO),install -D -m 755 $(CUDA_SO) $(DESTDIR)$(PREFIX)/bin/scdiva_cuda.so)
	$(Q)install -D -m 644 config/scdivad.conf $(DESTDIR)$(PREFIX)/share/scdivad/scdivad.conf
	$(Q)for f in $$(cd config/models && find pbmc -type f ! -name '*.py' ! -name '*.sh'); do \
	  install -D -m 644 config/models/$$f $(DESTDIR)$(PREFIX)/share/scdivad/models/$$f; done

docker: ## build the CPU image with the container engine that is there
	$(Q)docker build -f docker/Dockerfile -t scdivad:cpu .

docker-cuda: ## build the image for NVIDIA GPUs
	$(Q)docker build -f docker/Dockerfile.cuda -t scdivad:cuda .

clean: ## remove everything that was built
	$(Q)rm -rf build

help: ## this list
	$(Q)sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

.PRECIOUS: $(B)/obj/%.o
.SECONDARY:
-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
