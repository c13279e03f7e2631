"""S5, S8, S10 and S14: what the source never does, and which packages it is installed with."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from coe.config.reading import _UniqueKeyLoader

_FOLDERS = ("coe", "routers", "eval", "service")
_FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
_FORBIDDEN_MODULES = frozenset(
    {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "joblib"}
)
_FORBIDDEN_ATTRIBUTES = frozenset(
    {
        ("os", "system"),
        ("os", "popen"),
        ("yaml", "unsafe_load"),
        ("yaml", "full_load"),
        ("yaml", "load_all"),
        ("subprocess", "getoutput"),
        ("subprocess", "getstatusoutput"),
        ("asyncio", "create_subprocess_shell"),
        ("ssl", "_create_unverified_context"),
    }
)
_FORBIDDEN_OPTIONS = (
    ("allow_pickle", True),
    ("trust_remote_code", True),
    ("shell", True),
    ("verify", False),
    ("verify_ssl", False),
    ("ssl", False),
    ("weights_only", False),
)
# Whose default unpickles, or builds any object, and what has to be said against that.
_LOADERS: dict[tuple[str, ...], str] = {
    ("torch", "load"): "weights_only",
    ("yaml", "load"): "Loader",
}


# A benchmark's own check, run in a process without network, files or time.
_CHILD = "eval/benchmarks/check_child.py"
_SANDBOXED = frozenset({(_CHILD, "calls exec"), (_CHILD, "calls compile")})


def _sources(repository: Path) -> Iterator[tuple[Path, ast.Module]]:
    seen: set[Path] = set()
    for folder in _FOLDERS:
        for file in sorted((repository / folder).rglob("*.py")):
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file, ast.parse(file.read_text(encoding="utf-8"))


def _dotted(node: ast.expr) -> tuple[str, ...]:
    if isinstance(node, ast.Name):
        return (node.id,)
    return (*_dotted(node.value), node.attr) if isinstance(node, ast.Attribute) else ()


def _complaints(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
            yield from (f"imports {name}" for name in names if name in _FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in _FORBIDDEN_MODULES:
                yield f"imports {node.module}"
        elif isinstance(node, ast.Call):
            yield from _complaints_of_call(node)


def _complaints_of_call(node: ast.Call) -> Iterator[str]:
    called = _dotted(node.func)
    if isinstance(node.func, ast.Name) and called[0] in _FORBIDDEN_CALLS:
        yield f"calls {called[0]}"
    if called[-2:] in _FORBIDDEN_ATTRIBUTES:
        yield f"calls {'.'.join(called)}"
    options = {word.arg: word.value for word in node.keywords}
    if called[-2:] in _LOADERS and not _is_safe(options.get(_LOADERS[called[-2:]])):
        yield f"calls {'.'.join(called)} of any object"
    for name, value in _FORBIDDEN_OPTIONS:
        given = options.get(name)
        if isinstance(given, ast.Constant) and given.value is value:
            yield f"says {name}={value}"


def _is_safe(option: ast.expr | None) -> bool:
    """`True`, or a loader of plain values: YAML's own, or the one that refuses keys given twice."""
    if isinstance(option, ast.Constant):
        return option.value is True
    loader = "" if option is None else _dotted(option)[-1]
    if loader == "_UniqueKeyLoader":
        return issubclass(_UniqueKeyLoader, yaml.SafeLoader)
    return loader in ("SafeLoader", "CSafeLoader")


def test_source_unpickles_evaluates_and_shells_nothing(repository: Path) -> None:
    """S5, S8, S10: no pickle, eval, exec, shell, unsafe YAML, remote code or unchecked TLS."""
    found = [
        f"{file.relative_to(repository)}: {complaint}"
        for file, tree in _sources(repository)
        for complaint in _complaints(tree)
        if (str(file.relative_to(repository)), complaint) not in _SANDBOXED
    ]
    assert found == []


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "x = __import__('os')",
        "os.system('x')",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "np.load(f, allow_pickle=True)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "f(trust_remote_code=True)",
        "subprocess.run('x', shell=True)",
        "asyncio.create_subprocess_shell('x')",
    ],
)
def test_search_for_forbidden_calls_finds_them(bad: str) -> None:
    assert list(_complaints(ast.parse(bad)))


