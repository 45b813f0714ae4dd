"""The architecture: which package may import which, and what starts fast because it imports little."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("dsl", "compiler", "runtime", "parc")
FILES = [file for package in ORDER for file in sorted((ROOT / package).rglob("*.py"))]
ALLOWED = {
    "dsl": {"lark"},
    "compiler": set[str](),
    "runtime": {"numpy", "ml_dtypes", "torch", "torch_npu", "tokenizers"},
    "parc": {"click", "rich", "starlette", "hypercorn", "jinja2", "numpy"},
}
LONGEST = 400
"""Lines of a file."""
HEAVY = {"numpy", "ml_dtypes", "rich", "torch", "lark", "click", "starlette", "hypercorn"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, lazy: bool = True) -> Iterator[str]:
    """Full names of the modules that are imported; without `lazy`, only those imported when the module is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)):
            yield from imports(node, lazy)


def needed(tree: ast.AST, modules: Collection[str]) -> list[str]:
    """Which of the modules are imported when this one is; `from package import module` needs the module."""
    names = set(imports(tree, lazy=False))
    packages = {n.rpartition(".")[0] for n in names if n in modules}
    return sorted(n for n in names if n in modules and n not in packages)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_one_way(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    below = set(ORDER[: ORDER.index(package) + 1])
    standard = set(sys.stdlib_module_names)
    tops = {name.split(".")[0] for name in imports(ast.parse(file.read_text()))}
    assert tops - standard - below - ALLOWED[package] == set()


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_data_types_are_made_by_ours(file: Path) -> None:
    """The standard library's `dataclass` costs half a millisecond a class, and neither may derive from the other."""
    if file != ROOT / "dsl" / "data.py":
        assert "dataclasses.dataclass" not in set(imports(ast.parse(file.read_text())))


def test_there_are_no_circles() -> None:
    modules = {module_name(file): ast.parse(file.read_text()) for file in FILES}
    acyclic({name: needed(tree, modules.keys()) for name, tree in modules.items()})


def acyclic(arrows: Mapping[str, Sequence[str]]) -> None:
    """Fails with a circle, if there is one."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in arrows.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


UPWARD = {
    ("compiler.graph", "compiler.layout"): "a value has a layout",
    ("compiler.graph", "compiler.ops"): "a node has an op, whose class knows graphs: loops hold one",
    ("compiler.graph", "compiler.regions"): "a graph has regions of its nodes",
    ("compiler.graph", "compiler.text"): "a graph prints itself",
}
"""Arrows of the graph, of which all speak, to what it is made of: types of fields, and a late import."""


def room(module: str) -> str:
    """A folder of the compiler and what is in it is one room; of the cost model each of its folders, as is each module
    at the top. What memories are is data, which graphs and clusters speak of."""
    parts = module.split(".")
    if module == "compiler.memory.tiers":
        return module
    return ".".join(parts[: 3 if parts[1] == "cost" else 2])


def test_arrows_between_rooms_of_the_compiler_make_no_circle() -> None:
    """Late imports and those of types count."""
    modules = {module_name(f): f for f in FILES if f.is_relative_to(ROOT / "compiler") and f.stem != "__init__"}
    packages = {module_name(f) for f in FILES if f.stem == "__init__"}
    arrows: dict[str, set[str]] = {}
    for name, file in modules.items():
        found = {n for n in imports(ast.parse(file.read_text())) if n in modules or (n in packages and n.count("."))}
        arrows.setdefault(room(name), set()).update(room(n) for n in found)
    found_upward = {(a, b) for a, b in UPWARD if b in arrows[a]}
    assert found_upward == set(UPWARD), "an arrow that is gone is no exception any more"
    for a, b in UPWARD:
        arrows[a].discard(b)
    acyclic({a: sorted(to - {a}) for a, to in arrows.items()})


def test_no_file_is_long() -> None:
    others = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lines = {file.relative_to(ROOT).as_posix(): file.read_text().count("\n") for file in (*FILES, *others)}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


@pytest.mark.parametrize("package", ORDER[:3])
def test_the_packages_themselves_hold_a_docstring_only(package: str) -> None:
    body = ast.parse((ROOT / package / "__init__.py").read_text()).body
    assert len(body) == 1 and ast.get_docstring(ast.Module(body, []))


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split()) & HEAVY


def test_import_parc_is_light() -> None:
    assert loaded_by("import parc") == set()


def command(*args: str) -> str:
    return f"from parc.cli import cli\ntry: cli.main({list(args)!r})\nexcept SystemExit as e: assert not e.code, e.code"


def test_help_is_light() -> None:
    assert loaded_by(command("--help")) == {"click"}


def test_check_runs_nothing(tmp_path: Path) -> None:
    assert loaded_by(command("check", "examples/gpt.par")) == {"click"}
