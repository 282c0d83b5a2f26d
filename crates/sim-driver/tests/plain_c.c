/* A plain C program that knows nothing of the simulated GPU: loads PTX text, runs a kernel, compares, and makes one mistake. */
#include <stdio.h>
#include <stdlib.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;

CUresult cuInit(unsigned flags);
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device);
CUresult cuCtxSetCurrent(CUcontext context);
CUresult cuCtxSynchronize(void);
CUresult cuModuleLoadData(CUmodule *module, const void *image);
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name);
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes);
CUresult cuMemFree_v2(CUdeviceptr address);
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);
CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                        unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra);
CUresult cuGetErrorName(CUresult error, const char **name);

static void check(CUresult result, const char *call) {
    const char *name = "?";
    if (result == 0) return;
    cuGetErrorName(result, &name);
    fprintf(stderr, "%s: %s\n", call, name);
    exit(1);
}
#define CHECK(call) check(call, #call)

static char *read_text(const char *path) {
    static char text[1 << 16];
    FILE *file = fopen(path, "r");
    if (!file || fread(text, 1, sizeof text - 1, file) == 0) exit(2);
    fclose(file);
    return text;
}

int main(int argc, char **argv) {
    enum { COUNT = 1000 };
    static float a[COUNT], b[COUNT], sum[COUNT];
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction add;
    CUdeviceptr at[3];
    unsigned count = COUNT;
    if (argc != 2) return 2;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, read_text(argv[1])));
    CHECK(cuModuleGetFunction(&add, module, "vector_add"));
    for (int i = 0; i < COUNT; i++) {
        a[i] = 0.5f * i;
        b[i] = 1000 - i;
    }
    for (int i = 0; i < 3; i++) CHECK(cuMemAlloc_v2(&at[i], sizeof a));
    CHECK(cuMemcpyHtoD_v2(at[0], a, sizeof a));
    CHECK(cuMemcpyHtoD_v2(at[1], b, sizeof b));
    void *params[] = {&at[0], &at[1], &at[2], &count};
    CHECK(cuLaunchKernel(add, (COUNT + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
    CHECK(cuMemcpyDtoH_v2(sum, at[2], sizeof sum));
    for (int i = 0; i < COUNT; i++) {
        if (sum[i] != a[i] + b[i]) {
            fprintf(stderr, "sum[%d] = %g, expected %g\n", i, sum[i], a[i] + b[i]);
            return 1;
        }
    }
    printf("%d sums are right\n", COUNT);
    CHECK(cuMemFree_v2(at[0]));
    CHECK(cuLaunchKernel(add, (COUNT + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
    printf("reading memory that was freed was not noticed\n");
    return 0;
}
