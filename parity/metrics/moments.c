/* What are the moments of each (row, column cell) of a pair, at the speed of memory?

One pass over both tensors. Every element is widened exactly and every difference, product and sum is fp64, in the
lanes of a vector register, folded in a fixed order at the end of a cell: a result depends on the row alone, never on
the thread or the block it was computed in. A lane of LANES sums cell/LANES terms or one more, so a sum of n terms is off by at most
(n/LANES + 5) * 2^-53 of its terms' magnitudes (two roundings a term before the sum, log2(LANES) <= 3 in the fold).

A cell whose xx + yy is not finite (NaN, infinity, or fp64 beyond 1e150) is computed again by the careful loop, which
counts nonfinite elements and leaves their pairs out.

Portable C11 with GCC vector extensions; the intrinsics are guarded and change no result. */

#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX__) || defined(__F16C__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* Doubles in a register: a wider vector type would be taken apart through memory. */
#if defined(__AVX512F__)
#define LANES 8
#elif defined(__AVX__)
#define LANES 4
#else
#define LANES 2
#endif
#define VECTOR(element, name) typedef element name __attribute__((vector_size(sizeof(element) * LANES)))
VECTOR(double, f64v);
VECTOR(int64_t, i64v);
VECTOR(float, f32v);
VECTOR(uint32_t, u32v);
VECTOR(int32_t, i32v);
VECTOR(uint16_t, u16v);
VECTOR(uint8_t, u8v);
typedef uint16_t u16pairs __attribute__((vector_size(4 * LANES)));

/* The dtypes, numbered as in native.py. */
enum { F64, F32, F16, BF16, E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ };
static const int SIZE[] = {8, 4, 2, 2, 1, 1, 1, 1};

/* One cell's results; native.py lays its arrays out in this order. */
enum { XX, YY, DY, DD, TOP, SUMS };
enum { BAD, BAD_Y, BAD_X, DIFFER, COUNTS };

typedef struct { f64v xx, yy, dy, dd, top; } Sums;

#define LOAD(type, from) ({ type loaded; memcpy(&loaded, (from), sizeof loaded); loaded; })
#define CHOOSE(type, mask, a, b) ((type)(((i32v)(mask) & (i32v)(a)) | (~(i32v)(mask) & (i32v)(b))))

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

INLINE void add(Sums *s, f64v y, f64v x) {
    f64v d = x - y;
    s->xx += x * x;
    s->yy += y * y;
    s->dy += d * y;
    s->dd += d * d;
    s->top = larger_magnitude(d, s->top);
}

INLINE f64v to_double(f32v v) {
#if LANES == 8 /* GCC takes the generic form apart into halves */
    return (f64v)_mm512_cvtps_pd((__m256)v);
#else
    return __builtin_convertvector(v, f64v);
#endif
}

INLINE void add32(Sums *s, f32v y, f32v x) { add(s, to_double(y), to_double(x)); }

/* Codes of a small float to fp32, exactly, a NaN's payload included. exp, man: bits of each; bias: of the exponent.
Subnormals go by way of an integer, since a processor may take 100 cycles over them. */
INLINE f32v widen_codes(int kind, u32v code, int exp, int man, int bias) {
    uint32_t one = 1u << (exp + man), infinity = ((1u << exp) - 1) << man;
    u32v size = code & (one - 1), sign = (code & one) << (31 - exp - man), zero = {0};
    union { uint32_t bits; float value; } unit = {(uint32_t)(128 - bias - man) << 23};
    u32v bits = (size << (23 - man)) + ((uint32_t)(127 - bias) << 23);
    f32v small = __builtin_convertvector((i32v)size, f32v) * unit.value;
    bits = CHOOSE(u32v, size < (1u << man), small, bits);
    if (kind == F16 || kind == E5M2) bits = CHOOSE(u32v, size >= infinity, (size << (23 - man)) | 0x7f800000u, bits);
    if (kind == E4M3FN) bits = CHOOSE(u32v, size == one - 1, zero + 0x7fc00000u, bits);
    if (kind == E4M3FNUZ || kind == E5M2FNUZ) { /* the code of -0 is the only NaN */
        bits = CHOOSE(u32v, code == one, zero + 0x7fc00000u, bits);
        sign = CHOOSE(u32v, code == one, zero, sign);
    }
    return (f32v)(bits | sign);
}

