"""Compiling kernels with numba, also where nothing may be written.

numba is imported with this module, so import it, and what uses it, where it is needed.
"""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled at its first call. The machine code is kept beside the file or in the user's cache folder;
    where neither can be written to, each process compiles for itself, which takes some seconds."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return numba.njit(function)
