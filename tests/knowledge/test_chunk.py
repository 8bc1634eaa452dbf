"""Long documents cut into passages: nothing lost, nothing too long, every piece in its place."""

from __future__ import annotations

import json
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.errors import CorpusError
from rag_infer.knowledge import (
    ChunkConfig,
    Chunker,
    Document,
    KnowledgeBase,
    Passage,
    PassageTokens,
    Upserted,
    chunk_id,
)
from rag_infer.knowledge.boundaries import sentences, words
from rag_infer.knowledge.importers import Corpus
from rag_infer.knowledge.passage import MAX_METADATA_BYTES, passage_text
from rag_infer.text import Tokenizer
from tests.knowledge.tiny_bundle import make_tiny_bundle

# What sentence and grapheme rules look at, beside any character there is.
PIECES = ["Dr. ", "One two. ", "end.\n\n", "\r\n", "。", "e\u0301", " \u0301", "\u0600 ", "A\u2028."]
PIECES += ["🇩🇪", "👩‍👩‍👧", "क्षि", "[SEP]", "\x00"]
TEXTS = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    min_size=1,
    max_size=40,
).map("".join)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> PassageTokens:
    """Byte-level with a merge, a prefix and special tokens: tokens of pieces do not add up to those of the whole."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ee", "Ġe", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("e", "e"), ("Ġ", "e")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.add_special_tokens(["[CLS]", "[SEP]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")]
    )
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    made.save(str(path))
    return PassageTokens(Tokenizer(path), max_length=512, prefix="passage: ")


def pieces(config: ChunkConfig, text: str, tokens: PassageTokens | None = None, title: str = "") -> list[str]:
    return [p.text for p in Chunker(config, tokens=tokens).chunks(Document("d", text, title))]


def check_cover(text: str, chunks: list[Passage]) -> None:
    """Slices in order that hold every character but white space, and nothing twice but what overlaps."""
    reached = 0
    for number, chunk in enumerate(chunks):
        place = chunk.metadata
        assert chunk.id == chunk_id("d", number)
        assert (place["chunk_number"], place["chunk_count"], place["chunk_document"]) == (
            number,
            len(chunks),
            "d",
        )
        assert text[place["chunk_start"] : place["chunk_end"]] == chunk.text
        assert not text[reached : place["chunk_start"]].strip()
        assert place["chunk_end"] > reached
        reached = place["chunk_end"]
    assert not text[reached:].strip()


def grapheme_ends(text: str) -> set[int]:
    return {0, *(match.end() for match in regex.finditer(r"\X", text))}


@given(
    text=TEXTS.filter(lambda t: bool(t.strip())),
    size=st.integers(60, 120),
    overlap=st.integers(0, 59),
    whole=st.booleans(),
    title=st.sampled_from(["", "eee", "Ünï"]),
)
@settings(max_examples=300, deadline=None)
def test_by_tokens(
    tokens: PassageTokens, text: str, size: int, overlap: int, whole: bool, title: str
) -> None:
    config = ChunkConfig(size=size, overlap=overlap, sentences=whole)
    chunker = Chunker(config, tokens=tokens)
    chunks = list(chunker.chunks(Document("d", text, title, {"topic": "x"})))
    check_cover(text, chunks)
    assert chunks == list(chunker.chunks(Document("d", text, title, {"topic": "x"}))), (
        "it is the same each time"
    )
    cuts = grapheme_ends(text)
    longest = max(len(grapheme.encode()) for grapheme in regex.findall(r"\X", text))
    for chunk in chunks:
        assert tokens.of_text(passage_text(chunk)) <= size
        assert (chunk.title, chunk.metadata["topic"]) == (title, "x")
        if longest < 30:  # else a grapheme may be too long for a chunk
            assert {chunk.metadata["chunk_start"], chunk.metadata["chunk_end"]} <= cuts
    for before, after in pairwise(chunks):
        shared = text[after.metadata["chunk_start"] : before.metadata["chunk_end"]]
        # Tokens of pieces do not add up exactly here: one more for each piece at most.
        assert overlap or not shared.strip()
        assert tokens.of_pieces([shared])[0] <= overlap + len(shared.split()) + 1


@given(text=TEXTS.filter(lambda t: bool(t.strip())), size=st.integers(1, 12), share=st.floats(0, 0.99))
@settings(max_examples=300, deadline=None)
def test_by_words_exactly(text: str, size: int, share: float) -> None:
    overlap = int(size * share)
    config = ChunkConfig(size=size, unit="words", overlap=overlap, sentences=False)
    chunks = list(Chunker(config).chunks(Document("d", text)))
    check_cover(text, chunks)
    ends = grapheme_ends(text)
    assert all({c.metadata["chunk_start"], c.metadata["chunk_end"]} <= ends for c in chunks)
    counts = [len(c.text.split()) for c in chunks]
    assert max(counts) <= size
    if text.isascii():
        assert counts[:-1] == [size] * (len(counts) - 1), "filled, the last one excepted"
        for before, after in pairwise(chunks):
            shared = text[after.metadata["chunk_start"] : before.metadata["chunk_end"]]
            assert len(shared.split()) == overlap


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_boundaries_keep_graphemes_and_lose_nothing(text: str) -> None:
    ends = grapheme_ends(text)
    for spans in (list(words(text)), list(sentences(text, "en"))):
        reached = 0
        for start, end in spans:
            assert {start, end} <= ends
            assert start >= reached
            assert not text[reached:start].strip()
            reached = end
        assert not text[reached:].strip()


def test_sentences_stay_whole() -> None:
    text = "Dr. Smith came home. He slept. Then it rained, e.g. on the roof.\n\nA new day began."
    config = ChunkConfig(size=7, unit="words")
    assert pieces(config, text) == [
        "Dr. Smith came home. He slept.",
        "Then it rained, e.g. on the roof.",
        "A new day began.",
    ]
    overlapping = ChunkConfig(size=9, unit="words", overlap=3)
    assert pieces(overlapping, text)[1] == "He slept. Then it rained, e.g. on the roof."


def test_sentences_behind_a_window_and_between_many_paragraphs() -> None:
    # sentencex leaves out some blank lines here, and its windows end within sentences.
    sentence = "The river runs to the sea on a green day."
    text = "\n\n".join(" ".join([sentence] * 30) for _ in range(60))
    assert len(text) > 60_000
    assert {text[start:end] for start, end in sentences(text, "en")} == {sentence}


def test_dpr_blocks() -> None:
    text = " ".join(f"w{i}" for i in range(250))
    assert [len(p.split()) for p in pieces(ChunkConfig.dpr(), text)] == [100, 100, 50]


def test_a_word_longer_than_a_chunk(tokens: PassageTokens) -> None:
    family = "👩‍👩‍👧"
    made = pieces(ChunkConfig(size=60), "x" * 500 + family * 20, tokens)
    assert "".join(made) == "x" * 500 + family * 20
    assert all(p.count("👩") % 2 == 0 for p in made), "a family stays together"
    # One grapheme that no chunk holds is cut all the same.
    marks = "e" + "\u0301" * 200
    assert "".join(pieces(ChunkConfig(size=60), marks, tokens)) == marks


def test_a_long_text_of_few_tokens_is_cut_by_characters(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    tokens = PassageTokens.from_bundle(bundle)
    text = "a" * 100_000  # one unknown word
    made = pieces(ChunkConfig(size=32), text, tokens)
    assert "".join(made) == text
    assert max(map(len, made)) <= tokens.max_characters


def test_what_cannot_be_cut(tokens: PassageTokens) -> None:
    chunker = Chunker(ChunkConfig(size=20), tokens=tokens)
    with pytest.raises(ValueError, match=r"title and special tokens take .* no room for text"):
        chunker.chunks(Document("d", "text", "a long, long title"))
    tight = Chunker(ChunkConfig(size=tokens.of_text("") + 1), tokens=tokens)
    with pytest.raises(ValueError, match=r"'😀' at 0 takes 5 of the 1"):
        tight.chunks(Document("d", "😀"))
    with pytest.raises(ValueError, match="'d' has the metadata field chunk_count, chunk_end"):
        chunker.chunks(Document("d", "text", metadata={"chunk_count": 1, "chunk_end": 2}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "at least 1, got 0"),
        ({"size": 5, "overlap": 5}, "below their size of 5, got 5"),
        ({"size": 5, "overlap": -1}, "got -1"),
        ({"size": 5, "unit": "lines"}, "not 'lines'"),
        ({"size": 5, "language": "English!"}, "got 'English!'"),
    ],
)
def test_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChunkConfig(**wrong)


def test_settings_and_encoder(tokens: PassageTokens) -> None:
    with pytest.raises(TypeError, match="must be an int, got float"):
        ChunkConfig(size=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either bundle or tokens"):
        Chunker(ChunkConfig(size=5))
    with pytest.raises(ValueError, match="chunks of 513 tokens: the passage encoder reads 512"):
        Chunker(ChunkConfig(size=513), tokens=tokens)


def test_documents() -> None:
    assert len(Document("d", "é" * 1_500_000).text) == 1_500_000
    with pytest.raises(ValueError, match="64,000,001 bytes, over 64,000,000"):
        Document("d", "a" * 64_000_001)
    with pytest.raises(ValueError, match="empty text"):
        Document("d", " \n")
    with pytest.raises(ValueError, match="lone surrogate"):
        Document("d", "a\ud800")
    with pytest.raises(TypeError, match="text must be a string"):
        Document("d", b"a")  # type: ignore[arg-type]


def test_a_shorter_version_of_a_document_leaves_no_chunk_behind(kb: KnowledgeBase) -> None:
    chunker = Chunker(ChunkConfig(size=2, unit="words", sentences=False))
    long, other = Document("d", "one two three four five six"), Document("e", "seven eight nine")
    assert kb.upsert_documents([long, other], chunker) == Upserted(added=5)
    assert kb.upsert_documents([Document("d", "one two three")], chunker) == Upserted(replaced=2)
    ids = [f"{d}#{n}" for d in "de" for n in range(3)]
    assert [p and p.text for p in kb.get(ids)] == ["one two", "three", None, "seven eight", "nine", None]
    assert kb.revision == 2
    kb.check()


def test_a_chunk_that_is_missing_hides_no_later_one(kb: KnowledgeBase) -> None:
    chunker = Chunker(ChunkConfig(size=1, unit="words", sentences=False))
    kb.upsert_documents([Document("d", " ".join(f"w{i}" for i in range(200)))], chunker)
    kb.delete(["d#5", *(f"d#{i}" for i in range(80, 120))])
    kb.upsert_documents([Document("d", "w0 w1")], chunker)
    assert [p.id for p in kb.search("w0", k=200)] == ["d#0", "d#1"]


def test_metadata_without_room_for_the_place() -> None:
    """Told before the first chunk, so that a corpus can skip the document."""
    chunker = Chunker(ChunkConfig(size=1, unit="words", sentences=False))
    metadata = {"long": "x" * (MAX_METADATA_BYTES - 110)}
    assert len(list(chunker.chunks(Document("d", "a b", metadata=metadata)))) == 2
    with pytest.raises(
        ValueError, match=r"passage 'd#999' has metadata of 1,000,00\d bytes as JSON, over 1,000,000"
    ):
        chunker.chunks(Document("d", "a " * 1000, metadata=metadata))


def test_passages_are_deleted_by_metadata(kb: KnowledgeBase) -> None:
    kb.upsert([Passage(f"p{i}", f"word{i}", metadata={"year": i}) for i in range(6)])
    assert kb.delete(["p0", "p9"], where={"year": {"$gte": 4}}) == ["p0", "p4", "p5"]
    assert kb.delete(where={"year": 77}) == []
    assert (len(kb), kb.revision) == (3, 2)
    with pytest.raises(ValueError, match="where is empty"):
        kb.delete(where={})
    kb.check()
    # What is not so also holds for rows that are dead already.
    assert kb.delete(where={"year": {"$ne": 1}}) == ["p2", "p3"]


def test_deleting_by_metadata_takes_bounded_memory(kb: KnowledgeBase) -> None:
    passages = [Passage(str(i), "long " * 4_000, metadata={"old": i < 2_000}) for i in range(2_001)]
    kb.upsert(passages, np.ones((2_001, kb.settings.dim), dtype=np.float32))
    tracemalloc.start()
    try:
        assert kb.delete(where={"old": True}) == [str(i) for i in range(2_000)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25_000_000  # of 40 MB that were deleted
    assert len(kb) == 1
    kb.check()


def test_upsert_takes_chunks_as_they_come(kb: KnowledgeBase) -> None:
    document = Document("d", "The cat sat. The dog runs. The sea is deep.", metadata={"year": 2020})
    chunker = Chunker(ChunkConfig(size=3, unit="words"))
    assert kb.upsert(chunker.chunks(document)).added == 4
    best = kb.search("the dog runs.", k=1, where={"year": 2020})[0]
    assert (best.text, best.metadata["chunk_document"]) == ("The dog runs.", "d")
    assert kb.upsert(chunker.chunks(document)).unchanged == 4


def test_corpus_of_long_documents(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    long = ("x" * 999 + " ") * 9_000  # 9 MB: no passage, no line without a chunker
    entries = [
        {"_id": "a", "text": long},
        {"_id": "b", "text": "x", "chunk_end": 1},
        {"_id": "c", "text": "One."},
    ]
    path.write_text("".join(json.dumps(e) + "\n" for e in entries))
    with Corpus([path]) as corpus, pytest.raises(CorpusError, match="line 1: a line of over 8,000,000 bytes"):
        list(corpus)
    chunker = Chunker(ChunkConfig(size=45, unit="words", sentences=False))
    with (
        Corpus([path], chunker=chunker) as corpus,
        pytest.raises(CorpusError, match="line 2: document 'b' has"),
    ):
        list(corpus)
    with Corpus([path], chunker=chunker, skip_bad_lines=True) as corpus:
        made = list(corpus)
        assert [made[0].id, made[199].id, made[200].id] == ["a#0", "a#199", "c#0"]
        assert corpus.skipped == {"no chunks": 1}
        assert corpus.total() is None


def test_time_is_linear() -> None:
    chunker = Chunker(ChunkConfig(size=100, unit="words", overlap=20))

    def seconds(text: str) -> float:
        started = time.process_time()
        list(chunker.chunks(Document("d", text)))
        return time.process_time() - started

    # What makes sentencex quadratic, many words and one long one.
    for piece in ('." ', "The sea is deep. ", "x"):
        once = min(seconds(piece * (200_000 // len(piece))) for _ in range(2))
        assert seconds(piece * (800_000 // len(piece))) < 10 * once + 0.1


@pytest.mark.real_model
def test_real_articles(demo_bundle: Path, wiki_summaries: Path) -> None:
    articles = [str(text) for text in json.loads(wiki_summaries.read_text(encoding="utf-8")).values()][:600]
    tokens = PassageTokens.from_bundle(demo_bundle)
    bundle = Bundle.load(demo_bundle)
    encoder = TextEncoder.from_bundle(bundle, bundle.manifest.passage_encoder)
    text = "\n\n".join(articles)
    for config in (ChunkConfig(size=256, overlap=48), ChunkConfig(size=100, overlap=30, sentences=False)):
        chunks = list(Chunker(config, tokens=tokens).chunks(Document("d", text, "Many articles")))
        check_cover(text, chunks)
        read = [tokens.of_text(passage_text(c)) for c in chunks]
        assert max(read) <= config.size
        assert [len(row) for row in encoder.tokenise([passage_text(c) for c in chunks])] == read, (
            "none is cut"
        )
        assert sum(read) / len(read) > (0.7 if config.sentences else 0.95) * config.size, "well filled"
        for before, after in pairwise(chunks):
            shared = text[after.metadata["chunk_start"] : before.metadata["chunk_end"]]
            assert tokens.of_pieces([shared])[0] <= config.overlap