INLINE f32v load32(int kind, const char *from) {
    if (kind == F32) return LOAD(f32v, from);
    if (kind == BF16) return (f32v)(__builtin_convertvector(LOAD(u16v, from), u32v) << 16);
    if (kind == F16) return widen_codes(kind, __builtin_convertvector(LOAD(u16v, from), u32v), 5, 10, 15);
#if defined(__AVX2__) && LANES == 8 /* GCC takes the generic form apart into bytes */
    u32v code = (u32v)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#elif defined(__AVX__)
    u32v code = (u32v)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(LOAD(int32_t, from)));
#else
    u32v code = __builtin_convertvector(LOAD(u8v, from), u32v);
#endif
    if (kind == E4M3FN) return widen_codes(kind, code, 4, 3, 7);
    if (kind == E5M2) return widen_codes(kind, code, 5, 2, 15);
    if (kind == E4M3FNUZ) return widen_codes(kind, code, 4, 3, 8);
    return widen_codes(kind, code, 5, 2, 16);
}

/* The same for finite halves; what it makes of a NaN's payload is nobody's concern. */
INLINE f32v load_half(const char *from) {
#if defined(__F16C__) && LANES == 8
    return (f32v)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif defined(__F16C__)
    return (f32v)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)from));
#else
    return load32(F16, from);
#endif
}

/* Elements a step, by dtype; `run` takes a multiple of it and RUN at most, since lanes of it count in 16 bits. */
INLINE int step_of(int kind) { return SIZE[kind] == 2 ? 2 * LANES : LANES; }
#define RUN 2048

/* Add `n` pairs of one dtype; returns how many differ in a bit. */
INLINE int64_t run(int kind, const char *y, const char *x, int64_t n, Sums *into) {
    Sums s = *into;
    int64_t differ = 0;
    if (SIZE[kind] == 8) {
        i64v unequal = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            f64v a = LOAD(f64v, y + 8 * i), b = LOAD(f64v, x + 8 * i);
            unequal -= (i64v)a != (i64v)b;
            add(&s, a, b);
        }
        for (int l = 0; l < LANES; l++) differ += unequal[l];
    } else if (SIZE[kind] == 2) {
        u16pairs unequal = {0};
        for (int64_t i = 0; i < n; i += 2 * LANES) {
            u16pairs a = LOAD(u16pairs, y + 2 * i), b = LOAD(u16pairs, x + 2 * i);
            unequal -= (u16pairs)(a != b);
            if (kind == BF16) { /* even and odd elements, as halves of 32-bit words */
                u32v aw = (u32v)a, bw = (u32v)b;
                add32(&s, (f32v)(aw << 16), (f32v)(bw << 16));
                add32(&s, (f32v)(aw & 0xffff0000u), (f32v)(bw & 0xffff0000u));
            } else {
                add32(&s, load_half(y + 2 * i), load_half(x + 2 * i));
                add32(&s, load_half(y + 2 * (i + LANES)), load_half(x + 2 * (i + LANES)));
            }
        }
        for (int l = 0; l < 2 * LANES; l++) differ += unequal[l];
    } else { /* widening keeps codes apart, so bits may be compared after it */
        i32v unequal = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            f32v a = load32(kind, y + SIZE[kind] * i), b = load32(kind, x + SIZE[kind] * i);
            unequal -= (i32v)a != (i32v)b;
            add32(&s, a, b);
        }
        for (int l = 0; l < LANES; l++) differ += unequal[l];
    }
    *into = s;
    return differ;
}

