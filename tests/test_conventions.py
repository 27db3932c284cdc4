"""The conventions of the code: which way imports point, what importing changes and loads, exports, docstrings."""

import ast
import doctest
import graphlib
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
# package -> what it may import, beside the modules of `multipyro` itself, which import none of them
MAY_IMPORT = {
    "data": set(),
    "ppl_models": {"data"},
    "guides": {"data", "ppl_models"},
    "inference": {"data", "guides", "ppl_models"},
    "testing": {"data", "guides", "inference", "ppl_models"},
}
FOLDERS = {name: ROOT / "multipyro" / name if name == "testing" else ROOT / name for name in MAY_IMPORT}
SOURCES = sorted(
    path
    for folder, pattern in ((ROOT / "multipyro", "*.py"), *((folder, "**/*.py") for folder in FOLDERS.values()))
    for path in folder.glob(pattern)
)
# What only some functions need; they import it themselves.
HEAVY = ["PIL", "arviz", "lightning", "lightning_fabric", "matplotlib", "pandas", "rich", "scipy", "sklearn"]
# In these folders a module is a method or a data set, and there may be any number of them.
CATALOGS = {"inference/recipes", "data/sets"}

# sklearn and torchvision change these when they are imported; nobody may change the rest of `state`.
THIRD_PARTIES = ["arviz", "matplotlib.pyplot", "rich", "sklearn.datasets", "torchvision"]
OTHERS_CHANGE = ["backend", "environment", "path", "python rng", "warnings"]
STATE = """
import hashlib, json, logging, os, random, sys, warnings
import matplotlib, numpy, pyro, torch
def state():
    digest = lambda value: hashlib.sha256(repr(value).encode()).hexdigest()
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.empty(0).device),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cudnn": [torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark],
        "threads": torch.get_num_threads(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "torch rng": digest(torch.get_rng_state().tolist()),
        "numpy rng": digest(numpy.random.get_state()[1].tolist()),
        "python rng": digest(random.getstate()),
        "numpy errors": numpy.geterr(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro settings": repr(pyro.settings.get()),
        "parameter store": list(pyro.get_param_store().keys()),
        "warnings": digest(warnings.filters),
        "backend": matplotlib.rcParams._get_backend_or_none(),
        "style": digest(sorted((k, v) for k, v in matplotlib.rcParams.items() if k != "backend")),
        "logging": [logging.root.level, len(logging.root.handlers)],
        "environment": dict(os.environ),
        "path": list(sys.path),
    }
"""


def name_of(path):
    """The name under which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "multipyro" else ("multipyro", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def in_a_subprocess(code):
    """Run code in an interpreter of its own, beside the source, and read what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class AtRunTime(ast.NodeTransformer):
    """Removes what only type checkers read."""

    def visit_If(self, node):
        return None if getattr(node.test, "id", "") == "TYPE_CHECKING" else self.generic_visit(node)


MODULES = {name_of(path): AtRunTime().visit(ast.parse(path.read_text())) for path in SOURCES}


def imports(name):
    """The modules of the library that a module imports, anywhere in it."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import at line {node.lineno}"
            assert node.module.split(".")[0] not in MAY_IMPORT, f"{name}: write multipyro.{node.module}"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (each if each in MODULES else node.module for each in names if node.module in MODULES)


def assert_no_cycle(graph):
    """Raises if a graph, node -> set of nodes, has a cycle, and shows it."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_importing_changes_no_global_state():
    names = [name_of(path) for path in SOURCES]
    code = f"""{STATE}
import importlib
bare = state()
for name in {THIRD_PARTIES}:
    importlib.import_module(name)
before = state()
for name in {names}:
    importlib.import_module(name)
after = state()
reference = {{k: before[k] if k in {OTHERS_CHANGE} else bare[k] for k in bare}}
print(json.dumps([k for k in after if after[k] != reference[k]]))
"""
    assert in_a_subprocess(code) == []


