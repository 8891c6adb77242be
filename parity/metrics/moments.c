/* What are the moments of each (row, column cell) of a pair, at the speed of memory?

One pass over both tensors. Every element is widened exactly and every difference, product and sum is fp64, in the
lanes of a vector register, folded in a fixed order at the end of a cell: a result depends on the row alone, never on
the thread or the block it was computed in. A lane of LANES sums cell/LANES terms or one more, so a sum of n terms is off by at most
(n/LANES + 5) * 2^-53 of its terms' magnitudes (two roundings a term before the sum, log2(LANES) <= 3 in the fold).

A cell whose xx + yy is not finite (NaN, infinity, or fp64 beyond 1e150) is computed again by the careful loop, which
counts nonfinite elements and leaves their pairs out.

Portable C11 with GCC vector extensions; the intrinsics are guarded and change no result. */

#include <fenv.h>

#include "bound.h"

/* One cell's results; native.py lays its arrays out in this order. */
enum { XX, YY, DY, DD, TOP, SUMS, ELEMENT = SUMS, FOURTH, SIZE_SUM, LEVER, ROUNDED_SUMS };
enum { BAD, BAD_Y, BAD_X, DIFFER, COUNTS };

typedef struct { f64v xx, yy, dy, dd, top, fourth; } Sums;

INLINE f64v larger_magnitude(f64v d, f64v top) {
#if defined(__AVX512DQ__)
    return (f64v)_mm512_range_pd((__m512d)d, (__m512d)top, 11); /* larger of both magnitudes, sign cleared */
#else
    f64v size = (f64v)((i64v)d & INT64_MAX);
#if LANES == 4
    return (f64v)_mm256_max_pd((__m256d)size, (__m256d)top);
#else
    i64v more = size > top;
    return (f64v)((more & (i64v)size) | (~more & (i64v)top));
#endif
#endif
}

INLINE void add(int rounded, Sums *s, f64v y, f64v x) {
    f64v d = x - y;
    s->xx += x * x;
    if (rounded) {
        f64v y2 = y * y;
        s->yy += y2;
        s->fourth += y2 * y2;
    } else {
        s->yy += y * y;
    }
    s->dy += d * y;
    s->dd += d * d;
    s->top = larger_magnitude(d, s->top);
}

INLINE void add32(int rounded, Sums *s, f32v y, f32v x) { add(rounded, s, to_double(y), to_double(x)); }

/* Elements a step, by dtype; `run` takes a multiple of it and RUN at most, since lanes of it count in 16 bits. */
INLINE int step_of(int kind) { return SIZE[kind] == 2 ? 2 * LANES : LANES; }

/* Add `n` pairs of one dtype; returns how many differ in a bit. */
INLINE int64_t run(int rounded, int kind, const char *y, const char *x, int64_t n, Sums *into) {
    Sums s = *into;
    int64_t differ = 0;
    if (SIZE[kind] == 8) {
        i64v unequal = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            f64v a = LOAD(f64v, y + 8 * i), b = LOAD(f64v, x + 8 * i);
            unequal -= (i64v)a != (i64v)b;
            add(rounded, &s, a, b);
        }
        for (int l = 0; l < LANES; l++) differ += unequal[l];
    } else if (SIZE[kind] == 2) {
        u16pairs unequal = {0};
        for (int64_t i = 0; i < n; i += 2 * LANES) {
            u16pairs a = LOAD(u16pairs, y + 2 * i), b = LOAD(u16pairs, x + 2 * i);
            unequal -= (u16pairs)(a != b);
            if (kind == BF16) { /* even and odd elements, as halves of 32-bit words */
                u32v aw = (u32v)a, bw = (u32v)b;
                add32(rounded, &s, (f32v)(aw << 16), (f32v)(bw << 16));
                add32(rounded, &s, (f32v)(aw & 0xffff0000u), (f32v)(bw & 0xffff0000u));
            } else {
                add32(rounded, &s, load_half(y + 2 * i), load_half(x + 2 * i));
                add32(rounded, &s, load_half(y + 2 * (i + LANES)), load_half(x + 2 * (i + LANES)));
            }
        }
        for (int l = 0; l < 2 * LANES; l++) differ += unequal[l];
    } else { /* widening keeps codes apart, so bits may be compared after it */
        i32v unequal = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            f32v a = load32(kind, y + SIZE[kind] * i), b = load32(kind, x + SIZE[kind] * i);
            unequal -= (i32v)a != (i32v)b;
            add32(rounded, &s, a, b);
        }
        for (int l = 0; l < LANES; l++) differ += unequal[l];
    }
    *into = s;
    return differ;
}

