/* What are the sums of one cell, a stretch of one row of both sides?

Every element is widened exactly and every difference, product and sum is fp64, in the lanes of a vector register,
folded in a fixed order at the end of the cell. A lane of LANES sums n/LANES terms or one more, so a sum of n terms is
off by at most (n/LANES + 5) * 2^-53 of its terms' magnitudes (two roundings a term before the sum, log2(LANES) <= 3 in
the fold). E4M3FN and E5M2 alone are first summed in fp32, TERMS products a lane: off by at most (TERMS + 3) * 2^-24 of
the terms' magnitudes, where one rounding to these formats errs by 2^-4 and more. Their products cannot overflow there,
nor a difference vanish.

A cell whose xx + yy is not finite (NaN, infinity, or fp64 beyond 1e150) is computed again by the careful loop, which
counts nonfinite elements and leaves their pairs out. */

#pragma once

#include "formats.h"

/* One cell's results; native.py lays its arrays out in this order. */
enum { XX, YY, DY, DD, TOP, SUMS, ELEMENT = SUMS, OWN, FOURTH, SIZE_SUM, LEVER, ROUNDED_SUMS };
enum { BAD, BAD_Y, BAD_X, DIFFER, COUNTS };

typedef struct { f64v xx, yy, dy, dd, top, fourth; } Sums;

typedef double f64quad __attribute__((vector_size(32)));
typedef int64_t i64quad __attribute__((vector_size(32)));

/* Largest |d| * times - |y| so far, in units of UNIT(kind): bound.h says what it tells. */
typedef struct { f32wide times, most; } Far;

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

/* A NaN is no more than anything. */
INLINE f32wide larger(f32wide a, f32wide top) {
#if LANES == 8
    return (f32wide)_mm512_max_ps((__m512)a, (__m512)top);
#elif LANES == 4
    return (f32wide)_mm256_max_ps((__m256)a, (__m256)top);
#else
    i32wide more = a > top;
    return (f32wide)((more & (i32wide)a) | (~more & (i32wide)top));
#endif
}

INLINE f32wide magnitude(f32wide v) { return (f32wide)((i32wide)v & INT32_MAX); }

INLINE void look_far(Far *far, f32wide y, f32wide d) {
    far->most = larger(magnitude(d) * far->times - magnitude(y), far->most);
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

INLINE void add_wide(int rounded, Sums *s, f32wide y, f32wide x, Far *far) {
    if (rounded) look_far(far, y, x - y);
    add(rounded, s, to_double(low_half(y)), to_double(low_half(x)));
    add(rounded, s, to_double(high_half(y)), to_double(high_half(x)));
}

/* The sums of TERMS products a lane, in fp32. */
#define TERMS 16
typedef struct { f32wide xx, yy, dy, dd, top, fourth; } Narrow;

INLINE void add_narrow(int rounded, Narrow *s, f32wide y, f32wide x, Far *far) {
    f32wide d = x - y, y2 = y * y;
    s->xx += x * x;
    s->yy += y2;
    if (rounded) {
        s->fourth += y2 * y2;
        look_far(far, y, d);
    }
    s->dy += d * y;
    s->dd += d * d;
    s->top = larger(magnitude(d), s->top);
}

INLINE void widen_narrow(int rounded, int kind, Sums *s, const Narrow *n) {
    double unit = UNIT(kind), two = unit * unit;
#define BOTH(name, times) s->name += (to_double(low_half(n->name)) + to_double(high_half(n->name))) * (times)
    BOTH(xx, two);
    BOTH(yy, two);
    BOTH(dy, two);
    BOTH(dd, two);
    if (rounded) BOTH(fourth, two * two);
    s->top = larger_magnitude(to_double(low_half(n->top)) * unit, s->top);
    s->top = larger_magnitude(to_double(high_half(n->top)) * unit, s->top);
}

/* How many elements of a register differ in a bit. */
INLINE int64_t unequal(int size, const char *y, const char *x) {
#if defined(__AVX512BW__) && LANES == 8
    __m512i a = LOAD(__m512i, y), b = LOAD(__m512i, x);
    if (size == 1) return __builtin_popcountll(_mm512_cmpneq_epi8_mask(a, b));
    if (size == 2) return __builtin_popcountll(_mm512_cmpneq_epi16_mask(a, b));
    if (size == 4) return __builtin_popcountll(_mm512_cmpneq_epi32_mask(a, b));
    return __builtin_popcountll(_mm512_cmpneq_epi64_mask(a, b));
#elif defined(__AVX2__) && LANES == 4
    __m256i a = LOAD(__m256i, y), b = LOAD(__m256i, x), same;
    if (size == 1) same = _mm256_cmpeq_epi8(a, b);
    else if (size == 2) same = _mm256_cmpeq_epi16(a, b);
    else if (size == 4) same = _mm256_cmpeq_epi32(a, b);
    else same = _mm256_cmpeq_epi64(a, b);
    return __builtin_popcount(~(uint32_t)_mm256_movemask_epi8(same)) / size;
#else
    int64_t differ = 0;
    if (!memcmp(y, x, REGISTER)) return 0;
    for (int i = 0; i < REGISTER; i += size) differ += memcmp(y + i, x + i, (size_t)size) != 0;
    return differ;
#endif
}

INLINE int has_e4m3_nan(const char *from) {
    u8wide code = LOAD(u8wide, from) | 0x80;
#if defined(__AVX512BW__) && LANES == 8
    return _mm512_cmpeq_epi8_mask((__m512i)code, _mm512_set1_epi8(-1)) != 0;
#elif defined(__AVX2__) && LANES == 4
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8((__m256i)code, _mm256_set1_epi8(-1))) != 0;
#else
    for (int i = 0; i < REGISTER; i++)
        if (code[i] == 0xff) return 1;
    return 0;
#endif
}