def test_heavy_packages_are_imported_by_the_functions_that_need_them():
    """Importing guides and recipes pulls in none of them, and a step does not import sympy."""
    code = f"""
import json, sys
import multipyro.guides
import multipyro.testing
heavy = [name for name in {HEAVY} if name in sys.modules]
from multipyro.inference import build
from multipyro.inference.recipes import Networks
data = multipyro.testing.toy_data(["signal", "label"])
recipe = build("mopoe", Networks(data.modalities, (4,)), 2)
recipe.stages[0].objective.loss_and_grads(recipe.model, recipe.guide, dict(data.x))
print(json.dumps([*heavy, *(["sympy"] if "sympy" in sys.modules else [])]))
"""
    assert in_a_subprocess(code) == []


def test_imports_point_one_way():
    upward = []
    for name in MODULES.keys() - {"multipyro.__main__"}:  # the command line as a module
        _, folder, *_ = (*name.split("."), None)
        allowed = MAY_IMPORT.get(folder, set()) | {folder}
        folders = {imported.split(".")[1] for imported in imports(name) if "." in imported}
        upward += [f"{name} imports {other}" for other in folders & MAY_IMPORT.keys() - allowed]
    assert upward == []


def test_no_module_imports_itself_through_others():
    assert_no_cycle({name: set(imports(name)) - {name} for name in MODULES})


def test_no_import_runs_upward_between_subpackages():
    # `inference/training/loop.py` belongs to `inference.training`; what an `__init__` re-exports is on top of it
    def subpackage(name):
        parts = name.split(".")
        is_package = any(other.startswith(f"{name}.") for other in MODULES)
        return f"{name} (exports)" if is_package and len(parts) <= 3 else ".".join(parts[:3])

    graph = {}
    for name in MODULES:
        others = {subpackage(imported) for imported in imports(name)}
        graph.setdefault(subpackage(name), set()).update(others - {subpackage(name)})
    assert_no_cycle(graph)


def test_no_folder_shows_more_than_twelve_modules():
    folders = {path.parent for path in SOURCES} - {ROOT / folder for folder in CATALOGS}
    shown = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {folder.relative_to(ROOT).as_posix(): len(paths) for folder, paths in shown.items() if len(paths) > 12} == {}


def test_no_module_is_shadowed_by_a_function_of_its_name():
    shadowed = []
    for name in MODULES:
        module, (package, _, last) = importlib.import_module(name), name.rpartition(".")
        if package and getattr(importlib.import_module(package), last) is not module:
            shadowed.append(name)
    assert shadowed == []


def test_every_module_has_a_docstring_and_exports_public_names_that_exist():
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path}: no docstring"
        module = importlib.import_module(name_of(path))
        private = [name for name in module.__all__ if name.startswith("_") and name != "__version__"]
        assert private == [], f"{path} exports {private}"
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], path


def public_definitions(module):
    """The public classes and functions that a module defines, and the classes' methods and properties, by name."""
    for name, value in vars(module).items():
        is_definition = inspect.isclass(value) or inspect.isfunction(value)
        if name.startswith("_") or not is_definition or value.__module__ != module.__name__:
            continue
        yield name, value.__doc__
        for inner, attribute in vars(value).items() if inspect.isclass(value) else ():
            if not inner.startswith("_") and (callable(attribute) or isinstance(attribute, property)):
                # `getdoc` takes the docstring of an overridden method where there is none
                yield f"{name}.{inner}", inspect.getdoc(getattr(value, inner))


def test_every_public_class_function_and_method_is_documented():
    modules = map(importlib.import_module, MODULES)
    assert [f"{m.__name__}.{name}" for m in modules for name, text in public_definitions(m) if not text] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if ">>> " in path.read_text()], ids=name_of)
def test_examples_in_docstrings(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name_of(path))
    if path.name == "export.py" and not hasattr(torch.export.Dim, "DYNAMIC"):
        pytest.skip("torch.export of PyTorch 2.6")
    assert doctest.testmod(module).failed == 0
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert [test.name for test in tests if not any(example.want for example in test.examples)] == []
