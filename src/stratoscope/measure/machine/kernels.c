/* Memory and arithmetic kernels that the machine probes time: STREAM's four and a read, pointer chase, FMA chains.
 *
 * Built at run time by compiled.py where a C compiler is at hand. Threads are pinned, meet at a barrier before the
 * clock starts, and report the time from the first start to the last end, their CPU time, the longest time that one of
 * them stood in a run queue (schedstat), and their involuntary switches.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
typedef double vector __attribute__((vector_size(VECTOR_BYTES)));
#define LANES (VECTOR_BYTES / 8)

enum { COPY, SCALE, ADD, TRIAD, READ, COPY_NT, SCALE_NT, ADD_NT, TRIAD_NT, CHASE, FMA_CHAIN, INIT };
enum { MAX_THREADS = 1024 };

struct result {
    int64_t wall_ns, cpu_ns, wait_ns, involuntary;
};

struct work {
    int op, kind;
    double *a, *b, *c;
    size_t n;      /* doubles of one array, all threads */
    int64_t reps;
};

struct member {
    struct work work;
    int index, threads, cpu;
    struct team *team;
    int64_t start_ns, end_ns, cpu_ns, wait_ns, involuntary;
};

struct team {
    atomic_int arrived;
    int threads;
};

static volatile double sink;
static void *volatile pointer_sink;

static int64_t clock_ns(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Run-queue wait of this thread, or -1 where the kernel keeps no scheduler statistics. */
static int64_t run_queue_wait_ns(void) {
    char text[96];
    long long ran = 0, waited = 0;
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return -1;
    text[length] = 0;
    if (sscanf(text, "%lld %lld", &ran, &waited) != 2 || ran == 0) return -1;
    return waited;
}

#if defined(__AVX512F__)
#define STORE_NT(p, v) _mm512_stream_pd((double *)(p), (__m512d)(v))
#elif defined(__AVX__)
#define STORE_NT(p, v) _mm256_stream_pd((double *)(p), (__m256d)(v))
#elif defined(__x86_64__)
#define STORE_NT(p, v) _mm_stream_pd((double *)(p), (__m128d)(v))
#endif
#define STORE(p, v) (*(p) = (v))

#define LOOP(STORE_IT, OUT, VALUE) \
    for (size_t i = 0; i < m; i += 4) { \
        STORE_IT(OUT + i, VALUE(0)); \
        STORE_IT(OUT + i + 1, VALUE(1)); \
        STORE_IT(OUT + i + 2, VALUE(2)); \
        STORE_IT(OUT + i + 3, VALUE(3)); \
    }
#define V_COPY(k) a[i + k]
#define V_SCALE(k) (s * c[i + k])
#define V_ADD(k) (a[i + k] + b[i + k])
#define V_TRIAD(k) (b[i + k] + s * c[i + k])

/* One pass over n doubles (a multiple of 4 vectors): STREAM's definitions, and a sum that only reads. */
static void stream_pass(int op, vector *a, vector *b, vector *c, size_t m) {
    const vector s = (vector){0} + 3.0;
    switch (op) {
    case COPY: LOOP(STORE, c, V_COPY) break;
    case SCALE: LOOP(STORE, b, V_SCALE) break;
    case ADD: LOOP(STORE, c, V_ADD) break;
    case TRIAD: LOOP(STORE, a, V_TRIAD) break;
#if defined(STORE_NT)
    case COPY_NT: LOOP(STORE_NT, c, V_COPY) break;
    case SCALE_NT: LOOP(STORE_NT, b, V_SCALE) break;
    case ADD_NT: LOOP(STORE_NT, c, V_ADD) break;
    case TRIAD_NT: LOOP(STORE_NT, a, V_TRIAD) break;
#endif
    case READ: {
        vector t0 = {0}, t1 = {0}, t2 = {0}, t3 = {0}, t4 = {0}, t5 = {0}, t6 = {0}, t7 = {0};
        size_t i = 0;
        for (; i + 8 <= m; i += 8) {
            t0 += a[i], t1 += a[i + 1], t2 += a[i + 2], t3 += a[i + 3];
            t4 += a[i + 4], t5 += a[i + 5], t6 += a[i + 6], t7 += a[i + 7];
        }
        for (; i < m; i++) t0 += a[i];
        vector t = ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7));
        double total = 0;
        for (int k = 0; k < LANES; k++) total += t[k];
        sink = total;
        break;
    }
    }
