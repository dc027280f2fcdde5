"""Checks arrays against the shapes and types in annotations, whenever kerasight runs in a test.

To be imported before kerasight's modules. Each function with an array of jaxtyping in its
annotations, as ``Float[np.ndarray, "*spatial channels"]``, is checked when it is called, and each
dataclass when one is made. Arguments are looked at once the function has returned, so that it
refuses in its own words what it refuses by itself.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np

import kerasight  # the package alone, whose modules are imported as they are used

# In annotations, as they stand in a file, and as ast writes them.
_ARRAY = re.compile(r"\[np\.ndarray, ['\"]")


class ShapeError(AssertionError):
    """An array is not as annotated."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its arrays checked."""
    signature = inspect.signature(function)

    @functools.cache  # Not before the first call, when all names of the module are there.
    def hints() -> dict[str, Any]:
        names = {**vars(jaxtyping), "np": np, **function.__globals__}
        hints = function.__annotations__.items()
        return {name: eval(hint, names) for name, hint in hints if _ARRAY.search(str(hint))}

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        values = {**signature.bind(*args, **kwargs).arguments, "return": result}
        with jaxtyping.jaxtyped("context"):  # in which a name has one size
            for name, hint in hints().items():
                if name in values and not fits(values[name], hint):
                    told = ", ".join(f"{one} {_told(value)}" for one, value in values.items())
                    raise ShapeError(
                        f"{function.__module__}.{function.__qualname__}: {name} must be "
                        f"{function.__annotations__[name]}; got {told}"
                    )
        return result

    # Counted as kerasight's own code, to which no warning points.
    names = {**globals(), "__name__": kerasight.__name__}
    ours = types.FunctionType(call.__code__, names, closure=call.__closure__)
    return functools.wraps(function)(ours)


def checked_fields(cls: type) -> type:
    """The dataclass, its arrays checked when one is made."""
    cls.__init__ = checked(cls.__init__)  # type: ignore[misc]
    return cls


def fits(value: Any, hint: Any) -> bool:
    """Whether the arrays in a value are as annotated; what holds none always is."""
    parts = typing.get_args(hint)
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if is_union:
        able = parts if isinstance(value, np.ndarray) else list(filter(typing.get_origin, parts))
        return not able or any(fits(value, part) for part in able)
    if isinstance(value, dict) and parts:
        return all(fits(one, parts[-1]) for one in value.values())
    if isinstance(value, np.ndarray) and not parts:
        return hint is Any or isinstance(value, hint)
    if isinstance(value, (list, tuple, np.ndarray)) and parts:
        is_fixed = isinstance(value, tuple) and parts[-1] is not ...
        return all(map(fits, value, parts if is_fixed else parts[:1] * len(value)))
    return True


def _told(value: Any) -> str:
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)[:60]


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        if b"from jaxtyping import" not in source:
            return super().get_code(fullname)
        # Compiled anew each time: what is cached on the disk is the code without the checks.
        decorated = _Decorator().visit(ast.parse(source))
        return compile(decorated, self.path, "exec", dont_inherit=True)


class _Decorator(ast.NodeTransformer):
    """Puts a decorator on what has an array in its annotations."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        hints = [one.annotation for one in ast.walk(node.args) if isinstance(one, ast.arg)]
        if any(hint and _ARRAY.search(ast.unparse(hint)) for hint in (*hints, node.returns)):
            node.decorator_list.append(_call("checked", node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        # Of any dataclass, as it has the fields of those that it is derived from.
        if any(ast.unparse(one).startswith("dataclass") for one in node.decorator_list):
            node.decorator_list.insert(0, _call("checked_fields", node))
        return node


def _call(name: str, node: ast.stmt) -> ast.expr:
    call = ast.parse(f"__import__({__name__!r}).{name}", mode="eval").body
    for part in ast.walk(call):
        ast.copy_location(part, node)
    return call


_hook = importlib.machinery.FileFinder.path_hook((_Loader, [".py"]))
for _init in Path(kerasight.__file__).parent.rglob("__init__.py"):
    sys.path_importer_cache[str(_init.parent)] = _hook(str(_init.parent))
