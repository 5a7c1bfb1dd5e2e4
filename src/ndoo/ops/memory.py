"""How the process keeps its memory, and gives it back."""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8  # from glibc's malloc.h
_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def use_one_heap() -> None:
    """Have all threads allocate from one heap; call it before the first of them starts.

    Every thread that touches a message would otherwise keep freed buffers of megabytes in a heap of
    its own: with eight bulk streams, 310 MB resident in place of 370. Where the C library is
    another, nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


def collect_rarely() -> None:
    """Look for cycles of garbage seldom, and never among what was imported; call it after imports.

    A batch of changes is tens of thousands of objects that soon go by themselves. Looking through
    them again and again costs about a fifth of the time of catching up.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 50, 50)
