"""What the modules of the package offer one another, read from their code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# What does not hold yet, to be taken from until nothing is left: what holds again fails as well.
UNDERSCORED: set[str] = set()
UNOFFERED: dict[str, set[str]] = {}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PACKAGES = {name_of(path) for path in SOURCE.rglob("__init__.py")}
TREES = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
}


def offered(module: str) -> list[str]:
    """What stands in the module's ``__all__``."""
    for node in TREES[module].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def defined(module: str) -> set[str]:
    """The names at the top level of the module, those for type checkers alone included."""
    names: set[str] = set()
    blocks = [TREES[module].body]
    for block in blocks:
        for node in block:
            match node:
                case ast.If():
                    blocks += [node.body, node.orelse]
                case ast.FunctionDef() | ast.ClassDef():
                    names.add(node.name)
                case ast.Import() | ast.ImportFrom():
                    names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                case ast.Assign() | ast.AnnAssign():
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names |= {ast.unparse(target) for target in targets}
    return names


def imported(module: str) -> set[str]:
    """The names at the top level of the module that come from others."""
    froms = [node for node in TREES[module].body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in froms for alias in node.names}


def used(module: str) -> set[tuple[str, str]]:
    """The names of other modules that the module uses, as (module, name)."""
    found, modules = set(), {}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in TREES:
                    modules[alias.asname or alias.name] = inner
                elif node.module in TREES:
                    found.add((node.module, alias.name))
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other = modules.get(node.value.id)
            if other and f"{other}.{node.attr}" not in TREES:
                found.add((other, node.attr))
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_nothing_underscored_is_used_in_another_module() -> None:
    found = {
        f"{module}: {other}.{name}"
        for module in TREES
        for other, name in used(module)
        if is_private(name) or any(is_private(part) for part in other.split("."))
    }
    assert found == UNDERSCORED


@pytest.mark.parametrize("module", TREES)
def test_what_a_module_offers_is_its_own(module: str) -> None:
    names, lent = offered(module), set() if module in PACKAGES else imported(module)
    assert len(names) == len(set(names))
    assert set(names) <= defined(module) - lent


def test_what_is_used_in_another_module_is_offered() -> None:
    found: dict[str, set[str]] = {}
    for module in TREES:
        for other, name in used(module):
            if not name.startswith("_") and name not in offered(other):
                found.setdefault(other, set()).add(name)
    assert found == UNOFFERED


def test_a_public_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    # Each backend has the same names.
    others = {module for module in TREES if module.startswith("kerasight.keras.backends.")}
    for module in TREES.keys() - PACKAGES - (others - {"kerasight.keras.backends.tensorflow"}):
        for node in TREES[module].body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                places.setdefault(node.name, []).append(module)
    twice = {name for name, modules in places.items() if len(modules) > 1}
    # Each of the commands is called so by `cli`.
    assert {name for name in twice if not name.startswith("_")} == {"command"}
