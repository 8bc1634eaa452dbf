"""The structure of an hnswlib index file, checked before hnswlib reads it: it would follow any number in it.

Layout (hnswlib 0.8, ``HierarchicalNSW::saveIndex``): a header of 96 bytes; per element its level-0 links
(a count, then ``maxM0`` ids), its vector and its label; per element the size of its upper links, and these.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError

HEADER = struct.Struct("<6QiI3QdQ")
ELEMENTS_AT_ONCE = 16384


@dataclass(frozen=True)
class _Header:
    offset_level0: int
    max_elements: int
    elements: int
    element_bytes: int
    label_offset: int
    vector_offset: int
    max_level: int
    entry_point: int
    max_links: int
    max_links0: int
    m: int
    mult: float
    ef_construction: int


def check_file(path: Path, *, dim: int, elements: int, rows: int) -> None:
    """Refuse an index file with which hnswlib would leave its memory.

    Args:
        path: the file.
        dim: width of its vectors.
        elements: how many it must hold.
        rows: every label must be below.

    Raises:
        CorruptIndexError: a number in it is out of its range.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        data = stream.read(HEADER.size)
    if len(data) < HEADER.size:
        raise CorruptIndexError(f"{path} has {size} bytes, fewer than its header")
    header = _Header(*HEADER.unpack(data))
    level0_end = HEADER.size + header.elements * header.element_bytes
    consistent = (
        header.offset_level0 == 0
        and header.elements == header.max_elements == elements
        and header.vector_offset == 4 + 4 * header.max_links0
        and header.label_offset == header.vector_offset + 4 * dim
        and header.element_bytes == header.label_offset + 8
        and header.entry_point < elements
        and 2 <= header.max_links <= header.max_links0 <= 4096
        and level0_end <= size
    )
    if not consistent:
        raise CorruptIndexError(
            f"{path} has a header that does not fit {elements} vectors of {dim}: {header}"
        )
    _check_level0(path, header, rows)
    _check_upper_levels(path, header, level0_end)


def _check_level0(path: Path, header: _Header, rows: int) -> None:
    for start in range(0, header.elements, ELEMENTS_AT_ONCE):
        count = min(ELEMENTS_AT_ONCE, header.elements - start)
        offset = HEADER.size + start * header.element_bytes
        shape = (count, header.element_bytes)
        block: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
        links = np.ascontiguousarray(block[:, :2]).view("<u2")[:, 0]
        ids = np.ascontiguousarray(block[:, 4 : header.vector_offset]).view("<u4")
        used = np.arange(header.max_links0) < links[:, None]
        labels = np.ascontiguousarray(block[:, header.label_offset :]).view("<u8")[:, 0]
        if links.max() > header.max_links0 or (ids[used] >= header.elements).any() or labels.max() >= rows:
            raise CorruptIndexError(f"{path} has links or labels out of range at elements {start} onwards")


def _check_upper_levels(path: Path, header: _Header, offset: int) -> None:
    words = np.fromfile(path, dtype="<u4", offset=offset)
    levels = np.zeros(header.elements, dtype=np.int64)
    at = 0
    linked, linked_at = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for element in range(header.elements):
        length = int(words[at]) // 4 if at < len(words) else -1
        upper = words[at + 1 : at + 1 + length]
        if length < 0 or len(upper) != length or length % (1 + header.max_links) or int(words[at]) % 4:
            raise CorruptIndexError(
                f"{path} ends within the links of element {element}, or has a wrong length"
            )
        at += 1 + length
        if length:
            lists = upper.reshape(-1, 1 + header.max_links)
            levels[element] = len(lists)
            counts = lists[:, 0] & 0xFFFF
            level, place = np.nonzero(np.arange(header.max_links) < counts[:, None])
            if counts.max() > header.max_links:
                raise CorruptIndexError(f"{path} has {counts.max()} links at element {element}")
            linked.append(lists[level, 1 + place].astype(np.int64))
            linked_at.append(level + 1)
    if at != len(words) or levels.max() != header.max_level or levels[header.entry_point] != header.max_level:
        raise CorruptIndexError(f"{path} has {levels.max()} levels, its header says {header.max_level}")
    # A link on a level that its element does not have would be followed out of the element's memory.
    ids, needed = np.concatenate(linked), np.concatenate(linked_at)
    if (ids >= header.elements).any() or (levels[ids] < needed).any():
        raise CorruptIndexError(f"{path} has links on upper levels to elements that are not there")