INLINE int64_t run_all(int rounded, int kind, const char *y, const char *x, int64_t n, Sums *s) {
    int size = SIZE[kind], step = step_of(kind);
    int64_t differ = 0, whole = n - n % step;
    for (int64_t i = 0; i < whole; i += RUN)
        differ += run(rounded, kind, y + size * i, x + size * i, whole - i < RUN ? whole - i : RUN, s);
    if (whole < n) { /* zeros add nothing to any sum and do not differ */
        char a[8 * LANES] = {0}, b[8 * LANES] = {0};
        memcpy(a, y + size * whole, (size_t)(size * (n - whole)));
        memcpy(b, x + size * whole, (size_t)(size * (n - whole)));
        differ += run(rounded, kind, a, b, step, s);
    }
    return differ;
}

/* Pairs with a nonfinite side are left out and counted; `y`, `x`: RUN elements at most, already fp64. */
static void careful(int rounded, const double *y, const double *x, int64_t n, Sums *s, int64_t *counts) {
    for (int64_t i = 0; i < n; i += LANES) {
        f64v a = {0}, b = {0};
        for (int l = 0; l < LANES && i + l < n; l++) {
            int bad_y = !isfinite(y[i + l]), bad_x = !isfinite(x[i + l]);
            counts[BAD] += bad_y | bad_x;
            counts[BAD_Y] += bad_y;
            counts[BAD_X] += bad_x;
            if (!(bad_y | bad_x)) { a[l] = y[i + l]; b[l] = x[i + l]; }
        }
        add(rounded, s, a, b);
    }
}

INLINE void cell(int rounded, int kind_y, int kind_x, const char *y, const char *x, int64_t n, double *sums, int64_t *counts) {
    int size_y = SIZE[kind_y], size_x = SIZE[kind_x];
    Sums s = {0};
    int64_t differ = 0;
    memset(counts, 0, COUNTS * sizeof *counts);
    if (kind_y == kind_x) {
        differ = run_all(rounded, kind_y, y, x, n, &s);
    } else {
        double wide_y[RUN], wide_x[RUN]; /* 32 KiB: first-level cache */
        for (int64_t i = 0; i < n; i += RUN) {
            int64_t m = n - i < RUN ? n - i : RUN;
            if (kind_y == F64 || kind_x == F64) {
                widen64(kind_y, y + size_y * i, wide_y, m);
                widen64(kind_x, x + size_x * i, wide_x, m);
                differ += run_all(rounded, F64, (const char *)wide_y, (const char *)wide_x, m, &s);
            } else {
                widen(kind_y, y + size_y * i, (float *)wide_y, m);
                widen(kind_x, x + size_x * i, (float *)wide_x, m);
                differ += run_all(rounded, F32, (const char *)wide_y, (const char *)wide_x, m, &s);
            }
        }
    }
    if (!isfinite(fold(s.xx) + fold(s.yy))) {
        double wide_y[RUN], wide_x[RUN];
        memset(&s, 0, sizeof s);
        for (int64_t i = 0; i < n; i += RUN) {
            int64_t m = n - i < RUN ? n - i : RUN;
            widen64(kind_y, y + size_y * i, wide_y, m);
            widen64(kind_x, x + size_x * i, wide_x, m);
            careful(rounded, wide_y, wide_x, m, &s, counts);
        }
    }
    double top = 0;
    for (int l = 0; l < LANES; l++) top = s.top[l] > top ? s.top[l] : top;
    sums[XX] = fold(s.xx);
    sums[YY] = fold(s.yy);
    sums[DY] = fold(s.dy);
    sums[DD] = fold(s.dd);
    sums[TOP] = top;
    if (rounded) sums[FOURTH] = fold(s.fourth);
    counts[DIFFER] = differ;
}

