/* QEMU TCG plugin: instructions executed between marker system calls, by class.
 *
 * The guest brackets what it measures by syscall(0x7100) and syscall(0x7101), which Linux does not
 * know (the call fails and costs nothing else). At each closing marker a line
 * "counts <all> <multiply> <other SIMD> <memory> <branch>" goes to the file given as
 * argument, out=PATH. One thread only: the counters are not atomic.
 *
 * Declares the part of QEMU's plugin interface, version 1 (QEMU 4.2 to 7.2 and later), that it uses;
 * Debian ships the header in no package.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct tb;
struct insn;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *, int add, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct tb *);
struct insn *qemu_plugin_tb_get_insn(const struct tb *, size_t);
const void *qemu_plugin_insn_data(const struct insn *);

EXPORT int qemu_plugin_version = 1;

enum { ALL, MULTIPLY, VECTOR, MEMORY, BRANCH, CLASSES };
static uint64_t counts[CLASSES], opened[CLASSES];
static FILE *out;

static bool is_long_or_dot_product(uint32_t i)
{
    uint32_t opcode = i >> 12 & 15;
    return ((i & 0x9f200c00) == 0x0e200000 && opcode >= 8 && opcode <= 12 && !(opcode & 1)) /* smull, smlal */
        || ((i & 0x9f003400) == 0x0f002000 && opcode != 14)              /* the same by a lane */
        || (i & 0x9fe0fc00) == 0x0e809400 || (i & 0xbfe0fc00) == 0x0e809c00 /* sdot, udot, usdot */
        || (i & 0x9fc0f400) == 0x0f80e000 || (i & 0xbfc0f400) == 0x0f80f000 /* the same by a lane */
        || (i & 0xdfe0f400) == 0x4e80a400;                               /* smmla, ummla, usmmla */
}

/* Class of an A64 instruction, by the encoding tables of the Arm Architecture Reference Manual. */
static int class_of(uint32_t i)
{
    if ((i & 0x0a000000) == 0x08000000)
        return MEMORY;
    if ((i & 0x1c000000) == 0x14000000)
        return BRANCH;
    if ((i & 0x0e000000) == 0x0e000000)
        return is_long_or_dot_product(i) ? MULTIPLY : VECTOR;
    return ALL;
}

static void translated(plugin_id id, struct tb *tb)
{
    uint64_t found[CLASSES] = {0};
    size_t count = qemu_plugin_tb_n_insns(tb);
    (void)id;
    for (size_t k = 0; k < count; k++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, k)), sizeof word);
        found[class_of(word)]++;
    }
    found[ALL] = count;
    for (int c = 0; c < CLASSES; c++)
        if (found[c])
            qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &counts[c], found[c]);
}

static void marker(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number == 0x7100)
        memcpy(opened, counts, sizeof counts);
    if (number != 0x7101)
        return;
    fprintf(out, "counts");
    for (int k = 0; k < CLASSES; k++)
        fprintf(out, " %llu", (unsigned long long)(counts[k] - opened[k]));
    fprintf(out, "\n");
    fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    out = argc == 1 && !strncmp(argv[0], "out=", 4) ? fopen(argv[0] + 4, "w") : NULL;
    if (!out)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, marker);
    return 0;
}