/* Add `n` pairs of one dtype, whole registers of them; returns how many differ in a bit. */
INLINE int64_t run(int rounded, int kind, const char *y, const char *x, int64_t n, Sums *into, Far *into_far) {
    Sums s = *into;
    Far far = *into_far;
    int64_t differ = 0, bytes = n * SIZE[kind];
    if (kind == F64) {
        for (int64_t i = 0; i < bytes; i += REGISTER) {
            differ += unequal(8, y + i, x + i);
            add(rounded, &s, LOAD(f64v, y + i), LOAD(f64v, x + i));
        }
    } else if (BY_HALVES(kind)) { /* four products a lane from each register */
        int spoilt = 0;
        for (int64_t i = 0, end; i < bytes; i = end) {
            Narrow narrow = {0};
            end = bytes - i < TERMS / 4 * REGISTER ? bytes : i + TERMS / 4 * REGISTER;
            for (int64_t j = i; j < end; j += REGISTER) {
                f32wide a[4], b[4];
                load_wide(kind, y + j, a);
                load_wide(kind, x + j, b);
                differ += unequal(1, y + j, x + j);
                if (kind == E4M3FN) spoilt |= has_e4m3_nan(y + j) | has_e4m3_nan(x + j);
                for (int k = 0; k < 4; k++) add_narrow(rounded, &narrow, a[k], b[k], &far);
            }
            widen_narrow(rounded, kind, &s, &narrow);
        }
        if (spoilt) s.xx += NAN;
    } else {
        for (int64_t i = 0; i < bytes; i += REGISTER) {
            f32wide a[4], b[4];
            load_wide(kind, y + i, a);
            load_wide(kind, x + i, b);
            differ += unequal(SIZE[kind], y + i, x + i);
            for (int k = 0; k < 4 / SIZE[kind]; k++) add_wide(rounded, &s, a[k], b[k], &far);
        }
    }
    *into = s;
    *into_far = far;
    return differ;
}

INLINE int64_t run_all(int rounded, int kind, const char *y, const char *x, int64_t n, Sums *s, Far *far) {
    int size = SIZE[kind], step = REGISTER / size;
    int64_t whole = n - n % step, differ = run(rounded, kind, y, x, whole, s, far);
    if (whole < n) { /* zeros add nothing to any sum and do not differ */
        char a[REGISTER] = {0}, b[REGISTER] = {0};
        memcpy(a, y + size * whole, (size_t)(size * (n - whole)));
        memcpy(b, x + size * whole, (size_t)(size * (n - whole)));
        differ += run(rounded, kind, a, b, step, s, far);
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

INLINE void fold_sums(int rounded, const Sums *s, double *sums) {
    f64v top = s->top;
    fold4(s->xx, s->yy, s->dy, s->dd, sums);
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) top[l] = top[l + half] > top[l] ? top[l + half] : top[l];
    sums[TOP] = top[0];
    if (rounded) sums[FOURTH] = fold(s->fourth);
}

INLINE void cell(int rounded, int kind_y, int kind_x, const char *y, const char *x, int64_t n, double *sums,
                 int64_t *counts, Far *far) {
    int size_y = SIZE[kind_y], size_x = SIZE[kind_x];
    Sums s = {0};
    int64_t differ = 0;
    memset(counts, 0, COUNTS * sizeof *counts);
    if (kind_y == kind_x) {
        differ = run_all(rounded, kind_y, y, x, n, &s, far);
    } else {
        double wide_y[RUN], wide_x[RUN]; /* 32 KiB: first-level cache */
        for (int64_t i = 0; i < n; i += RUN) {
            int64_t m = n - i < RUN ? n - i : RUN;
            if (kind_y == F64 || kind_x == F64) {
                widen64(kind_y, y + size_y * i, wide_y, m);
                widen64(kind_x, x + size_x * i, wide_x, m);
                differ += run_all(rounded, F64, (const char *)wide_y, (const char *)wide_x, m, &s, far);
            } else {
                widen(kind_y, y + size_y * i, (float *)wide_y, m);
                widen(kind_x, x + size_x * i, (float *)wide_x, m);
                differ += run_all(rounded, F32, (const char *)wide_y, (const char *)wide_x, m, &s, far);
            }
        }
    }
    fold_sums(rounded, &s, sums);
    if (__builtin_expect(!isfinite(sums[XX] + sums[YY]), 0)) {
        double wide_y[RUN], wide_x[RUN];
        memset(&s, 0, sizeof s);
        for (int64_t i = 0; i < n; i += RUN) {
            int64_t m = n - i < RUN ? n - i : RUN;
            widen64(kind_y, y + size_y * i, wide_y, m);
            widen64(kind_x, x + size_x * i, wide_x, m);
            careful(rounded, wide_y, wide_x, m, &s, counts);
        }
        fold_sums(rounded, &s, sums);
    }
    counts[DIFFER] = differ;
}
