"""What is installed is what is here: three linked folders, every sub-package, all data."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from coe.errors import DISTRIBUTION, install_hint

LINKED = ("routers", "eval", "service")


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))


@pytest.mark.parametrize("name", LINKED)
def test_link_is_relative_and_committed(repository: Path, name: str) -> None:
    link = repository / "coe" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


def test_packages_list_names_every_folder_with_modules(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    found = set()
    for top in ("coe", *LINKED):
        for init in (repository / top).rglob("__init__.py"):
            parts = init.parent.relative_to(repository).parts
            if top == "coe" and len(parts) > 1 and parts[1] in LINKED:
                continue
            found.add(".".join(parts if top == "coe" else ("coe", *parts)))
    assert found == set(pyproject["tool"]["setuptools"]["packages"])


def test_top_level_names_are_not_installed(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u\n"
        "print([n for n in ('routers', 'eval', 'service') if u.find_spec(n)])\n"
        "import coe.routers, coe.eval, coe.service\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_torch_is_pinned_in_exactly_that_form(repository: Path, pyproject: dict[str, Any]) -> None:
    assert "torch==2.13.0" in pyproject["project"]["optional-dependencies"]["local"]
    assert "torch==2.13.0" in (repository / "constraints.txt").read_text("utf-8").splitlines()


def test_constraints_pin_every_direct_dependency(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    lines = (repository / "constraints.txt").read_text("utf-8").splitlines()
    pins = {_name(line) for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    # litellm wants older releases of what others pin; it is installed where it is asked for.
    extras = {
        name: group
        for name, group in pyproject["project"]["optional-dependencies"].items()
        if name != "litellm"
    }
    wanted = [
        *pyproject["project"]["dependencies"],
        *(d for group in extras.values() for d in group),
    ]
    missing = {_name(d) for d in wanted} - {DISTRIBUTION} - pins
    assert missing == set()


def _name(requirement: str) -> str:
    name = re.split(r"[\[<>=!;~ ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_version_is_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    import coe

    assert coe.__version__ == pyproject["project"]["version"]
    assert version(DISTRIBUTION) == coe.__version__


def test_install_hint_names_this_distribution_and_an_extra_of_it(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    assert pyproject["project"]["name"] == DISTRIBUTION
    assert install_hint("local", "fit") == f'pip install "{DISTRIBUTION}[local,fit]"'
    extras = pyproject["project"]["optional-dependencies"].keys()
    for top in ("coe", *LINKED):
        for path in (repository / top).rglob("*.py"):
            source = path.read_text("utf-8")
            # Hints come from `install_hint`, which knows what pip knows this package by.
            assert "pip install" not in source or path.name == "errors.py", path
            for call in re.findall(r"install_hint\(([^)]*)\)", source):
                named = re.findall(r"['\"]([a-z]+)['\"]", call)
                assert set(named) <= extras, path


def test_public_surface_is_exactly_what_is_exported() -> None:
    import coe

    for name in coe.__all__:
        assert getattr(coe, name) is not None
    assert dir(coe) == sorted(coe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Manager'"):
        _ = coe.Manager


def test_functions_and_files_stay_small(repository: Path) -> None:
    """Hard caps: a function has 60 lines at most, a module 300."""
    for top in ("coe", *LINKED):
        for path in (repository / top).rglob("*.py"):
            source = path.read_text("utf-8")
            assert source.count("\n") <= 300, path
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.slow
def test_wheel_serves_a_user_without_a_checkout(repository: Path, tmp_path: Path) -> None:
    """Builds the wheel, installs it elsewhere, and lets `coe init` and `coe route` run there."""
    run = {"check": True, "capture_output": True, "text": True, "timeout": 300}
    subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(repository)],
        **run,
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert all(name.startswith(("coe/", "coe_router-")) for name in names)
    assert "coe/zoo/weights/generalist/model.safetensors" in names
    site = tmp_path / "site"
    subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), wheel],
        **run,
    )
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    main = (
        "import sys, coe, coe.cli; assert coe.__file__.startswith(sys.argv.pop(1)); coe.cli.main()"
    )
    for arguments in (["init", "mine"], ["route", "-c", "mine/experts.yaml", "capital of Peru?"]):
        done = subprocess.run(  # type: ignore[call-overload]
            [sys.executable, "-c", main, str(site), *arguments], cwd=tmp_path, env=env, **run
        )
    assert "geography" in done.stdout
