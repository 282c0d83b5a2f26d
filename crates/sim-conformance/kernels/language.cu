// What the compiler and its device library make of the language: calls, memory spaces, parameters, output, arithmetic.
#include <cassert>
#include <cstdio>

// Functions by address, chosen per thread.
using Binary = int (*)(int, int);
__device__ __noinline__ int add(int a, int b) { return a + b; }
__device__ __noinline__ int subtract(int a, int b) { return a - b; }
__device__ __noinline__ int gcd(int a, int b) {
  while (b != 0) {
    int rest = a % b;
    a = b;
    b = rest;
  }
  return a < 0 ? -a : a;
}
__device__ Binary table[3] = {add, subtract, gcd};

extern "C" __global__ void language_function_pointers(const int* x, const int* which, int* out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = table[which[i]](x[i], i + 1);
}

struct Shape {
  int a, b;
  __device__ Shape(int a, int b) : a(a), b(b) {}
  __device__ virtual int area() const { return a * b; }
  __device__ virtual int sides() const = 0;
};
struct Rectangle : Shape {
  using Shape::Shape;
  __device__ int sides() const override { return 4; }
};
struct Triangle : Shape {
  using Shape::Shape;
  __device__ int area() const override { return a * b / 2; }
  __device__ int sides() const override { return 3; }
};

extern "C" __global__ void language_virtual_calls(const int* x, int* out) {
  int i = threadIdx.x;
  Rectangle rectangle(x[i], i);
  Triangle triangle(x[i], i + 1);
  const Shape* shape = x[i] % 2 == 0 ? static_cast<const Shape*>(&rectangle) : &triangle;
  out[i] = shape->area() * 10 + shape->sides();
}

__device__ __noinline__ int ackermann(int m, int n) {
  if (m == 0) return n + 1;
  if (n == 0) return ackermann(m - 1, 1);
  return ackermann(m - 1, ackermann(m, n - 1));
}

extern "C" __global__ void language_recursion(const int* m, const int* n, int* out) {
  int i = threadIdx.x;
  out[i] = ackermann(m[i], n[i]);
}

struct Big {
  int scale;
  int offsets[12];
  float4 weights[2];
};

// The array is indexed by a value that only the thread knows: it must be addressable.
extern "C" __global__ void language_grid_constant(const __grid_constant__ Big big, const int* x, float* out) {
  int i = threadIdx.x;
  const float* weights = &big.weights[0].x;
  out[i] = big.scale * big.offsets[x[i] % 12] + weights[x[i] % 8];
}

extern "C" __global__ void language_dynamic_shared(const double* x, double* out, int count) {
  extern __shared__ double doubles[];
  int* order = reinterpret_cast<int*>(doubles + count);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    doubles[i] = x[i];
    order[i] = count - 1 - i;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x) out[i] = doubles[order[i]];
}

extern "C" __global__ void language_local_arrays(const int* x, int* out, int rounds) {
  int stack[32], top = 0, i = threadIdx.x;
  for (int r = 0; r < rounds; ++r) {
    int v = x[(i + r) % blockDim.x];
    if (v % 3 != 0 && top < 32) stack[top++] = v;
    else if (top > 0) stack[--top / 2] += v;
  }
  int sum = top;
  for (int k = 0; k < top; ++k) sum = sum * 31 + stack[k];
  out[i] = sum;
}

extern "C" __global__ void language_switch(const int* x, int* out, int count) {
  int i = threadIdx.x, v = x[i], r = 0;
  switch (v) {
    case 0: r = out[i] * 3; break;
    case 1: r = x[(i + 1) % count] - 100;
    case 2: r ^= 0x55; break;
    case 3:
      for (int k = 0; k < i; ++k) r += x[k];
      break;
    case 4: r = i * i; break;
    case 5: return;
    case 6: out[i] = 7; return;
    case 7: r = i % 7; break;
    case 8: r = x[i / 2]; break;
    case 9: r = __popc(x[i]) + x[0]; break;
    default: r = 12345;
  }
  out[i] = r;
}

__constant__ int primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
__device__ int counter = 5;
__device__ const char* const words[3] = {"zero", "one", "two"};

extern "C" __global__ void language_variables(const int* x, int* out, int* last) {
  int i = threadIdx.x;
  const char* word = words[x[i] % 3];
  int letters = 0;
  while (word[letters] != 0) ++letters;
  out[i] = primes[x[i] % 8] * 10 + letters;
  int old = atomicAdd(&counter, 1);
  __syncthreads();
  if (i == 0) {
    *last = counter;
    counter = 5;
  }
  (void)old;
}

extern "C" __global__ void language_printf(const int* x, const float* y) {
  int i = threadIdx.x;
  if (i == 0) printf("start %d%%\n", 100);
  __syncthreads();
  if (i == 3) printf("%d %u %lld %x [%5d] [%-5d] [%05d] %c %s\n", x[0], 7u, 1ll << 40, 255, x[1], 42, 42, 'z', "text");
  if (i == 3) printf("%f %.2f %e %g %8.3f|\n", y[0], y[1], 12345.678, 0.5, -1.0);
}

extern "C" __global__ void language_assert(const int* x) {
  int i = threadIdx.x;
  assert(x[i] >= 0);
}

extern "C" __global__ void language_trap(const int* x) {
  if (x[threadIdx.x] < 0) __trap();
}
