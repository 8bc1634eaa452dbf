"""Two hundred writers killed at random moments: nothing committed is lost, nothing else is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_writers_that_are_killed_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.knowledge.killed_writers", "--kills", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 200
    # Most kills hit a writer in the middle of something.
    assert report["killed_within_a_change"] > 100
    assert report["changes"] > 200