#if defined(__x86_64__)
    if (op >= COPY_NT && op <= TRIAD_NT) _mm_sfence();
#endif
}

/* Chains of dependent multiply-adds, 12 at once: more than latency times ports of any core. Nothing touches memory. */
#define CHAINS(TYPE, ZERO, STEP) \
    { \
        TYPE r0 = ZERO, r1 = ZERO, r2 = ZERO, r3 = ZERO, r4 = ZERO, r5 = ZERO, r6 = ZERO, r7 = ZERO, r8 = ZERO, \
             r9 = ZERO, r10 = ZERO, r11 = ZERO; \
        for (int64_t i = 0; i < reps; i++) { \
            r0 = STEP(r0); r1 = STEP(r1); r2 = STEP(r2); r3 = STEP(r3); r4 = STEP(r4); r5 = STEP(r5); \
            r6 = STEP(r6); r7 = STEP(r7); r8 = STEP(r8); r9 = STEP(r9); r10 = STEP(r10); r11 = STEP(r11); \
            __asm__ volatile("" : "+" REGISTER(r0), "+" REGISTER(r1), "+" REGISTER(r2), "+" REGISTER(r3), \
                             "+" REGISTER(r4), "+" REGISTER(r5)); \
            __asm__ volatile("" : "+" REGISTER(r6), "+" REGISTER(r7), "+" REGISTER(r8), "+" REGISTER(r9), \
                             "+" REGISTER(r10), "+" REGISTER(r11)); \
        } \
    }
#if defined(__x86_64__)
#define REGISTER(r) "v"(r)
#else
#define REGISTER(r) "w"(r)
#endif

typedef float float4 __attribute__((vector_size(16)));
typedef double double2 __attribute__((vector_size(16)));

/* Operations (2 a multiply-add) of one round of 12 chains; 0 where this build has no such instruction. */
int64_t so_chain_flops(int kind) {
    switch (kind) {
    case 0: return 12 * 2 * 4;  /* 128 bit fp32 */
    case 1: return 12 * 2 * 2;  /* 128 bit fp64 */
#if defined(__AVX2__) && defined(__FMA__)
    case 2: return 12 * 2 * 8;  /* 256 bit fp32 */
    case 3: return 12 * 2 * 4;  /* 256 bit fp64 */
#endif
#if defined(__AVX512F__)
    case 4: return 12 * 2 * 16; /* 512 bit fp32 */
    case 5: return 12 * 2 * 8;  /* 512 bit fp64 */
#endif
#if defined(__AVX512BF16__)
    case 6: return 12 * 2 * 32; /* bf16 pairs into fp32 */
#endif
#if defined(__AVX512VNNI__)
    case 7: return 12 * 2 * 64; /* int8 quadruples into int32 */
#endif
    default: return 0;
    }
}

