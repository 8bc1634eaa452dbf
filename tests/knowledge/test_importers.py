"""Corpus files as they come, the bad ones included."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rag_infer.errors import CorpusError
from rag_infer.knowledge import Passage
from rag_infer.knowledge.importers import Corpus
from tests.knowledge.small_disk import no_file_above

ROOT = Path(__file__).parents[2]


def read(*paths: Path, skip_bad_lines: bool = False) -> list[Passage]:
    with Corpus(paths, skip_bad_lines=skip_bad_lines) as corpus:
        return list(corpus)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    lines = [
        '{"_id": "a", "title": "T", "text": "one", "topic": "X", "year": 2020}',
        '{"id": 7, "contents": "two", "title": null}',
        "",
        '{"_id": "c", "id": "other", "text": "three", "metadata": {"url": "u"}, "tags": ["x"]}',
    ]
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert read(path) == [
        Passage("a", "one", "T", {"topic": "X", "year": 2020}),
        Passage("7", "two"),
        Passage("c", "three", metadata={"id": "other", "url": "u", "tags": ["x"]}),
    ]


def test_psgs_w100_layout(tmp_path: Path) -> None:
    lines = [
        "id\ttext\ttitle",
        '1\t"Aaron Aaron ( or ; ""Ahärôn"") is a prophet, ""high priest"""\tAaron',
        '2\t"Moses" spoke\t"""Quoted"" title"',
        "3\tplain text\t",
    ]
    expected = [
        Passage("1", 'Aaron Aaron ( or ; "Ahärôn") is a prophet, "high priest"', "Aaron"),
        Passage("2", '"Moses" spoke', '"Quoted" title'),
        Passage("3", "plain text"),
    ]
    text = "\n".join(lines) + "\n"
    (tmp_path / "psgs.tsv").write_text(text, encoding="utf-8")
    (tmp_path / "psgs.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "psgs.tsv") == expected
    assert read(tmp_path / "psgs.tsv.gz") == expected
    assert Corpus([tmp_path / "psgs.tsv"]).total() == 3
    assert Corpus([tmp_path / "psgs.tsv.gz"]).total() is None


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime

    table = pyarrow.table(
        {
            "id": ["a", "b"],
            "text": ["one", "two"],
            "title": [None, "T"],
            "day": [datetime.date(2020, 1, 2), None],
        }
    )
    parquet.write_table(table, tmp_path / "corpus.parquet")
    assert read(tmp_path / "corpus.parquet") == [
        Passage("a", "one", metadata={"day": "2020-01-02"}),
        Passage("b", "two", "T"),
    ]
    assert Corpus([tmp_path / "corpus.parquet"]).total() == 2
    bad = pyarrow.table({"id": ["a", "b"], "text": ["one", ""]})
    parquet.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(CorpusError, match=r"bad\.parquet, row 2: no text in passage 'b'"):
        read(tmp_path / "bad.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk" * 100)
    with pytest.raises(CorpusError, match=r"junk\.parquet is no Parquet file"):
        read(tmp_path / "junk.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(CorpusError, match="needs pyarrow"):
        read(tmp_path / "corpus.parquet")


GOOD = b'{"_id": "good", "text": "good"}'
BAD_LINES = {
    "not JSON": (b'{"_id": "x", "text": ', "not JSON: Expecting value at character 21"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "huge number": (b'{"_id": "x", "text": "t", "n": ' + b"1" * 5000 + b"}", "not JSON"),
    "not an object": (b"[1, 2]", "a JSON object is expected, found a list"),
    "no text": (b'{"_id": "x"}', "no text in passage 'x'"),
    "empty text": (b'{"_id": "x", "text": " "}', "no text in passage 'x'"),
    "no id": (b'{"text": "t"}', "no id"),
    "wrong type": (b'{"_id": "x", "text": 5}', "the text must be a string, found a number"),
    "wrong id": (b'{"_id": ["x"], "text": "t"}', "the id must be a string, found a list"),
    "title of zero": (b'{"_id": "x", "text": "t", "title": 0}', "the title must be a string, found a number"),
    "title of false": (
        b'{"_id": "x", "text": "t", "title": false}',
        "the title must be .* found a truth value",
    ),
    "repeated id": (GOOD, r"repeats the id 'good' of corpus\.jsonl, line 1"),
    "over 1 MB": (b'{"_id": "x", "text": "' + b"t" * 1_000_001 + b'"}', "1,000,001 bytes"),
    "line too long": (b'{"_id": "x", "text": "' + b"t" * 9_000_000 + b'"}', "a line of over 8,000,000 bytes"),
    "not UTF-8": (b'{"_id": "x", "text": "\xff"}', "not UTF-8: byte 0xff at 22"),
    "surrogate": (b'{"_id": "x", "text": "\\ud800"}', "lone surrogate"),
    "NaN": (b'{"_id": "x", "text": "t", "n": NaN}', "nan, which JSON cannot hold"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_name_file_and_line(tmp_path: Path, name: str) -> None:
    line, message = BAD_LINES[name]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b'\n{"_id": "last", "text": "last"}\n')
    with pytest.raises(CorpusError, match=rf"corpus\.jsonl, line 3: .*{message}"):
        read(path)
    with Corpus([path], skip_bad_lines=True) as corpus:
        assert [p.id for p in corpus] == ["good", "last"]
        assert sum(corpus.skipped.values()) == 1


def test_no_room_for_the_ids(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 200}.jsonl"
    path.write_text("".join(f'{{"id": {i}, "text": "t"}}\n' for i in range(20_000)))
    with (
        Corpus([path]) as corpus,
        no_file_above(1_000_000),
        pytest.raises(CorpusError, match=r"a temporary file cannot be written .*SQLITE_TMPDIR"),
    ):
        list(corpus)


def test_bad_lines_are_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join([GOOD, *(line for line, _ in BAD_LINES.values())]))
    with Corpus([path], skip_bad_lines=True) as corpus:
        assert [p.id for p in corpus] == ["good"]
    assert corpus.skipped == {
        "not JSON": 3,
        "not an object": 1,
        "no text": 2,
        "no id": 1,
        "wrong type": 4,
        "repeated id": 1,
        "over 1 MB": 2,
        "not UTF-8": 1,
        "not a passage": 2,
    }


def test_ids_repeated_in_another_file(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_bytes(GOOD)
    with pytest.raises(CorpusError, match=r"two\.jsonl, line 1: repeats the id 'good' of one\.jsonl, line 1"):
        read(tmp_path / "one.jsonl", tmp_path / "two.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\tfirst text\ttitle\n", "line 1: a header with id, text and title is expected, found '1, first"),
        ("", "line 1: a header"),
        ("id\ttext\ttitle\n1\tonly two\n", "line 2: 2 columns, the header has 3"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "corpus.tsv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / "corpus.tsv")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.jsonl", lambda path: None, "no such corpus file"),
        ("folder.jsonl", lambda path: path.mkdir(), "has no images"),
        ("corpus.csv", lambda path: path.write_text("x"), r"expected a \.jsonl, \.tsv"),
        ("corpus.parquet.gz", lambda path: path.write_text("x"), r"expected a \.jsonl, \.tsv"),
        ("junk.jsonl.gz", lambda path: path.write_bytes(b"junk"), "cannot be read: Not a gzipped file"),
        (
            "cut.jsonl.gz",
            lambda path: path.write_bytes(gzip.compress(GOOD * 100)[:-20]),
            "cannot be read: Compressed file ended",
        ),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / name)


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for i in range(200):
            stream.write(json.dumps({"_id": str(i), "text": f"{i} " + "x" * 900_000}) + "\n")
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom rag_infer.knowledge.importers import Corpus\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with Corpus([Path(sys.argv[1])]) as corpus:\n    assert sum(1 for _ in corpus) == 200\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    unit = 1024 if sys.platform == "linux" else 1
    assert int(done.stdout) * unit < 40_000_000 < path.stat().st_size