INLINE int64_t run_all(int kind, const char *y, const char *x, int64_t n, Sums *s) {
    int size = SIZE[kind], step = step_of(kind);
    int64_t differ = 0, whole = n - n % step;
    for (int64_t i = 0; i < whole; i += RUN)
        differ += run(kind, y + size * i, x + size * i, whole - i < RUN ? whole - i : RUN, s);
    if (whole < n) { /* zeros add nothing to any sum and do not differ */
        char a[8 * LANES] = {0}, b[8 * LANES] = {0};
        memcpy(a, y + size * whole, (size_t)(size * (n - whole)));
        memcpy(b, x + size * whole, (size_t)(size * (n - whole)));
        differ += run(kind, a, b, step, s);
    }
    return differ;
}

/* `to` has room for a whole number of vectors. */
INLINE void widen_run(int kind, const char *from, float *to, int64_t n) {
    int size = SIZE[kind];
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        f32v wide = load32(kind, from + size * i);
        memcpy(to + i, &wide, sizeof wide);
    }
    if (i < n) {
        char rest[4 * LANES] = {0};
        memcpy(rest, from + size * i, (size_t)(size * (n - i)));
        f32v wide = load32(kind, rest);
        memcpy(to + i, &wide, sizeof wide);
    }
}

static void widen(int kind, const char *from, float *to, int64_t n) {
    switch (kind) {
    case F32: memcpy(to, from, 4 * (size_t)n); break;
    case F16: widen_run(F16, from, to, n); break;
    case BF16: widen_run(BF16, from, to, n); break;
    case E4M3FN: widen_run(E4M3FN, from, to, n); break;
    case E5M2: widen_run(E5M2, from, to, n); break;
    case E4M3FNUZ: widen_run(E4M3FNUZ, from, to, n); break;
    case E5M2FNUZ: widen_run(E5M2FNUZ, from, to, n); break;
    }
}

static void widen64(int kind, const char *from, double *to, int64_t n) {
    float narrow[RUN];
    if (kind == F64) {
        memcpy(to, from, 8 * (size_t)n);
        return;
    }
    widen(kind, from, narrow, n);
    for (int64_t i = 0; i < n; i++) to[i] = narrow[i];
}

INLINE double fold(f64v v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) v[l] += v[l + half];
    return v[0];
}

/* Pairs with a nonfinite side are left out and counted; `y`, `x`: RUN elements at most, already fp64. */
static void careful(const double *y, const double *x, int64_t n, Sums *s, int64_t *counts) {
    for (int64_t i = 0; i < n; i += LANES) {
        f64v a = {0}, b = {0};
        for (int l = 0; l < LANES && i + l < n; l++) {
            int bad_y = !isfinite(y[i + l]), bad_x = !isfinite(x[i + l]);
            counts[BAD] += bad_y | bad_x;
            counts[BAD_Y] += bad_y;
            counts[BAD_X] += bad_x;
            if (!(bad_y | bad_x)) { a[l] = y[i + l]; b[l] = x[i + l]; }
        }
        add(s, a, b);
    }
}

