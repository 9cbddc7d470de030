"""Large buffers on the CPU, kept for the next call when nobody uses them any more.

The C library returns a large freed block to the system, which hands out zeroed pages again at the next allocation:
0.4 ms per MB on Linux, as much as the convolution that fills it. CUDA tensors have a caching allocator for this
reason; here are its few lines for the buffers of this package.
"""

import threading
from typing import Any

import torch

_SMALLEST = 1 << 17
_IDLE_REQUESTS = 256

_lock = threading.Lock()
_kept: list = []
_scratch: list = []
_requests = 0


class _Kept:
    """One storage of the cache and the request that last used it."""

    def __init__(self, storage):
        self.storage, self.bytes, self.used = storage, storage.nbytes(), _requests

    def free(self):
        """Whether only the cache still holds the storage, at its full size."""
        return torch._C._storage_Use_Count(self.storage._cdata) == 1 and self.storage.nbytes() == self.bytes


def _let_go(idle):
    """Give back what nobody uses, nor has used for so many requests."""
    for kept in (_kept, _scratch):
        kept[:] = [k for k in kept if _requests - k.used < idle or not k.free()]


def _taken(kept, shape, dtype):
    """A tensor in a storage of the cache."""
    kept.used = _requests
    blank: Any = torch.empty(0, dtype=dtype)
    return blank.set_(kept.storage, 0, torch.Size(shape))


def empty(shape, dtype, device):
    """Uninitialised tensor; on the CPU, large ones come from the cache where one of nearly their size is free."""
    global _requests
    size = torch.Size(shape).numel() * dtype.itemsize
    if torch.device(device).type != "cpu" or size < _SMALLEST:
        return torch.empty(shape, dtype=dtype, device=device)
    with _lock:
        _requests += 1
        _let_go(_IDLE_REQUESTS)
        fitting = [k for k in _kept if size <= k.bytes <= size + size // 4 and k.free()]
        if fitting:
            chosen = min(fitting, key=lambda k: k.bytes)
        else:
            chosen = _Kept(torch.empty(size, dtype=torch.uint8).untyped_storage())
            _kept.append(chosen)
        return _taken(chosen, shape, dtype)


def scratch(count, dtype):
    """Uninitialised tensor of so many values on the CPU, for the length of a call. One buffer, as large as the largest
    call's, serves all calls that come in turn."""
    global _requests
    size = count * dtype.itemsize
    with _lock:
        _requests += 1
        _let_go(_IDLE_REQUESTS)
        found = next((k for k in _scratch if k.free() and k.bytes >= size), None)
        if found is None:
            _scratch[:] = [k for k in _scratch if not k.free()]
            found = _Kept(torch.empty(size, dtype=torch.uint8).untyped_storage())
            _scratch.append(found)
        return _taken(found, (count,), dtype)


def empty_cache():
    """Give the buffers that nobody uses back to the system."""
    with _lock:
        _let_go(0)
