"""Keeping the memory of large tensors from one layer to the next."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc's allocator keep what is freed; returns whether it will.

    It asks the system for every large tensor anew and gives it back when it is freed; the system then clears every page of it, which takes
    a convolution on a CPU as long as its arithmetic. This changes the whole process: call it where the process is the package's own, as
    ``instaaug`` does. Nothing changes where the environment says what malloc shall do (``MALLOC_…``, ``GLIBC_TUNABLES``), or without glibc.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, MOST))
