"""A BPF ring buffer, read through the distribution's libbpf. An edge module."""

import os
from typing import Any

from cffi import FFI

from pktmirror.kernel.bpf import Map

_ffi = FFI()
_ffi.cdef(
    """
    struct ring_buffer;
    typedef int (*ring_buffer_sample_fn)(void *context, void *data, size_t bytes);
    struct ring_buffer *ring_buffer__new(int map_fd, ring_buffer_sample_fn sample, void *context, const void *opts);
    void ring_buffer__free(struct ring_buffer *ring);
    int ring_buffer__consume(struct ring_buffer *ring);
    """
)


class Ring:
    """The one reader of a ring. OSError where the kernel does not let it be read."""

    def __init__(self, map_: Map) -> None:
        self._records: list[bytes] = []
        self._library: Any = _ffi.dlopen("libbpf.so.1")
        self._sample = _ffi.callback("int(void *, void *, size_t)", self._take)
        self._ring = self._library.ring_buffer__new(map_.fd, self._sample, _ffi.NULL, _ffi.NULL)
        if self._ring == _ffi.NULL:
            raise OSError(_ffi.errno, f"read the ring: {os.strerror(_ffi.errno)}")

    def read(self) -> list[bytes]:
        """All records that are there, the oldest first; they are taken out. It does not wait."""
        self._records = []
        result = self._library.ring_buffer__consume(self._ring)
        if result < 0:
            raise OSError(-result, f"read the ring: {os.strerror(-result)}")
        return self._records

    def close(self) -> None:
        self._library.ring_buffer__free(self._ring)

    def _take(self, _context: Any, data: Any, length: int) -> int:
        self._records.append(bytes(_ffi.buffer(data, length)))
        return 0
