"""The shape of the code base: who may import whom, and that every public name is documented."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nriqa_jax

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "nriqa_jax").rglob("*.py"))
ALLOWED_OUTSIDE = {"jax", "flax", "optax", "numpy", "scipy", "jaxtyping"}
BELOW = {  # what the modules under models and attacks may import, types aside
    "winograd": {"windows"},
    "image": {"windows"},
    "resize": {"image"},
    "patches": {"windows"},
    "grouped": {"patches"},
    "layers": {"batch_norm", "grouped", "patches", "rectifiers", "windows", "winograd"},
    "prepare": {"grouped", "layers", "patches", "winograd"},
    "metrics": {"image"},
    "asking": {"memory"},
    "parallel": {"asking"},
    "slots": {"parallel", "attacks"},
}
PEERS = {"models", "attacks", "defenses"}
BASE = {"types", "windows", "winograd", "grouped", "patches", "image", "resize", "batch_norm", "layers", "prepare"}
BASE |= {"metrics", "memory", "rectifiers"}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module):
    return module.split(".")[1] if module.count(".") else ""


def may_import(importer, imported):
    """types <- image, layers, metrics, parallel <- models | attacks | defenses, which never import each other."""
    if importer == imported or imported in {"", "types"}:
        return True
    if importer in PEERS:
        return imported in BASE
    return imported in BELOW.get(importer, set())


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_library_imports_follow_the_layers(path):
    importer = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported_modules(path):
        package = module.split(".")[0]
        if package == "nriqa_jax":
            assert may_import(importer, layer(module)), f"{importer} imports {module}"
        else:
            assert package in ALLOWED_OUTSIDE | set(sys.stdlib_module_names), f"{path.name} imports {module}"


def test_the_layer_rule_can_fail():
    assert not may_import("attacks", "models")
    assert not may_import("image", "attacks")
    assert not may_import("parallel", "attacks")


def test_torch_is_imported_by_tests_and_peers_only():
    peers = set((ROOT / "experiments" / "contenders").glob("torch_*.py"))  # what speed is measured against
    peers |= set((ROOT / "weights_convert" / "torch_graphs").glob("*.py"))  # what conversions are verified against
    paths = {*LIBRARY, *(ROOT / "experiments").rglob("*.py"), *(ROOT / "weights_convert").rglob("*.py")}
    for path in paths - peers:
        assert "torch" not in {module.split(".")[0] for module in imported_modules(path)}, path


def test_importing_the_library_stays_light():
    modules = [name for _, name, _ in pkgutil.walk_packages(nriqa_jax.__path__, "nriqa_jax.")]
    code = f"""
import sys, importlib
import nriqa_jax
assert not {{"absl", "torch", "PIL"}} & set(sys.modules), "import nriqa_jax"
for name in {modules}: importlib.import_module(name)
assert not {{"torch", "PIL", "experiments", "weights_convert"}} & set(sys.modules), "all modules"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("package", ["nriqa_jax", "experiments", "weights_convert"])
def test_every_public_name_is_documented(package):
    root = importlib.import_module(package)
    for _, name, _ in pkgutil.walk_packages(root.__path__, f"{package}."):
        if name.startswith(("experiments.contenders.torch_", "weights_convert.torch_graphs.")):
            pytest.importorskip("torch")
            if name.endswith("toolbox"):
                continue  # needs a package of its own
        module = importlib.import_module(name)
        assert module.__doc__, name
        for public, value in vars(module).items():
            mine = getattr(value, "__module__", None) == name and not public.startswith("_")
            if mine and (inspect.isfunction(value) or inspect.isclass(value)):
                assert value.__doc__, f"{name}.{public}"
