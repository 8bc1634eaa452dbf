"""Images on the command line: indexed, searched and asked about."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from rag_infer.cli.main import main
from tests.knowledge.seeing import picture, picture_file
from tests.seeing_bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("made"), "text and images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder of its own and with a caption."""
    images = tmp_path / "pictures"
    (images / "more").mkdir(parents=True)
    picture_file(images, "red")
    picture_file(images, "green")
    picture_file(images / "more", "blue")
    (images / "more" / "blue-0.txt").write_text("a b c\n")
    return images


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*map(str, words), "--threads", "1"]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    return captured.out + captured.err


def failed(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*map(str, words), "--threads", "1"]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_from_pictures_to_an_answer(
    bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb, with_bundle = tmp_path / "kb", ("--bundle", bundle)
    assert "3 passages (3 added" in run("index", "build", kb, folder, *with_bundle, capsys=capsys)
    assert "(0 added, 0 replaced, 3 unchanged)" in run(
        "index", "build", kb, folder, *with_bundle, capsys=capsys
    )
    corpus = tmp_path / "corpus.jsonl"
    entries = [{"_id": "c1", "text": "d e", "image": "pictures/red-0.png"}, {"_id": "c2", "text": "a b c"}]
    corpus.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert "2 added" in run("index", "add", kb, corpus, *with_bundle, capsys=capsys)
    one = picture_file(tmp_path, "grey", 5)
    words = ("index", "add", kb, "--image", one, "--text", "f g", "--id", "grey one", *with_bundle)
    assert "1 added" in run(*words, capsys=capsys)
    assert "images            5" in run("index", "info", kb, capsys=capsys)
    one.unlink()
    asked = picture_file(tmp_path, "green", 0)
    found = json.loads(run("search", kb, "--image", asked, "-k", 2, "--json", *with_bundle, capsys=capsys))
    first = found["passages"][0]
    assert (first["id"], found["image"]) == ("green-0.png", str(asked))
    assert Path(first["image"]).read_bytes() == picture("green", 0)
    shown = run(
        "search", kb, "a b c", "--image", asked, *with_bundle, "--fusion", "rrf", "--center", capsys=capsys
    )
    assert "more/blue-0.png" in shown
    answer = run("ask", "a", "b", "--image", asked, "--kb", kb, *with_bundle, "--explain", capsys=capsys)
    assert answer.startswith(f"Q: a b [{asked}]\nA: ")
    said = json.loads(run("ask", "--image", asked, "--kb", kb, *with_bundle, "--json", capsys=capsys))
    assert said["question_image"]["path"] == str(asked)
    assert {"path", "sha256"} <= set(next(p["image"] for p in said["passages"] if p["image"]))


def test_questions_with_images_are_evaluated(
    bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb = tmp_path / "kb"
    run("index", "build", kb, folder, "--bundle", bundle, capsys=capsys)
    entries = [
        {"image": "pictures/red-0.png", "answers": ["x"], "passage_id": "red-0.png"},
        {"text": "", "image": "pictures/more/blue-0.png", "answers": ["x"], "passage_id": "not there"},
        {"text": "a b", "image": "pictures/green-0.png", "answers": ["x"]},
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    words = ("eval", questions, "--bundle", bundle, "--kb", kb, "--json")
    found = json.loads(run(*words, "--max-new-tokens", "2", capsys=capsys))
    assert (found["questions"], found["with_gold_passage"], found["hits"]["1"]) == (3, 2, 0.5)
    where = ("--where", "no=1", "--retrieval-only")
    assert "no passage has the metadata field 'no'" in failed(*words, *where, capsys=capsys)
    by_words = ("--fusion", "weighted_average", "--alpha", "0.2", "--retrieval-only")
    assert json.loads(run(*words, *by_words, capsys=capsys))["hits"]["1"] == 0.5


def test_the_checkpoint_of_a_text_tower_is_verified(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = bundle.parent / "clip"
    assert main(["verify", str(bundle), "--text-encoder", str(checkpoint)]) == 0
    assert "ok   question_encoder  against PyTorch" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--text-encoder", "C", "--question-encoder", "Q"]) == 1
    assert "a text encoder stands for question and passage encoder" in capsys.readouterr().err


def test_images_are_referenced_if_asked(
    bundle: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kb = tmp_path / "kb"
    run("index", "build", kb, folder, "--reference-images", "--bundle", bundle, capsys=capsys)
    assert not (kb / "images").exists()
    run("index", "check", kb, capsys=capsys)
    (folder / "red-0.png").write_bytes(picture("blue"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as outside of tests, where a warning is no error
        said = run("index", "check", kb, capsys=capsys)
    assert "such as 'red-0.png', are not where they were" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "KB", "--image", "missing.png"), "missing.png cannot be read"),
        (("ask", "--kb", "KB", "--image", "http://example.org/a.png"), "is an address: nothing is fetched"),
        (("ask", "--kb", "KB"), "the question is empty"),
        (("search", "KB", "a", "--fusion", "sum"), "fusion must be one of"),
        (("index", "add", "KB"), "expected corpus files, folders of images, or --image FILE"),
        (("index", "add", "KB", "--text", "a"), "--text goes with --image FILE"),
        (("index", "add", "KB", "EMPTY"), "has no images"),
        (("index", "add", "KB", "BROKEN"), "broken.png"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    bundle: Path,
    folder: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_bytes(picture("red")[:50])
    run("index", "build", tmp_path / "kb", folder, "--bundle", bundle, capsys=capsys)
    places = {"KB": "kb", "EMPTY": "empty", "BROKEN": "broken"}
    given = [str(tmp_path / places[w]) if w in places else w for w in words]
    assert message in failed(*given, "--bundle", bundle, capsys=capsys)
