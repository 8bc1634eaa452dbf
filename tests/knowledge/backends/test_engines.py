"""Two engines that answer from one knowledge base on a server, which changes meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_infer import KnowledgeBase, Passage, RagEngine
from rag_infer.errors import EncoderMismatchError
from tests.knowledge.backends.server import PostgresServer
from tests.knowledge.encoders import HashingEncoder

QUESTION = "Which is the longest river of Africa?"


@pytest.mark.real_model
def test_two_engines_share_a_server(demo_bundle: Path, postgres: PostgresServer) -> None:
    address = postgres.address()
    nile = Passage("n", "The Nile is the longest river of Africa.", title="Nile")
    with KnowledgeBase.create(address, bundle=demo_bundle) as kb:
        kb.upsert([nile])
    with (
        RagEngine.from_pretrained(demo_bundle, knowledge_base=address) as one,
        KnowledgeBase.open(address, bundle=demo_bundle) as opened,
    ):
        two = RagEngine.from_pretrained(demo_bundle, knowledge_base=opened)
        first, second = (engine.generate(QUESTION, max_new_tokens=4) for engine in (one, two))
        assert (first.text, first.revision) == (second.text, 1)
        # What one of them writes, the other one finds.
        one.knowledge_base.upsert(
            [Passage("c", "The Congo is the deepest river of the world.", title="Congo")]
        )
        answer = two.generate(QUESTION, max_new_tokens=4)
        assert ([p.id for p in answer.passages], answer.revision) == (["n", "c"], 2)
        assert [p.id for p in one.search(QUESTION)] == ["n", "c"]
        two.close()
        assert len(opened) == 2  # it was open when it was given


@pytest.mark.real_model
def test_an_engine_refuses_another_encoders_knowledge_base(
    demo_bundle: Path, postgres: PostgresServer
) -> None:
    address = postgres.address()
    with KnowledgeBase.create(address, encoder=HashingEncoder()) as kb:
        with pytest.raises(EncoderMismatchError, match="hashing-16-dot-0"):
            RagEngine.from_pretrained(demo_bundle, knowledge_base=address)
        with pytest.raises(EncoderMismatchError, match="hashing-16-dot-0"):
            RagEngine.from_pretrained(demo_bundle, knowledge_base=kb)
        assert len(kb) == 0
