"""The source as text: who may import whom, and the house rules that a parser can check."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "flowlab"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

LEVEL_0_TO_3 = {"core", "layers", "features", "data", "text", "backbones", "flow", "autoencoders", "metrics"}
LEVEL_0_TO_4 = LEVEL_0_TO_3 | {"generate"}
LEVEL_0_TO_7 = LEVEL_0_TO_4 | {"train", "evaluate", "posttrain", "presets"}

MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "layers": {"core"},
    "features": {"core", "layers"},
    "data": {"core", "layers"},
    "text": {"core", "layers"},
    "backbones": {"core", "layers"},
    "flow": {"core", "layers"},
    "autoencoders": {"core", "layers", "features"},
    "metrics": {"core", "layers", "features"},
    "generate": LEVEL_0_TO_3,
    "train": LEVEL_0_TO_4,
    "evaluate": LEVEL_0_TO_4,
    "posttrain": LEVEL_0_TO_4 | {"train"},
    "presets": LEVEL_0_TO_4 | {"train", "evaluate", "posttrain"},
    "study": {"core", "presets", "flow", "metrics"},
    "jobs": LEVEL_0_TO_7 | {"study"},
    "studio": {"core", "autoencoders", "metrics", "generate", "study"},
    "verbs": LEVEL_0_TO_7 | {"study", "jobs", "studio"},
    "cli": LEVEL_0_TO_7 | {"study", "jobs", "studio", "verbs"},
    "__main__": {"cli"},
    "__init__": set(),
}
JOBS_MAY_READ = {
    "flowlab.study.ablation",
    "flowlab.study.grid",
    "flowlab.study.results",
}  # plain data, no engine
CORE_MAY_USE = {"torch", "numpy", "safetensors"}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _folder(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def _imports(tree: ast.AST) -> list[tuple[str, int]]:
    """(dotted name, line) of every import, wherever it stands; `from a import b` counts as a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


# ---- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_one_way(path: Path) -> None:
    folder = _folder(path)
    assert folder in MAY_IMPORT, f"{folder} has no level; give it one here and in the README's table"
    for name, line in _imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "flowlab" or parts[1] in (folder, "__version__"):
            continue
        assert parts[1] in MAY_IMPORT[folder], f"{_name(path)}:{line}: {folder} may not import {name}"
        if folder == "jobs" and parts[1] == "study":
            assert ".".join(parts[:3]) in JOBS_MAY_READ, (
                f"{_name(path)}:{line}: a job reads study data only, not {name}"
            )


def test_core_knows_only_its_few_libraries() -> None:
    for path in (SOURCE / "core").glob("*.py"):
        for name, line in _imports(ast.parse(path.read_text())):
            library = name.split(".")[0]
            known = library in sys.stdlib_module_names or library in CORE_MAY_USE | {"flowlab", "__future__"}
            assert known, f"{_name(path)}:{line} imports {name}"


def test_presets_import_configurations_only() -> None:
    for path in (SOURCE / "presets").glob("*.py"):
        for name, line in _imports(ast.parse(path.read_text())):
            if name.startswith("flowlab.") and not name.startswith("flowlab.presets"):
                assert name.endswith(("Config", "Spec")), f"{_name(path)}:{line}: {name} is no configuration"


def test_torchvision_and_its_dependants_stay_out() -> None:
    banned = {"torchvision", "timm", "lpips", "torch_fidelity", "cleanfid", "pytorch_fid", "piq"}
    for path in [*MODULES, *TESTS, *(ROOT / "benchmarks").glob("*.py")]:
        used = {name.split(".")[0] for name, _ in _imports(ast.parse(path.read_text()))}
        assert not used & banned, f"{_name(path)} imports {used & banned}"


# ---- house style -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_says_what_it_is_and_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{_name(path)} has no docstring"
    body = [node for node in tree.body if not isinstance(node, ast.Expr)]
    if path.name == "__init__.py" and not body:
        return
    assigned = [
        node for node in body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node.targets[0])
    ]
    assert assigned, f"{_name(path)} has no __all__"
    offered = ast.literal_eval(assigned[0].value)
    defined = {name for node in body for name in _defined(node)}
    assert set(offered) <= defined, (
        f"{_name(path)}: __all__ names {set(offered) - defined}, which it does not define"
    )


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    return []


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=_name)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES, f"{_name(path)} has {len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, (
                f"{_name(path)}:{node.lineno}: {node.name} has {length} lines"
            )


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_forbidden_constructs(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{_name(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
        if isinstance(node, ast.keyword) and node.arg == "strict":
            assert not (isinstance(node.value, ast.Constant) and node.value.value is False), (
                f"{where}: strict=False"
            )
        if isinstance(node, ast.Name):
            assert node.id not in ("hasattr", "NotImplementedError"), f"{where}: {node.id}"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{where}: star import"
        if isinstance(node, ast.Assert):
            assert node.msg is not None or _narrows(node.test), f"{where}: assert without a message"


def _narrows(test: ast.expr) -> bool:
    """`x is not None` and isinstance tell the type checker something; their failure explains itself."""
    if isinstance(test, ast.BoolOp):
        return all(_narrows(value) for value in test.values)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot)
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text()
    for word in ("TODO", "FIXME", "XXX", "HACK"):
        assert word not in text, f"{_name(path)} says {word}"


def test_tests_mirror_the_source() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()}
    for path in (ROOT / "tests").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert path.name in folders, f"tests/{path.name} mirrors no folder of src/flowlab"