def test_search_for_forbidden_calls_lets_others_be() -> None:
    fine = "np.load(f, allow_pickle=False); torch.load(f, weights_only=True); re.compile('x')"
    assert not list(_complaints(ast.parse(fine)))


_GUARDS = ("service/door.py", "service/bounds.py", "service/upstream_fields.py", "service/media.py")
_MORE_GUARDS = (
    "service/admin/access.py",
    "service/tenant.py",
    "service/middleware.py",
    "coe/store/keys.py",
    "coe/store/cache.py",
    "coe/store/files.py",
    "coe/wishes.py",
    "routers/category_bounds.py",
    "routers/policies/restricted.py",
)


@pytest.mark.parametrize("name", [*_GUARDS, *_MORE_GUARDS])
def test_guard_does_not_rest_on_assertions(repository: Path, name: str) -> None:
    """S10: `python -O` drops assertions, so that no module that keeps somebody out has one."""
    tree = ast.parse((repository / name).read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


_UNDER_O = """
import asyncio, sys
from coe.service.bounds import check_bounds
from coe.service.door import Door
from coe.service.errors import InvalidRequest, KeyRefused
from coe.service.request_limits import RequestLimits
from coe.errors import StoreError

class Keys:
    def __init__(self, found): self.found = found
    async def find(self, authorization):
        if self.found: raise self.found
        return None

async def inside(*_): print("in")

for found, wanted in ((None, KeyRefused), (ValueError("x"), StoreError)):
    try:
        door = Door(inside, Keys(found))
        scope = {"type": "http", "path": "/v1/models", "headers": []}
        asyncio.run(door(scope, None, None))
    except wanted:
        print("shut")
image = {"messages": [{"role": "user", "content": [{"image_url": "file:///etc/passwd"}]}]}
for raw in ({"n": 10**6}, {"chat_template": "x"}, {"api_base": "x"}, image, {"prompt_embeds": "x"}):
    try:
        check_bounds(raw, RequestLimits())
    except InvalidRequest:
        print("refused")
print(sys.flags.optimize)
"""


def test_guards_hold_without_assertions() -> None:
    """S10: the door and the bounds, in an interpreter that runs no assertion."""
    done = subprocess.run(
        [sys.executable, "-O", "-c", _UNDER_O], capture_output=True, text=True, timeout=60
    )
    told = done.stdout.split()
    # The last word proves that assertions were off.
    assert told == [*["shut"] * 2, *["refused"] * 5, "1"], done.stderr


def test_packages_are_pinned_to_the_letter(repository: Path) -> None:
    """S14: every line of the constraints is one exact version, of one package once."""
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(pins) > 50
    exact = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.+!-]*")
    assert [line for line in pins if not exact.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in pins]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("bad", ["1.82.7", "1.82.8"])
def test_stolen_releases_cannot_be_installed(repository: Path, bad: str) -> None:
    """S14: two releases of litellm carried a credential stealer; every way in excludes them."""
    packaging = pytest.importorskip("packaging.requirements")
    told = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in told.get("optional-dependencies", {}).values() for line in lines]
    wanted = [packaging.Requirement(line) for line in (*told["dependencies"], *extras)]
    litellm = [requirement for requirement in wanted if requirement.name == "litellm"]
    assert litellm
    for requirement in litellm:
        assert not requirement.specifier.contains(bad)
    assert f"litellm=={bad}" not in (repository / "constraints.txt").read_text(encoding="utf-8")


def test_web_framework_is_one_with_the_fix_for_hosts(repository: Path) -> None:
    """S2, S14: starlette before 1.3 decided on what the Host header said."""
    pins = (repository / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(r"^starlette==(\d+)\.(\d+)", pins, re.MULTILINE)
    assert found is not None
    assert (int(found[1]), int(found[2])) >= (1, 3)
