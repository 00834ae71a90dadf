/* host.h - what tests may turn on the emulated device.
 *
 * Threads: one. */
#ifndef SCD_TESTS_CUDA_HOST_H
#define SCD_TESTS_CUDA_HOST_H

#ifdef __cplusplus
extern "C" {
#endif

/* 0: the first thread of a block runs first; 1: the last does; more: chance decides, each number
 * another one. CUDA_EMULATOR_ORDER sets it when a GPU is opened, to 0 if it is not set. */
extern int scd_emu_order;
/* Let the next n calls of the runtime and of products succeed and fail the one after; negative:
 * never fail. */
extern long scd_emu_fail_after;
/* So many of every plan's first algorithms add a row up in an order that depends on its place. */
extern int scd_emu_bad_algorithms;
/* Products with an epilogue that were asked for so far (CUDA_EMULATOR_EPILOGUES: gemm_host.cc). */
extern long scd_emu_fused;
/* Graphs that were put again so far. */
extern long scd_emu_replays;
/* Blocks of device and pinned memory that are allocated now. */
extern long scd_emu_blocks;

#ifdef __cplusplus
}
#endif
#endif
