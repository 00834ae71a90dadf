/* impl.h - what the files of the emulated runtime share. */
#ifndef SCD_TESTS_CUDA_HOST_IMPL_H
#define SCD_TESTS_CUDA_HOST_IMPL_H

#include "engine/cuda/runtime.h"
#include "tests/cuda_host/host.h"

#include <functional>

/* SCD_E_DEVICE when this call is the one that is to fail, or the thread's device has died. */
scd_code scd_emu_call(const char *name, scd_error *err);
/* Copies are put on the stream; work that comes after them carries them out first. */
void scd_emu_flush(void);

/* While launches are recorded: `work` is kept, to be done at replay. False: do it now. */
bool scd_emu_keep(std::function<void()> work);

/* Between these the memory of the thread's device may be touched, and no other thread works on any
 * device. They nest. Where CUDA_EMULATOR_GUARD is set touching it at any other time, or that of
 * another device, ends the program, as code that takes it for host memory deserves. */
void scd_emu_unlock(void);
void scd_emu_lock(void);

#endif
