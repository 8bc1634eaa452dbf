"""Rotary embeddings: every supported kind against transformers, also beyond the length the model began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from tests.export.test_generators import decoder, logits
from tests.tiny_llama import write_llama

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "linear, as old configs say": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "yarn with its own attention factor": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 256,
            "attention_factor": 1.7,
        },
    },
}


@pytest.mark.parametrize("name", SCALINGS)
def test_logits(tmp_path: Path, name: str) -> None:
    model = write_llama(tmp_path / "c", **SCALINGS[name])
    run = decoder(export_bundle(tmp_path / "b", generator=tmp_path / "c"))
    random = np.random.default_rng(0)
    prompts = [random.integers(4, 300, size=length).tolist() for length in (3, 40, 400)]
    answer = [50, 60, 70]
    found = run.teacher_force(prompts, answer)
    for row, prompt in enumerate(prompts):
        wanted = logits(model, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
        np.testing.assert_allclose(found[row], wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_scaling_changes_the_logits(tmp_path: Path) -> None:
    """Or the comparison above would hold for a graph that ignores it."""
    prompt = list(range(20, 90))
    plain = logits(write_llama(tmp_path / "plain"), prompt)[-1]
    for i, settings in enumerate(SCALINGS.values()):
        scaled = logits(write_llama(tmp_path / str(i), **settings), prompt)[-1]
        assert np.abs(scaled - plain).max() > 1e-2 * np.abs(plain).max()


def test_longrope_is_refused(tmp_path: Path) -> None:
    factors = [1.0] * 4
    scaling = {"rope_type": "longrope", "factor": 2.0, "short_factor": factors, "long_factor": factors}
    write_llama(tmp_path / "c", rope_scaling=scaling)
    with pytest.raises(
        ExportError, match="rope_scaling of type 'longrope' is not supported: expected default"
    ):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
