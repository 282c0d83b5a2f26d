"""Transposes a matrix twice through the CUDA driver API: python3 transpose.py transpose.ptx

The worked example of docs/simulator.md: any program that loads libcuda and ships PTX runs on the simulated GPU like this.
"""

import ctypes
import sys

ROWS, COLUMNS = 128, 96
COUNT = ROWS * COLUMNS

cuda = ctypes.CDLL("libcuda.so.1")


def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorName(status, ctypes.byref(text))
        sys.exit(f"{name}: {(text.value or b'an unknown error').decode()}")


def buffer():
    address = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(address), 4 * COUNT)
    return address


def launch(module, kernel, rows, columns, source, target):
    function = ctypes.c_void_p()
    call("cuModuleGetFunction", ctypes.byref(function), module, kernel.encode())
    values = [source, target, ctypes.c_int(rows), ctypes.c_int(columns)]
    arguments = (ctypes.c_void_p * 4)(*[ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values])
    grid = (columns + 31) // 32, (rows + 31) // 32, 1
    call("cuLaunchKernel", function, *grid, 32, 8, 1, 0, None, arguments, None)


def main():
    call("cuInit", 0)
    context, module = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    with open(sys.argv[1], "rb") as file:
        call("cuModuleLoadData", ctypes.byref(module), file.read() + b"\0")
    first, second, third = buffer(), buffer(), buffer()
    numbers = (ctypes.c_float * COUNT)(*range(COUNT))
    call("cuMemcpyHtoD_v2", first, numbers, 4 * COUNT)
    launch(module, "transpose", ROWS, COLUMNS, first, second)
    launch(module, "transpose_one_bank", COLUMNS, ROWS, second, third)
    back = (ctypes.c_float * COUNT)()
    call("cuMemcpyDtoH_v2", back, third, 4 * COUNT)
    print("transposed twice:", "the same" if list(back) == list(numbers) else "different")
    # The kernel with the bug, as this program would call it.
    launch(module, "transpose_unordered", ROWS, COLUMNS, first, second)
    call("cuCtxSynchronize")


main()
