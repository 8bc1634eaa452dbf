"""Runs mypy over the package as it is installed, with export/ as rag_infer.export, and over the benchmarks.

mypy reads folders, not setup.py's package-dir, so it is given a folder of links that looks as the wheel does.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VIEW = ROOT / "build" / "types"


def link(source: Path, target: Path) -> None:
    """A link that is made anew, so that files removed since are gone."""
    target.unlink(missing_ok=True)
    target.symlink_to(source)


def main() -> int:
    """Lay the links and run mypy; returns its exit status."""
    shutil.rmtree(VIEW, ignore_errors=True)
    (VIEW / "rag_infer").mkdir(parents=True)
    for entry in (ROOT / "rag_infer").iterdir():
        if not entry.name.startswith("__pycache__"):
            link(entry, VIEW / "rag_infer" / entry.name)
    link(ROOT / "export", VIEW / "rag_infer" / "export")
    link(ROOT / "benchmarks", VIEW / "benchmarks")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache")]
    return subprocess.run(command, cwd=VIEW, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
