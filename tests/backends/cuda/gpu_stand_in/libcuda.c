// A CUDA driver of one device whose memory is the host's: what numba-cuda and cuda.core call, and no more. A cubin is the
// path of a shared library with a Kernel in it (ptx_in_c.py). All work is done when it is asked for, so streams and
// events have nothing to do. Functions that are not here are not found: the bindings say which.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "threads.h"

typedef enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
} Result;

typedef void *Handle;
typedef u64 Pointer;

// The device and versions.

enum { MAX_THREADS_PER_BLOCK = 1, WARP_SIZE = 10, MULTIPROCESSOR_COUNT = 16, MAJOR = 75, MINOR = 76 };

Result cuInit(unsigned flags)
{
    return SUCCESS;
}

Result cuDriverGetVersion(int *version)
{
    *version = 13000;
    return SUCCESS;
}

Result cuDeviceGetCount(int *count)
{
    *count = 1;
    return SUCCESS;
}

Result cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_VALUE;
}

Result cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, (size_t)length, "stand-in");
    return SUCCESS;
}

Result cuDeviceGetUuid_v2(char *uuid, int device)
{
    memset(uuid, 0, 16);
    return SUCCESS;
}

Result cuDeviceGetAttribute(int *value, int attribute, int device)
{
    switch (attribute) {
    case MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case WARP_SIZE: *value = 32; break;
    case MULTIPROCESSOR_COUNT: *value = 132; break;
    case MAJOR: *value = 9; break;
    case MINOR: *value = 0; break;
    default: *value = 1;
    }
    return SUCCESS;
}

// Less than the tests of large arrays ask for.
static const size_t MEMORY = (size_t)8 << 30;

Result cuDeviceTotalMem_v2(size_t *size, int device)
{
    *size = MEMORY;
    return SUCCESS;
}

Result cuMemGetInfo_v2(size_t *free_size, size_t *size)
{
    *free_size = *size = MEMORY;
    return SUCCESS;
}

// Contexts: each thread of the host has a stack of them, and what needs one fails without.

static Handle const CONTEXT = (Handle)0x1000;
static __thread unsigned context_depth;

Result cuDevicePrimaryCtxRetain(Handle *context, int device)
{
    *context = CONTEXT;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int device)
{
    return SUCCESS;
}

Result cuCtxGetCurrent(Handle *context)
{
    *context = context_depth ? CONTEXT : NULL;
    return SUCCESS;
}

Result cuCtxSetCurrent(Handle context)
{
    context_depth = context ? (context_depth ? context_depth : 1) : 0;
    return SUCCESS;
}

Result cuCtxPushCurrent_v2(Handle context)
{
    context_depth++;
    return SUCCESS;
}

Result cuCtxPopCurrent_v2(Handle *context)
{
    if (!context_depth)
        return INVALID_CONTEXT;
    context_depth--;
    if (context)
        *context = CONTEXT;
    return SUCCESS;
}

Result cuCtxGetDevice(int *device)
{
    *device = 0;
    return context_depth ? SUCCESS : INVALID_CONTEXT;
}

Result cuCtxSynchronize(void)
{
    return context_depth ? SUCCESS : INVALID_CONTEXT;
}

// Memory.

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static Span *allocations;
static size_t allocation_count, allocation_room;

