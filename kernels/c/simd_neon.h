/* AArch64: NEON is always there, with 32 registers. */
#include <arm_neon.h>

#define ISA neon
#define VECTOR_BYTES 16
#define HALF_BYTES 0 /* halves would save nothing: see half.inc.h */
#define TILE_ROWS 6

#define fma_f32(a, b, c) vfmaq_f32(c, a, b)
#define max_f32 vmaxq_f32
#define min_f32 vminq_f32
#define sqrt_f32 vsqrtq_f32
#define fma_f64(a, b, c) vfmaq_f64(c, a, b)
#define max_f64 vmaxq_f64
#define min_f64 vminq_f64
#define sqrt_f64 vsqrtq_f64

/* sum + the four products of each lane's bytes */
#define I8_OFFSET 0
#ifdef __ARM_FEATURE_DOTPROD
#define dot_i8(left, right, sum) ((vint)vdotq_s32((int32x4_t)(sum), (int8x16_t)(left), (int8x16_t)(right)))
#else
#define dot_i8(left, right, sum)                                                                       \
    ((sum) + (vint)vpaddq_s32(                                                                         \
                 vpaddlq_s16(vmull_s8(vget_low_s8((int8x16_t)(left)), vget_low_s8((int8x16_t)(right)))), \
                 vpaddlq_s16(vmull_high_s8((int8x16_t)(left), (int8x16_t)(right)))))
#endif
