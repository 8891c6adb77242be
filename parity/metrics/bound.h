/* How far may an element be from its pair's, and by how much is it? The bound of parity/metrics/rounding.py. */

#pragma once

#include "formats.h"

/* What parity/metrics/rounding.py says of honest noise; its docstrings have the sense of each number. */
typedef struct {
    double relative, absolute; /* R u, R q */
    double drift, inside;      /* of many values: hypot(drift, inside); drift * 16^(1/terms) of few */
    double spreads, chance;
    int64_t together;          /* rows that tell one size */
    int64_t samples;           /* at most SAMPLES */
    const int64_t *sample;     /* their columns */
} Bound;
enum { SAMPLES = 32 };

INLINE double value_at(int kind, const char *row, int64_t at) {
    double value;
    float narrow;
    if (kind == F64) return LOAD(double, row + 8 * at);
    char one[8 * LANES] = {0};
    memcpy(one, row + SIZE[kind] * at, (size_t)SIZE[kind]);
    f32v wide = load32(kind, one);
    narrow = wide[0];
    value = narrow;
    return value;
}

/* `_shared_share` of rounding.py. */
INLINE double shared_share(int kind_y, int kind_x, const char *y, const char *x, const Bound *bound) {
    double values[SAMPLES] = {0}, weights[SAMPLES] = {0}, total = 0, alone = 0, alike = 0, all = 0;
    int64_t n = bound->samples;
    if (n < 2) return 0;
    for (int64_t i = 0; i < n; i++) {
        double a = value_at(kind_y, y, bound->sample[i]), b = value_at(kind_x, x, bound->sample[i]);
        values[i] = isfinite(a) && isfinite(b) ? fabs(a) : 0;
        total += values[i] * values[i];
    }
    if (!(total > 1e-300)) total = 1e-300;
    for (int64_t i = 0; i < n; i++) {
        weights[i] = values[i] * values[i] / total;
        all += weights[i];
        alone += weights[i] * weights[i];
    }
    for (int64_t i = 0; i < n; i++) {
        f64v here = {0}, same = {0};
        here += values[i];
        for (int64_t j = 0; j < n; j += LANES) /* zeros past the end weigh nothing */
            same += (f64v)((i64v)LOAD(f64v, weights + j) & (LOAD(f64v, values + j) == here));
        alike += weights[i] * fold(same);
    }
    double rest = all * all - alone, share = (alike - alone) / (rest > 1e-12 ? rest : 1e-12);
    share = (share < 1 ? share : 1) - bound->chance;
    return share > 0 ? share : 0;
}

/* The bound of an element of one row: of_y |y| + of_x |x| + constant. screens: fp32 holds all of it. */
typedef struct { double of_y, of_x, constant; int screens; } RowBound;

/* Largest |x - y| over its bound, at least `best`. NaN (0/0 is equality, and nonfinite pairs) compares as no more. */
static __attribute__((noinline)) double element_exactly(int kind_y, int kind_x, const char *y, const char *x,
                                                       int64_t n, const RowBound *b, double best) {
    double wide_y[RUN + LANES], wide_x[RUN + LANES];
    f64v top = {0};
    top += best;
    for (int64_t i = 0; i < n; i += RUN) {
        int64_t m = n - i < RUN ? n - i : RUN;
        widen64(kind_y, y + SIZE[kind_y] * i, wide_y, m);
        widen64(kind_x, x + SIZE[kind_x] * i, wide_x, m);
        memset(wide_y + m, 0, LANES * sizeof(double));
        memset(wide_x + m, 0, LANES * sizeof(double));
        for (int64_t j = 0; j < m; j += LANES) {
            f64v a = LOAD(f64v, wide_y + j), c = LOAD(f64v, wide_x + j);
            f64v d = (f64v)((i64v)(c - a) & INT64_MAX);
            f64v allowed = (f64v)((i64v)a & INT64_MAX) * b->of_y + (f64v)((i64v)c & INT64_MAX) * b->of_x + b->constant;
            f64v ratio = d / allowed;
            i64v more = ratio > top;
            top = (f64v)((more & (i64v)ratio) | (~more & (i64v)top));
        }
    }
    for (int l = 0; l < LANES; l++) best = top[l] > best ? top[l] : best;
    return best;
}

/* Whether an element may be over `best` times its bound; fp32, never no where it is. With |x| >= |y| - |d|, that takes
|d| (1 + best of_x) > best ((of_x + of_y) |y| + constant). 2^-24 a rounding: 1e-6 is more than the five here make. */
typedef float f32wide __attribute__((vector_size(8 * LANES)));
typedef uint32_t u32wide __attribute__((vector_size(8 * LANES)));
typedef int32_t i32wide __attribute__((vector_size(8 * LANES)));

INLINE f32wide most(f32wide y, f32wide x, f32wide times, f32wide top) {
    f32wide d = (f32wide)((i32wide)(x - y) & INT32_MAX) * times - (f32wide)((i32wide)y & INT32_MAX);
#if LANES == 8
    return (f32wide)_mm512_max_ps((__m512)d, (__m512)top);
#else
    i32wide more = d > top;
    return (f32wide)((more & (i32wide)d) | (~more & (i32wide)top));
#endif
}

INLINE int may_exceed(int kind, const char *y, const char *x, int64_t n, const RowBound *b, double best) {
    double both = b->of_x + b->of_y, factor = (1 + best * b->of_x) / (best * both) * (1 + 1e-6);
    double over = b->constant / both * (1 - 1e-6);
    if (!(factor < 1e30 && over < 1e37 && over > 1e-30)) return 1;
    f32wide times = {0}, top = {0}, zero = {0};
    times += (float)factor;
    int64_t i = 0;
    if (kind == BF16) {
        for (; i + 4 * LANES <= n; i += 4 * LANES) {
            u32wide a = LOAD(u32wide, y + 2 * i), c = LOAD(u32wide, x + 2 * i);
            top = most((f32wide)(a << 16), (f32wide)(c << 16), times, top);
            top = most((f32wide)(a & 0xffff0000u), (f32wide)(c & 0xffff0000u), times, top);
        }
        for (; i < n; i++) { /* a lane may hold any element */
            f32wide a = zero, c = zero;
            a[0] = (float)value_at(BF16, y, i), c[0] = (float)value_at(BF16, x, i);
            top = most(a, c, times, top);
        }
    } else {
        float wide_y[RUN + 2 * LANES], wide_x[RUN + 2 * LANES];
        for (; i < n; i += RUN) {
            int64_t m = n - i < RUN ? n - i : RUN, j = 0;
            widen(kind, y + SIZE[kind] * i, wide_y, m);
            widen(kind, x + SIZE[kind] * i, wide_x, m);
            memset(wide_y + m, 0, 2 * LANES * sizeof(float));
            memset(wide_x + m, 0, 2 * LANES * sizeof(float));
            for (; j < m; j += 2 * LANES)
                top = most(LOAD(f32wide, wide_y + j), LOAD(f32wide, wide_x + j), times, top);
        }
    }
    for (int l = 0; l < 2 * LANES; l++)
        if (!(top[l] <= (float)over)) return 1;
    return 0;
}

