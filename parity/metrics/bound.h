/* How far may an element be from its pair's, and by how much is it? The bound of parity/metrics/rounding.py. */

#pragma once

#include "cells.h"

/* What parity/metrics/rounding.py says of honest noise; its docstrings have the sense of each number. */
typedef struct {
    double relative, absolute; /* R u, R q */
    double drift, inside;      /* of many values: hypot(drift, inside); drift * 16^(1/terms) of few */
    double spreads, chance;
    int64_t together;          /* rows that tell one size */
    int64_t least;             /* values that tell it */
    int64_t samples;           /* at most SAMPLES */
    const int64_t *sample;     /* their columns */
} Bound;
enum { SAMPLES = 32 };

/* The magnitudes of the sampled elements of a row. */
INLINE void sampled(int kind, const char *row, const Bound *bound, double *values) {
    char codes[8 * SAMPLES] = {0};
    for (int64_t i = 0; i < bound->samples; i++)
        memcpy(codes + SIZE[kind] * i, row + SIZE[kind] * bound->sample[i], (size_t)SIZE[kind]);
    for (int i = 0; i < SAMPLES; i += LANES) {
        f64v wide = kind == F64 ? LOAD(f64v, codes + 8 * i) : to_double(load32(kind, codes + SIZE[kind] * i));
        wide = (f64v)((i64v)wide & INT64_MAX);
        memcpy(values + i, &wide, sizeof wide);
    }
}

/* `_shared_share` of rounding.py. */
INLINE double shared_share(int kind_y, int kind_x, const char *y, const char *x, const Bound *bound) {
    double values[SAMPLES], other[SAMPLES], weights[SAMPLES], total = 0, alone = 0, alike = 0, all = 0;
    int64_t n = bound->samples;
    if (n < 2) return 0;
    sampled(kind_y, y, bound, values);
    sampled(kind_x, x, bound, other);
    for (int i = 0; i < SAMPLES; i++) {
        values[i] = values[i] + other[i] < INFINITY ? values[i] : 0;
        total += values[i] * values[i];
    }
    if (!(total > 1e-300)) total = 1e-300;
    for (int i = 0; i < SAMPLES; i++) { /* zeros past the end weigh nothing */
        weights[i] = values[i] * values[i] / total;
        all += weights[i];
        alone += weights[i] * weights[i];
    }
    f64v total_alike = {0};
    for (int64_t i = 0; i < n; i++) {
        f64v here = {0}, same = {0};
        here += values[i];
        for (int j = 0; j < SAMPLES; j += LANES)
            same += (f64v)((i64v)LOAD(f64v, weights + j) & (LOAD(f64v, values + j) == here));
        total_alike += weights[i] * same;
    }
    alike = fold(total_alike);
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

INLINE double largest_relative(const Bound *bound) {
    return bound->relative < 1.0 / 3 ? 2 * bound->relative / (1 - bound->relative) : 1;
}

/* |d| of a cell over what its own size explains, 0 where it is not over: the certain part of rel_l2's gate, and the
accumulation of terms as large as the cell's own values. Cells of fewer than `least` values do not tell that size. */
INLINE double over_own(const double *of, int64_t pairs, double dependence, const Bound *bound) {
    double most = largest_relative(bound);
    if (!(of[DD] > most * most * of[YY]) || pairs < bound->least) return 0;
    double terms = of[YY] * of[YY] / of[FOURTH] / dependence;
    if (!(terms > 1 && isfinite(terms))) terms = 1;
    double drift = hypot(bound->drift * exp2(4 / terms), bound->inside);
    double allowed = (1 + 1e-12) * ((most + drift) * sqrt(of[YY]) + bound->absolute * sqrt((double)pairs));
    double over = sqrt(of[DD]) / allowed;
    return over > 1 ? over : 0;
}

/* The same of the bulk of a cell whose squares a few outliers make up: without them its size is that of the others. An
outlier is over SPREAD root mean squares of what is left; an outlier of a few does not hide in them, as terms tell. */
enum { SPREAD = 4, CLIPS = 8 };
static __attribute__((noinline)) double over_bulk(int kind_y, int kind_x, const char *y, const char *x, int64_t n,
                                                  const double *of, double dependence, const Bound *bound) {
    double a[RUN + LANES], b[RUN + LANES], bulk[ROUNDED_SUMS] = {0}, limit = INFINITY;
    int64_t kept = 0, before;
    if (n > RUN || n < bound->least || !(of[DD] > 0)) return 0;
    widen64(kind_y, y, a, n);
    widen64(kind_x, x, b, n);
    for (int clip = 0; clip < CLIPS; clip++) {
        before = kept, kept = 0;
        bulk[YY] = bulk[DD] = bulk[FOURTH] = 0;
        for (int64_t i = 0; i < n; i++) {
            double y2 = a[i] * a[i], d = b[i] - a[i];
            if (!(y2 <= limit && isfinite(d))) continue;
            kept++;
            bulk[YY] += y2;
            bulk[DD] += d * d;
            bulk[FOURTH] += y2 * y2;
        }
        if (kept == before) break;
        limit = SPREAD * SPREAD * bulk[YY] / (double)(kept > 1 ? kept : 1);
    }
    return over_own(bulk, kept, dependence, bound);
}

/* Whether an element may be over `best` times its bound; fp32, never no where it is. With |x| >= |y| - |d|, that takes
|d| (1 + best of_x) > best ((of_x + of_y) |y| + constant). 2^-24 a rounding: 1e-6 is more than the five here make.
The slope of that line in |d| and |y| does not depend on the row where of_y = of_x, its least value, is taken: so `Far`
looks for best = 1 in the pass that makes the sums, and a row's constant comes in afterwards. */
INLINE double far_slope(double of_x, double of_y, double best) {
    return (1 + best * of_x) / (best * (of_x + of_y)) * (1 + 1e-6);
}

INLINE int is_near(const Far *far, double unit, double over) {
    float most = 0;
    for (int l = 0; l < 2 * LANES; l++) most = far->most[l] > most ? far->most[l] : most;
    return (double)most * unit <= over * (1 - 1e-6);
}

INLINE Far start_far(double slope) {
    Far far = {{0}, {0}};
    far.times += (float)slope;
    return far;
}

INLINE int may_exceed(int kind, const char *y, const char *x, int64_t n, const RowBound *b, double best) {
    double both = b->of_x + b->of_y, slope = far_slope(b->of_x, b->of_y, best);
    if (!(slope < 1e30)) return 1;
    Far far = start_far(slope);
    int64_t step = REGISTER / SIZE[kind];
    for (int64_t i = 0; i < n; i += step) {
        char rest[2][REGISTER] = {{0}, {0}};
        const char *from_y = y + SIZE[kind] * i, *from_x = x + SIZE[kind] * i;
        f32wide a[4], c[4];
        if (n - i < step) {
            memcpy(rest[0], from_y, (size_t)(SIZE[kind] * (n - i)));
            memcpy(rest[1], from_x, (size_t)(SIZE[kind] * (n - i)));
            from_y = rest[0], from_x = rest[1];
        }
        load_wide(kind, from_y, a);
        load_wide(kind, from_x, c);
        for (int k = 0; k < 4 / SIZE[kind]; k++) look_far(&far, a[k], c[k] - a[k]);
    }
    return !is_near(&far, UNIT(kind), b->constant / both);
}