INLINE void cell(int kind_y, int kind_x, const char *y, const char *x, int64_t n, double *sums, int64_t *counts) {
    int size_y = SIZE[kind_y], size_x = SIZE[kind_x];
    Sums s = {0};
    int64_t differ = 0;
    memset(counts, 0, COUNTS * sizeof *counts);
    if (kind_y == kind_x) {
        differ = run_all(kind_y, y, x, n, &s);
    } else {
        double wide_y[RUN], wide_x[RUN]; /* 32 KiB: first-level cache */
        for (int64_t i = 0; i < n; i += RUN) {
            int64_t m = n - i < RUN ? n - i : RUN;
            if (kind_y == F64 || kind_x == F64) {
                widen64(kind_y, y + size_y * i, wide_y, m);
                widen64(kind_x, x + size_x * i, wide_x, m);
                differ += run_all(F64, (const char *)wide_y, (const char *)wide_x, m, &s);
            } else {
                widen(kind_y, y + size_y * i, (float *)wide_y, m);
                widen(kind_x, x + size_x * i, (float *)wide_x, m);
                differ += run_all(F32, (const char *)wide_y, (const char *)wide_x, m, &s);
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
            careful(wide_y, wide_x, m, &s, counts);
        }
    }
    double top = 0;
    for (int l = 0; l < LANES; l++) top = s.top[l] > top ? s.top[l] : top;
    sums[XX] = fold(s.xx);
    sums[YY] = fold(s.yy);
    sums[DY] = fold(s.dy);
    sums[DD] = fold(s.dd);
    sums[TOP] = top;
    counts[DIFFER] = differ;
}

INLINE void fold_into(double *sums, int64_t *counts, const double *more_sums, const int64_t *more_counts) {
    for (int k = 0; k < TOP; k++) sums[k] += more_sums[k];
    sums[TOP] = more_sums[TOP] > sums[TOP] ? more_sums[TOP] : sums[TOP];
    for (int k = 0; k < COUNTS; k++) counts[k] += more_counts[k];
}

typedef struct {
    const char *y, *x;         /* first row of each side */
    int64_t stride_y, stride_x; /* bytes from row to row; the columns of a row are contiguous */
    int64_t rows, cells;
    const int64_t *edges;     /* cells + 1 */
    const int64_t *group;     /* rows: which group of columns a row adds to, none when negative; NULL: keep each cell */
    double *sums;             /* keep: [rows, cells, SUMS]; fold: [rows, SUMS], zeroed */
    int64_t *counts;          /* the same with COUNTS */
    double *column_sums;      /* fold only: [groups, cells, SUMS], zeroed */
    int64_t *column_counts;
} Work;

INLINE void rows_of(int kind_y, int kind_x, const Work *w) {
    for (int64_t row = 0; row < w->rows; row++) {
        const char *y = w->y + row * w->stride_y, *x = w->x + row * w->stride_x;
        for (int64_t c = 0; c < w->cells; c++) {
            int64_t left = w->edges[c], n = w->edges[c + 1] - left;
            const char *a = y + left * SIZE[kind_y], *b = x + left * SIZE[kind_x];
            if (!w->group) {
                int64_t at = row * w->cells + c;
                cell(kind_y, kind_x, a, b, n, w->sums + at * SUMS, w->counts + at * COUNTS);
                continue;
            }
            double sums[SUMS];
            int64_t counts[COUNTS];
            cell(kind_y, kind_x, a, b, n, sums, counts);
            fold_into(w->sums + row * SUMS, w->counts + row * COUNTS, sums, counts);
            if (w->group[row] >= 0) {
                int64_t at = w->group[row] * w->cells + c;
                fold_into(w->column_sums + at * SUMS, w->column_counts + at * COUNTS, sums, counts);
            }
        }
    }
}

#define ROWS(kind) static __attribute__((noinline)) void rows_##kind(const Work *w) { rows_of(kind, kind, w); }
ROWS(F64) ROWS(F32) ROWS(F16) ROWS(BF16) ROWS(E4M3FN) ROWS(E5M2) ROWS(E4M3FNUZ) ROWS(E5M2FNUZ)
static __attribute__((noinline)) void rows_mixed(int kind_y, int kind_x, const Work *w) {
    if (kind_y != kind_x) rows_of(kind_y, kind_x, w);
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
            Work work = {sides[a][0], sides[b][1], 0, 0, 1, 1, edges, NULL, sums, counts, NULL, NULL};
            parity_moments(kinds[a], kinds[b], &work);
            if (sums[XX] != 4 * N || sums[YY] != N || sums[DY] != N || sums[DD] != N || sums[TOP] != 1) return 1;
            if (counts[BAD] || counts[DIFFER] != N) return 2;
        }
    return 0;
}
