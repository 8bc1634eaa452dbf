"""The vector exponential and logarithm keep the accuracy their comments state, at every instruction level."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rag_infer import _kernels

CSRC = Path(__file__).parents[2] / "csrc"
TYPES = {
    "scalar": ("ScalarVector", ""),
    "neon": ("NeonVector", ""),
    "avx2": ("Avx2Vector", '__attribute__((target("avx2,fma,f16c")))'),
    "avx512": ("Avx512Vector", '__attribute__((target("avx512f,avx512bw")))'),
}


@pytest.fixture(params=_kernels.available_levels())
def accuracy(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    compiler = os.environ.get("CXX") or shutil.which("c++")
    assert compiler, "a C++ compiler is needed to build this project, and to test it"
    vector, target = TYPES[request.param]
    program = tmp_path / "exp_log_accuracy"
    defines = [
        f"-DVECTOR={vector}",
        f'-DVECTOR_HEADER="vector_{request.param}.hpp"',
        f"-DRAG_INFER_TARGET={target}",
    ]
    source = Path(__file__).with_name("exp_log_accuracy.cpp")
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-w", f"-I{CSRC}"]
    subprocess.run([*compiler.split(), *options, *defines, str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_exp_and_log_are_within_two_units_in_the_last_place(accuracy):
    for name in ("exp_negative", "exp_positive", "log_above", "log_below"):
        assert 0.4 < accuracy[name] <= 2.0, (name, accuracy)


def test_special_values(accuracy):
    assert accuracy["exp_zero"] == 1
    assert accuracy["exp_far_below"] == [0, 0, 0]
    assert accuracy["exp_nan_is_nan"]
    assert accuracy["log_one"] == 0
    assert accuracy["log_zero_is_minus_infinity"]