// The index of the first allocation behind an address.
static size_t behind(u64 address)
{
    size_t low = 0, high = allocation_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (allocations[middle].address > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool is_allocated(u64 address, u64 size)
{
    size_t index = behind(address);
    return index && address - allocations[index - 1].address + size <= allocations[index - 1].size;
}

// The same, asked by the host, of which several threads may be here.
static bool holds(u64 address, u64 size)
{
    pthread_mutex_lock(&turn);
    bool is_held = is_allocated(address, size);
    pthread_mutex_unlock(&turn);
    return is_held;
}

Result cuMemAlloc_v2(Pointer *pointer, size_t size)
{
    if (!context_depth)
        return INVALID_CONTEXT;
    void *memory;
    if (!size)
        return INVALID_VALUE;
    if (posix_memalign(&memory, 512, size))
        return OUT_OF_MEMORY;
    // Nobody may count on zeros.
    memset(memory, 0xAB, size);
    *pointer = (Pointer)memory;
    pthread_mutex_lock(&turn);
    if (allocation_count == allocation_room) {
        allocation_room = 2 * allocation_room + 64;
        allocations = realloc(allocations, allocation_room * sizeof *allocations);
    }
    size_t index = behind(*pointer);
    memmove(allocations + index + 1, allocations + index, (allocation_count++ - index) * sizeof *allocations);
    allocations[index] = (Span){*pointer, size};
    pthread_mutex_unlock(&turn);
    return SUCCESS;
}

Result cuMemFree_v2(Pointer pointer)
{
    if (!context_depth)
        return INVALID_CONTEXT;
    pthread_mutex_lock(&turn);
    size_t index = behind(pointer);
    bool is_known = index && allocations[index - 1].address == pointer;
    if (is_known) {
        memmove(allocations + index - 1, allocations + index, (allocation_count-- - index) * sizeof *allocations);
        free((void *)pointer);
    }
    pthread_mutex_unlock(&turn);
    return is_known ? SUCCESS : INVALID_VALUE;
}

Result cuMemHostAlloc(Handle *memory, size_t size, unsigned flags)
{
    *memory = malloc(size);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}

Result cuMemFreeHost(Handle memory)
{
    free(memory);
    return SUCCESS;
}

enum { DEVICE_POINTER = 3, DEVICE_ORDINAL = 9 };

Result cuPointerGetAttribute(void *value, int attribute, Pointer pointer)
{
    if (!holds(pointer, 1))
        return INVALID_VALUE;
    switch (attribute) {
    case DEVICE_ORDINAL: *(int *)value = 0; return SUCCESS;
    case DEVICE_POINTER: *(Pointer *)value = pointer; return SUCCESS;
    default: return INVALID_VALUE;
    }
}

static Result copied(void *to, const void *from, Pointer device, size_t size)
{
    if (!context_depth)
        return INVALID_CONTEXT;
    if (!holds(device, size))
        return INVALID_VALUE;
    memmove(to, from, size);
    return SUCCESS;
}

Result cuMemcpyHtoD_v2(Pointer to, const void *from, size_t size)
{
    return copied((void *)to, from, to, size);
}

Result cuMemcpyDtoH_v2(void *to, Pointer from, size_t size)
{
    return copied(to, (void *)from, from, size);
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t size, Handle stream)
{
    return copied((void *)to, from, to, size);
}

Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t size, Handle stream)
{
    return copied(to, (void *)from, from, size);
}

Result cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t size)
{
    return holds(from, size) ? copied((void *)to, (void *)from, to, size) : INVALID_VALUE;
}

Result cuMemsetD8_v2(Pointer to, unsigned char value, size_t size)
{
    if (!context_depth)
        return INVALID_CONTEXT;
    if (!holds(to, size))
        return INVALID_VALUE;
    memset((void *)to, value, size);
    return SUCCESS;
}

Result cuMemsetD8Async(Pointer to, unsigned char value, size_t size, Handle stream)
{
    return cuMemsetD8_v2(to, value, size);
}

// Streams and events: handles, and nothing behind them.

static Handle new_handle(void)
{
    static _Atomic uintptr_t last = 0x10000;
    return (Handle)(last += 16);
}

Result cuStreamCreate(Handle *stream, unsigned flags)
{
    *stream = new_handle();
    return SUCCESS;
}

Result cuStreamDestroy_v2(Handle stream)
{
    return SUCCESS;
}

Result cuStreamSynchronize(Handle stream)
{
    return SUCCESS;
}

Result cuStreamGetCtx(Handle stream, Handle *context)
{
    *context = CONTEXT;
    return SUCCESS;
}

