"""Passages with images: kept by content or referenced, never lost, never another's."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from rag_infer.errors import (
    CorruptIndexError,
    EncoderMismatchError,
    ImageError,
    KnowledgeBaseError,
    RagInferWarning,
)
from rag_infer.images import Image, read_image
from rag_infer.knowledge import KnowledgeBase, Passage, Upserted
from rag_infer.query import Query
from tests.knowledge.encoders import HashingEncoder
from tests.knowledge.seeing import SeeingEncoder, picture, picture_file


@pytest.fixture
def encoder() -> SeeingEncoder:
    return SeeingEncoder()


@pytest.fixture
def kb(tmp_path: Path, encoder: SeeingEncoder) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(tmp_path / "kb", encoder=encoder) as made:
        yield made


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").glob("*/*"))


def test_images_are_kept_by_their_content(kb: KnowledgeBase, encoder: SeeingEncoder, tmp_path: Path) -> None:
    path = picture_file(tmp_path, "red")
    pixels = read_image(path)
    passages = [
        Passage("path", "a red one", image=path),
        Passage("bytes", image=picture("red"), text=""),
        Passage("array", "", image=pixels),
        Passage("pillow", "", image=Pillow.open(path)),
        Passage("mapping", "", image={"image": str(path)}),
        Passage("none", "text alone"),
    ]
    assert kb.upsert(passages) == Upserted(added=6)
    path.unlink()
    assert encoder.seen == 5
    found = {p.id: p for p in kb.get([p.id for p in passages]) if p is not None}
    assert found == {p.id: p for p in passages}
    assert found["none"].image is None
    for id_ in ("path", "bytes", "array", "pillow", "mapping"):
        np.testing.assert_array_equal(found[id_].image.pixels(), pixels)
    assert found["path"].image.read_bytes() == picture("red")
    assert len(stored(tmp_path / "kb")) == 1, "equal files are kept once"
    assert kb.upsert(passages[1:]) == Upserted(unchanged=5)
    assert encoder.seen == 5
    assert kb.check().passages == 6
    assert kb.info()["images"] == 5


def test_another_image_replaces(kb: KnowledgeBase, tmp_path: Path) -> None:
    kb.upsert([Passage("p", "text", image=picture("red")), Passage("q", "text", image=picture("red"))])
    assert kb.upsert([Passage("p", "text", image=picture("blue"))]) == Upserted(replaced=1)
    assert kb.upsert([Passage("q", "text")]) == Upserted(replaced=1)
    assert kb.get(["q"])[0] == Passage("q", "text")
    kb.update_metadata({"p": {"kind": "a"}})
    (found,) = kb.get(["p"])
    assert found is not None
    assert (found.image.read_bytes(), found.metadata) == (picture("blue"), {"kind": "a"})
    assert len(stored(tmp_path / "kb")) == 2
    kb.compact()
    assert len(stored(tmp_path / "kb")) == 2, "who has found an earlier passage can still see it"
    kb.compact()
    assert len(stored(tmp_path / "kb")) == 1
    assert kb.get(["p"]) == [found]


def test_images_that_are_referenced_stay_where_they_are(kb: KnowledgeBase, tmp_path: Path) -> None:
    path = picture_file(tmp_path, "green")
    kb.upsert([Passage("p", "", image=Image.reference(path))])
    assert stored(tmp_path / "kb") == []
    (found,) = kb.get(["p"])
    assert found is not None
    assert (found.image.path, found.image.referenced) == (str(path), True)
    path.write_bytes(picture("blue"))
    with pytest.raises(ImageError, match=r"green-0.png is not the file that it was"):
        found.image.pixels()
    message = r"the images of 1 passages, such as 'p', are not where they were.*upsert these passages again"
    with pytest.warns(RagInferWarning, match=message):
        kb.check()
    path.unlink()
    with pytest.warns(RagInferWarning, match=message):
        kb.check()
    moved = picture_file(tmp_path / "kb", "green")
    assert kb.upsert([Passage("p", "", image=Image.reference(moved))]) == Upserted(replaced=1)
    assert kb.check().passages == 1
    assert kb.upsert([Passage("p", "", image=moved)]) == Upserted(replaced=1)
    assert len(stored(tmp_path / "kb")) == 1, "it is kept from now on"


def test_a_lost_image_is_mended_by_upserting_it_again(kb: KnowledgeBase, tmp_path: Path) -> None:
    passage = Passage("p", "", image=picture("red"))
    kb.upsert([passage])
    (path,) = (tmp_path / "kb" / "images").glob("*/*")
    path.unlink()
    with pytest.raises(CorruptIndexError, match="upsert it again"):
        kb.check()
    assert kb.upsert([passage]) == Upserted(replaced=1)
    assert kb.check().passages == 1


@pytest.mark.parametrize("id_", ["p", "another"])
def test_a_damaged_image_is_mended_by_upserting_it_again(kb: KnowledgeBase, tmp_path: Path, id_: str) -> None:
    passage = Passage("p", "", image=picture("red"))
    kb.upsert([passage, Passage("q", "a text")])
    (path,) = (tmp_path / "kb" / "images").glob("*/*")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptIndexError, match="upsert it again"):
        kb.check()
    with KnowledgeBase.open(tmp_path / "kb", encoder=SeeingEncoder(), verify="wait") as opened:
        assert len(opened.search("red", k=2)) == 2, "an image is compared when it is read"
    kb.upsert([Passage(id_, "", image=picture("red"))])
    assert kb.check().passages == len(kb)
    assert path.read_bytes() == picture("red")


def test_what_was_never_committed_is_removed(kb: KnowledgeBase, tmp_path: Path) -> None:
    def ends_badly() -> Iterator[Passage]:
        yield from (Passage(f"p{i}", "", image=picture("red", i)) for i in range(2100))
        raise RuntimeError("the reader of the corpus has died")

    kb.upsert([Passage("kept", "", image=picture("blue"))])
    with pytest.raises(RuntimeError, match="has died"):
        kb.upsert(ends_badly())
    assert len(kb) == 1
    assert kb.check().passages == 1
    assert len(stored(tmp_path / "kb")) > 1
    kb.compact()
    kb.compact()
    assert len(stored(tmp_path / "kb")) == 1
    assert kb.check().passages == 1
    (path,) = (tmp_path / "kb" / "images").glob("*/*")
    path.unlink()
    with pytest.raises(KnowledgeBaseError, match=r"is not there: removed by a compaction .*, or lost"):
        kb.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_damaged_image_is_found(kb: KnowledgeBase, tmp_path: Path) -> None:
    kb.upsert([Passage("p", "", image=picture("red"))])
    (path,) = (tmp_path / "kb" / "images").glob("*/*")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptIndexError, match="the image of passage 'p'"):
        kb.check()
    (found,) = kb.get(["p"])
    assert found is not None
    with pytest.raises(ImageError, match="is not the file that it was"):
        found.image.pixels()
    with sqlite3.connect(tmp_path / "kb" / "record.sqlite") as connection:
        connection.execute("UPDATE passages SET image = ''")
    connection.close()
    with pytest.raises(CorruptIndexError, match="passage 'p' in row 0 is not as it was written"):
        kb.get(["p"])


def test_backup_and_export_take_the_images_along(
    kb: KnowledgeBase, encoder: SeeingEncoder, tmp_path: Path
) -> None:
    passages = [
        Passage("p", "red", image=picture("red")),
        Passage("q", "", image=Image.reference(picture_file(tmp_path, "blue"))),
        Passage("r", "text"),
    ]
    kb.upsert(passages)
    kb.backup(tmp_path / "copy")
    with KnowledgeBase.open(tmp_path / "copy", encoder=encoder) as copy:
        assert copy.check().passages == 3
        assert copy.get(["p", "q", "r"]) == passages
    with pytest.raises(
        KnowledgeBaseError, match="passage 'p' has an image, and a datasets folder has texts alone"
    ):
        kb.export_dataset(tmp_path / "dataset")
    kb.export_jsonl(tmp_path / "all.jsonl")
    kb.close()
    shutil.rmtree(tmp_path / "kb")
    from rag_infer.knowledge.importers import Corpus

    with Corpus([tmp_path / "all.jsonl"]) as corpus:
        assert list(corpus) == passages


def test_vectors_of_images_are_made_again(kb: KnowledgeBase, encoder: SeeingEncoder, tmp_path: Path) -> None:
    kb.upsert([Passage("p", "red", image=picture("red")), Passage("q", "", image=picture("blue"))])
    before = [p.score for p in kb.search(Query("red", picture("red")), k=2)]
    kb.close()
    (segment,) = (tmp_path / "kb" / "vectors").iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(bytes(8) + whole[8:])
    assert KnowledgeBase.repair(tmp_path / "kb", encoder=encoder).repaired == 2
    assert segment.read_bytes() == whole
    with KnowledgeBase.open(tmp_path / "kb", encoder=encoder) as opened:
        assert [p.score for p in opened.search(Query("red", picture("red")), k=2)] == before


def test_bad_images_name_the_file(kb: KnowledgeBase, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture("red")[:60])
    with pytest.raises(ImageError, match=r"broken\.png"):
        kb.upsert([Passage("p", "", image=broken)])
    with pytest.raises(ImageError, match=r"missing\.png"):
        Passage("p", "", image=tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is an address: nothing is fetched"):
        Passage("p", "", image="http://example.org/a.png")
    with pytest.raises(TypeError, match="an image is a path"):
        Passage("p", "", image=7)
    with pytest.raises(ValueError, match="empty text"):
        Passage("p", "")
    assert Passage("p", "  ", image=picture("red")).text == ""
    with pytest.raises(ImageError, match="empty: 0 bytes"):
        Passage("p", "", image=b"")
    with pytest.raises(ImageError, match=r"passage 'bad': the image [0-9a-f]{12} is"):
        kb.upsert([Passage("good", "", image=picture("red")), Passage("bad", "", image=picture("blue")[:60])])
    with pytest.raises(ImageError, match="is no image of a supported format"):
        kb.upsert([Passage("p", "a", image=b"no image")], np.ones((1, 32), dtype=np.float32))
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png is empty: 0 bytes"):
        Passage("p", "", image=tmp_path / "empty.png")
    assert len(kb) == 0


def test_without_an_image_encoder(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "texts", encoder=HashingEncoder()) as kb:
        kb.upsert([Passage("p", "red")])
        with pytest.raises(
            KnowledgeBaseError, match="the image of passage 'q' cannot be encoded: there is no image"
        ):
            kb.upsert([Passage("q", "red", image=picture("red"))])
        with pytest.raises(KnowledgeBaseError, match=r"the question's image, .* cannot be encoded"):
            kb.search(Query(image=picture("red")))
        with pytest.raises(
            KnowledgeBaseError, match="has vectors of texts alone: concat is for texts and images"
        ):
            kb.search("red", fusion="concat")
        with pytest.raises(KnowledgeBaseError, match="center is for texts and images"):
            kb.search("red", center=True)
    with pytest.raises(EncoderMismatchError):
        KnowledgeBase.open(tmp_path / "texts", encoder=SeeingEncoder())


def test_an_older_folder_gets_room_for_images(tmp_path: Path) -> None:
    """Format 2 had neither the column nor the settings."""
    with KnowledgeBase.create(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        kb.upsert([Passage("p", "red", title="Colour"), Passage("q", "blue")])
        before = kb.search("red", k=2)
    make_format_2(tmp_path / "kb")
    with KnowledgeBase.open(tmp_path / "kb", encoder=HashingEncoder()) as kb:
        assert kb.settings.format_version == 3
        assert kb.search("red", k=2) == before
        assert kb.check().passages == 2


def make_format_2(folder: Path) -> None:
    """As rag_infer wrote it before there were images."""
    import json

    from rag_infer.knowledge.schema import _settings_checksum

    connection = sqlite3.connect(folder / "record.sqlite")
    connection.execute("DROP INDEX passages_with_image")
    connection.execute("ALTER TABLE passages DROP COLUMN image")
    connection.execute("DROP TABLE moments")
    written = dict(connection.execute("SELECT name, value FROM settings"))
    for name in ("checksum", "image_dim", "shared_space", "part_similarity"):
        del written[name]
    written["format_version"] = json.dumps(2)
    written["checksum"] = _settings_checksum(written)
    connection.execute("DELETE FROM settings")
    connection.executemany("INSERT INTO settings VALUES (?, ?)", list(written.items()))
    connection.commit()
    connection.close()
