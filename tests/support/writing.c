/* Faults at the N-th system call by which this process changes what a file below a folder holds.
 *
 * A filter (seccomp, SECCOMP_RET_TRAP) turns each such call into SIGSYS, whoever makes it: Python, Rust, C++ or the C
 * library itself, in whatever thread. The handler makes the call, or has the fault take its place. It makes it at one
 * address, which the filter lets through. Changes through shared mappings are no calls, and are not met. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

long pass(long number, long a, long b, long c, long d, long e, long f);
extern const char passed[];

#if defined(__x86_64__)
__asm__(".text\n.globl pass\n.hidden pass\n.globl passed\n.hidden passed\npass:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\n"
        "mov 8(%rsp), %r9\nsyscall\npassed:\nret\n");
#define ARGUMENTS(m) {m.gregs[REG_RDI], m.gregs[REG_RSI], m.gregs[REG_RDX], m.gregs[REG_R10], m.gregs[REG_R8], \
                      m.gregs[REG_R9]}
#define RESULT(m) m.gregs[REG_RAX]
#elif defined(__aarch64__)
__asm__(".text\n.globl pass\n.hidden pass\n.globl passed\n.hidden passed\npass:\n"
        "mov x8, x0\nmov x0, x1\nmov x1, x2\nmov x2, x3\nmov x3, x4\nmov x4, x5\nmov x5, x6\nsvc #0\npassed:\nret\n");
#define ARGUMENTS(m) {m.regs[0], m.regs[1], m.regs[2], m.regs[3], m.regs[4], m.regs[5]}
#define RESULT(m) m.regs[0]
#else
#error "written for x86-64 and aarch64"
#endif

static const int CALLS[] = {SYS_write,    SYS_pwrite64,        SYS_writev, SYS_pwritev,   SYS_pwritev2,
                            SYS_sendfile, SYS_copy_file_range, SYS_splice, SYS_ftruncate, SYS_fallocate};
#define COUNT (sizeof CALLS / sizeof *CALLS)

static char folder[4096];
static long at, error;
static int half, lasting;
static volatile long count;

long writes_met(void) { return count; }

/* Whether the file with this descriptor lies below the folder. */
static int ours(long descriptor) {
    char link[48] = "/proc/self/fd/", path[4096];
    char digits[20], *end = link + strlen(link);
    int n = 0;
    if (descriptor < 0) return 0;
    do digits[n++] = '0' + descriptor % 10;
    while (descriptor /= 10);
    while (n) *end++ = digits[--n];
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 0 && (path[length] = 0, strncmp(path, folder, strlen(folder)) == 0);
}

static void met(int signal, siginfo_t *info, void *context) {
    int before = errno;
    ucontext_t *state = context;
    long a[6] = ARGUMENTS(state->uc_mcontext), number = info->si_syscall, made = 0;
    (void)signal;
    if (ours(number == SYS_copy_file_range || number == SYS_splice ? a[2] : a[0])) {
        long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
        int cut = half && now == at && number == SYS_write && a[2] > 1;
        long from = half ? at + 1 : at;
        if (cut) {
            a[2] /= 2;
        } else if (now == at || now == from || (lasting && now > from)) {
            if (error == 0) kill(getpid(), SIGKILL);
            made = -error;
        }
    }
    RESULT(state->uc_mcontext) = made ? made : pass(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    errno = before;
}

/* From now on, and for as long as this process lives; 0, or why not. No error number kills. With `cut`, half of what
 * was to be written is, and the fault comes with the next call. */
int arm_writes(const char *below, long number, int refused, int cut, int for_good) {
    struct sock_filter program[COUNT + 8];
    struct sock_fprog filter = {COUNT + 8, program};
    struct sigaction action = {.sa_sigaction = met, .sa_flags = SA_SIGINFO};
    uint64_t allowed = (uint64_t)(uintptr_t)passed;
    size_t n = 0;
#define LOAD(field) \
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(value, yes, no) \
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), yes, no)
#define RETURN(value) program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, value)
    LOAD(instruction_pointer);
    EQUAL(allowed, 0, 2); /* the low half: both machines are little-endian */
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                                offsetof(struct seccomp_data, instruction_pointer) + 4);
    EQUAL(allowed >> 32, COUNT + 1, 0);
    LOAD(nr);
    for (size_t one = 0; one < COUNT; one++) EQUAL(CALLS[one], COUNT - one, 0);
    RETURN(SECCOMP_RET_ALLOW);
    RETURN(SECCOMP_RET_TRAP);
    filter.len = n;
    strncpy(folder, below, sizeof folder - 1);
    at = number, error = refused, half = cut, lasting = for_good, count = 0;
    if (sigaction(SIGSYS, &action, NULL)) return errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) ? errno : 0;
}
