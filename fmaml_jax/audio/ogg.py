"""Which pages of an Ogg file are lost: each has a checksum and a number (RFC 3533)."""

import mmap
import os
import zlib
from typing import NamedTuple

_MARK = b"OggS"
_HEADER = 27
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES = 0xFFFF_FFFF


class Pages(NamedTuple):
    """How many pages are whole and how many are missing; whether the last one is cut."""

    whole: int
    lost: int
    cut: bool


def count_pages(path: str | os.PathLike) -> Pages:
    """Reads the pages of an Ogg file; streams may run side by side or follow one another."""
    whole = lost = 0
    numbers: dict[bytes, int] = {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        at = end = 0  # `end` is that of the last whole page
        while (at := raw.find(_MARK, at)) >= 0:
            page = _page(raw, at)
            if page is None:
                at += len(_MARK)
                continue
            stream, number = page[14:18], int.from_bytes(page[18:22], "little")
            begins = page[5] & 2
            lost += 0 if begins else max(0, number - numbers.get(stream, -1) - 1)
            numbers[stream] = number
            whole += 1
            at = end = at + len(page)
        return Pages(whole, lost, raw[end : end + len(_MARK)] == _MARK)


def _page(raw: mmap.mmap, at: int) -> bytes | None:
    """The page that begins here; None where it is cut or its checksum is wrong."""
    header = raw[at : at + _HEADER]
    if len(header) < _HEADER:
        return None
    body = at + _HEADER + header[26]
    end = body + sum(raw[at + _HEADER : body])
    page = raw[at:end]
    if end > len(raw) or _checksum(page) != int.from_bytes(header[22:26], "little"):
        return None
    return page


def _checksum(page: bytes) -> int:
    """Ogg's cyclic redundancy check: zlib's with the bits of every byte and word in reverse."""
    blank = page[:22] + bytes(4) + page[26:]
    reverse = zlib.crc32(blank.translate(_REVERSED), _ONES) ^ _ONES
    return int.from_bytes(reverse.to_bytes(4, "little").translate(_REVERSED), "big")