INLINE void fold_into(int rounded, double *sums, int64_t *counts, const double *more, const int64_t *more_counts) {
    for (int k = 0; k < (rounded ? ROUNDED_SUMS : SUMS); k++)
        if (k == TOP || k == ELEMENT) sums[k] = more[k] > sums[k] ? more[k] : sums[k];
        else sums[k] += more[k];
    for (int k = 0; k < COUNTS; k++) counts[k] += more_counts[k];
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

INLINE void rows_of(int kind_y, int kind_x, const Work *w) {
    for (int64_t row = 0; row < w->rows; row++) {
        const char *y = w->y + row * w->stride_y, *x = w->x + row * w->stride_x;
        for (int64_t c = 0; c < w->cells; c++) {
            int64_t left = w->edges[c], n = w->edges[c + 1] - left;
            const char *a = y + left * SIZE[kind_y], *b = x + left * SIZE[kind_x];
            if (!w->group) {
                int64_t at = row * w->cells + c;
                cell(0, kind_y, kind_x, a, b, n, w->sums + at * SUMS, w->counts + at * COUNTS);
                continue;
            }
            double sums[SUMS];
            int64_t counts[COUNTS];
            cell(0, kind_y, kind_x, a, b, n, sums, counts);
            put(0, w, row, c, sums, counts);
        }
    }
}

/* The same with a rounding bound: the sums of a row first, which its elements' bounds follow from, then its elements,
from the cache. */
INLINE void rounded_rows_of(int kind_y, int kind_x, const Work *w) {
    const Bound *bound = w->bound;
    int64_t cells = w->cells, width = w->edges[cells], last;
    double many = hypot(bound->drift, bound->inside);
    for (int64_t first = 0; first < w->rows; first = last) {
        last = w->rows - first < 2 * bound->together ? w->rows : first + bound->together;
        double *sums = w->group ? w->room : w->sums + first * cells * ROUNDED_SUMS;
        int64_t *counts = w->group ? w->room_counts : w->counts + first * cells * COUNTS;
        double around = 0, pairs = 0;
        for (int64_t row = first; row < last; row++)
            for (int64_t c = 0; c < cells; c++) {
                int64_t left = w->edges[c], n = w->edges[c + 1] - left, at = (row - first) * cells + c;
                const char *a = w->y + row * w->stride_y + left * SIZE[kind_y];
                const char *b = w->x + row * w->stride_x + left * SIZE[kind_x];
                cell(1, kind_y, kind_x, a, b, n, sums + at * ROUNDED_SUMS, counts + at * COUNTS);
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
            b.screens = kind_y == kind_x && kind_y != F64 && finite == (double)width && xx + squares < 1e60 &&
                        b.constant > 1e-30 && b.of_y < 1e3;
            for (int64_t c = 0; c < cells; c++) {
                int64_t left = w->edges[c], n = w->edges[c + 1] - left;
                const char *a = y + left * SIZE[kind_y], *e = x + left * SIZE[kind_x];
                double *of = of_row + c * ROUNDED_SUMS, known = 0;
                if (w->group) {
                    known = best;
                    if (w->group[row] >= 0) {
                        double column = w->column_sums[(w->group[row] * cells + c) * ROUNDED_SUMS + ELEMENT];
                        known = column < best ? column : best;
                    }
                }
                of[ELEMENT] = of[TOP] == 0 ? 0 : known;
                if (of[TOP] != 0 && !(b.screens && known > 1e-3 && !may_exceed(kind_y, a, e, n, &b, known)))
                    of[ELEMENT] = element_exactly(kind_y, kind_x, a, e, n, &b, known);
                best = of[ELEMENT] > best ? of[ELEMENT] : best;
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
