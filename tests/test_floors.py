"""Imports go down only, and heavy packages are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import coe

FLOORS: dict[str, int] = {
    "coe": 0,
    "coe.types": 0,
    "coe.ids": 0,
    "coe.errors": 0,
    "coe.reliability": 1,
    "coe.experts": 1,
    "coe.routing": 2,
    "coe.outcomes": 2,
    "coe.append_lock": 2,
    "coe.feedback": 2,
    "coe.feedback_log": 2,
    "coe.recent_decisions": 2,
    "coe.profiles": 2,
    "coe.progress": 2,
    "coe.index": 2,
    "coe.votes": 2,
    "coe.engines": 3,
    "coe.routers": 3,
    "coe.encoders": 3,
    "coe.aggregation": 3,
    "coe.retrieval": 3,
    "coe.config": 3,
    "coe.store": 3,
    "coe.telemetry": 3,
    "coe.zoo": 3,
    "coe.scheduling": 4,
    "coe.asking": 4,
    "coe.counting": 4,
    "coe.failover": 4,
    "coe.hearing": 4,
    "coe.members": 4,
    "coe.sessions": 4,
    "coe.wishes": 4,
    "coe.composition": 5,
    "coe.assembly": 6,
    "coe.service": 7,
    "coe.eval": 7,
    "coe.cli": 8,
}
STANDARD_ONLY = ("coe.types", "coe.errors", "coe.experts", "coe.profiles", "coe.votes")
HEAVY = (
    "torch",
    "litellm",
    "transformers",
    "sentence_transformers",
    "onnxruntime",
    "sklearn",
    "scipy",
)
AT_HOME = {
    "pydantic": ("coe.config", "coe.service"),
    "yaml": ("coe.config",),
    "typer": ("coe.cli",),
    "rich": ("coe.cli", "coe.eval"),
    "starlette": ("coe.service",),
    "uvicorn": ("coe.service",),
    "aiohttp": ("coe.engines",),
    "faiss": ("coe.index", "coe.store"),
    "redis": ("coe.store",),
    "prometheus_client": ("coe.service",),
    "opentelemetry": ("coe.service",),
    "pyarrow": ("coe.eval",),
    "matplotlib": ("coe.eval",),
    "bm25s": ("coe.eval",),
}
# Modules that are nothing but training; nobody else imports them when they are imported.
TRAINING = ("coe.zoo.optim", "coe.zoo.train")
# The door `Router.load` is on floor 2 and its wiring on floor 6: deferred, and the only one.
EXCEPTIONS = {("coe.routing", "coe.assembly")}


def _modules(repository: Path) -> Iterator[tuple[str, Path]]:
    for top in ("coe", "routers", "eval", "service"):
        for path in sorted((repository / top).rglob("*.py")):
            relative = path.relative_to(repository)
            if top == "coe" and relative.parts[1] in ("routers", "eval", "service"):
                continue
            parts = relative.with_suffix("").parts
            parts = parts if top == "coe" else ("coe", *parts)
            yield ".".join(parts).removesuffix(".__init__"), path


def _home(module: str) -> str:
    """The entry of FLOORS a dotted name belongs to; a name out of `coe` itself is `coe`."""
    home = ".".join(module.split(".")[:2])
    public = home.removeprefix("coe.") in coe.__all__
    return "coe" if public else home


def _imports(tree: ast.AST, top_level_only: bool = False) -> Iterator[str]:
    nodes = _top_level(tree) if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would slip past the floors"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that run on import: not those in functions or under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _top_level(node)


@dataclass(frozen=True, slots=True)
class Module:
    """Dotted names, of the module and of what it imports."""

    name: str
    imports: tuple[str, ...]
    at_import: tuple[str, ...]
    """Those of them that it imports when it is imported."""

    @property
    def tops(self) -> set[str]:
        return {imported.split(".")[0] for imported in self.imports}


@pytest.fixture(scope="module")
def modules(repository: Path) -> list[Module]:
    """All of the packages, read once: reading them takes seconds."""
    trees = ((name, ast.parse(path.read_text("utf-8"))) for name, path in _modules(repository))
    return [
        Module(name, tuple(_imports(tree)), tuple(_imports(tree, top_level_only=True)))
        for name, tree in trees
    ]


def test_floors_know_every_module(modules: list[Module]) -> None:
    homes = {_home(module.name) for module in modules}
    assert homes - set(FLOORS) == set()
    assert {"coe.routers", "coe.eval", "coe.service"} <= homes


def test_imports_go_down_only(modules: list[Module]) -> None:
    wrong = []
    for module in modules:
        for imported in module.imports:
            pair = (_home(module.name), _home(imported))
            if not imported.startswith("coe") or pair[0] == pair[1]:
                continue
            if module.name == "coe" or pair in EXCEPTIONS:
                continue
            if FLOORS[pair[1]] >= FLOORS[pair[0]] and not _is_same_low_floor(*pair):
                wrong.append(f"{module.name} imports {imported}")
    assert wrong == []


def _is_same_low_floor(importer: str, imported: str) -> bool:
    """Floors 0 to 2 are the shared vocabulary: its members may use each other."""
    return FLOORS[importer] == FLOORS[imported] <= 2


def test_low_floors_use_the_standard_library_only(modules: list[Module]) -> None:
    for module in modules:
        if module.name in STANDARD_ONLY:
            for top in module.tops:
                assert top == "coe" or top in sys.stdlib_module_names, f"{module.name}: {top}"


def test_heavy_packages_are_never_imported_at_module_level(modules: list[Module]) -> None:
    for module in modules:
        name, imported = module.name, set(module.at_import)
        if name in TRAINING:
            continue
        assert imported.isdisjoint(TRAINING), f"{name} imports training when it is imported"
        tops = {package.split(".")[0] for package in imported}
        assert tops.isdisjoint(HEAVY), f"{name} imports {tops & set(HEAVY)} when it is imported"


@pytest.mark.parametrize("package", AT_HOME)
def test_third_party_packages_stay_at_home(modules: list[Module], package: str) -> None:
    for module in modules:
        if package in module.tops:
            assert _home(module.name) in AT_HOME[package], f"{module.name} imports {package}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("coe", ("numpy", "torch", "pydantic")),
        ("coe.assembly", ("torch", "transformers", "pyarrow", "sklearn", "scipy")),
        ("coe.service.app", ("torch", "transformers", "pyarrow", "sklearn", "scipy")),
        ("coe.cli", ("numpy", "torch", "pydantic", "starlette")),
    ],
)
def test_import_loads_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
