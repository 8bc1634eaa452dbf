"""However the process that drives Ray ends, the build's own process goes on, and says what was the matter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rag_infer.bundle import Bundle
from rag_infer.errors import BundleError, KnowledgeBaseError
from rag_infer.knowledge.distributed import process
from rag_infer.knowledge.distributed.process import Driver
from tests.knowledge.tiny_bundle import make_tiny_bundle

# The beginning of a module that stands for the driver.
BEGIN = """
import os, sys, time, numpy
from rag_infer.errors import BundleError
from rag_infer.knowledge.distributed.messages import *
i, o = sys.stdin.buffer, sys.stdout.buffer
receive(i)
"""
ENDINGS = {
    "silent": ("os._exit(1)", r"has ended with status 1; what was committed is kept"),
    "killed": ("os.kill(os.getpid(), 9)", r"has ended with status -9;"),
    "torn": ("o.write(b'\\x80\\x05\\x95'); o.flush(); os._exit(1)", r"has ended with status 1;"),
    "spoken": (
        "raise ImportError('no such thing')",
        r"has ended with status 1 \(ImportError: no such thing\);",
    ),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle"))


@pytest.fixture
def acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module that is started as the driver is to be written."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(process, "MODULE", "acting_driver")
    return tmp_path / "acting_driver.py"


def supply_until_nobody_reads(driver: Driver) -> None:
    for _ in range(1000):
        driver.supply([["text " * 1000]])


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_ends_before_being_connected(acting: Path, bundle: Bundle, ending: str) -> None:
    work, message = ENDINGS[ending]
    acting.write_text(f"{BEGIN}\n{work}\n")
    with pytest.raises(KnowledgeBaseError, match=f"the Ray cluster has gone away: .*{message}"):
        Driver("local", bundle, threads=1)


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_ends_amid_its_work(acting: Path, bundle: Bundle, ending: str) -> None:
    work, message = ENDINGS[ending]
    acting.write_text(f"{BEGIN}\nsend(o, Connected(2))\nreceive(i)\nsend(o, Asked(0))\n{work}\n")
    with Driver("local", bundle, threads=1) as driver:
        assert driver.room == 2
        driver.begin(batches=10)
        assert driver.most_ahead == 2 * process.BATCHES_AHEAD_PER_WORKER
        assert driver.next() is None
        with pytest.raises(KnowledgeBaseError, match=message):
            supply_until_nobody_reads(driver)


def test_what_it_said_last_is_told(acting: Path, bundle: Bundle) -> None:
    """Though the build is supplying, and would see only that nobody reads."""
    acting.write_text(
        f"{BEGIN}\nsend(o, Connected(1))\nsend(o, Asked(5))\nsend(o, Failed(BundleError('why')))\nos._exit(1)\n"
    )
    with Driver("local", bundle, threads=1) as driver, pytest.raises(BundleError, match=r"^why$"):
        supply_until_nobody_reads(driver)


def test_how_it_ends_does_not_matter_when_all_was_received(acting: Path, bundle: Bundle) -> None:
    acting.write_text(
        f"{BEGIN}\nsend(o, Connected(1))\nsend(o, Encoded(0, numpy.ones((2, 3)), 'me'))\nos._exit(1)\n"
    )
    with Driver("local", bundle, threads=1) as driver:
        received = driver.next()
        assert received is not None
        assert received.vectors.shape == (2, 3)


def test_one_that_does_not_end_is_ended(
    acting: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SECONDS_TO_END", 0.2)
    acting.write_text(f"{BEGIN}\nsend(o, Connected(1))\ntime.sleep(3600)\n")
    Driver("local", bundle, threads=1).close()


def test_batches_out_of_order_are_refused(acting: Path, bundle: Bundle) -> None:
    acting.write_text(
        f"{BEGIN}\nsend(o, Connected(1))\nsend(o, Encoded(1, numpy.ones((2, 3)), 'me'))\nreceive(i)\n"
    )
    with (
        Driver("local", bundle, threads=1) as driver,
        pytest.raises(KnowledgeBaseError, match="handed back batch 1 where 0 was next"),
    ):
        driver.next()
