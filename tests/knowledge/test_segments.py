"""Mapping vector files: once while they stay what they are, and never another file than the one that is there."""

from __future__ import annotations

import numpy as np
import pytest

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.vectors import Segments

DIM, ROWS_PER_SEGMENT = 4, 5


@pytest.fixture
def segments(tmp_path):
    return Segments(tmp_path, dim=DIM, rows_per_segment=ROWS_PER_SEGMENT)


def rows(first: int, end: int) -> np.ndarray:
    return np.repeat(np.arange(first, end, dtype=np.float32)[:, None], DIM, axis=1)


def test_full_files_are_mapped_once_while_rows_are_added(segments):
    segments.append(1, 0, rows(0, 12))
    before = segments.map(1, 12).segments
    segments.append(1, 12, rows(12, 14))
    after = segments.map(1, 14).segments
    assert [a is b for a, b in zip(after, before, strict=True)] == [True, True, False]
    np.testing.assert_array_equal(np.concatenate(after), rows(0, 14))
    np.testing.assert_array_equal(np.concatenate(before), rows(0, 12))


def test_a_file_that_takes_another_ones_place_is_mapped_anew(segments):
    segments.append(1, 0, rows(0, 5))
    segments.map(1, 5)
    path = segments.path(1, 0)
    rows(7, 12).tofile(path.with_suffix(".other"))
    path.with_suffix(".other").rename(path)
    np.testing.assert_array_equal(segments.map(1, 5).segments[0], rows(7, 12))


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_file_that_is_harmed_after_it_was_mapped_is_noticed(segments, harm):
    segments.append(1, 0, rows(0, 5))
    segments.map(1, 5)
    path = segments.path(1, 0)
    path.unlink()
    if harm == "short":
        path.write_bytes(bytes(8))
    with pytest.raises(CorruptIndexError, match="80 are recorded"):
        segments.map(1, 5)


def test_no_rows_need_no_file(segments):
    assert segments.map(1, 0).segments == ()