static void chain_pass(int kind, int64_t reps) {
    volatile float vx = 0.999f, vy = 0.001f;
    const float x = vx, y = vy;
    switch (kind) {
    case 0: {
        const float4 p = (float4){0} + x, q = (float4){0} + y;
#define STEP_F4(r) ((r) * p + q)
        CHAINS(float4, q, STEP_F4)
        break;
    }
    case 1: {
        const double2 p = (double2){0} + x, q = (double2){0} + y;
        CHAINS(double2, q, STEP_F4)
        break;
    }
#if defined(__AVX2__) && defined(__FMA__)
    case 2: {
        const __m256 p = _mm256_set1_ps(x), q = _mm256_set1_ps(y);
#define STEP_F8(r) _mm256_fmadd_ps(r, p, q)
        CHAINS(__m256, q, STEP_F8)
        break;
    }
    case 3: {
        const __m256d p = _mm256_set1_pd(x), q = _mm256_set1_pd(y);
#define STEP_D4(r) _mm256_fmadd_pd(r, p, q)
        CHAINS(__m256d, q, STEP_D4)
        break;
    }
#endif
#if defined(__AVX512F__)
    case 4: {
        const __m512 p = _mm512_set1_ps(x), q = _mm512_set1_ps(y);
#define STEP_F16(r) _mm512_fmadd_ps(r, p, q)
        CHAINS(__m512, q, STEP_F16)
        break;
    }
    case 5: {
        const __m512d p = _mm512_set1_pd(x), q = _mm512_set1_pd(y);
#define STEP_D8(r) _mm512_fmadd_pd(r, p, q)
        CHAINS(__m512d, q, STEP_D8)
        break;
    }
#endif
#if defined(__AVX512BF16__)
    case 6: {
        const __m512 wide = _mm512_set1_ps(y);
        const __m512bh p = _mm512_cvtne2ps_pbh(wide, wide);
#define STEP_BF16(r) _mm512_dpbf16_ps(r, p, p)
        CHAINS(__m512, wide, STEP_BF16)
        break;
    }
#endif
#if defined(__AVX512VNNI__)
    case 7: {
        const __m512i p = _mm512_set1_epi8(1), q = _mm512_set1_epi8((char)(x + 0.5f));
#define STEP_I8(r) _mm512_dpbusd_epi32(r, p, q)
        CHAINS(__m512i, p, STEP_I8)
        break;
    }
#endif
    }
}

/* Links `lines` cache lines of `stride` bytes into one random cycle (Sattolo's algorithm); p[0] is on it. */
void so_link(char *memory, size_t lines, size_t stride, uint64_t seed, uint32_t *order) {
    for (size_t i = 0; i < lines; i++) order[i] = (uint32_t)i;
    uint64_t state = seed | 1;
    for (size_t i = lines - 1; i > 0; i--) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        size_t j = state % i;
        uint32_t swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
    for (size_t i = 0; i < lines; i++)
        *(void **)(memory + order[i] * stride) = memory + order[(i + 1) % lines] * stride;
}

/* Steps until the chain from p[0] is back at its start, at most `limit`: what a test checks so_link by. */
int64_t so_cycle(char *memory, int64_t limit) {
    void *p = *(void **)memory;
    int64_t steps = 1;
    while (p != (void *)memory && steps < limit) p = *(void **)p, steps++;
    return steps;
}

static void work_pass(struct member *me) {
    const struct work *w = &me->work;
    /* Shares of whole blocks of 4 vectors, as equal as can be. */
    const size_t block = 4 * LANES, blocks = w->n / block;
    const size_t first = blocks * me->index / me->threads * block, last = blocks * (me->index + 1) / me->threads * block;
    vector *a = (vector *)(w->a + first), *b = (vector *)(w->b + first), *c = (vector *)(w->c + first);
    switch (w->op) {
    case CHASE: {
        void **p = (void **)w->a;
        for (int64_t i = 0; i < w->reps; i += 8) {
            p = *p, p = *p, p = *p, p = *p;
            p = *p, p = *p, p = *p, p = *p;
        }
        pointer_sink = p;
        break;
    }
    case FMA_CHAIN: chain_pass(w->kind, w->reps); break;
    case INIT:
        for (size_t i = first; i < last; i++) w->a[i] = 1.0, w->b[i] = 2.0, w->c[i] = 0.0;
        break;
    default:
        for (int64_t i = 0; i < w->reps; i++) {
            stream_pass(w->op, a, b, c, (last - first) / LANES);
            __asm__ volatile("" ::: "memory");
        }
    }
}

