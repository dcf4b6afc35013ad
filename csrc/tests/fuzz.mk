# Builds every fuzz_*.c with clang's libFuzzer under ASan and UBSan, and runs each for a bounded number of inputs.
#
#   make -f fuzz.mk fuzz RUNS=100000             all of them
#   make -f fuzz.mk fuzz-fuzz_kalshi RUNS=1000000 one of them
#
# No corpus is kept: the targets build their own good inputs. What a crash leaves lies in csrc/build/fuzz.

FUZZ_CC = clang
RUNS = 100000
# Fixed, so that a run in CI can be repeated.
SEED = 1
MAX_LEN = 512

BUILD := ../build/fuzz
TARGETS := $(sort $(basename $(wildcard fuzz_*.c)))
SOURCES := $(sort $(wildcard ../*.c))
OBJECTS := $(SOURCES:../%.c=$(BUILD)/%.o)
HEADERS := $(wildcard ../*.h) $(wildcard *.h)
FLAGS := -std=gnu11 -g -O1 -I.. -pthread -fno-omit-frame-pointer -fno-sanitize-recover=all

.PHONY: fuzz build
fuzz: $(TARGETS:%=fuzz-%)
build: $(TARGETS:%=$(BUILD)/%)

$(BUILD)/%.o: ../%.c $(HEADERS)
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FLAGS) -fsanitize=fuzzer-no-link,address,undefined -c $< -o $@

$(BUILD)/%: %.c $(OBJECTS) $(HEADERS)
	$(FUZZ_CC) $(FLAGS) -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined $< $(OBJECTS) -lm -o $@

.PHONY: fuzz-%
fuzz-%: $(BUILD)/%
	@cd $(BUILD) && ./$* -runs=$(RUNS) -seed=$(SEED) -max_len=$(MAX_LEN) -print_final_stats=1 >$*.log 2>&1 \
		|| { tail -60 $*.log; exit 1; }
	@grep -E 'number_of_executed_units' $(BUILD)/$*.log | sed 's/^.*: */$*: inputs run: /'

.SECONDARY:
