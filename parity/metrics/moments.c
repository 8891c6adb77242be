/* What are the moments of each (row, column cell) of a pair, at the speed of memory?

One pass over both tensors; cells.h says what a sum is and how exact. A result depends on the row alone, never on the
thread or the block it was computed in.

Portable C11 with GCC vector extensions; the intrinsics are guarded and change no result but that of E4M3FN and E5M2 in
the last digits of fp32. */

#include <fenv.h>

#include "bound.h"

INLINE void fold_into(int rounded, double *sums, int64_t *counts, const double *more, const int64_t *more_counts) {
    f64quad added = LOAD(f64quad, sums) + LOAD(f64quad, more); /* XX, YY, DY, DD */
    i64quad counted = LOAD(i64quad, counts) + LOAD(i64quad, more_counts);
    memcpy(sums, &added, sizeof added);
    memcpy(counts, &counted, sizeof counted);
    sums[TOP] = more[TOP] > sums[TOP] ? more[TOP] : sums[TOP];
    if (!rounded) return;
    for (int k = ELEMENT; k < FOURTH; k++) sums[k] = more[k] > sums[k] ? more[k] : sums[k];
    for (int k = FOURTH; k < ROUNDED_SUMS; k++) sums[k] += more[k];
}

typedef struct {
    const char *y, *x;         /* first row of each side */
    int64_t stride_y, stride_x; /* bytes from row to row; the columns of a row are contiguous */
    int64_t rows, cells;
    const int64_t *edges;     /* cells + 1 */
    const int64_t *group;     /* rows: which group of columns a row adds to, none when negative; NULL: keep each cell */
    double *sums;             /* keep: [rows, cells, SUMS]; fold: [rows, SUMS], zeroed; ROUNDED_SUMS with a bound */
    int64_t *counts;          /* the same with COUNTS */
    double *column_sums;      /* fold only: [groups, cells, SUMS], zeroed */
    int64_t *column_counts;
    const Bound *bound;       /* NULL: moments alone */
    double *room;             /* with a bound, fold only: [2 * together, cells, ROUNDED_SUMS], for a moment */
    int64_t *room_counts;
} Work;

INLINE void put(int rounded, const Work *w, int64_t row, int64_t c, const double *sums, const int64_t *counts) {
    int width = rounded ? ROUNDED_SUMS : SUMS;
    fold_into(rounded, w->sums + row * width, w->counts + row * COUNTS, sums, counts);
    if (w->group[row] >= 0) {
        int64_t at = w->group[row] * w->cells + c;
        fold_into(rounded, w->column_sums + at * width, w->column_counts + at * COUNTS, sums, counts);
    }
}

/* Bytes fetched ahead of a cell: processors' own prefetchers stop at each page of 4096 and begin anew behind it. Measured
on two cores (AVX-512), bf16, cells of 256 bytes: 4.9 GB/s without, 7.3, 8.6 and 7.2 for 1024, 2048 and 4096 ahead. Cells
longer than that are streams, which start seldom. */
enum { AHEAD = 2048 };

INLINE void fetch(const char *cell, int64_t bytes) {
    if (bytes > AHEAD) return;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(cell + AHEAD + i);
}

INLINE void rows_of(int kind_y, int kind_x, const Work *w) {
    Far far = start_far(0);
    for (int64_t row = 0; row < w->rows; row++) {
        const char *y = w->y + row * w->stride_y, *x = w->x + row * w->stride_x;
        for (int64_t c = 0; c < w->cells; c++) {
            int64_t left = w->edges[c], n = w->edges[c + 1] - left;
            const char *a = y + left * SIZE[kind_y], *b = x + left * SIZE[kind_x];
            fetch(a, n * SIZE[kind_y]);
            fetch(b, n * SIZE[kind_x]);
            if (!w->group) {
                int64_t at = row * w->cells + c;
                cell(0, kind_y, kind_x, a, b, n, w->sums + at * SUMS, w->counts + at * COUNTS, &far);
                continue;
            }
            double sums[SUMS];
            int64_t counts[COUNTS];
            cell(0, kind_y, kind_x, a, b, n, sums, counts, &far);
            put(0, w, row, c, sums, counts);
        }
    }
}

/* The same with a rounding bound. The sums of a row come first, since its elements' bounds follow from them; its elements
are looked at again, from the cache, only where one of them may be over its bound. */
INLINE void rounded_rows_of(int kind_y, int kind_x, const Work *w) {
    const Bound *bound = w->bound;
    int64_t cells = w->cells, width = w->edges[cells], last;
    double many = hypot(bound->drift, bound->inside), unit = kind_y == kind_x ? UNIT(kind_y) : 1;
    double slope = far_slope(bound->relative, bound->relative, 1);
    for (int64_t first = 0; first < w->rows; first = last) {
        last = w->rows - first < 2 * bound->together ? w->rows : first + bound->together;
        double *sums = w->group ? w->room : w->sums + first * cells * ROUNDED_SUMS;
        int64_t *counts = w->group ? w->room_counts : w->counts + first * cells * COUNTS;
        double around = 0, pairs = 0;
        Far far = start_far(slope);
        for (int64_t row = first; row < last; row++)
            for (int64_t c = 0; c < cells; c++) {
                int64_t left = w->edges[c], n = w->edges[c + 1] - left, at = (row - first) * cells + c;
                const char *a = w->y + row * w->stride_y + left * SIZE[kind_y];
                const char *b = w->x + row * w->stride_x + left * SIZE[kind_x];
                fetch(a, n * SIZE[kind_y]);
                fetch(b, n * SIZE[kind_x]);
                cell(1, kind_y, kind_x, a, b, n, sums + at * ROUNDED_SUMS, counts + at * COUNTS, &far);
                around += sums[at * ROUNDED_SUMS + YY];
                pairs += (double)(n - counts[at * COUNTS + BAD]);
            }
        around /= pairs > 1 ? pairs : 1;
        for (int64_t row = first; row < last; row++) {
            const char *y = w->y + row * w->stride_y, *x = w->x + row * w->stride_x;
            double *of_row = sums + (row - first) * cells * ROUNDED_SUMS;
            int64_t *bad = counts + (row - first) * cells * COUNTS;
            double squares = 0, fourth = 0, xx = 0, finite = (double)width, best = 0;
            for (int64_t c = 0; c < cells; c++) {
                squares += of_row[c * ROUNDED_SUMS + YY];
                xx += of_row[c * ROUNDED_SUMS + XX];
                fourth += of_row[c * ROUNDED_SUMS + FOURTH];
                finite -= (double)bad[c * COUNTS + BAD];
            }
            double size = squares / (finite > 1 ? finite : 1), terms = squares * squares / fourth;
            if (last - first > 1 && around > size) size = around;
            if (!(fourth > 0) || !isfinite(terms)) terms = 1;
            double dependence = 1 + (terms - 1) * shared_share(kind_y, kind_x, y, x, bound);
            terms /= dependence;
            double few = hypot(bound->drift * exp2(4 / (terms > 1 ? terms : 1)), bound->inside), safe = 1 + 1e-12;
            RowBound b = {safe * (bound->relative + bound->spreads * (few - many)), safe * bound->relative,
                          safe * (bound->spreads * many * sqrt(size) + bound->absolute), 0};
            b.screens = kind_y != F64 && kind_x != F64 && finite == (double)width && xx + squares < 1e60 &&
                        b.constant > 1e-30 && b.of_y < 1e3;
            int near = b.screens && is_near(&far, unit, b.constant / (2 * bound->relative));
            for (int64_t c = 0; c < cells; c++) {
                int64_t left = w->edges[c], n = w->edges[c + 1] - left;
                const char *a = y + left * SIZE[kind_y], *e = x + left * SIZE[kind_x];
                double *of = of_row + c * ROUNDED_SUMS;
                of[ELEMENT] = 0;
                if (!near && of[TOP] != 0) {
                    double known = 1; /* what is below neither the row's nor the column's largest is of no interest */
                    if (w->group) {
                        known = best;
                        if (w->group[row] >= 0) {
                            double column = w->column_sums[(w->group[row] * cells + c) * ROUNDED_SUMS + ELEMENT];
                            known = column < best ? column : best;
                        }
                        known = known > 1 ? known : 1;
                    }
                    double found = known;
                    if (!(b.screens && kind_y == kind_x && !may_exceed(kind_y, a, e, n, &b, known)))
                        found = element_exactly(kind_y, kind_x, a, e, n, &b, known);
                    of[ELEMENT] = found > 1 ? found : 0;
                }
                best = of[ELEMENT] > best ? of[ELEMENT] : best;
                of[OWN] = over_own(of, n - bad[c * COUNTS + BAD], dependence, bound);
                if (of[OWN] == 0 && SPREAD * SPREAD * of[YY] * of[YY] < (double)n * of[FOURTH])
                    of[OWN] = over_bulk(kind_y, kind_x, a, e, n, of, dependence, bound);
                of[FOURTH] *= dependence;
                of[SIZE_SUM] = size * (double)(n - bad[c * COUNTS + BAD]);
                of[LEVER] = dependence * size * of[YY];
                if (w->group) put(1, w, row, c, of, bad + c * COUNTS);
            }
        }
    }
}

#define ROWS(kind) static __attribute__((noinline)) void rows_##kind(const Work *w) { \
    if (w->bound) rounded_rows_of(kind, kind, w); else rows_of(kind, kind, w); }
ROWS(F64) ROWS(F32) ROWS(F16) ROWS(BF16) ROWS(E4M3FN) ROWS(E5M2) ROWS(E4M3FNUZ) ROWS(E5M2FNUZ)
static __attribute__((noinline)) void rows_mixed(int kind_y, int kind_x, const Work *w) {
    if (kind_y == kind_x) return;
    if (w->bound) rounded_rows_of(kind_y, kind_x, w); else rows_of(kind_y, kind_x, w);
}

/* The rows of `work`, in order. The floating-point environment is the default one meanwhile: a caller that flushes
subnormals does not lose them here. */
void parity_moments(int kind_y, int kind_x, const Work *work) {
    fenv_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    static void (*const same[])(const Work *) = {
        rows_F64, rows_F32, rows_F16, rows_BF16, rows_E4M3FN, rows_E5M2, rows_E4M3FNUZ, rows_E5M2FNUZ};
    if (kind_y == kind_x) same[kind_y](work);
    else rows_mixed(kind_y, kind_x, work);
    fesetenv(&before);
}

/* 0 when pairs of ones and twos add up: run once, in a process of its own, before a build is ever trusted. */
int parity_selftest(void) {
    enum { N = 4 * LANES + 1 };
    double f64[2][N];
    float f32[2][N];
    uint16_t f16[2][N], bf16[2][N];
    uint8_t e4m3[2][N];
    for (int i = 0; i < N; i++)
        for (int side = 0; side < 2; side++) {
            f64[side][i] = f32[side][i] = (float)(1 + side);
            f16[side][i] = side ? 0x4000 : 0x3c00;
            bf16[side][i] = side ? 0x4000 : 0x3f80;
            e4m3[side][i] = side ? 0x40 : 0x38;
        }
    int kinds[] = {F64, F32, F16, BF16, E4M3FN};
    const void *sides[][2] = {{f64[0], f64[1]}, {f32[0], f32[1]}, {f16[0], f16[1]}, {bf16[0], bf16[1]}, {e4m3[0], e4m3[1]}};
    int64_t edges[] = {0, N};
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 5; b++) {
            double sums[SUMS] = {0};
            int64_t counts[COUNTS] = {0};
            Work work = {sides[a][0], sides[b][1], 0, 0, 1, 1, edges, NULL, sums, counts, NULL, NULL, NULL, NULL, NULL};
            parity_moments(kinds[a], kinds[b], &work);
            if (sums[XX] != 4 * N || sums[YY] != N || sums[DY] != N || sums[DD] != N || sums[TOP] != 1) return 1;
            if (counts[BAD] || counts[DIFFER] != N) return 2;
        }
    return 0;
}
