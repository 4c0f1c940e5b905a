"""What the compiler chose, read from the compiled object: the ELF sections, and the structures and enums of its BTF.

Formats: System V ABI chapter 4 (ELF-64, little-endian); Documentation/bpf/btf.rst of the Linux kernel.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF = 1, 2, 3, 4, 5, 6, 8
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
_ALIASES = {_TYPEDEF, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
_BYTES_PER_ENTRY = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}
_BYTES_OF_TAIL = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}


def sections(path: Path) -> dict[str, bytes]:
    """The named sections of an ELF object; of several with one name, the last."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", f"{path} is no little-endian ELF-64 object"
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    entries = [struct.unpack_from("<IIQQQQ", data, table + index * entry_bytes) for index in range(count)]
    names = entries[names_index][4]
    return {
        _text(data, names + name): data[offset : offset + size] for name, _, _, _, offset, size in entries if offset
    }


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    entries: tuple[tuple[int, ...], ...]


class Btf:
    """``layout(name)`` and ``enums`` of a .BTF section."""

    def __init__(self, data: bytes) -> None:
        magic, _, _, header_bytes, types, types_bytes, strings, _ = struct.unpack_from("<HBBIIIII", data)
        assert magic == _MAGIC, "no BTF section"
        self._strings = data[header_bytes + strings :]
        self._types = [_Type("void", 0, 0, ()), *self._read(data[header_bytes + types :][:types_bytes])]
        self._structs = {each.name: each for each in self._types if each.kind == _STRUCT}
        self.enums = {
            each.name: {_text(self._strings, name): value for name, value in each.entries}
            for each in self._types
            if each.kind == _ENUM
        }

    def bytes_of(self, name: str) -> int:
        """sizeof(struct name)."""
        return self._structs[name].size_or_type

    def layout(self, name: str) -> dict[str, tuple[int, int]]:
        """(offset, bytes) of each field of a structure, down to the numbers: ``rules[0][3].family``.

        A field in network byte order, ``*_be``, is one field, however many words it has.
        """
        return dict(self._members(self._structs[name], "", 0))

    def _members(self, structure: _Type, path: str, start: int) -> Iterator[tuple[str, tuple[int, int]]]:
        for name, type_id, bits in structure.entries:
            field = _text(self._strings, name)
            yield from self._field(type_id, f"{path}{field}", start + bits // 8, opaque=field.endswith("_be"))

    def _field(self, type_id: int, path: str, start: int, *, opaque: bool) -> Iterator[tuple[str, tuple[int, int]]]:
        type_ = self._resolved(type_id)
        # An array of addresses in network order opens into addresses, and they stay closed.
        inner = self._resolved(type_.entries[0][0]) if type_.kind == _ARRAY else None
        if inner is not None and (not opaque or inner.kind == _ARRAY):
            for index in range(type_.entries[0][2]):
                at = start + index * self._bytes(type_.entries[0][0])
                yield from self._field(type_.entries[0][0], f"{path}[{index}]", at, opaque=opaque)
        elif type_.kind == _STRUCT:
            yield from self._members(type_, f"{path}.", start)
        else:
            yield path, (start, self._bytes(type_id))

    def _bytes(self, type_id: int) -> int:
        type_ = self._resolved(type_id)
        if type_.kind == _ARRAY:
            element, _, count = type_.entries[0]
            return count * self._bytes(element)
        return 8 if type_.kind == _PTR else type_.size_or_type

    def _resolved(self, type_id: int) -> _Type:
        type_ = self._types[type_id]
        while type_.kind in _ALIASES:
            type_ = self._types[type_.size_or_type]
        return type_

    def _read(self, data: bytes) -> Iterator[_Type]:
        offset = 0
        while offset < len(data):
            name, info, size_or_type = struct.unpack_from("<III", data, offset)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            offset += 12
            entry_bytes = _BYTES_PER_ENTRY.get(kind, 0)
            entries: tuple[tuple[int, ...], ...] = ()
            if kind in (_STRUCT, _ENUM):
                layout = "<III" if kind == _STRUCT else "<Ii"
                entries = tuple(struct.unpack_from(layout, data, offset + i * entry_bytes) for i in range(count))
            elif kind == _ARRAY:
                entries = (struct.unpack_from("<III", data, offset),)
            offset += count * entry_bytes + _BYTES_OF_TAIL.get(kind, 0)
            yield _Type(_text(self._strings, name), kind, size_or_type, entries)


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
