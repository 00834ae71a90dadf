/* isa.h - which instruction set this process computes with.
 *
 * The least of three: what the processor has, what oneDNN agrees to use (ONEDNN_MAX_CPU_ISA), and
 * what SCDIVA_ISA allows ("generic", "avx2", "avx512", "avx512_bf16"). Results are part of it: two
 * instruction sets give different last bits.
 *
 * Threads: any. */
#ifndef SCD_CPU_ISA_H
#define SCD_CPU_ISA_H

#include "engine/base/error.h"

#include <stddef.h>

typedef enum scd_isa { SCD_ISA_GENERIC, SCD_ISA_AVX2, SCD_ISA_AVX512, SCD_ISA_AVX512_BF16 } scd_isa;

/* SCD_E_INVALID: SCDIVA_ISA holds something else. */
scd_code scd_isa_detect(scd_isa *out, scd_error *err);
const char *scd_isa_name(scd_isa isa);

/* "2.6.3-avx512_core_bf16": version and instruction set of the library. */
void scd_isa_library(char *out, size_t n);

/* "AMD EPYC 9575F 64-Core Processor", or "cpu" where the system does not say. */
void scd_isa_processor(char *out, size_t n);

#endif
