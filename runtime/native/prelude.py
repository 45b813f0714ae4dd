"""C that all compiled kernels begin with: elementwise functions that a compiler can put into vectors.

No branches, no calls but to functions of one instruction, no contraction into fused multiply-adds: the same bits
however wide the vectors are. Those of float64 are the C library's.
"""

PRELUDE = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float f32;
typedef double f64;
typedef int32_t i32;
typedef uint32_t u32;
typedef uint8_t b8;
#define INLINE static inline __attribute__((always_inline))

INLINE i32 bits_f32(f32 x) { i32 n; memcpy(&n, &x, 4); return n; }
INLINE f32 f32_of(i32 n) { f32 x; memcpy(&x, &n, 4); return x; }

/* exp(x): n = x / log 2 to the nearest, a polynomial of what is left (Cephes), and 2^n in two factors, so that numbers
   too small for the exponent are rounded once. */
INLINE f32 exp_f32(f32 x) {
    f32 y = x > 89.0f ? 89.0f : x;
    y = y < -104.0f ? -104.0f : y;
    f32 n = (y * 1.44269504f + 12582912.0f) - 12582912.0f;
    f32 r = y - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    f32 p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    i32 k = (i32)n, half = k >> 1;
    p = p * f32_of((half + 127) << 23) * f32_of((k - half + 127) << 23);
    return x != x ? x : p;
}

/* tanh(x): a polynomial near 0 (Cephes), else by exp. */
INLINE f32 tanh_f32(f32 x) {
    f32 a = fabsf(x), z = x * x;
    f32 p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    f32 near = p * z * x + x;
    f32 far = 1.0f - 2.0f / (exp_f32(a > 10.0f ? 20.0f : 2.0f * a) + 1.0f);
    far = f32_of(bits_f32(far) | (bits_f32(x) & (i32)0x80000000));
    far = a < 0.625f ? near : far;
    return x != x ? x : far;
}

/* erf(x) = tanh(x P(x^2)), as numpy's kernel has it (runtime/numpy/elementwise.py). */
INLINE f32 erf_f32(f32 x) {
    f32 z = x * x;
    f32 p = 1.418521856e-07f;
    p = p * z - 5.668475108e-06f;
    p = p * z + 8.76373255e-05f;
    p = p * z - 6.197846577e-04f;
    p = p * z - 1.918307987e-04f;
    p = p * z + 0.1027690558f;
    p = p * z + 1.128379274f;
    return tanh_f32(p * x);
}

INLINE f32 sigmoid_f32(f32 x) { return 1.0f / (1.0f + exp_f32(-x)); }
INLINE f32 rsqrt_f32(f32 x) { return 1.0f / sqrtf(x); }
INLINE f32 relu_f32(f32 x) { return x > 0.0f || x != x ? x : 0.0f; }
INLINE f32 max_f32(f32 x, f32 y) { return x > y || x != x ? x : y; }
INLINE f32 min_f32(f32 x, f32 y) { return x < y || x != x ? x : y; }
INLINE f32 sign_f32(f32 x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
#define abs_f32 fabsf
#define sqrt_f32 sqrtf
#define floor_f32 floorf
#define round_f32 rintf
#define log_f32 logf
#define log1p_f32 log1pf
#define erfc_f32 erfcf
#define sin_f32 sinf
#define cos_f32 cosf
#define pow_f32 powf

INLINE f64 sigmoid_f64(f64 x) { return 1.0 / (1.0 + exp(-x)); }
INLINE f64 rsqrt_f64(f64 x) { return 1.0 / sqrt(x); }
INLINE f64 relu_f64(f64 x) { return x > 0.0 || x != x ? x : 0.0; }
INLINE f64 max_f64(f64 x, f64 y) { return x > y || x != x ? x : y; }
INLINE f64 min_f64(f64 x, f64 y) { return x < y || x != x ? x : y; }
INLINE f64 sign_f64(f64 x) { return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x; }
#define abs_f64 fabs
#define sqrt_f64 sqrt
#define floor_f64 floor
#define round_f64 rint
#define exp_f64 exp
#define tanh_f64 tanh
#define erf_f64 erf
#define log_f64 log
#define log1p_f64 log1p
#define erfc_f64 erfc
#define sin_f64 sin
#define cos_f64 cos
#define pow_f64 pow

INLINE i32 max_i32(i32 x, i32 y) { return x > y ? x : y; }
INLINE i32 min_i32(i32 x, i32 y) { return x < y ? x : y; }
INLINE i32 abs_i32(i32 x) { return x < 0 ? -x : x; }
INLINE i32 sign_i32(i32 x) { return (x > 0) - (x < 0); }
INLINE u32 max_u32(u32 x, u32 y) { return x > y ? x : y; }
INLINE u32 min_u32(u32 x, u32 y) { return x < y ? x : y; }
/* Of Python and numpy: rounded down, the remainder with the divisor's sign; 0 of a division by 0. */
INLINE i32 mod_i32(i32 x, i32 y) {
    if (y == 0 || y == -1) return 0;
    i32 r = x % y;
    return r != 0 && (r ^ y) < 0 ? r + y : r;
}
INLINE i32 floordiv_i32(i32 x, i32 y) {
    if (y == 0) return 0;
    if (y == -1) return -x;
    i32 q = x / y;
    return (x % y != 0) && ((x ^ y) < 0) ? q - 1 : q;
}

/* To bfloat16 and back: to the nearest, to even where two are as near. */
INLINE f32 bf16_f32(f32 x) {
    u32 n;
    memcpy(&n, &x, 4);
    u32 up = (n + 0x7fffu + ((n >> 16) & 1u)) & 0xffff0000u;
    n = x != x ? 0x7fc00000u | (n & 0x80000000u) : up;
    memcpy(&x, &n, 4);
    return x;
}
"""
