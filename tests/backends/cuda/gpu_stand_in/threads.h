// Between the driver (libcuda.c) and what runs the threads (threads.c).
#ifndef THREADS_H
#define THREADS_H

#include "device.h"

// What ended the last launch, or nothing.
extern char launch_error[512];

bool is_allocated(u64 address, u64 size);

// Run all blocks and threads one after the other; return whether nothing was wrong.
bool run_kernel(const Kernel *which, unsigned blocks, unsigned width, unsigned height, void *const *with,
                bool is_descending);

#endif
