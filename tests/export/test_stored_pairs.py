"""The stored pairs: what has been done to them is told, in one line and with exit status 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_infer.bundle import record_files, sealed
from rag_infer.cli.main import main
from rag_infer.errors import BundleError
from rag_infer.export import export_bundle
from rag_infer.verify import verify_bundle
from tests.export.checkpoints import write_bert
from tests.tiny_llama import write_llama

PARTS = ["question_encoder", "generator"]
OUTPUTS = {"question_encoder": "embedding", "generator": "logits_2"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "bert").mkdir()
    write_bert(folder / "bert")
    write_llama(folder / "llama")
    export_bundle(folder / "bundle", question_encoder=folder / "bert", generator=folder / "llama")
    return folder / "bundle"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def record(bundle: Path) -> None:
    """Let the manifest say that the files are right."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["files"] = {name: vars(entry) for name, entry in record_files(bundle).items()}
    (bundle / "bundle.json").write_text(json.dumps(sealed(manifest)))


def rewrite(path: Path, changed: Callable[[dict[str, Any]], Any]) -> None:
    with np.load(path) as stored:
        pairs = {name: stored[name] for name in stored.files}
    changed(pairs)
    np.savez_compressed(path, **pairs)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [0.01, np.nan])
def test_one_altered_number(
    bundle: Path, part: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    def alter(pairs: dict[str, Any]) -> None:
        pairs[OUTPUTS[part]].flat[7] += value * np.abs(pairs[OUTPUTS[part]]).max()

    rewrite(bundle / part / "check.npz", alter)
    record(bundle)
    passed = {check.name: check.passed for check in verify_bundle(bundle, threads=1)}
    assert passed == {"files": True, **{name: name != part for name in PARTS}}
    assert main(["verify", str(bundle), "--stored-only"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines() if line.startswith("FAIL")] == [part]
    assert err == ""


def test_json_of_a_failure_is_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure that is not a number has no place in JSON, which other programs read."""
    rewrite(bundle / "generator" / "check.npz", lambda pairs: pairs["logits_0"].fill(np.nan))
    record(bundle)
    assert main(["verify", str(bundle), "--stored-only", "--json"]) == 1

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert not report["passed"]
    assert [check["passed"] for check in report["checks"]] == [True, True, False]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def spoil_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut short": cut_short,
    "zeros in its middle": spoil_the_middle,
    "no archive": lambda path: path.write_text("no archive"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file(bundle: Path, part: str, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES[damage](bundle / part / "check.npz")
    record(bundle)
    with pytest.raises(BundleError, match=r"check\.npz"):
        verify_bundle(bundle, threads=1)
    assert main(["verify", str(bundle), "--stored-only"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.parametrize(("part", "name"), [("question_encoder", "embedding"), ("generator", "visible_1")])
def test_missing_array(bundle: Path, part: str, name: str) -> None:
    rewrite(bundle / part / "check.npz", lambda pairs: pairs.pop(name))
    record(bundle)
    with pytest.raises(BundleError, match=name):
        verify_bundle(bundle, threads=1)


def test_pairs_of_another_width(bundle: Path) -> None:
    def cut(pairs: dict[str, Any]) -> None:
        pairs["embedding"] = pairs["embedding"][:, :16]

    rewrite(bundle / "question_encoder" / "check.npz", cut)
    record(bundle)
    with pytest.raises(BundleError, match=r"check\.npz"):
        verify_bundle(bundle, threads=1)
