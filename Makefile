# scdivad: one Makefile, no recursion. `make help` lists the targets.
#
# B            build directory (default build, or build/SANITIZER)
# SANITIZE     address (with undefined), thread, or empty
# CC           gcc (default) or clang; both are clean under -Werror
# V=1          show the commands

.DEFAULT_GOAL := all
SHELL := /bin/bash
.DELETE_ON_ERROR:

# ---- what is installed ---------------------------------------------------------------------------
PACKAGES := gcc libc6-dev pkg-config libmicrohttpd-dev libdnnl-dev libcjson-dev libsqlite3-dev \
            libssl-dev zlib1g-dev libinih-dev libcurl4-openssl-dev
TEST_PACKAGES := $(PACKAGES) libcmocka-dev curl python3 python3-numpy libopenblas0-pthread
PYTHON ?= $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)

ifeq ($(origin CC),default)
CC := gcc
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
CFLAGS := -std=c11 $(OPT) -fno-math-errno -ffp-contract=off $(WARN) $(SAN) -pthread -fPIC
LDFLAGS := $(SAN) -pthread
LIBS_engine := -ldnnl -lgomp -lcjson -lcrypto -lm -ldl
LIBS_api := $(LIBS_engine) -lz
LIBS_server := $(LIBS_api) -lmicrohttpd -lsqlite3 -linih

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
DIR_server := server
LAYERS ?= server api config engine denoise model cpu backend base
MAINS := server/main.c engine/train/main.c api/cli/main.c

layer_src = $(filter-out $(MAINS),$(wildcard $(DIR_$1)/*.c))
layer_obj = $(patsubst %.c,$(B)/obj/%.o,$(call layer_src,$1))
archive = $(B)/lib/lib$1.a
TRAIN_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(wildcard engine/train/*.c))
UNIT := $(basename $(notdir $(wildcard tests/unit/test_*.c)))
OPS := $(basename $(notdir $(wildcard tests/ops/test_*.c)))
# What the operation tests share: the float64 reference and the fixture.
OPS_SUPPORT := $(patsubst %.c,$(B)/obj/%.o,$(filter-out tests/ops/test_%,$(wildcard tests/ops/*.c)))
TESTS := $(UNIT) $(OPS)

ENGINE_LAYERS := $(filter engine denoise model cpu backend base,$(LAYERS))
ARCHIVES := $(foreach l,$(LAYERS),$(call archive,$l))
ENGINE_ARCHIVES := $(foreach l,$(ENGINE_LAYERS),$(call archive,$l))

# ---- the programs --------------------------------------------------------------------------------
.PHONY: all programs
all: deps ## build everything into build/ (installs missing packages when run as root)
	$(Q)$(MAKE) --no-print-directory programs

programs: $(B)/scdivad $(B)/scdiva-train

$(B)/scdivad: $(B)/obj/server/main.o $(ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ARCHIVES) -Wl,--end-group $(LIBS_server)

$(B)/scdiva-train: $(TRAIN_OBJ) $(ENGINE_ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(TRAIN_OBJ) -Wl,--start-group $(ENGINE_ARCHIVES) -Wl,--end-group $(LIBS_engine)

define layer_rules
$(call archive,$1): $(call layer_obj,$1)
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

$(B)/obj/%.o: %.c $(STAMP)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(call isa_flags,$(notdir $<)) -MMD -MP -c -o $@ $<

# ---- unit and operation tests --------------------------------------------------------------------
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ARCHIVES) -Wl,--end-group -lcmocka $(LIBS_server)
$(B)/tests/%: $(B)/obj/tests/ops/%.o $(OPS_SUPPORT) $(ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(OPS_SUPPORT) -Wl,--start-group $(ARCHIVES) -Wl,--end-group -lcmocka $(LIBS_server)

$(B)/bench/%: $(B)/obj/tests/bench/%.o $(ENGINE_ARCHIVES)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ENGINE_ARCHIVES) -Wl,--end-group $(LIBS_engine)

.PHONY: run-test
run-test: $(B)/tests/$(T) ## build and run one test: make run-test T=test_vocab
	$(Q)$(B)/tests/$(T)
.PRECIOUS: $(B)/obj/%.o

$(B)/obj/api/openapi.o: api/openapi.json

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
