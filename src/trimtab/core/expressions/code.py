"""Hash a Python function by its source and everything that it uses.

The hash does not depend on how Python compiled the function.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib.util
import inspect
import logging
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trimtab.core.errors import Misuse
from trimtab.core.hashing import content_hash

# for modules whose package has another name: the packages that can contain them
DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "xgboost": ("xgboost", "xgboost-cpu")}
_Position = tuple[int, int]


def code_hash(function: Callable[..., Any]) -> str:
    """Return the SHA-256 of a function's source and of everything that it refers to, as 64 hexadecimal digits.

    The hash covers the source text (of a lambda only the expression), the default values, the values in the closure,
    and the global variables that the function reads. A value may be plain data, or a function or class of the user,
    which is hashed in the same way. Objects of libraries are hashed by their qualified name and the version of their
    package. The hash is the same with every version of Python, because it does not depend on bytecode.

    If there is no source text (after `exec`, or at some prompts), constants and names are hashed instead. So the hash
    changes when such a function is moved into a file.

    Raises:
        Misuse: The function uses a value whose content cannot be hashed, such as a lock, an open file or a generator.

    >>> code_hash(lambda: 1) == code_hash(lambda: 2)
    False
    """
    return content_hash(_Describer().describe(function, getattr(function, "__qualname__", repr(function))))


@functools.cache
def distribution_version(module: str) -> str | None:
    """Return the installed version of the package that contains a top-level module, or None if there is none.

    A process reads each version only once, because reading is slow, and every hash of a model needs versions.

    >>> distribution_version("msgspec") is not None
    True
    """
    from importlib import metadata  # imported here, because this import takes 20 ms

    # first try the package with the module's name, so that hashes do not depend on what else is installed
    for name in (module, *DISTRIBUTIONS.get(module, ())):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    names = _distributions().get(module)
    return metadata.version(names[0]) if names else None


class _Describer:
    """Converts objects to JSON values, so that they can be hashed.

    An object that occurs again is replaced by its index in the order of first occurrence.
    """

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._alive: list[object] = []  # keep objects alive, because an `id` is only unique among living objects

    def describe(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int | float | complex | bytes):
            return [type(value).__name__, repr(value)]
        if isinstance(value, tuple | list):
            return [type(value).__name__, *(self.describe(v, where) for v in value)]
        if isinstance(value, set | frozenset):
            return [type(value).__name__, *sorted((self.describe(v, where) for v in value), key=repr)]
        if isinstance(value, Mapping):
            pairs = [[self.describe(k, where), self.describe(v, where)] for k, v in value.items()]
            return [type(value).__name__, *pairs]
        if id(value) in self._met:
            return ["met", self._met[id(value)]]
        self._met[id(value)] = len(self._met)
        self._alive.append(value)
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:
        if isinstance(value, types.ModuleType):
            return self._module(value.__name__)
        if isinstance(value, functools.partial):
            return ["partial", *(self.describe(v, where) for v in (value.func, value.args, value.keywords))]
        if isinstance(value, types.MethodType):
            return ["method", self.describe(value.__func__, where), self.describe(value.__self__, where)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self.describe(value.__func__, where)]
        if isinstance(value, property):
            return ["property", *(self.describe(f, where) for f in (value.fget, value.fset, value.fdel))]
        if _is_named(value):
            return self._named(value)
        if isinstance(value, logging.Logger):
            return ["logger", value.name]
        return self._instance(value, where)

    def _named(self, value: Any) -> Any:
        module = getattr(value, "__module__", None) or type(value).__module__
        name = getattr(value, "__qualname__", None) or value.__name__
        if isinstance(value, types.FunctionType) and not _is_library_file(value.__code__.co_filename):
            return self._function(value)
        if _is_library(module):
            return ["library", f"{module}.{name}", _version(module)]
        if isinstance(value, type):
            return self._class(value)
        return ["named", f"{module}.{name}"]

    def _function(self, function: types.FunctionType) -> Any:
        code, name = function.__code__, function.__qualname__
        closure = {
            free: self.describe(cell.cell_contents, f"{name}: {free}")
            for free, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if _is_filled(cell)
        }
        return {
            "source": _source(code),
            "defaults": self.describe(function.__defaults__, name),
            "keyword_defaults": self.describe(function.__kwdefaults__, name),
            "closure": closure,
            "globals": self._globals(code, function.__globals__, name),
        }

    def _class(self, kind: type) -> Any:
        try:
            source: Any = _class_source(kind)
        except (OSError, TypeError):
            source = None
        own = {
            name: self.describe(value, f"{kind.__qualname__}.{name}")
            for name, value in sorted(vars(kind).items())
            if isinstance(value, types.FunctionType | staticmethod | classmethod | property)
            or (not name.startswith("__") and isinstance(value, bool | int | float | str | tuple | type(None)))
        }
        return {
            "class": source,
            "bases": [self.describe(base, kind.__qualname__) for base in kind.__bases__],
            "own": own,
        }

    def _globals(self, code: types.CodeType, namespace: Mapping[str, Any], name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(_reads(code)):
            if path[0] == "import":
                found["import " + path[1]] = self._module(path[1])
            elif path[0] in namespace:
                value, said = _follow(namespace[path[0]], path)
                found[said] = self.describe(value, f"{name}: {said}")
        return found

    def _module(self, name: str) -> Any:
        if _is_library(name):
            return ["module", name, _version(name)]
        spec = getattr(sys.modules.get(name), "__spec__", None) or _spec(name)
        origin = spec.origin if spec is not None else None
        text = Path(origin).read_text() if origin and origin.endswith(".py") else None
        return ["module", name, text]

    def _instance(self, value: Any, where: str) -> Any:
        kind = type(value)
        if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tobytes"):
            return ["numpy", str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        fields = getattr(kind, "__struct_fields__", None) or [s for s in _slots(kind) if hasattr(value, s)]
        state = {**{f: getattr(value, f) for f in fields}, **getattr(value, "__dict__", {})}
        if not state and not hasattr(value, "__dict__") and not fields:
            raise Misuse(
                f"code of {where}: a {kind.__module__}.{kind.__qualname__} has no content that can be hashed. Create "
                "it inside the function, or pass plain values."
            )
        return ["instance", self.describe(kind, where), self.describe(state, where)]


def _class_source(kind: type) -> str:
    """Return the source text of a class, from the file in which its methods were defined.

    `inspect.getsource` finds the module by its name, and would read another file if a module of the same name was
    loaded since.
    """
    for method in vars(kind).values():
        if isinstance(method, types.FunctionType) and method.__qualname__ == f"{kind.__qualname__}.{method.__name__}":
            lines, _ = inspect.findsource(_bare(method.__code__))
            for node in ast.walk(_parsed("".join(lines))):
                if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    if first <= method.__code__.co_firstlineno <= (node.end_lineno or 0):
                        return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip()
    return textwrap.dedent(inspect.getsource(kind)).rstrip()


def _bare(code: types.CodeType) -> types.CodeType | types.FunctionType:
    """Return code in the form in which `inspect` finds its source text fastest.

    For a function without a module, `inspect` does not search all modules. But the file of the code must exist.
    """
    cells = tuple(types.CellType() for _ in code.co_freevars)
    return types.FunctionType(code, {}, None, None, cells) if Path(code.co_filename).exists() else code


def _source(code: types.CodeType) -> Any:
    try:
        if code.co_name == "<lambda>":
            return _lambda_source(code)
        return textwrap.dedent(inspect.getsource(_bare(code))).rstrip()
    except (OSError, TypeError, SyntaxError, IndentationError):
        return _without_source(code)


def _lambda_source(code: types.CodeType) -> Any:
    """Return the source text of a lambda, without the statement that contains it.

    Of several lambdas in a line, the right one is found by the positions that the compiler recorded, or else by its
    constants. If it cannot be found, return the text of the whole statement, and the constants and names.
    """
    lines, _ = inspect.findsource(_bare(code))
    text = "".join(lines)
    here = [n for n in ast.walk(_parsed(text)) if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno]
    start, end = _span(code)
    exact = [n for n in here if start == (n.body.lineno, n.body.col_offset) and end == _end(n.body)]
    for chosen in (exact, [n for n in here if _same_constants(n, code)], here):
        sources = {ast.get_source_segment(text, n) or "" for n in chosen}
        if len(sources) == 1:
            return textwrap.dedent(sources.pop())
    return [textwrap.dedent(inspect.getsource(_bare(code))).rstrip(), _without_source(code)]


def _same_constants(node: ast.Lambda, code: types.CodeType) -> bool:
    """Return whether a lambda has the constants and names of this code. (Python 3.12 does not record all positions.)"""
    compiled = compile(ast.Expression(node), "<lambda>", "eval")
    inner = next(c for c in compiled.co_consts if isinstance(c, types.CodeType))
    return (repr(inner.co_consts), inner.co_names) == (repr(code.co_consts), code.co_names)


def _span(code: types.CodeType) -> tuple[_Position, _Position]:
    places = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line is not None and end_line is not None and column is not None and end_column is not None
    ]
    places = [(start, end) for start, end in places if start < end]
    return min((p[0] for p in places), default=(0, 0)), max((p[1] for p in places), default=(0, 0))


def _end(node: ast.expr) -> _Position:
    return node.end_lineno or 0, node.end_col_offset or 0


def _without_source(code: types.CodeType) -> Any:
    """Describe a function without source text by its constants and names, and those of inner functions."""
    constants = [_without_source(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return {"constants": constants, "names": [*code.co_names], "arguments": [*code.co_varnames[: code.co_argcount]]}


def _reads(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    """Yield each global variable that is read, with the attributes that are taken from it.

    For an import, yield `("import", module)`.
    """
    found: set[tuple[str, ...]] = set()
    path: list[str] = []
    for step in dis.get_instructions(code):
        if step.opname == "EXTENDED_ARG":  # belongs to the next instruction
            continue
        if path and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            path.append(step.argval)
            continue
        if path:
            found.add(tuple(path))
            path = []
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            path = [step.argval]
        elif step.opname == "IMPORT_NAME":
            found.add(("import", step.argval))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_reads(constant))
    return iter(found)


def _follow(value: Any, path: tuple[str, ...]) -> tuple[Any, str]:
    """Follow attributes of modules to the value that is used (for `settings.rates.LOW` a number).

    Return this value, and its name ("settings.rates.LOW").
    """
    taken = 1
    while isinstance(value, types.ModuleType) and taken < len(path) and hasattr(value, path[taken]):
        value, taken = getattr(value, path[taken]), taken + 1
    return value, ".".join(path[:taken])


def _is_named(value: Any) -> bool:
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.MethodDescriptorType):
        return True
    return type(value).__name__ == "ufunc" and type(value).__module__.startswith("numpy")


def _is_library(module: str) -> bool:
    """Return whether a module belongs to Python, to trimtab or to an installed package, and not to the user."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("builtins", "trimtab"):
        return top != "__main__"
    loaded = sys.modules.get(module) or sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None) or _spec(top)
    if spec is None or spec.origin is None:
        return False
    return _is_library_file(spec.origin)


@functools.cache
def _is_library_file(path: str) -> bool:
    return path.startswith("<frozen ") or any(Path(path).is_relative_to(folder) for folder in _library_folders())


def _version(module: str) -> str:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return "python"
    return distribution_version(top) or "unknown"


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _slots(kind: type) -> list[str]:
    declared = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    return [name for names in declared for name in ([names] if isinstance(names, str) else names)]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (an empty cell raises)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*paths, str(Path(__file__).parents[2]))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the installed packages that contain each module. This reads all packages, which takes 0.2 s."""
    from importlib import metadata

    return metadata.packages_distributions()