Result cuStreamGetDevice(Handle stream, int *device)
{
    *device = 0;
    return SUCCESS;
}

Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags)
{
    return SUCCESS;
}

Result cuEventCreate(Handle *event, unsigned flags)
{
    *event = new_handle();
    return SUCCESS;
}

Result cuEventRecord(Handle event, Handle stream)
{
    return SUCCESS;
}

Result cuEventSynchronize(Handle event)
{
    return SUCCESS;
}

Result cuEventDestroy_v2(Handle event)
{
    return SUCCESS;
}

// Kernels.

typedef struct {
    const Kernel *kernel;
    unsigned launches;
} Loaded;

Result cuLibraryLoadData(Handle *library, const void *image, Handle options, Handle values, unsigned count,
                         Handle more, Handle more_values, unsigned more_count)
{
    void *file = dlopen(image, RTLD_NOW | RTLD_LOCAL);
    if (!file) {
        fprintf(stderr, "stand-in: no kernel in C: %s\n", dlerror());
        return INVALID_IMAGE;
    }
    // A handle of its own, also of what was loaded before.
    void **loaded = malloc(sizeof *loaded);
    *loaded = file;
    *library = loaded;
    return SUCCESS;
}

Result cuLibraryUnload(Handle library)
{
    return SUCCESS;
}

Result cuLibraryGetKernel(Handle *found, Handle library, const char *name)
{
    const Kernel *kernel = dlsym(*(void **)library, "kernel");
    if (!kernel || strcmp(kernel->name, name))
        return NOT_FOUND;
    Loaded *loaded = calloc(1, sizeof *loaded);
    loaded->kernel = kernel;
    *found = loaded;
    return SUCCESS;
}

Result cuKernelGetFunction(Handle *function, Handle kernel)
{
    *function = kernel;
    return SUCCESS;
}

Result cuKernelGetAttribute(int *value, int attribute, Handle kernel, int device)
{
    *value = attribute == 0 ? 1024 : 0;
    return SUCCESS;
}

typedef struct {
    unsigned grid[3], block[3], shared_size;
    Handle stream, attributes;
    unsigned attribute_count;
} Launch;

Result cuLaunchKernelEx(const Launch *launch, Handle function, void **arguments, void **extra)
{
    if (!context_depth)
        return INVALID_CONTEXT;
    const unsigned *grid = launch->grid, *block = launch->block;
    if (grid[1] != 1 || grid[2] != 1 || block[2] != 1 || launch->shared_size)
        return INVALID_VALUE;
    Loaded *loaded = function;
    pthread_mutex_lock(&turn);
    // By turns from the first thread on and from the last: what depends on their order has other bits.
    bool is_right = run_kernel(loaded->kernel, grid[0], block[0], block[1], arguments, loaded->launches++ % 2);
    pthread_mutex_unlock(&turn);
    if (!is_right)
        fprintf(stderr, "stand-in: %s: %s\n", loaded->kernel->name, launch_error);
    return is_right ? SUCCESS : LAUNCH_FAILED;
}

// Errors, and how functions are found.

Result cuGetErrorName(Result error, const char **text)
{
    *text = error == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "an error of the stand-in's driver";
    return SUCCESS;
}

Result cuGetErrorString(Result error, const char **text)
{
    *text = error == LAUNCH_FAILED ? launch_error : "see tests/backends/cuda/gpu_stand_in/libcuda.c";
    return SUCCESS;
}

Result cuGetProcAddress_v2(const char *name, Handle *function, int version, u64 flags, int *status)
{
    static Handle self;
    char newer[128];
    if (!self)
        self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    snprintf(newer, sizeof newer, "%s_v2", name);
    *function = dlsym(self, newer);
    if (!*function)
        *function = dlsym(self, name);
    if (status)
        *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

Result cuGetProcAddress(const char *name, Handle *function, int version, u64 flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
