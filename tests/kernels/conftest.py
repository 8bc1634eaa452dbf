"""Runs every kernel test that asks for ``level`` once for each instruction level of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from rag_infer import _kernels

# Under the sanitizers everything is an order of magnitude slower.
settings.register_profile("sanitizer", max_examples=15, deadline=None)
settings.register_profile("kernels", max_examples=60, deadline=None)
settings.load_profile(os.environ.get("RAG_INFER_TEST_PROFILE", "kernels"))


@pytest.fixture(params=_kernels.available_levels(), scope="module")
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction level in use during the test."""
    before = _kernels.instruction_level()
    _kernels.set_instruction_level(request.param)
    yield request.param
    _kernels.set_instruction_level(before)
