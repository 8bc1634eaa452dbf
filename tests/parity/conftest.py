"""Exported generators of every family, each beside the model it was made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from rag_infer import Generator
from rag_infer.export import export_bundle
from tests.parity.references import Pair
from tests.parity.tally import TALLY
from tests.seq2seq_checkpoints import write_seq2seq


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Pair]:
    """By family and seed."""

    @cache
    def make(family: str, seed: int) -> Pair:
        folder = tmp_path_factory.mktemp(f"{family}-{seed}")
        model = write_seq2seq(folder / "checkpoint", family, seed=seed)
        bundle = export_bundle(folder / "bundle", generator=folder / "checkpoint")
        return Pair(model, Generator(bundle, threads=1))

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the comparisons came to."""
    if TALLY.equal or TALLY.ties:
        terminalreporter.write_line(f"parity: {TALLY}")
