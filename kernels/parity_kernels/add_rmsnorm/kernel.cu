// Residual add and RMSNorm of one row a block: device code and its launcher, CUDA C++. Same recipe as kernel.py.
//
// Every lane of every warp runs every shuffle: loops have a constant trip count and nobody returns early, only loads and
// stores are predicated. A shuffle whose mask names lanes that do not execute it is undefined.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ float warp_sum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// blockDim.x is a multiple of 32. Partial sums of warps meet in shared memory; each warp then adds all of them, so that
// every thread has the same bits.
__device__ float block_sum(float value) {
  __shared__ float partial[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  value = warp_sum(value);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : 0.0f);
}

template <int kPerThread>
__global__ void add_rmsnorm(const __nv_bfloat16* x, const __nv_bfloat16* residual, const __nv_bfloat16* weight,
                            __nv_bfloat16* out, __nv_bfloat16* sum, long long x_stride, long long residual_stride,
                            long long out_stride, long long sum_stride, int width, float eps) {
  const long long row = blockIdx.x;
  float values[kPerThread];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int col = i * blockDim.x + threadIdx.x;
    float value = 0.0f;
    if (col < width) {
      value = __bfloat162float(x[row * x_stride + col]);
      if (residual != nullptr) {
        const __nv_bfloat16 rounded =
            __float2bfloat16_rn(value + __bfloat162float(residual[row * residual_stride + col]));
        sum[row * sum_stride + col] = rounded;
        value = __bfloat162float(rounded);  // the norm is of the rounded sum: the residual stream is bf16
      }
    }
    values[i] = value;
    squares += value * value;
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(width) + eps);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int col = i * blockDim.x + threadIdx.x;
    if (col < width) {
      out[row * out_stride + col] = __float2bfloat16_rn(values[i] * scale * __bfloat162float(weight[col]));
    }
  }
}

}  // namespace

// Pointers are to device memory of `device`; strides are in elements; threads is a multiple of 32 and at most 1024.
// residual and sum may be null together. Returns the cudaError of the launch (0: none).
extern "C" int parity_add_rmsnorm(const void* x, const void* residual, const void* weight, void* out, void* sum,
                                  long long x_stride, long long residual_stride, long long out_stride,
                                  long long sum_stride, int rows, int width, float eps, int threads, int device,
                                  void* stream) {
  const cudaError_t chosen = cudaSetDevice(device);
  if (chosen != cudaSuccess) return static_cast<int>(chosen);
  const auto kernel = width <= 8 * threads ? add_rmsnorm<8> : add_rmsnorm<16>;
  kernel<<<rows, threads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const __nv_bfloat16*>(x), static_cast<const __nv_bfloat16*>(residual),
      static_cast<const __nv_bfloat16*>(weight), static_cast<__nv_bfloat16*>(out), static_cast<__nv_bfloat16*>(sum),
      x_stride, residual_stride, out_stride, sum_stride, width, eps);
  return static_cast<int>(cudaGetLastError());
}
