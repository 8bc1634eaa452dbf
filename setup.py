"""Builds the compiled kernels; everything else about the package is in pyproject.toml.

``RAG_INFER_SANITIZE=1`` builds them with AddressSanitizer and UndefinedBehaviorSanitizer: such a module
loads only where libasan and libstdc++ are preloaded, as ``tests/run_sanitizers.py`` does.
"""

import os
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

# No -march=native (the wheel must run elsewhere) and no -ffast-math (NaN and infinities have contracts).
# Without contraction every (row, query) pair is summed alike wherever the compiler inlines it.
COMPILE = ["-O3", "-pthread", "-Wall", "-Wextra", "-ffp-contract=off"]
# CPython's own flags say -fwrapv, which would hide overflow, and -DNDEBUG.
SANITIZE = [
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-wrapv",
    "-UNDEBUG",
]

sanitize = os.environ.get("RAG_INFER_SANITIZE") == "1"
root = Path(__file__).parent

kernels = Pybind11Extension(
    "rag_infer._kernels",
    sources=sorted(path.relative_to(root).as_posix() for path in root.glob("csrc/*.cpp")),
    depends=sorted(path.relative_to(root).as_posix() for path in root.glob("csrc/*.hpp")),
    cxx_std=17,
    extra_compile_args=COMPILE + (SANITIZE if sanitize else []),
    extra_link_args=["-pthread", *(["-fsanitize=address,undefined"] if sanitize else [])],
)

setup(
    # Discovery refuses a flat layout with several top-level folders, and export/ is imported as rag_infer.export.
    packages=[
        "rag_infer",
        "rag_infer.generate",
        "rag_infer.knowledge",
        "rag_infer.knowledge.backends",
        "rag_infer.knowledge.distributed",
        "rag_infer.images",
        "rag_infer.evaluate",
        "rag_infer.cli",
        "rag_infer.export",
        "rag_infer.export.families",
        "rag_infer.export.demo",
        "rag_infer.export.training",
    ],
    package_dir={"rag_infer": "rag_infer", "rag_infer.export": "export"},
    package_data={"rag_infer": ["py.typed", "_kernels.pyi"], "rag_infer.export.demo": ["packages*.txt"]},
    ext_modules=[kernels],
    cmdclass={"build_ext": build_ext},
)
