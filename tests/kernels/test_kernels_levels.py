"""Which instruction level is used, and what happens when one is asked for that is not there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rag_infer import _kernels

ALL = ("scalar", "neon", "avx2", "avx512")
PROGRAM = "from rag_infer import _kernels; print(_kernels.instruction_level())"


def import_with(level: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAG_INFER_KERNELS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if level is not None:
        environment["RAG_INFER_KERNELS"] = level
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", [*_kernels.available_levels(), None, ""])
def test_the_environment_chooses_and_the_best_is_the_default(name):
    done = import_with(name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (name or _kernels.available_levels()[0])


@pytest.mark.parametrize("name", [name for name in ALL if name not in _kernels.available_levels()])
def test_a_level_this_processor_lacks_fails_the_import(name):
    done = import_with(name)
    assert done.returncode != 0
    expected = (
        f"ImportError: RAG_INFER_KERNELS: instruction level '{name}' is not to be had on this processor"
    )
    assert expected in done.stderr


def test_an_unknown_level_fails_the_import_and_names_the_known():
    done = import_with("sse9")
    assert done.returncode != 0
    assert "unknown instruction level 'sse9': expected one of scalar, neon, avx2, avx512" in done.stderr


def test_setting_a_level():
    before = _kernels.instruction_level()
    try:
        _kernels.set_instruction_level("scalar")
        assert _kernels.instruction_level() == "scalar"
        with pytest.raises(ValueError, match="unknown instruction level ''"):
            _kernels.set_instruction_level("")
        assert _kernels.instruction_level() == "scalar"
    finally:
        _kernels.set_instruction_level(before)


def test_scalar_is_everywhere_and_last():
    assert _kernels.available_levels()[-1] == "scalar"
    assert set(_kernels.available_levels()) <= set(ALL)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="reads /proc/cpuinfo of x86"
)
def test_vnni_is_what_the_system_says() -> None:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    assert _kernels.has_vnni() == bool({"avx512_vnni", "avx_vnni"} & set(flags.split()))
