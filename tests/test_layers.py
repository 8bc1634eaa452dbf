"""A stage imports only what is below it; the runtime never imports the export."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "rag_infer"

# From the ground up. A module may import from its own layer (its package) and from lower ones.
LAYERS = [
    {"version", "errors", "_kernels"},
    {"_arrays", "bundle", "parts", "session", "text", "timing"},
    {"encode", "images", "compose", "marginalise"},
    {"query"},
    {"generate", "knowledge"},
    {"generator", "answer"},
    {"stream"},
    {"engine", "request"},
    {"evaluate", "verify", "verify_seq2seq"},
    {"cli"},
]
FORBIDDEN = {"torch", "transformers", "optimum", "onnx", "requests", "urllib", "http", "socket"}
ALLOWED = {"urllib.parse"}  # takes addresses apart, and opens none


def layer(module: str) -> int:
    name = module.split(".")[1] if "." in module else "__init__"
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "rag_infer":
                found |= {f"rag_infer.{a.name}" for a in node.names}
    return found


MODULES = sorted(p for p in RUNTIME.rglob("*.py") if p != RUNTIME / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    own = layer("rag_infer." + path.relative_to(RUNTIME).with_suffix("").as_posix().replace("/", "."))
    for name in imports(path):
        assert name.split(".")[0] not in FORBIDDEN or name in ALLOWED or "export" in path.name
        if name.startswith("rag_infer."):
            if name.startswith("rag_infer.export"):
                assert path.parent.name == "cli", f"{path.name} imports {name}"
                continue
            assert layer(name) <= own, f"{path.name} imports {name} from a higher layer"
