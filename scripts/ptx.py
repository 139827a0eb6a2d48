#!/usr/bin/env python3
"""Compile CUDA kernels to PTX with NVRTC, which needs no GPU and no CUDA toolkit.

    ptx.py --nvrtc LIBNVRTC SOURCE TARGET

The PTX is for compute capability 7.5 and all later ones: the driver compiles it for its GPU when it is loaded. The driver must be for the
CUDA version of NVRTC or a later one. The source must include nothing. The
last line of the PTX says which source it is of, so that a library takes no other one:

    // sha256 of the source: HEX
"""

import argparse
import ctypes
import glob
import hashlib
import os

OPTIONS = ["--gpu-architecture=compute_75", "--std=c++17"]


def compile_ptx(library, source, name):
    """The PTX of a source text, as bytes. Raises RuntimeError with the compiler's log."""
    library = os.path.abspath(library)
    for builtins in sorted(glob.glob(os.path.join(os.path.dirname(library), "libnvrtc-builtins.so*"))):
        ctypes.CDLL(builtins)  # NVRTC asks the loader for it by its name alone
    nvrtc = ctypes.CDLL(library)
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p

    def text_of(size_call, call):
        size = ctypes.c_size_t()
        check(size_call(program, ctypes.byref(size)), "its size")
        text = ctypes.create_string_buffer(size.value)
        check(call(program, text), "its text")
        return text.raw.rstrip(b"\0")

    def check(code, doing):
        if code != 0:
            raise RuntimeError(f"NVRTC: {doing}: {nvrtc.nvrtcGetErrorString(code).decode()}")

    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None), "creating a program")
    options = (ctypes.c_char_p * len(OPTIONS))(*[option.encode() for option in OPTIONS])
    code = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)
    if code != 0:
        log = text_of(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(code).decode()}\n{log.decode(errors='replace')}")
    return text_of(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) + b"\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvrtc", required=True, metavar="LIBNVRTC", help="libnvrtc.so of CUDA; its builtins lie beside it")
    parser.add_argument("source", help="kernels in CUDA C++")
    parser.add_argument("target", help="the PTX")
    args = parser.parse_args()
    with open(args.source, "rb") as file:
        source = file.read()
    try:
        ptx = compile_ptx(args.nvrtc, source, os.path.basename(args.source))
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"ptx: {args.source}: {error}") from None
    with open(args.target + ".new", "wb") as file:
        file.write(ptx + b"// sha256 of the source: " + hashlib.sha256(source).hexdigest().encode() + b"\n")
    os.replace(args.target + ".new", args.target)


if __name__ == "__main__":
    main()
