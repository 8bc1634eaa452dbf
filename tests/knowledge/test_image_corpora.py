"""Images in corpora: the field of a line, and folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rag_infer.errors import CorpusError
from rag_infer.images import Image
from rag_infer.knowledge import Passage
from rag_infer.knowledge.chunk import ChunkConfig, Chunker
from rag_infer.knowledge.importers import Corpus
from tests.knowledge.seeing import picture, picture_file


def lines(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def read(*paths: Path, **settings: Any) -> list[Passage]:
    with Corpus(paths, **settings) as corpus:
        return list(corpus)


def test_paths_are_relative_to_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    red = picture_file(tmp_path / "pictures", "red")
    corpus = lines(
        tmp_path / "corpus.jsonl",
        {"_id": "a", "text": "one", "image": "pictures/red-0.png"},
        {"_id": "b", "image": str(red), "topic": "x"},
        {"_id": "c", "text": "three", "image": None},
    )
    found = read(corpus)
    assert found == [
        Passage("a", "one", image=picture("red")),
        Passage("b", "", metadata={"topic": "x"}, image=picture("red")),
        Passage("c", "three"),
    ]
    assert not found[0].image.referenced
    assert read(corpus, reference_images=True)[0].image.referenced


def test_tables_have_images_too(tmp_path: Path) -> None:
    picture_file(tmp_path, "red")
    table = tmp_path / "corpus.tsv"
    table.write_text("id\ttext\timage\n1\tone\tred-0.png\n2\ttwo\t\n")
    assert read(table) == [Passage("1", "one", image=picture("red")), Passage("2", "two")]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": "missing.png"}, r"missing\.png cannot be read"),
        ({"image": "https://example.org/a.png"}, "is an address: nothing is fetched"),
        ({"image": 7}, "the image must be a path, found a number"),
        ({"image": ""}, "no text in passage"),
        ({"image": "."}, "is no file"),
        ({"image": "broken.png"}, r"broken\.png is damaged or cut short"),
        ({"text": " "}, "no text in passage"),
    ],
)
def test_bad_lines_are_told_and_counted(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    (tmp_path / "broken.png").write_bytes(picture("red")[:60])
    corpus = lines(tmp_path / "corpus.jsonl", {"_id": "good", "text": "x"}, {"_id": "bad", **entry})
    with pytest.raises(CorpusError, match=rf"corpus\.jsonl, line 2: .*{message}"):
        read(corpus)
    with Corpus([corpus], skip_bad_lines=True) as passages:
        assert [p.id for p in passages] == ["good"]
        assert passages.skipped.total() == 1


def test_documents_that_are_cut_have_no_images(tmp_path: Path) -> None:
    picture_file(tmp_path, "red")
    corpus = lines(tmp_path / "corpus.jsonl", {"_id": "a", "text": "one", "image": "red-0.png"})
    chunker = Chunker(ChunkConfig(unit="words", size=10, overlap=0))
    for settings in ({"more": [Passage("p", "", image=picture("red"))]}, {}):
        with pytest.raises(CorpusError, match="images are not cut into chunks"):
            read(*([] if settings else [tmp_path]), chunker=chunker, **settings)
    with pytest.raises(CorpusError, match="document 'a' has an image"):
        read(corpus, chunker=chunker)


def test_folders_with_captions(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    picture_file(folder, "red")
    picture_file(folder / "b", "blue")
    picture_file(folder / ".hidden", "green")
    (folder / "notes.md").write_text("no image")
    (folder / "red-0.txt").write_text(" a red one\n")
    with Corpus([folder]) as corpus:
        assert corpus.total() == 2
        assert list(corpus) == [
            Passage("b/blue-0.png", "", image=picture("blue")),
            Passage("red-0.png", "a red one", image=picture("red")),
        ]
    assert read(folder, reference_images=True)[0].image == Image.of(picture("blue"))


def test_paths_that_are_not_utf_8_can_be_kept_but_not_referenced(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    picture_file(folder, "red")
    assert [p.id for p in read(folder)] == ["red-0.png"]
    with pytest.raises(CorpusError, match=r"udcff.*cannot be referenced: it is not UTF-8"):
        read(folder, reference_images=True)
    (folder / "red-0.png").rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.png")))
    with pytest.raises(CorpusError, match=r"image 1: .*udcfe\.png"):
        read(tmp_path)


def test_a_bad_image_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.jpg").write_bytes(picture("red"))  # whatever it is called
    (tmp_path / "c.png").write_bytes(picture("red"))
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match=r"image 1: .*a\.png is no image of a supported format"):
        read(tmp_path)
    with Corpus([tmp_path], skip_bad_lines=True) as corpus:
        assert [p.id for p in corpus] == ["b.jpg"]
        assert corpus.skipped == {"no image": 1, "not UTF-8": 1}
