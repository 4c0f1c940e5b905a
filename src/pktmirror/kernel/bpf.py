"""bpf(2) through the distribution's libbpf: objects, maps, tcx links, pins, test runs. An edge module.

Every failure is an OSError with its errno; for an object that the kernel refuses, the last lines of libbpf's and the
verifier's log are its message. Nothing here knows what the programs do.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cffi import FFI

TCX_INGRESS, TCX_EGRESS = 46, 47  # enum bpf_attach_type, Linux 6.6; libbpf 1.1 does not know the names
_XDP = 37  # enum bpf_attach_type
_XDP_GENERIC = 2  # XDP_FLAGS_SKB_MODE
_MAP_TYPE_ARRAY = 2
_PERCPU_TYPES = {5, 6, 10}  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
_BPF_ANY = 0
_BPF_F_MMAPABLE = 1 << 10
_BATCH = 4096  # of the keys of a map
_ENOENT = 2
_OBJ_NAME_BYTES = 15
_PROG_INFO_BYTES, _VERIFIED_INSNS_AT = 232, 216  # struct bpf_prog_info
_LINK_INFO_BYTES, _LINK_IFINDEX_AT = 64, 16  # struct bpf_link_info, of tcx and of XDP
_SK_BUFF_BYTES = 192  # struct __sk_buff, Linux 6.18

_ffi = FFI()
_ffi.cdef(
    """
    struct bpf_object; struct bpf_program; struct bpf_map;
    struct bpf_map_info {
        uint32_t type, id, key_size, value_size, max_entries, map_flags; char name[16]; uint8_t rest[64];
    };
    struct bpf_test_run_opts {
        size_t sz; const void *data_in; void *data_out; uint32_t data_size_in, data_size_out;
        const void *ctx_in; void *ctx_out; uint32_t ctx_size_in, ctx_size_out;
        int32_t retval; int repeat; uint32_t duration, flags, cpu, batch_size;
    };
    struct bpf_object *bpf_object__open_file(const char *path, const void *opts);
    int bpf_object__load(struct bpf_object *object);
    void bpf_object__close(struct bpf_object *object);
    struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *object, const char *name);
    int bpf_program__fd(const struct bpf_program *program);
    struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object, const char *name);
    int bpf_map__fd(const struct bpf_map *map);
    struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *map);
    struct bpf_map *bpf_map__inner_map(struct bpf_map *map);
    uint32_t bpf_map__max_entries(const struct bpf_map *map);
    uint32_t bpf_map__value_size(const struct bpf_map *map);
    int bpf_map__set_inner_map_fd(struct bpf_map *map, int fd);
    struct bpf_map_create_opts {
        size_t sz; uint32_t btf_fd, btf_key_type_id, btf_value_type_id, btf_vmlinux_value_type_id, inner_map_fd,
        map_flags; uint64_t map_extra; uint32_t numa_node, map_ifindex;
    };
    int bpf_map_create(int type, const char *name, uint32_t key_bytes, uint32_t value_bytes, uint32_t entries_max,
                       const void *opts);
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
    int bpf_map_lookup_elem(int fd, const void *key, void *value);
    int bpf_map_delete_elem(int fd, const void *key);
    int bpf_map_get_next_key(int fd, const void *key, void *next_key);
    int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, uint32_t *count,
                             const void *opts);
    int bpf_map_get_fd_by_id(uint32_t id);
    int bpf_obj_pin(int fd, const char *path);
    int bpf_obj_get(const char *path);
    int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *info_bytes);
    struct bpf_link_create_opts { size_t sz; uint32_t flags, reserved; };
    int bpf_link_create(int program_fd, int target, int attach_type, const struct bpf_link_create_opts *opts);
    int bpf_link_detach(int link_fd);
    int bpf_link_update(int link_fd, int program_fd, const void *opts);
    int bpf_prog_test_run_opts(int program_fd, struct bpf_test_run_opts *opts);
    int libbpf_num_possible_cpus(void);
    typedef int (*libbpf_print_fn_t)(int level, const char *format, void *arguments);
    libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t print);
    """
)
_libc_ffi = FFI()
_libc_ffi.cdef("int vsnprintf(char *text, size_t bytes, const char *format, void *arguments);")
_libc = _libc_ffi.dlopen(None)
_log: list[str] = []
_library: Any = None


@_ffi.callback("int(int, const char *, void *)")  # type: ignore[untyped-decorator]
def _keep_log(level: int, format_: Any, arguments: Any) -> int:
    if level > 0:  # LIBBPF_INFO and LIBBPF_DEBUG say nothing of a failure
        return 0
    text = _libc_ffi.new("char[]", 1 << 20)  # the verifier explains itself at length, its point comes last
    arguments = _libc_ffi.cast("void *", int(_ffi.cast("uintptr_t", arguments)))
    format_ = _libc_ffi.cast("char *", int(_ffi.cast("uintptr_t", format_)))
    _libc.vsnprintf(text, len(text), format_, arguments)
    _log.append(_libc_ffi.string(text).decode(errors="replace").rstrip())
    del _log[:-20]
    return 0


def libbpf() -> Any:
    """The library; OSError where the machine has none."""
    global _library  # noqa: PLW0603 -- loaded once, and only when the kernel is really needed
    if _library is None:
        library = _ffi.dlopen("libbpf.so.1")
        library.libbpf_set_print(_keep_log)
        _library = library
    return _library


def _checked(result: int, what: str) -> int:
    """libbpf 1.x returns -errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def possible_cpus() -> int:
    """How many values a per-CPU map holds for a key."""
    return _checked(libbpf().libbpf_num_possible_cpus(), "libbpf_num_possible_cpus")


