/* The peer of `stratoscope machine`'s bandwidths: the four kernels as STREAM defines them (McCalpin, streambench.org),
 * double precision, threads by OpenMP, compiled as STREAM is: plain loops, left to the compiler.
 *
 *     cc -O3 -march=native -fopenmp -DSTREAM_ARRAY_SIZE=16777216 -DNTIMES=10 stream.c -o stream
 *
 * With -DHUGE_PAGES the arrays are asked to lie in huge pages, as NumPy asks for its own; else they are static.
 * Prints one line a kernel: name, bytes of one pass, then the seconds of each pass but the first.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef STREAM_ARRAY_SIZE
#define STREAM_ARRAY_SIZE 16777216
#endif
#ifndef NTIMES
#define NTIMES 10
#endif

#ifdef HUGE_PAGES
static double *a, *b, *c;

static double *in_huge_pages(size_t offset) {
    size_t size = (STREAM_ARRAY_SIZE + 512) * sizeof(double);
    void *memory = aligned_alloc(2 << 20, (size + (2 << 20) - 1) >> 21 << 21);
    if (memory == NULL) exit(1);
    madvise(memory, size, MADV_HUGEPAGE);
    return (double *)memory + offset;
}
#else
static double a[STREAM_ARRAY_SIZE], b[STREAM_ARRAY_SIZE + 168], c[STREAM_ARRAY_SIZE + 336];
#endif

int main(void) {
#ifdef HUGE_PAGES
    a = in_huge_pages(0), b = in_huge_pages(168), c = in_huge_pages(336);
#endif
    static double seconds[4][NTIMES];
    const double scalar = 3.0;
    const long n = STREAM_ARRAY_SIZE;
#pragma omp parallel for
    for (long j = 0; j < n; j++) a[j] = 1.0, b[j] = 2.0, c[j] = 0.0;
    for (int k = 0; k < NTIMES; k++) {
        double start = omp_get_wtime();
#pragma omp parallel for
        for (long j = 0; j < n; j++) c[j] = a[j];
        seconds[0][k] = omp_get_wtime() - start;
        start = omp_get_wtime();
#pragma omp parallel for
        for (long j = 0; j < n; j++) b[j] = scalar * c[j];
        seconds[1][k] = omp_get_wtime() - start;
        start = omp_get_wtime();
#pragma omp parallel for
        for (long j = 0; j < n; j++) c[j] = a[j] + b[j];
        seconds[2][k] = omp_get_wtime() - start;
        start = omp_get_wtime();
#pragma omp parallel for
        for (long j = 0; j < n; j++) a[j] = b[j] + scalar * c[j];
        seconds[3][k] = omp_get_wtime() - start;
    }
    const char *names[4] = {"copy", "scale", "add", "triad"};
    const long arrays[4] = {2, 2, 3, 3};
    for (int i = 0; i < 4; i++) {
        printf("%s %ld", names[i], arrays[i] * 8 * n);
        for (int k = 1; k < NTIMES; k++) printf(" %.9f", seconds[i][k]);
        printf("\n");
    }
    return a[n / 2] + b[n / 3] + c[n / 4] == 0.0; /* keeps the arrays alive */
}
