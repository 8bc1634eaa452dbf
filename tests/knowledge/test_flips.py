"""Three thousand flipped bytes, a third of them with images: each is harmless or a typed error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_flipped_byte_is_harmless_or_a_typed_error() -> None:
    command = [sys.executable, "-m", "tests.knowledge.byte_flips", "--flips", "1000", "--seed"]
    parts = [
        subprocess.Popen(
            [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for options in (["1"], ["2"], ["3", "--images"])
    ]
    for part in parts:
        said, errors = part.communicate(timeout=900)
        report = json.loads(said) if said else {}
        assert part.returncode == 0, f"{report.get('wrong')} {errors}"
        assert report["flips"] == 1000
        assert report["error"] > 100
        assert report["harmless"] > 100
