"""Imports go one way, only the adapters know SGLang, and only a kernel needs Triton."""

import ast
from pathlib import Path

import pytest

import amoeba_sglang

PACKAGE = Path(amoeba_sglang.__file__).parent
# What each part of the package may import of the others; itself, and errors and clock, always.
MAY_IMPORT = {
    "errors": set(),
    "clock": set(),
    "control": set(),
    "config": {"control"},
    "flags": {"control"},
    "host": set(),
    "planes": {"control", "config", "host"},
    "frontend": {"config", "host"},
    "adapters": {"control", "config", "host", "planes", "frontend"},
    "plan": {"control", "config"},
    "patch": set(),
    "doctor": {"control", "host", "patch", "plan", "planes"},
    "top": set(),
    "launch_server": {"config", "adapters", "flags", "host", "patch"},
}
EVERYWHERE = {"errors", "clock"}
# Below these, nothing that computes or talks.
PURE = ("control", "config", "flags", "errors", "clock", "plan", "patch")


def files_of(part: str) -> list[Path]:
    single = PACKAGE / f"{part}.py"
    return [single] if single.exists() else sorted((PACKAGE / part).rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    """Every module that the file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found.add(node.module)
            if node.module == "amoeba_sglang":
                found |= {f"amoeba_sglang.{alias.name}" for alias in node.names}
    return found


def test_every_part_of_the_package_has_its_place():
    names = {path.stem for path in PACKAGE.iterdir() if path.stem != "__init__"}
    assert names - {"__pycache__", "_patches"} == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_go_one_way(part):
    allowed = MAY_IMPORT[part] | EVERYWHERE | {part, "__version__"}
    for file in files_of(part):
        for module in imports_of(file):
            if module.startswith("amoeba_sglang."):
                name = module.split(".")[1]
                assert name in allowed, f"{file.relative_to(PACKAGE)} imports {module}"


def test_only_adapters_import_sglang():
    users = {
        file.relative_to(PACKAGE).parts[0]
        for file in PACKAGE.rglob("*.py")
        if any(module.split(".")[0] == "sglang" for module in imports_of(file))
    }
    assert users == {"adapters"}


def test_only_the_kernel_imports_triton():
    users = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(module.split(".")[0] == "triton" for module in imports_of(file))
    }
    assert users == {"planes/kernels/turn_cycle.py"}


@pytest.mark.parametrize("part", PURE)
def test_what_decides_neither_computes_nor_talks(part):
    banned = {"torch", "zmq", "socket", "multiprocessing", "threading", "fastapi"}
    for file in files_of(part):
        used = {module.split(".")[0] for module in imports_of(file)} & banned
        assert not used, f"{file.relative_to(PACKAGE)} imports {used}"
