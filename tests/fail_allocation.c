/* A library for LD_PRELOAD, whose malloc, calloc, realloc, posix_memalign and aligned_alloc fail when
   they are told to: from the n-th call on, `count` of them, while one Python function runs. Linux with
   glibc, whose own functions have the names __libc_...

   What NumPy asks for as memory of arrays comes by way of `handler`, and fails as well. What else it
   asks malloc for does not: where that fails, NumPy 2.4 returns NULL without an exception (of a sum, a
   gather, a broadcast), which nobody who calls it can make good. */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
/* of the Python that loads this; not looked for before it is called */
extern void *PyObject_CallNoArgs(void *);

/* Whose calls fail: those of arrays and of our own modules, or all but NumPy's own. */
enum { OF_OURS, OF_ALL };

typedef struct {
    uintptr_t begin, end;
} Range;

static Range ours[64], spared[64];
static int n_ours, n_spared;
static long blocks; /* in use, by all of the process */

/* of the thread that is told to fail, and of no other */
static __thread long left, to_fail, seen;
static __thread int armed, whose;

/* Where code of one of our modules is, or code that is spared. */
void code_between(uintptr_t begin, uintptr_t end, int is_ours)
{
    int *n = is_ours ? &n_ours : &n_spared;
    if (*n < 64)
        (is_ours ? ours : spared)[(*n)++] = (Range){begin, end};
}

long blocks_in_use(void)
{
    return __atomic_load_n(&blocks, __ATOMIC_RELAXED);
}

/* How many calls `call_failing` has looked at. */
long calls_seen(void)
{
    return seen;
}

/* Call a Python function of no arguments; the n-th allocation and those after it fail, `count` in all;
   n = 1 is the first. */
void *call_failing(void *function, long n, long count, int of_whom)
{
    left = n, to_fail = count, whose = of_whom, seen = 0;
    armed = 1;
    void *result = PyObject_CallNoArgs(function);
    armed = 0;
    return result;
}

static int within(const Range *ranges, int n, uintptr_t at)
{
    while (n-- > 0)
        if (ranges[n].begin <= at && at < ranges[n].end)
            return 1;
    return 0;
}

/* Small ones can be had where large ones cannot. */
enum { SMALL = 64 };

static int next_fails(void)
{
    seen++;
    return --left <= 0 && to_fail-- > 0;
}

static int fails(void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    if (!armed || !(whose == OF_ALL ? !within(spared, n_spared, at) : within(ours, n_ours, at)))
        return 0;
    return next_fails();
}

static void *counted(void *memory)
{
    if (memory)
        __atomic_add_fetch(&blocks, 1, __ATOMIC_RELAXED);
    return memory;
}

#define FAILS (fails(__builtin_return_address(0)) ? (errno = ENOMEM, 1) : 0)

void *malloc(size_t size)
{
    return FAILS ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return FAILS ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *old, size_t size)
{
    if (FAILS)
        return NULL;
    void *memory = __libc_realloc(old, size);
    if (!old)
        counted(memory);
    else if (!memory && !size)
        __atomic_sub_fetch(&blocks, 1, __ATOMIC_RELAXED);
    return memory;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return FAILS ? NULL : counted(__libc_memalign(alignment, size));
}

void *memalign(size_t alignment, size_t size)
{
    return FAILS ? NULL : counted(__libc_memalign(alignment, size));
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    void *found = FAILS ? NULL : counted(__libc_memalign(alignment, size));
    if (!found)
        return ENOMEM;
    *memory = found;
    return 0;
}

void free(void *memory)
{
    if (memory)
        __atomic_sub_fetch(&blocks, 1, __ATOMIC_RELAXED);
    __libc_free(memory);
}

/* NumPy's PyDataMem_Handler. */

static int array_fails(size_t size)
{
    return armed && (whose == OF_ALL || size >= SMALL) && next_fails();
}

static void *array_malloc(void *context, size_t size)
{
    (void)context;
    return array_fails(size) ? NULL : counted(__libc_malloc(size ? size : 1));
}

static void *array_calloc(void *context, size_t n, size_t size)
{
    (void)context;
    return array_fails(n * size) ? NULL : counted(__libc_calloc(n, size));
}

static void *array_realloc(void *context, void *old, size_t size)
{
    (void)context;
    if (array_fails(size))
        return NULL;
    return old ? __libc_realloc(old, size) : counted(__libc_malloc(size));
}

static void array_free(void *context, void *memory, size_t size)
{
    (void)context, (void)size;
    free(memory);
}

struct {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *, size_t);
} handler = {"failing", 1, NULL, array_malloc, array_calloc, array_realloc, array_free};
