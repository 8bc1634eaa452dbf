"""The tree: fixed top-level names, every package listed in setup.py, no machine's paths, one version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import rag_infer

ROOT = Path(__file__).parent.parent
FIXED = {"pyproject.toml", "setup.py", "rag_infer", "csrc", "export", "tests", "benchmarks"}
BESIDE = {
    ".ci",
    ".clang-format",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
}


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_top_level() -> None:
    assert {name.split("/")[0] for name in tracked()} == FIXED | BESIDE


def test_setup_lists_every_package() -> None:
    listed = set(re.findall(r'^        "(rag_infer[.\w]*)",$', (ROOT / "setup.py").read_text(), re.MULTILINE))
    found = {
        str(p.parent.relative_to(ROOT)).replace("/", ".")
        for top in ("rag_infer", "export")
        for p in (ROOT / top).rglob("__init__.py")
    }
    assert listed == {re.sub(r"^export", "rag_infer.export", name) for name in found}


def test_no_machine_path_and_no_registry() -> None:
    # Assembled here so that this file does not find itself.
    traces = ["/" + "root/", "/" + "work/", "/home" + "/", "pypi" + ".org", "artifact" + "ory"]
    for name in tracked():
        path = ROOT / name
        if path.suffix in {".png", ".svg"}:
            continue
        text = path.read_text(encoding="utf-8")
        assert not [t for t in traces if t in text], name


def test_one_version() -> None:
    assert rag_infer.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pattern = re.compile(r"""\bversion\s*=\s*["']\d""")
    holders = [
        n for n in tracked() if n.endswith((".py", ".toml")) and pattern.search((ROOT / n).read_text())
    ]
    assert set(holders) <= {"rag_infer/version.py"}
