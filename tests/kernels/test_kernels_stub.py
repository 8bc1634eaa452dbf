"""The stub says what the compiled module says.

`mypy.stubtest` cannot see the parameters of pybind11's functions and passes a wrong stub, so the first line of each
compiled docstring, which pybind11 writes from the C++ types, is parsed and compared with the stub's own tree.
"""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

import rag_infer
from rag_infer import _kernels

STUB = Path(rag_infer.__path__[0]) / "_kernels.pyi"


def compiled_names() -> set[str]:
    return {name for name in dir(_kernels) if not name.startswith("_")}


def stubbed_functions() -> dict[str, ast.FunctionDef]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def signature(node: ast.FunctionDef) -> str:
    return ast.dump(node.args) + " -> " + ast.dump(node.returns or ast.Constant(None))


def compiled_signature(name: str) -> str:
    first_line = getattr(_kernels, name).__doc__.splitlines()[0]
    (node,) = ast.parse(f"def {first_line}: ...").body
    assert isinstance(node, ast.FunctionDef)
    assert node.name == name
    return signature(node)


def test_every_function_is_in_the_stub_and_nothing_else():
    assert set(stubbed_functions()) == compiled_names()


def test_signatures_are_those_of_the_compiled_module():
    for name, node in stubbed_functions().items():
        assert signature(node) == compiled_signature(name), name


def test_a_wrong_stub_would_be_noticed():
    stub = STUB.read_text(encoding="utf-8")
    for right, wrong in (
        ("threads: int = 1", "threads: int = 2"),
        ("k: int", "n: int"),
        ("float32", "float64"),
    ):
        (node, *_) = (n for n in ast.parse(stub.replace(right, wrong)).body if isinstance(n, ast.FunctionDef))
        assert signature(node) != compiled_signature(node.name), wrong


def test_every_function_is_documented_and_its_examples_run():
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in sorted(compiled_names()):
        lines = getattr(_kernels, name).__doc__.splitlines()
        assert len(lines) > 2, f"{name} has no docstring"
        for example in finder.find(getattr(_kernels, name), name, module=False, globs=vars(_kernels).copy()):
            runner.run(example)
    result = runner.summarize(verbose=False)
    assert result.failed == 0
    assert result.attempted >= 10
