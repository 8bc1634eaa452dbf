"""Runs the kernel tests against a build with AddressSanitizer and UndefinedBehaviorSanitizer.

The build goes to build/sanitized and is kept, so that a second run compiles only what changed. Needs GCC's libasan.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path("build") / "sanitized"
LIBRARY = BUILD / "lib"
REPORTS = BUILD / "report"


def build() -> None:
    """Compile the kernels with the sanitizers and put the package's Python files beside them."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(LIBRARY)]
    command += ["--build-temp", str(BUILD / "temp"), "--parallel", "2"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "RAG_INFER_SANITIZE": "1"}, check=True)
    shutil.copytree(
        ROOT / "rag_infer",
        ROOT / LIBRARY / "rag_infer",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        dirs_exist_ok=True,
    )


def environment() -> dict[str, str]:
    """What an instrumented module needs inside an interpreter that is not instrumented."""
    return {
        **os.environ,
        # libstdc++ too: libasan looks for the exception machinery when it starts, before any module needs it.
        "LD_PRELOAD": f"{compiler_library('libasan.so')}:{compiler_library('libstdc++.so')}",
        # The interpreter itself never frees everything. Reports go to files: pytest holds standard error, and a
        # process that a sanitizer ends never gives it back.
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={ROOT / REPORTS}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={ROOT / REPORTS}",
        "RAG_INFER_TEST_PROFILE": "sanitizer",
    }


def compiler_library(name: str) -> str:
    """Path of one of the compiler's own libraries."""
    compiler = os.environ.get("CXX", "c++").split()
    path = subprocess.run([*compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    if not Path(path.stdout.strip()).is_absolute():
        raise SystemExit(f"{compiler[0]} has no {name}: install GCC's sanitizer libraries")
    return str(Path(path.stdout.strip()).resolve())


def check_instrumented(variables: dict[str, str]) -> None:
    """Fail unless the module that the tests will load is the instrumented one."""
    program = "from rag_infer import _kernels; print(_kernels.__file__)"
    variables = {**variables, "PYTHONPATH": str(ROOT / LIBRARY)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=variables, check=True, capture_output=True, text=True
    )
    module = Path(done.stdout.strip())
    if not module.is_relative_to(ROOT / LIBRARY) or b"__asan_init" not in module.read_bytes():
        raise SystemExit(f"{module} is not the instrumented build")


def reports() -> list[Path]:
    """What the sanitizers have written: one file for each process they ended."""
    return sorted((ROOT / BUILD).glob(f"{REPORTS.name}.*"))


def main() -> int:
    """Build, check, run; the exit status is that of pytest, and 1 where a sanitizer has reported anything."""
    build()
    for old in reports():
        old.unlink()
    variables = environment()
    check_instrumented(variables)
    command = [sys.executable, "-P", "-m", "pytest", "tests/kernels", "-q", "-p", "no:cacheprovider"]
    command += ["-o", f"pythonpath={LIBRARY} ."]
    # That test compiles a program of its own and does not touch the module.
    command += ["--ignore", "tests/kernels/test_kernels_exp_log.py", *sys.argv[1:]]
    status = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
    for report in reports():
        print(report.read_text(encoding="utf-8", errors="replace"), file=sys.stderr)
        status = status or 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