static void *member_main(void *argument) {
    struct member *me = argument;
    cpu_set_t before, only;
    int pinned = 0;
    if (me->cpu >= 0 && me->cpu < CPU_SETSIZE && pthread_getaffinity_np(pthread_self(), sizeof before, &before) == 0) {
        CPU_ZERO(&only);
        CPU_SET(me->cpu, &only);
        pinned = pthread_setaffinity_np(pthread_self(), sizeof only, &only) == 0;
    }
    struct rusage usage0, usage1;
    getrusage(RUSAGE_THREAD, &usage0);
    int64_t wait0 = run_queue_wait_ns();
    int64_t cpu0 = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    atomic_fetch_add(&me->team->arrived, 1);
    for (long spins = 0; atomic_load(&me->team->arrived) < me->team->threads; spins++)
        if (spins > 1000) sched_yield();
    me->start_ns = clock_ns(CLOCK_MONOTONIC);
    work_pass(me);
    me->end_ns = clock_ns(CLOCK_MONOTONIC);
    me->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu0;
    int64_t wait1 = run_queue_wait_ns();
    me->wait_ns = wait0 < 0 || wait1 < 0 ? -1 : wait1 - wait0;
    getrusage(RUSAGE_THREAD, &usage1);
    me->involuntary = usage1.ru_nivcsw - usage0.ru_nivcsw;
    if (pinned) pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    return NULL;
}

/* Runs one kernel on `threads` threads (the caller is the first), pinned to cpus[]; returns 0, or an errno. */
int so_run(int op, int kind, double *a, double *b, double *c, size_t n, int64_t reps, int threads, const int *cpus,
           struct result *out) {
    static struct member members[MAX_THREADS];
    pthread_t handles[MAX_THREADS];
    if (threads < 1 || threads > MAX_THREADS) return 22; /* EINVAL */
    struct team team = {.threads = threads};
    int failed = 0, started = 1;
    for (int i = 0; i < threads; i++)
        members[i] = (struct member){.work = {op, kind, a, b, c, n, reps}, .index = i, .threads = threads,
                                     .cpu = cpus[i], .team = &team};
    for (; started < threads; started++)
        if ((failed = pthread_create(&handles[started], NULL, member_main, &members[started])) != 0) break;
    if (failed) atomic_fetch_add(&team.arrived, threads - started + 1); /* let those that wait go on */
    else member_main(&members[0]);
    for (int i = 1; i < started; i++) pthread_join(handles[i], NULL);
    if (failed) return failed;
    int64_t start = members[0].start_ns, end = members[0].end_ns;
    *out = (struct result){0};
    for (int i = 0; i < threads; i++) {
        const struct member *m = &members[i];
        if (m->start_ns < start) start = m->start_ns;
        if (m->end_ns > end) end = m->end_ns;
        out->cpu_ns += m->cpu_ns;
        out->involuntary += m->involuntary;
        if (m->wait_ns < 0 || out->wait_ns < 0) out->wait_ns = -1;
        else if (m->wait_ns > out->wait_ns) out->wait_ns = m->wait_ns;
    }
    out->wall_ns = end - start;
    return 0;
}

static void *nothing(void *argument) { return argument; }

/* Creates and joins `threads` threads, `reps` times; returns nanoseconds, or -errno. */
int64_t so_fork_join(int threads, int64_t reps) {
    pthread_t handles[MAX_THREADS];
    if (threads < 1 || threads > MAX_THREADS) return -22;
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    for (int64_t r = 0; r < reps; r++) {
        int started = 0, failed = 0;
        for (; started < threads; started++)
            if ((failed = pthread_create(&handles[started], NULL, nothing, NULL)) != 0) break;
        for (int i = 0; i < started; i++) pthread_join(handles[i], NULL);
        if (failed) return -failed;
    }
    return clock_ns(CLOCK_MONOTONIC) - start;
}

/* Where the last chase stopped. */
void *so_cursor(void) { return pointer_sink; }

int so_vector_bytes(void) { return VECTOR_BYTES; }

int so_has_nt(void) {
#if defined(STORE_NT)
    return 1;
#else
    return 0;
#endif
}

/* What a call through ctypes costs. */
void so_nothing(void) {}
