"""The measures of the demonstration with images, on a small random bundle: they count what the engine answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_images
from rag_infer import RagEngine
from rag_infer.export.demo import images, images_measure
from rag_infer.images import read_image
from rag_infer.knowledge import KnowledgeBase, SearchConfig
from rag_infer.query import Query
from tests.knowledge.seeing import COLOURS, picture_file
from tests.seeing_bundles import passages, write_bundle

SEARCH = SearchConfig(fusion="max")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the stages leave it: a bundle whose generator sees the question's image, a knowledge base, and questions.

    Every second answer is the one that the engine gives; of the last image not all is known.
    """
    made = tmp_path_factory.mktemp("demo")
    (made / "checkpoints").mkdir()
    write_bundle(made, "question")
    with KnowledgeBase.create(made / "kb", bundle=made / "bundle", threads=1) as kb:
        kb.upsert(passages())
    files = [picture_file(made / "checkpoints", colour, 30) for colour in COLOURS]
    with RagEngine.from_pretrained(made / "bundle", knowledge_base=made / "kb", threads=1) as engine:
        given = [engine.generate(Query("a b", file), search=SEARCH).text for file in files]
    lines = [
        {
            "question": "a b",
            "image": file.name,
            "answer": answer if i % 2 == 0 else "nothing the like",
            "facts": "" if i == len(files) - 1 else f"{'abcdef'[i]} {'abcdef'[i]}",
        }
        for i, (file, answer) in enumerate(zip(files, given, strict=True))
    ]
    path = made / "checkpoints" / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


@pytest.fixture(scope="module")
def asked(folder: Path) -> list[images_measure.Asked]:
    return images_measure.read_asked(folder / "checkpoints" / "questions.jsonl")


def test_right_answers_are_counted(folder: Path, asked: list[images_measure.Asked]) -> None:
    with RagEngine.from_pretrained(folder / "bundle", knowledge_base=folder / "kb", threads=1) as engine:
        right, found = images_measure.accuracy(engine, asked, SEARCH)
        first = [engine.search(Query(a.question, a.image), search=SEARCH)[0].text for a in asked]
        assert right == 0.5
        assert found == sum(text == a.facts for text, a in zip(first, asked, strict=True)) / len(asked)
        generator, alone = engine.generator, []
        for a in asked:
            context = generator.composer.compose(a.question, [("", "")])
            prior = np.zeros(1, dtype=np.float32)
            seen = [[[read_image(a.image)]]]
            (results,) = generator.begin([context], [prior], generator.defaults, images=seen).results()
            tokens = [link.token for link in results[0].hypothesis.chain()]
            alone.append(generator.tokenizer.decode(tokens).strip())
        expected = sum(text == a.answer for text, a in zip(alone, asked, strict=True)) / len(asked)
        assert images_measure.accuracy_alone(engine, asked) == expected
    assert images_measure.majority(asked) == 0.5


def test_recall_is_of_the_nearest(folder: Path, asked: list[images_measure.Asked]) -> None:
    whole = [a for a in asked if a.facts]
    for recalls in (
        images_measure.recall_of_texts(folder / "bundle", whole, SearchConfig()),
        images_measure.recall_of_images(folder / "bundle", whole, SearchConfig()),
    ):
        assert list(recalls) == [1, 5, 10]
        assert 0 <= recalls[1] <= recalls[5] == recalls[10] == 1, "there are no more than three"


def test_the_report_tells_what_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "SEARCH", SEARCH)
    figures = images.report(folder)
    said = capsys.readouterr().out
    assert "right answers to 4 test questions" in said
    assert "0.5000  the generator with retrieval (max)" in said
    for name in ("concat", "weighted_average", "score", "rrf", "max", "center"):
        assert name in said
    assert "image to text" in said
    assert (figures["questions"], figures["answers"]["majority answer"]) == (4, 0.5)
    assert figures["answers"]["the generator with retrieval (max)"] == 0.5
    assert len(figures["fusions"]) == len(images.OTHERS)
    assert all(list(recall) == [1, 5, 10] for recall in figures["recall"].values())
    first, *others = rows = bench_images.tables(figures)
    assert first["right, %: the generator with retrieval (max)"] == 50
    assert all("max" in " ".join(row) for row in others[:2])
    assert others[2]["recall@10, %: image to text, weighted_average, alpha 0.5"] == 100
    json.dumps(rows)
    assert read_image(folder / "example.png").std() > 0


def test_no_questions_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["images", "--questions", "0"])
    with pytest.raises(SystemExit):
        images.main()
    assert "--questions must be at least 1, got 0" in capsys.readouterr().err
