"""The manner of the code: which way imports point, what importing changes, docstrings, examples, lengths."""

import ast
import doctest
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "data": set(),
    "ppl_models": {"data"},
    "guides": {"data", "ppl_models"},
    "inference": {"data", "guides", "ppl_models"},
}
SOURCES = sorted(path for folder in (*MAY_IMPORT, "multipyro") for path in (ROOT / folder).rglob("*.py"))

# sklearn, lightning and torchvision change these when they are imported; nobody may change the rest of `state`.
THIRD_PARTIES = ["arviz", "lightning", "matplotlib.pyplot", "rich", "sklearn.datasets", "torchvision"]
OTHERS_CHANGE = ["backend", "environment", "python rng", "warnings"]
STATE = """
import hashlib, json, logging, os, random, sys, warnings
import matplotlib, numpy, pyro, torch
def state():
    digest = lambda value: hashlib.sha256(repr(value).encode()).hexdigest()
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
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


def exported(tree):
    """The list in `__all__`, None where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return ast.literal_eval(node.value)
    return None


def imports(tree):
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


@pytest.mark.parametrize("module", ["multipyro.inference", "multipyro.inference.cli.parser"])
def test_lightning_is_imported_by_fit_alone(module):
    code = f"import json, sys, {module}; print(json.dumps([m for m in sys.modules if 'lightning' in m.split('.')[0]]))"
    assert in_a_subprocess(code) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT.get(folder, set()) | {folder}
    for name in imports(ast.parse(path.read_text())):
        head, *rest = name.split(".")
        assert head not in MAY_IMPORT, f"{name}: write multipyro.{name}"
        assert head != "multipyro" or not rest or rest[0] not in MAY_IMPORT.keys() - allowed, name


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_docstring_and_exports(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    names = exported(tree)
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_public_class_function_and_method_is_documented(path):
    module = importlib.import_module(name_of(path))
    things = {
        name: thing
        for name, thing in vars(module).items()
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    }
    methods = {
        f"{name}.{method}": getattr(thing, method)
        for name, thing in things.items()
        if inspect.isclass(thing)
        for method in vars(thing)
        if not method.startswith("_") and (callable(vars(thing)[method]) or isinstance(vars(thing)[method], property))
    }
    # `getdoc` takes the docstring of an overridden method where there is none.
    assert [name for name, thing in things.items() if not thing.__doc__] == []
    assert [name for name, method in methods.items() if not inspect.getdoc(method)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_exports_exist(path):
    module = importlib.import_module(name_of(path))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_examples_in_docstrings(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name_of(path))).failed == 0
