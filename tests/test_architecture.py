"""The folders are the architecture: who may import whom, and what a package exports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import peml

SOURCE = Path(peml.__file__).parent

# Everything may import the bottom; nothing else may import upwards or sideways.
BOTTOM = {
    *("distributed", "errors", "files", "lazy", "locks", "problems", "records"),
    *("other_names", "registry", "removed", "settings", "switch", "terminal", "versions"),
}
ALLOWED: dict[str, set[str]] = {
    "distributed": {"errors"},
    "errors": set(),
    "lazy": set(),
    "other_names": set(),
    "removed": set(),
    "settings": set(),
    "switch": set(),
    "terminal": set(),
    "versions": set(),
    "files": {"errors"},
    "locks": {"errors", "files"},
    "problems": {"errors", "other_names", "removed"},
    "records": {"errors", "files", "problems", "removed"},
    "registry": {"errors"},
    "tasks": set(),
    "prefix": set(),
    "data": {"tasks"},
    "models": {"data", "injection", "tasks"},
    "injection": {"prefix"},
    "search": {"prefix"},
    "training": {"data"},
    "evaluation": {"data", "models", "tasks"},
    "analysis": {"evaluation", "tasks"},
    "methods": {"data", "injection", "models", "prefix", "search", "tasks"},
    "export": {"data", "injection", "methods", "models", "prefix", "tasks"},
    "serving": {"data", "evaluation", "export", "injection", "models", "tasks"},
    "reporting": set(),
    "config": {"data", "evaluation", "methods", "models", "search", "tasks", "training"},
}
# These stand at the top: they may use every room below, and only those listed use them.
TOP = {
    "run": set(ALLOWED),
    "estimation": {*ALLOWED, "run"},
    "execution": {"config", "run", "training"},
    "tuning": {*ALLOWED, "execution", "run"},
    "comparison": {*ALLOWED, "execution", "run", "tuning"},
    "cli": {*ALLOWED, "comparison", "estimation", "execution", "run", "tuning"},
    "__main__": {"cli"},
    "__init__": {*ALLOWED, "comparison", "execution", "run", "testing", "tuning"},
}
# The tree's own top package is the facade; only the command line may go through it.
FACADE = {"cli"}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, also inside functions and for type checking."""
    package = _name(path) if path.name == "__init__.py" else _name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _used_rooms(path: Path) -> set[str]:
    used = set()
    for name in _imports(path):
        head, _, rest = name.partition(".")
        if head == "peml":
            room = rest.partition(".")[0]
            is_room = (SOURCE / room).is_dir() or (SOURCE / f"{room}.py").is_file()
            used.add(room if room and is_room else "__init__")
    return used


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    if room == "testing":
        return
    assert room in ALLOWED or room in TOP, f"{room} has no place among the import arrows yet"
    allowed = {room, *BOTTOM} if room not in BOTTOM else {room}
    allowed |= ALLOWED.get(room, set()) | TOP.get(room, set())
    if room in FACADE:
        allowed.add("__init__")
    assert _used_rooms(path) <= allowed


def test_the_arrows_form_no_circle() -> None:
    placed: set[str] = set()
    waiting = {**ALLOWED, **TOP, "testing": set()}
    while waiting:
        free = {room for room, uses in waiting.items() if uses <= placed}
        assert free, f"a circle among {sorted(waiting)}"
        placed |= free
        waiting = {room: uses for room, uses in waiting.items() if room not in free}


@pytest.mark.parametrize("room", ["prefix", "search"])
def test_rooms_of_pure_torch_stay_pure(room: str) -> None:
    heavy = {"transformers", "peft", "accelerate", "datasets", "numpy", "scipy", "sklearn"}
    for path in (SOURCE / room).rglob("*.py"):
        used = {name.partition(".")[0] for name in _imports(path)}
        assert not used & heavy, path


def test_only_injection_touches_the_attention_and_mask_registries() -> None:
    registries = re.compile(
        r"ALL_(MASK_)?ATTENTION_FUNCTIONS|AttentionInterface|AttentionMaskInterface"
        r"|masking_utils|modeling_utils"
    )
    users = {
        _room(path) for path in _modules() if registries.search(path.read_text(encoding="utf-8"))
    }
    assert users == {"injection"}


def test_reports_are_made_from_run_folders_alone() -> None:
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "safetensors"}
    for path in (SOURCE / "reporting").rglob("*.py"):
        assert not {name.partition(".")[0] for name in _imports(path)} & heavy, path


def test_types_of_tasks_are_told_apart_in_one_place() -> None:
    for path in _modules():
        if path.relative_to(SOURCE) != Path("tasks/kinds.py"):
            named = re.findall(r"\bTaskType\.[A-Z]\w+", path.read_text(encoding="utf-8"))
            assert not named, f"{path} names {named}: ask the task's type what it needs to know"


def test_nothing_is_unpickled() -> None:
    forbidden = re.compile(r"\bimport pickle\b|\bimport joblib\b|torch\.load\(|allow_pickle=True")
    for path in _modules():
        assert not forbidden.search(path.read_text(encoding="utf-8")), path


def _exports(path: Path) -> list[str] | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            assert isinstance(node, ast.Assign)
            assert isinstance(node.value, ast.List), f"{path}: __all__ is no plain list"
            return [str(ast.literal_eval(element)) for element in node.value.elts]
    return None


def _public_names(path: Path) -> list[str]:
    """What a package hands on, or the classes and functions that a module defines."""
    exports = _exports(path)
    if exports is not None:
        return exports
    body = ast.parse(path.read_text(encoding="utf-8")).body
    defined = [node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [name for name in defined if not name.startswith("_")]


def _sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts them."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_exports_are_listed_and_sorted(path: Path) -> None:
    exports = _exports(path)
    if exports is None:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert path.name != "__init__.py" or all(isinstance(node, ast.Expr) for node in body), (
            "a package with content has an __all__"
        )
        return
    assert exports == sorted(set(exports), key=_sort_key)


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_public_names_exist_and_are_documented(path: Path) -> None:
    if path.name == "__main__.py":
        return
    module = importlib.import_module(_name(path))
    assert module.__doc__, f"{path} has no docstring"
    for name in _public_names(path):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert value.__doc__, f"{name} has no docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has only a generated docstring"
        if inspect.isclass(value) and value.__module__.startswith("peml."):
            _assert_members_documented(value)


def _assert_members_documented(owner: type) -> None:
    for name, member in vars(owner).items():
        value = member.fget if isinstance(member, property) else member
        value = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if name.startswith("_") or not inspect.isfunction(value):
            continue
        if value.__name__ != "<lambda>":  # a field's default is no method
            # an override inherits the description of what it overrides
            assert inspect.getdoc(member), f"{owner.__name__}.{name} has no docstring"
