/* How is an element of each dtype widened exactly, a vector register at a time? */

#pragma once

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
/* A whole register, as elements of every size. */
#define REGISTER (8 * LANES)
typedef float f32wide __attribute__((vector_size(REGISTER)));
typedef uint32_t u32wide __attribute__((vector_size(REGISTER)));
typedef int32_t i32wide __attribute__((vector_size(REGISTER)));
typedef uint16_t u16wide __attribute__((vector_size(REGISTER)));
typedef int16_t i16wide __attribute__((vector_size(REGISTER)));
typedef uint8_t u8wide __attribute__((vector_size(REGISTER)));

/* The dtypes, numbered as in native.py. */
enum { F64, F32, F16, BF16, E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ };
static const int SIZE[] = {8, 4, 2, 2, 1, 1, 1, 1};

#define LOAD(type, from) ({ type loaded; memcpy(&loaded, (from), sizeof loaded); loaded; })
#define CHOOSE(type, mask, a, b) ((type)(((i32v)(mask) & (i32v)(a)) | (~(i32v)(mask) & (i32v)(b))))

INLINE f64v to_double(f32v v) {
#if LANES == 8 /* GCC takes the generic form apart into halves */
    return (f64v)_mm512_cvtps_pd((__m256)v);
#else
    return __builtin_convertvector(v, f64v);
#endif
}

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

/* Both halves of a register of floats. */
INLINE f32v low_half(f32wide v) {
#if LANES == 8
    return (f32v)_mm512_castps512_ps256((__m512)v);
#elif LANES == 4
    return (f32v)_mm256_castps256_ps128((__m256)v);
#else
    return LOAD(f32v, (const char *)&v);
#endif
}

INLINE f32v high_half(f32wide v) {
#if LANES == 8
    return (f32v)_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v), 1));
#elif LANES == 4
    return (f32v)_mm256_extractf128_ps((__m256)v, 1);
#else
    return LOAD(f32v, (const char *)&v + sizeof(f32v));
#endif
}

/* A byte's code is a half's by a shift: of E5M2 its very value, of E4M3 the value over 256 and a NaN as 480. */
#if defined(__F16C__) && defined(__AVX2__) && LANES > 2
#define BY_HALVES(kind) ((kind) == E4M3FN || (kind) == E5M2)
#else
#define BY_HALVES(kind) 0
#endif
#define UNIT(kind) (BY_HALVES(kind) && (kind) == E4M3FN ? 256.0 : 1.0)

#if defined(__F16C__) && LANES > 2
INLINE void load_halves(u16wide code, f32wide *out) {
#if LANES == 8
    out[0] = (f32wide)_mm512_cvtph_ps(_mm512_castsi512_si256((__m512i)code));
    out[1] = (f32wide)_mm512_cvtph_ps(_mm512_extracti64x4_epi64((__m512i)code, 1));
#else
    out[0] = (f32wide)_mm256_cvtph_ps(_mm256_castsi256_si128((__m256i)code));
    out[1] = (f32wide)_mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)code, 1));
#endif
}
#endif

/* One register of codes as 4 / SIZE[kind] registers of floats, in an order that is the same for every load, in units of
UNIT(kind). What it makes of a NaN's payload is nobody's concern, and an E4M3 NaN must be looked for by its code. */
INLINE void load_wide(int kind, const char *from, f32wide *out) {
    if (kind == F32) {
        out[0] = LOAD(f32wide, from);
    } else if (kind == BF16) { /* even and odd elements, as halves of 32-bit words */
        u32wide words = LOAD(u32wide, from);
        out[0] = (f32wide)(words << 16);
        out[1] = (f32wide)(words & 0xffff0000u);
#if defined(__F16C__) && LANES > 2
    } else if (kind == F16) {
        load_halves(LOAD(u16wide, from), out);
#endif
#if defined(__F16C__) && defined(__AVX2__) && LANES > 2
    } else if (BY_HALVES(kind)) {
        u16wide odd = LOAD(u16wide, from), even = odd << 8;
        if (kind == E4M3FN) { /* the sign is copied into a bit of the exponent: off with it */
            odd = (u16wide)((i16wide)odd >> 1) & 0xbf80;
            even = (u16wide)((i16wide)even >> 1) & 0xbf80;
        } else {
            odd &= 0xff00;
        }
        load_halves(even, out);
        load_halves(odd, out + 2);
#endif
    } else {
        for (int k = 0; k < 4 / SIZE[kind]; k++) {
            f32v halves[2] = {load32(kind, from + SIZE[kind] * 2 * LANES * k),
                              load32(kind, from + SIZE[kind] * (2 * k + 1) * LANES)};
            memcpy(out + k, halves, sizeof halves);
        }
    }
}

/* Elements that are widened at once, at most: 16-bit lanes count as many. */
#define RUN 2048

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

/* Four at once: a third of the shuffles. The order of additions is the same at every width. */
INLINE void fold4(f64v a, f64v b, f64v c, f64v d, double *into) {
#if LANES == 8
#define HALVES(v) _mm256_add_pd(_mm512_castpd512_pd256((__m512d)v), _mm512_extractf64x4_pd((__m512d)v, 1))
#elif LANES == 4
#define HALVES(v) ((__m256d)v)
#endif
#if LANES > 2
    __m256d ab = _mm256_hadd_pd(HALVES(a), HALVES(b)), cd = _mm256_hadd_pd(HALVES(c), HALVES(d));
    _mm256_storeu_pd(into, _mm256_add_pd(_mm256_permute2f128_pd(ab, cd, 0x20), _mm256_permute2f128_pd(ab, cd, 0x31)));
#else
    into[0] = fold(a), into[1] = fold(b), into[2] = fold(c), into[3] = fold(d);
#endif
}
