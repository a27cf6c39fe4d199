/* Drives the switch of src/arch/aarch64.rs; see ci/aarch64-switch.sh. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *(*prepare_function)(void *);
uint64_t weft_switch(void **save, void *to, uint64_t transfer);
uint64_t weft_switch_via(void **save, void *helper, prepare_function prepare, void *argument, uint64_t transfer);
void weft_trampoline(void);
uint64_t probe(void **save, void *to, uint64_t transfer, uint64_t out[20], uint64_t seed);

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            printf("failed: %s, line %d\n", #condition, __LINE__);             \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

enum { COUNT = 50, STACK = 64 << 10, ROUNDS = 20000 };

struct coroutine {
    void *sp;
    unsigned char *memory;
    uint64_t number;
    uint64_t resumes;
};

static struct coroutine all[COUNT];
static struct coroutine *current;
static void *root;

static uint64_t get_fpcr(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}

static void set_fpcr(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }

/* Rounding modes, 0 to 3; the root has mode 1. */
static uint64_t mode(uint64_t number) { return (number % 4) << 22; }
static const uint64_t ROOT_MODE = 1ull << 22;

static void check_registers(const uint64_t out[20], uint64_t seed) {
    for (uint64_t i = 0; i < 18; i++) {
        CHECK(out[i] == seed + i);
    }
    CHECK(out[18] == out[19]);
}

/* What `first_context` in src/arch/aarch64.rs writes: 192 bytes of zero, the entry in x19, the trampoline in x30. */
static void *first_context(unsigned char *top, void (*entry)(uint64_t)) {
    unsigned char *context = (unsigned char *)((uintptr_t)top & ~(uintptr_t)15) - 192;
    memset(context, 0, 192);
    *(void (**)(uint64_t))(context + 0) = entry;
    *(void (**)(void))(context + 88) = weft_trampoline;
    return context;
}

static uint64_t checksum(const uint64_t *words, int count) {
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        sum = (sum ^ words[i]) * 0x100000001b3ull;
    }
    return sum;
}

/* Each coroutine answers with its number and how often it was resumed. */
static void entry(uint64_t transfer) {
    struct coroutine *me = current;
    uint64_t frame;
    __asm__ volatile("mov %0, sp" : "=r"(frame));
    CHECK(frame % 16 == 0);
    CHECK(frame < (uintptr_t)me->memory + STACK && frame > (uintptr_t)me->memory + STACK - 1024);
    CHECK(get_fpcr() == 0);
    set_fpcr(mode(me->number));

    uint64_t words[32], out[20];
    for (int i = 0; i < 32; i++) {
        words[i] = me->number * 1000003 + (uint64_t)i;
    }
    volatile uint64_t sum = checksum(words, 32);
    for (;;) {
        CHECK(transfer == me->number * 7 + me->resumes);
        me->resumes++;
        uint64_t seed = me->number << 32 | me->resumes << 8;
        transfer = probe(&me->sp, root, me->number << 32 | me->resumes, out, seed);
        check_registers(out, seed);
        CHECK(current == me);
        CHECK(get_fpcr() == mode(me->number));
        CHECK(checksum(words, 32) == sum);
    }
}

static void resume(struct coroutine *target) {
    uint64_t out[20], seed = 0xabc0000000ull + target->resumes * 64;
    current = target;
    uint64_t expected = target->number << 32 | (target->resumes + 1);
    uint64_t answer = probe(&root, target->sp, target->number * 7 + target->resumes, out, seed);
    CHECK(answer == expected);
    check_registers(out, seed);
    CHECK(get_fpcr() == ROOT_MODE);
}

/* The stack of `out` goes to a buffer on the helper, and is overwritten; the one of `in` comes from its buffer. */
struct exchange {
    struct coroutine *out, *in;
};

static unsigned char images[2][4096];
static unsigned char helper[16 << 10] __attribute__((aligned(16)));
static unsigned char *shared_top;

static void *exchange(void *argument) {
    struct exchange exchange = *(struct exchange *)argument;
    uintptr_t here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    CHECK(here % 16 == 0);
    CHECK(here >= (uintptr_t)helper && here < (uintptr_t)helper + sizeof helper);
    size_t live = (size_t)(shared_top - (unsigned char *)exchange.out->sp);
    CHECK(live < sizeof images[0]);
    memcpy(images[exchange.out->number], exchange.out->sp, live);
    memset(exchange.out->sp, 0xa5, live);
    size_t coming = (size_t)(shared_top - (unsigned char *)exchange.in->sp);
    memcpy(exchange.in->sp, images[exchange.in->number], coming);
    current = exchange.in;
    return exchange.in->sp;
}

static struct coroutine pair[2];
static int exchanges;

/* Two coroutines at the same addresses, which switch to each other directly. */
static void sharing_entry(uint64_t transfer) {
    struct coroutine *me = current;
    uint64_t words[16];
    for (int i = 0; i < 16; i++) {
        words[i] = me->number * 31 + (uint64_t)i;
    }
    volatile uint64_t sum = checksum(words, 16);
    set_fpcr(mode(me->number + 2));
    /* The first time to the root, which prepares the other one. */
    transfer = weft_switch(&me->sp, root, transfer + 1);
    while (exchanges < 1000) {
        exchanges++;
        struct exchange request = {me, &pair[1 - me->number]};
        CHECK(transfer == (uint64_t)exchanges - 1);
        transfer = weft_switch_via(&me->sp, helper + sizeof helper, exchange, &request, (uint64_t)exchanges);
        CHECK(current == me);
        CHECK(get_fpcr() == mode(me->number + 2));
        CHECK(checksum(words, 16) == sum);
    }
    weft_switch(&me->sp, root, transfer);
    CHECK(0);
}

static void share_one_stack(void) {
    unsigned char *memory = aligned_alloc(4096, STACK);
    shared_top = memory + STACK;
    for (uint64_t number = 0; number < 2; number++) {
        pair[number].number = number;
        pair[number].sp = first_context(shared_top, sharing_entry);
        current = &pair[number];
        CHECK(weft_switch(&root, pair[number].sp, 10 + number) == 11 + number);
        CHECK(get_fpcr() == ROOT_MODE);
        memcpy(images[number], pair[number].sp, (size_t)(shared_top - (unsigned char *)pair[number].sp));
    }
    /* Number 1 is in place. */
    CHECK(weft_switch(&root, pair[1].sp, 0) == 1000);
    CHECK(exchanges == 1000);
    CHECK(get_fpcr() == ROOT_MODE);
    free(memory);
}

int main(void) {
    set_fpcr(ROOT_MODE);
    for (uint64_t number = 0; number < COUNT; number++) {
        all[number].number = number;
        all[number].memory = aligned_alloc(4096, STACK);
        /* Tops need not be aligned. */
        all[number].sp = first_context(all[number].memory + STACK - number % 16, entry);
    }
    uint64_t random = 1;
    for (int round = 0; round < ROUNDS; round++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        resume(&all[(random >> 33) % COUNT]);
    }
    share_one_stack();
    printf("ok: %d switches among %d coroutines, %d exchanges on one stack\n", ROUNDS, COUNT, exchanges);
    return 0;
}
