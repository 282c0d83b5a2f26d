// Arithmetic of the compiler's device library: functions, intrinsics, small floating-point formats.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

extern "C" __global__ void math_float(const float* x, const float* y, float* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float a = x[i], b = y[i], s, c;
  sincosf(a, &s, &c);
  float results[] = {expf(a), exp2f(a), logf(fabsf(b)), log2f(fabsf(b)), log1pf(fabsf(b)), s, c, tanf(a), tanhf(a),
                     erff(a), rsqrtf(fabsf(b)), cbrtf(b), powf(fabsf(b), a), atan2f(a, b), hypotf(a, b), fmodf(a, b),
                     a / b, sqrtf(fabsf(a)), expm1f(a), asinhf(a), sinf(a * 1e5f)};
  int n = sizeof(results) / sizeof(float);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

extern "C" __global__ void math_fast(const float* x, const float* y, float* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float a = x[i], b = y[i];
  float results[] = {__expf(a), __logf(fabsf(b)), __sinf(a), __cosf(a), __fdividef(a, b), __frsqrt_rn(fabsf(b)),
                     __saturatef(a), __powf(fabsf(b), a), __tanhf(a)};
  int n = sizeof(results) / sizeof(float);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

extern "C" __global__ void math_rounding(const float* x, const float* y, float* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float a = x[i], b = y[i];
  float results[] = {__fadd_rz(a, b), __fadd_ru(a, b), __fadd_rd(a, b), __fmul_rz(a, b), __fmul_ru(a, b),
                     __fdiv_rd(a, b), __fsqrt_ru(fabsf(a)), __fmaf_rz(a, b, a), rintf(a), roundf(a), truncf(a),
                     floorf(a), ceilf(a), nextafterf(a, b), copysignf(a, b), fdimf(a, b), ldexpf(a, i % 60 - 30)};
  int n = sizeof(results) / sizeof(float);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

extern "C" __global__ void math_double(const double* x, const double* y, double* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  double a = x[i], b = y[i];
  double results[] = {exp(a), log(fabs(b)), sin(a), cos(a), tanh(a), pow(fabs(b), a), a / b, sqrt(fabs(a)),
                      rsqrt(fabs(b)), cbrt(b), fma(a, b, a), fmod(a, b), atan2(a, b)};
  int n = sizeof(results) / sizeof(double);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

extern "C" __global__ void math_integer(const unsigned* x, const unsigned* y, unsigned* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  unsigned a = x[i], b = y[i];
  int sa = static_cast<int>(a), sb = static_cast<int>(b);
  unsigned results[] = {__brev(a), static_cast<unsigned>(__clz(sa)), static_cast<unsigned>(__ffs(sa)),
                        static_cast<unsigned>(__popc(a)), __byte_perm(a, b, 0x5410 ^ (a & 0x7777)),
                        __funnelshift_l(a, b, a & 63), __funnelshift_rc(a, b, b & 63), __umulhi(a, b),
                        static_cast<unsigned>(__mulhi(sa, sb)), __usad(a, b, 5), static_cast<unsigned>(__sad(sa, sb, 9u)),
                        static_cast<unsigned>(__dp4a(sa, sb, 7)), __dp4a(a, b, 7u), __dp2a_lo(a, b, 3u),
                        static_cast<unsigned>(__hadd(sa, sb)), __urhadd(a, b), __vadd4(a, b), __vmaxs2(a, b),
                        __vabsdiffu4(a, b), __vcmpgtu4(a, b), a / (b | 1), static_cast<unsigned>(sa % (sb | 1)),
                        static_cast<unsigned>((static_cast<unsigned long long>(a) << 20 | b) / (b | 1)),
                        static_cast<unsigned>((static_cast<long long>(sa) << 20) % (static_cast<long long>(sb) | 1)),
                        static_cast<unsigned>(__mul64hi(static_cast<long long>(sa) << 32 | b, static_cast<long long>(sb) << 30)),
                        __viaddmax_u32(a, b, a), static_cast<unsigned>(__vimin3_s32(sa, sb, 17))};
  int n = sizeof(results) / sizeof(unsigned);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

extern "C" __global__ void math_conversions(const float* x, unsigned* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float a = x[i];
  unsigned results[] = {static_cast<unsigned>(__float2int_rn(a)), static_cast<unsigned>(__float2int_rd(a)),
                        __float2uint_ru(a), static_cast<unsigned>(static_cast<unsigned char>(fminf(fmaxf(a, 0.f), 255.f))),
                        __half_as_ushort(__float2half_rn(a)), __half_as_ushort(__float2half_rz(a)),
                        __half_as_ushort(__float2half_ru(a)), __bfloat16_as_ushort(__float2bfloat16_rn(a)),
                        __bfloat16_as_ushort(__float2bfloat16_rd(a)),
                        __nv_cvt_float_to_fp8(a, __NV_SATFINITE, __NV_E4M3), __nv_cvt_float_to_fp8(a, __NV_SATFINITE, __NV_E5M2),
                        __half_as_ushort(__half(__nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(i), __NV_E4M3))),
                        __half_as_ushort(__half(__nv_cvt_fp8_to_halfraw(static_cast<unsigned char>(i), __NV_E5M2))),
                        __float_as_uint(static_cast<float>(static_cast<double>(a) * 1e-40)),
                        __float_as_uint(__ll2float_rz(static_cast<long long>(a * 1e12f)))};
  int n = sizeof(results) / sizeof(unsigned);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

template <typename T2>
__device__ void halves(T2 a, T2 b, T2* out, int i, int count) {
  T2 results[] = {__hadd2(a, b), __hsub2(a, b), __hmul2(a, b), __hfma2(a, b, a), __hmax2(a, b), __hmin2_nan(a, b),
                  __habs2(a), __hneg2(b), __hadd2_sat(a, b), __hgt2(a, b), __lowhigh2highlow(a), __hfma2_relu(a, b, b)};
  int n = sizeof(results) / sizeof(T2);
  for (int k = 0; k < n; ++k) out[k * count + i] = results[k];
}

extern "C" __global__ void math_half2(const __half2* x, const __half2* y, __half2* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) halves(x[i], y[i], out, i, count);
}

extern "C" __global__ void math_bfloat162(const __nv_bfloat162* x, const __nv_bfloat162* y, __nv_bfloat162* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) halves(x[i], y[i], out, i, count);
}

extern "C" __global__ void math_half_functions(const __half* x, float* out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  __half a = x[i];
  __half results[] = {hexp(a), hlog(__habs(a)), hsin(a), hsqrt(__habs(a)), hrcp(a), hrsqrt(__habs(a)), hrint(a), hfloor(a), htanh(a)};
  int n = sizeof(results) / sizeof(__half);
  for (int k = 0; k < n; ++k) out[k * count + i] = __half2float(results[k]);
}
