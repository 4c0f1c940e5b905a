"""Programs of others at the hooks of a device: they count what they see, and drop or end what is for their port.

Written instruction by instruction, so that a test needs no compiler.
"""

import struct
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cffi import FFI

from pktmirror.kernel import bpf

_SCHED_CLS, _XDP = 3, 6  # enum bpf_prog_type
_XDP_ATTACH = 37
BEFORE_ALL = 1 << 3  # BPF_F_BEFORE without another program: in front of all
_PORT_AT = 36  # in an IPv4 packet without options, behind Ethernet: the destination port

_ffi = FFI()
_ffi.cdef(
    """
    int bpf_prog_load(int type, const char *name, const char *license, const void *insns, size_t count, void *opts);
    int bpf_link_detach(int link_fd);
    int bpf_link_create(int program_fd, int target, int attach_type, const void *opts);
    struct link_create_opts {
        size_t sz; uint32_t flags; void *iter_info; uint32_t iter_info_len; uint32_t target_btf_id;
    };
    int bpf_prog_query(int target_fd, int type, uint32_t query_flags, uint32_t *attach_flags, uint32_t *prog_ids,
                       uint32_t *prog_cnt);
    int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *info_bytes);
    """
)
_library: Any = _ffi.dlopen("libbpf.so.1")


class Tcx(IntEnum):
    """What a program at tcx answers (uapi linux/bpf.h)."""

    NEXT, PASS, DROP = -1, 0, 2


class Xdp(IntEnum):
    """What a program at XDP answers."""

    DROP, PASS = 1, 2


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, what)
    return result


def take_off(pinned: Path) -> None:
    """Detach a link that somebody has pinned, as `bpftool link detach` does; its pin stays."""
    with bpf.Link.pinned(pinned) as link:
        _checked(_library.bpf_link_detach(link.fd), f"detach {pinned}")


def _insn(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, immediate)


def _counting(map_fd: int, at_port: int, answer: int, otherwise: int, *, is_xdp: bool) -> bytes:
    """r6 = context; count in the map; ``answer`` to what is for the port, else ``otherwise``."""
    port_be = int.from_bytes(at_port.to_bytes(2), "little")
    data, data_end = (0, 4) if is_xdp else (76, 80)  # struct xdp_md, struct __sk_buff
    program = [
        _insn(0xBF, 6, 1),  # r6 = context
        _insn(0x62, 10, 0, -4, 0),  # key = 0
        _insn(0x18, 1, 1, 0, map_fd),  # r1 = map
        _insn(0),
        _insn(0xBF, 2, 10),
        _insn(0x07, 2, 0, 0, -4),
        _insn(0x85, immediate=1),  # map_lookup_elem
        _insn(0x15, 0, 0, 2, 0),  # not there: two further
        _insn(0xB7, 1, 0, 0, 1),
        _insn(0xDB, 0, 1, 0, 0),  # lock *(u64 *)r0 += 1
        _insn(0x61, 2, 6, data),
        _insn(0x61, 3, 6, data_end),
        _insn(0xBF, 4, 2),
        _insn(0x07, 4, 0, 0, _PORT_AT + 2),
        _insn(0x2D, 4, 3, 4, 0),  # too short
        _insn(0x69, 5, 2, _PORT_AT),
        _insn(0x55, 5, 0, 2, port_be),
        _insn(0xB7, 0, 0, 0, answer),
        _insn(0x95),
        _insn(0xB7, 0, 0, 0, otherwise),
        _insn(0x95),
    ]
    return b"".join(program)


class Other:
    """A program of somebody else's, and how many packets it has seen."""

    def __init__(self, answer: Tcx | Xdp, *, to_port: int, otherwise: Tcx | Xdp) -> None:
        self.is_xdp = isinstance(answer, Xdp)
        self._count = bpf.create_array("seen", bytes(8))
        code = _counting(self._count.fd, to_port, answer, otherwise, is_xdp=self.is_xdp)
        kind = _XDP if self.is_xdp else _SCHED_CLS
        loaded = _library.bpf_prog_load(kind, b"others", b"GPL", code, len(code) // 8, _ffi.NULL)
        self.program = bpf.Program(_checked(loaded, "bpf_prog_load"))
        self._link: bpf.Link | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.take_off()
        self.program.close()
        self._count.close()

    @property
    def seen(self) -> int:
        return int.from_bytes(self._count.get(bytes(4)) or b"", "little")

    @property
    def program_id(self) -> int:
        info, length = _ffi.new("char[]", 232), _ffi.new("uint32_t *", 232)
        _checked(_library.bpf_obj_get_info_by_fd(self.program.fd, info, length), "info")
        return int.from_bytes(bytes(_ffi.buffer(info))[4:8], "little")

    def put_on(self, ifindex: int, attach_type: int = _XDP_ATTACH, *, flags: int = 0) -> None:
        """Behind all that are there, or where the flags say. In the network namespace of the calling thread."""
        opts = _ffi.new("struct link_create_opts *")
        opts.sz, opts.flags = _ffi.sizeof("struct link_create_opts"), flags
        link = _library.bpf_link_create(self.program.fd, ifindex, attach_type, opts)
        self._link = bpf.Link(_checked(link, f"attach to {ifindex}"))

    def take_off(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def at_hook(ifindex: int, attach_type: int) -> list[int]:
    """The ids of the programs at a tcx hook, in the order in which they run."""
    ids, count = _ffi.new("uint32_t[64]"), _ffi.new("uint32_t *", 64)
    _checked(_library.bpf_prog_query(ifindex, attach_type, 0, _ffi.NULL, ids, count), "BPF_PROG_QUERY")
    return list(ids)[: count[0]]