class Handle:
    """A file descriptor of the kernel's, closed once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pin(self, path: Path) -> None:
        """Keep the object alive under a path of a bpffs, whoever closes it."""
        _checked(libbpf().bpf_obj_pin(self.fd, os.fsencode(path)), f"pin {path}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Map(Handle):
    """A BPF map of bytes; a per-CPU map has one value a CPU, each padded to 8 bytes."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = _ffi.new("struct bpf_map_info *")
        length = _ffi.new("uint32_t *", _ffi.sizeof("struct bpf_map_info"))
        _checked(libbpf().bpf_obj_get_info_by_fd(fd, info, length), "bpf_obj_get_info_by_fd")
        self.map_id: int = info.id
        self.key_bytes: int = info.key_size
        self.value_bytes: int = info.value_size
        self.entries_max: int = info.max_entries
        self._padded_bytes = (self.value_bytes + 7) // 8 * 8
        self._values = possible_cpus() if info.type in _PERCPU_TYPES else 1
        self._lookup_buffer: Any = None

    @classmethod
    def of_id(cls, map_id: int) -> "Map":
        return cls(_checked(libbpf().bpf_map_get_fd_by_id(map_id), f"map {map_id}"))

    @classmethod
    def pinned(cls, path: Path) -> "Map":
        return cls(_get_pinned(path))

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None where there is none. Not for per-CPU maps."""
        if not self._lookup(key):
            return None
        return bytes(_ffi.buffer(self._buffer, self.value_bytes))

    def get_percpu(self, key: bytes) -> list[bytes]:
        """One value a CPU; empty where the key is not there."""
        if not self._lookup(key):
            return []
        return [
            bytes(_ffi.buffer(self._buffer + cpu * self._padded_bytes, self.value_bytes)) for cpu in range(self._values)
        ]

    def put(self, key: bytes, value: bytes) -> None:
        """Write one value, or for a per-CPU map the same value for every CPU."""
        assert (len(key), len(value)) == (self.key_bytes, self.value_bytes), "the ABI and the object differ"
        padded = value.ljust(self._padded_bytes, b"\0") * self._values if self._values > 1 else value
        _checked(libbpf().bpf_map_update_elem(self.fd, key, padded, _BPF_ANY), "bpf_map_update_elem")

    def delete(self, key: bytes) -> None:
        """KeyError where it is not there."""
        result = libbpf().bpf_map_delete_elem(self.fd, key)
        if result == -_ENOENT:
            raise KeyError(key)
        _checked(result, "bpf_map_delete_elem")

    def keys(self) -> Iterator[bytes]:
        key = _ffi.NULL
        while True:
            next_key = _ffi.new("char[]", self.key_bytes)
            if libbpf().bpf_map_get_next_key(self.fd, key, next_key) < 0:
                return
            yield bytes(_ffi.buffer(next_key))
            key = next_key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys that have a value, and the value. Many at a time, since each call costs: an array of maps may be
        large and nearly empty. Not for per-CPU maps."""
        batch, last, count = _ffi.new("char[]", max(4, self.key_bytes)), _ffi.NULL, _ffi.new("uint32_t *")
        keys = _ffi.new("char[]", self.key_bytes * _BATCH)
        values = _ffi.new("char[]", self.value_bytes * _BATCH)
        done = False
        while not done:
            count[0] = _BATCH
            result = libbpf().bpf_map_lookup_batch(self.fd, last, batch, keys, values, count, _ffi.NULL)
            done = result == -_ENOENT
            if not done:
                _checked(result, "bpf_map_lookup_batch")
            for index in range(count[0]):
                yield (
                    bytes(_ffi.buffer(keys + index * self.key_bytes, self.key_bytes)),
                    bytes(_ffi.buffer(values + index * self.value_bytes, self.value_bytes)),
                )
            last = batch

    def memory(self) -> mmap.mmap:
        """All values of an array with BPF_F_MMAPABLE, to be read and written in place."""
        page_bytes = mmap.PAGESIZE
        padded = self._padded_bytes * self.entries_max
        return mmap.mmap(self.fd, (padded + page_bytes - 1) // page_bytes * page_bytes)

    @property
    def _buffer(self) -> Any:
        """Made at the first look-up: a value may be as large as all filters."""
        if self._lookup_buffer is None:
            self._lookup_buffer = _ffi.new("char[]", self._padded_bytes * self._values)
        return self._lookup_buffer

    def _lookup(self, key: bytes) -> bool:
        assert len(key) == self.key_bytes, "the ABI and the object differ"
        result = libbpf().bpf_map_lookup_elem(self.fd, key, self._buffer)
        if result == -_ENOENT:
            return False
        _checked(result, "bpf_map_lookup_elem")
        return True


def create_array(name: str, value: bytes) -> Map:
    """An array map of one element, which is the form of an inner map."""
    fd = libbpf().bpf_map_create(_MAP_TYPE_ARRAY, name.encode()[:_OBJ_NAME_BYTES], 4, len(value), 1, _ffi.NULL)
    array = Map(_checked(fd, "bpf_map_create"))
    array.put(bytes(4), value)
    return array


def create_mappable_array(name: str, entries_max: int, value_bytes: int) -> Map:
    """An array map for `Map.memory`."""
    opts = _ffi.new("struct bpf_map_create_opts *")
    opts.sz, opts.map_flags = _ffi.sizeof("struct bpf_map_create_opts"), _BPF_F_MMAPABLE
    fd = libbpf().bpf_map_create(_MAP_TYPE_ARRAY, name.encode()[:_OBJ_NAME_BYTES], 4, value_bytes, entries_max, opts)
    return Map(_checked(fd, "bpf_map_create"))


@dataclass(frozen=True, slots=True)
class TestRun:
    """What BPF_PROG_TEST_RUN says: the verdict (signed, as TCX_NEXT is −1), the packet and its struct __sk_buff after
    the program, and the mean time of a run."""

    verdict: int
    frame: bytes
    context: bytes
    mean_ns: int


class Program(Handle):
    """A loaded program."""

    @classmethod
    def pinned(cls, path: Path) -> "Program":
        return cls(_get_pinned(path))

    def verified_instructions(self) -> int:
        """How many instructions the verifier looked at (bpf_prog_info.verified_insns, Linux 5.16)."""
        info, info_bytes = _ffi.new("char[]", _PROG_INFO_BYTES), _ffi.new("uint32_t *", _PROG_INFO_BYTES)
        _checked(libbpf().bpf_obj_get_info_by_fd(self.fd, info, info_bytes), "BPF_OBJ_GET_INFO_BY_FD")
        return int.from_bytes(bytes(_ffi.buffer(info))[_VERIFIED_INSNS_AT:][:4], "little")

    def test_run(self, frame: bytes, *, context: bytes = b"", repeat: int = 1) -> TestRun:
        """Run the program on a frame of at least 14 bytes; ``context`` is the beginning of a struct __sk_buff."""
        out = _ffi.new("char[]", len(frame) + 512)
        data, ctx = _ffi.new("char[]", frame), _ffi.new("char[]", context)
        ctx_out = _ffi.new("char[]", _SK_BUFF_BYTES)
        opts = _ffi.new("struct bpf_test_run_opts *")
        opts.sz = _ffi.sizeof("struct bpf_test_run_opts")
        opts.data_in, opts.data_size_in = data, len(frame)
        opts.data_out, opts.data_size_out = out, len(out)
        if context:
            opts.ctx_in, opts.ctx_size_in = ctx, len(context)
        opts.ctx_out, opts.ctx_size_out = ctx_out, len(ctx_out)
        opts.repeat = repeat
        _checked(libbpf().bpf_prog_test_run_opts(self.fd, opts), "BPF_PROG_TEST_RUN")
        after = bytes(_ffi.buffer(ctx_out, opts.ctx_size_out))
        return TestRun(opts.retval, bytes(_ffi.buffer(out, opts.data_size_out)), after, opts.duration)


class Link(Handle):
    """A program at a hook of a device. Closing an unpinned link detaches it."""

    @classmethod
    def attach(cls, program: Program, ifindex: int, attach_type: int) -> "Link":
        """The device is looked up in the network namespace of the calling thread."""
        fd = libbpf().bpf_link_create(program.fd, ifindex, attach_type, _ffi.NULL)
        return cls(_checked(fd, f"attach to the tcx hook of device {ifindex} (Linux 6.6 or later)"))

    @classmethod
    def attach_xdp_generic(cls, program: Program, ifindex: int) -> "Link":
        """At the generic XDP hook, which every device has (Linux 5.9 for links)."""
        opts = _ffi.new("struct bpf_link_create_opts *")
        opts.sz, opts.flags = _ffi.sizeof("struct bpf_link_create_opts"), _XDP_GENERIC
        fd = libbpf().bpf_link_create(program.fd, ifindex, _XDP, opts)
        return cls(_checked(fd, f"attach to the generic XDP hook of device {ifindex} (Linux 5.9 or later)"))

    @classmethod
    def pinned(cls, path: Path) -> "Link":
        return cls(_get_pinned(path))

    def detach(self) -> None:
        """Take the program away from its hook, now, whoever else holds the link."""
        _checked(libbpf().bpf_link_detach(self.fd), "BPF_LINK_DETACH")

    def ifindex(self) -> int:
        """The device at which the program is; 0 when the device is gone, or somebody took the program off by force."""
        info, info_bytes = _ffi.new("char[]", _LINK_INFO_BYTES), _ffi.new("uint32_t *", _LINK_INFO_BYTES)
        _checked(libbpf().bpf_obj_get_info_by_fd(self.fd, info, info_bytes), "BPF_OBJ_GET_INFO_BY_FD")
        return int.from_bytes(bytes(_ffi.buffer(info))[_LINK_IFINDEX_AT:][:4], "little")

    def update(self, program: Program) -> None:
        """Put another program in its place, at once and without a gap (BPF_LINK_UPDATE)."""
        _checked(libbpf().bpf_link_update(self.fd, program.fd, _ffi.NULL), "BPF_LINK_UPDATE")


class Object:
    """A compiled object in the kernel: its programs and maps by name. OSError where the kernel refuses it.

    An inner map that is declared as a mappable array with max_entries 0 has one element for each CPU.
    """

    def __init__(self, path: Path) -> None:
        library = libbpf()
        _log.clear()
        self._object = library.bpf_object__open_file(os.fsencode(path), _ffi.NULL)
        if self._object == _ffi.NULL:
            raise FileNotFoundError(2, "libbpf cannot open the object: " + _last_of_log(), str(path))
        with contextlib.ExitStack() as until_loaded:
            self._size_inner_maps(until_loaded)
            result = library.bpf_object__load(self._object)
        if result < 0:
            library.bpf_object__close(self._object)
            raise OSError(-result, f"the kernel refuses {path.name}: {os.strerror(-result)}\n{_last_of_log()}")

    def _size_inner_maps(self, until_loaded: contextlib.ExitStack) -> None:
        """By a map as they shall be: bpf_map__set_max_entries cannot do it, libbpf 1.1 crashes for an inner map."""
        library = libbpf()
        map_ = library.bpf_object__next_map(self._object, _ffi.NULL)
        while map_ != _ffi.NULL:
            inner = library.bpf_map__inner_map(map_)
            if inner != _ffi.NULL and library.bpf_map__max_entries(inner) == 0:
                sample = create_mappable_array("sample", possible_cpus(), library.bpf_map__value_size(inner))
                until_loaded.enter_context(sample)
                _checked(library.bpf_map__set_inner_map_fd(map_, sample.fd), "bpf_map__set_inner_map_fd")
            map_ = library.bpf_object__next_map(self._object, map_)

    def program(self, name: str) -> Program:
        program = libbpf().bpf_object__find_program_by_name(self._object, name.encode())
        return Program(os.dup(_checked(libbpf().bpf_program__fd(program), name)))

    def map(self, name: str) -> Map:
        found = libbpf().bpf_object__find_map_by_name(self._object, name.encode())
        return Map(os.dup(_checked(libbpf().bpf_map__fd(found), name)))

    def close(self) -> None:
        """Programs and maps that were handed out live on."""
        libbpf().bpf_object__close(self._object)


def _get_pinned(path: Path) -> int:
    result: int = libbpf().bpf_obj_get(os.fsencode(path))
    if result < 0:
        raise OSError(-result, os.strerror(-result), str(path))
    return result


def _last_of_log() -> str:
    return "\n".join("\n".join(_log).splitlines()[-30:])
