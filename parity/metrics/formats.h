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
typedef uint16_t u16pairs __attribute__((vector_size(4 * LANES)));

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

