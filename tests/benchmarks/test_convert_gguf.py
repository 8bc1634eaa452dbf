"""GGUF files written again for llama.cpp hold the same model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.convert_gguf import rewrite
from tests.export.test_gguf import write_gguf
from tests.tiny_llama import write_llama

# Half a step of 8 bits, of the largest weight.
LARGEST_ERROR = 0.5 / 127 * 1.01


@pytest.fixture
def source(tmp_path: Path) -> gguf.GGUFReader:
    write_gguf(tmp_path / "source.gguf", write_llama(tmp_path / "checkpoint", intermediate_size=64))
    return gguf.GGUFReader(str(tmp_path / "source.gguf"))


@pytest.mark.parametrize("precision", ["F32", "Q8_0"])
def test_settings_and_weights_are_kept(source: gguf.GGUFReader, tmp_path: Path, precision: str) -> None:
    rewrite(tmp_path / "source.gguf", tmp_path / "target.gguf", precision)
    target = gguf.GGUFReader(str(tmp_path / "target.gguf"))
    added = {"general.file_type", "GGUF.kv_count"}
    assert set(target.fields) - added == set(source.fields) - added
    for name in set(source.fields) - added:
        assert target.fields[name].contents() == source.fields[name].contents(), name
    assert [t.name for t in target.tensors] == [t.name for t in source.tensors]
    for old, new in zip(source.tensors, target.tensors, strict=True):
        matrix = len(old.shape) > 1
        assert new.tensor_type.name == (precision if matrix else "F32")
        found = gguf.dequantize(new.data, new.tensor_type)
        tolerance = LARGEST_ERROR * np.abs(old.data).max() if new.tensor_type.name == "Q8_0" else 0
        np.testing.assert_allclose(found, old.data, rtol=0, atol=tolerance)


def test_what_is_rounded_is_kept_as_it_is_read(source: gguf.GGUFReader, tmp_path: Path) -> None:
    rewrite(tmp_path / "source.gguf", tmp_path / "rounded.gguf", "Q8_0")
    rewrite(tmp_path / "rounded.gguf", tmp_path / "exact.gguf", "F32")
    rounded, exact = (gguf.GGUFReader(str(tmp_path / f"{name}.gguf")) for name in ("rounded", "exact"))
    assert len(exact.tensors) == len(source.tensors)
    for one, other in zip(rounded.tensors, exact.tensors, strict=True):
        np.testing.assert_array_equal(gguf.dequantize(one.data, one.tensor_type), other.data)
