/* Memory between two pages that can't be accessed: a program that reads or writes outside of it crashes. */
#ifndef GUARDED_H
#define GUARDED_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    char *begin;
    size_t size;
} room;

/* At which of the two pages memory is put. */
typedef enum { AT_END, AT_BEGIN } place;

static room room_for(size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (size + page - 1) / page * page;
    char *memory = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + page, inside, PROT_READ | PROT_WRITE) != 0) {
        perror("room_for");
        exit(1);
    }
    return (room){memory + page, inside};
}

/* Return memory for `length` elements in a room. */
static void *put(room in, place at, int64_t length, size_t itemsize)
{
    const size_t size = (size_t)length * itemsize;
    if (size > in.size) {
        fprintf(stderr, "a room of %zu bytes is too small for %zu\n", in.size, size);
        exit(1);
    }
    return at == AT_BEGIN ? in.begin : in.begin + in.size - size;
}

#endif
