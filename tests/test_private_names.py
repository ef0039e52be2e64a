"""Only `dream_o.library_internals` touches the private names of libraries."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT

INTERNALS = ROOT / "dream_o" / "library_internals.py"
# They read the code that torch's compiler generates for a GPU, of which nothing is public.
READS_COMPILER = [ROOT / "benchmarks" / name for name in ("cuda_code.py", "pretended_gpu.py")]
ALLOWED = {
    "os._exit",  # documented: it ends a process without its clean-up
    # uniface 4.2.1, in dream_o/references/networks.py: the references must not import torch, which
    # the module of private names does.
    "_initialize_model",
}
READS_BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """The private names that a module gives to something itself."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                names.add(node.attr)
    return names


def foreign_private_names(source: str) -> Iterator[str]:
    """The private names of others that a module's source imports, reads or writes."""
    tree = ast.parse(source)
    own = own_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                imported = [f"{module}.{alias.name}" for alias in names]
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                # A method of a parent that is a library's is the library's.
                imported = [name] if name not in own else []
            case ast.Attribute(attr=name) if is_private(name):
                imported = [ast.unparse(node)]
            case ast.Call(func=ast.Name(id=reader), args=[_, ast.Constant(value=str(name)), *_]):
                imported = [name] if reader in READS_BY_NAME else []
            case _:
                continue
        for name in imported:
            if any(map(is_private, name.split("."))) and name not in ALLOWED:
                yield f"line {node.lineno}: {name}"


def test_every_way_to_a_private_name_is_found() -> None:
    ways = [
        "import torch._dynamo",
        "from torch._dynamo import config",
        "from torch import _dynamo",
        "torch._dynamo.reset()",
        "class Model(Parent):\n    def call(self):\n        return self._execution_device",
        "getattr(model, '_cp_plan', None)",
        "setattr(model, '_cp_plan', None)",
    ]
    for way in ways:
        assert list(foreign_private_names(way)), way
    own = "class Model:\n    def __init__(self):\n        self._kept = self._make()\n"
    own += "    def _make(self):\n        return __name__"
    assert not list(foreign_private_names(own))


def test_private_names_of_libraries_stand_in_one_module() -> None:
    found = {}
    for folder in ("dream_o", "benchmarks", "training"):
        for path in sorted(Path(ROOT, folder).rglob("*.py")):
            names = list(foreign_private_names(path.read_text()))
            if names and path not in (INTERNALS, *READS_COMPILER):
                found[str(path.relative_to(ROOT))] = names
    assert not found


def test_each_private_name_tells_the_version_it_was_read_in() -> None:
    source = INTERNALS.read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            assert any(
                f"{library} {number}" in (ast.get_docstring(node) or "")
                for library in ("Cog", "Gradio", "diffusers", "torch", "torchao", "transformers")
                for number in range(10)
            ), f"{node.name} names no library with its version"
