"""What is installed: the same packages from a wheel, from an editable checkout and with an old pip."""

import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import setuptools

import multipyro
from multipyro._optional import INSTALL, optional_imports

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data", "guides", "inference", "ppl_models")
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
LOOK = """
import importlib.metadata as metadata, importlib.util as util, json, pathlib, multipyro
root = pathlib.Path(multipyro.__file__).parent
print(json.dumps({
    "version": multipyro.__version__,
    "metadata": metadata.version("multipyro"),
    "typed": (root / "py.typed").exists(),
    "scripts": {e.name: e.value for e in metadata.entry_points(group="console_scripts") if e.name == "multipyro"},
    "folders": {f: str(pathlib.Path(util.find_spec("multipyro." + f).origin).parent) for f in FOLDERS},
    "generic": [f for f in FOLDERS if util.find_spec(f) is not None],
}))
"""


def run(*command, cwd, **env):
    """Run a command without the caller's Python settings; its output is the error when it fails."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    clean |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", **env}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def look(python, cwd):
    """What an interpreter sees of an installed multipyro, from a folder that is not the checkout."""
    return json.loads(run(python, "-c", f"FOLDERS = {FOLDERS}\n{LOOK}", cwd=cwd))


def modules():
    """Every module of the source, by the path that it has once installed."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "multipyro").rglob("*.py")}
    for folder in FOLDERS:
        found |= {f"multipyro/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    return found


@pytest.fixture
def checkout(tmp_path):
    """A copy of the source: a build leaves its folders where it runs."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    for folder in ("multipyro", *FOLDERS):
        # multipyro/ may contain links to the other folders, which are not part of the source
        ignored = ("__pycache__", *(FOLDERS if folder == "multipyro" else ()))
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns(*ignored))
    return copy


@pytest.fixture
def elsewhere(tmp_path):
    """An empty working folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def environment(folder, with_pip):
    """The interpreter of a fresh environment; its pip is the one that comes with Python, older than today's."""
    venv.create(folder, with_pip=with_pip, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture
def build_tools(tmp_path):
    """A folder that holds setuptools and nothing else, so that a fresh environment builds without a network."""
    folder, source = tmp_path / "build_tools", Path(setuptools.__file__).parents[1]
    folder.mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (folder / name).symlink_to(source / name)
    (dist_info,) = source.glob("setuptools-*.dist-info")
    (folder / dist_info.name).symlink_to(dist_info)
    return folder


def check(seen, folders):
    """The facts that hold however multipyro was installed."""
    assert seen["version"] == seen["metadata"] == multipyro.__version__
    assert seen["typed"]
    assert seen["scripts"] == {"multipyro": "multipyro.inference.cli.parser:main"}
    assert seen["folders"] == {name: str(path) for name, path in folders.items()}
    assert seen["generic"] == []


def test_wheel_with_the_pip_of_today(checkout, elsewhere, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=checkout)
    (wheel,) = (checkout / "dist").glob("multipyro-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == modules()
    assert {"multipyro/py.typed", "multipyro/inference/cli/commands/report.html"} <= names
    assert any(name.endswith("/LICENSE") for name in names)

    python = environment(tmp_path / "venv", with_pip=False)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=elsewhere)
    seen = look(python, elsewhere)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=elsewhere).strip())
    check(seen, {folder: site / "multipyro" / folder for folder in FOLDERS})
    assert (python.parent / "multipyro").exists()


def test_editable_with_the_pip_of_python(checkout, elsewhere, tmp_path, build_tools):
    python = environment(tmp_path / "venv", with_pip=True)
    command = (python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", checkout)
    run(*command, cwd=elsewhere, PYTHONPATH=str(build_tools))
    folders = {folder: checkout / folder for folder in FOLDERS}
    check(look(python, elsewhere), folders)
    assert (python.parent / "multipyro").exists()

    # Beside the source the folder multipyro/ is found first; the others must still be found.
    assert look(python, checkout)["folders"] == {name: str(path) for name, path in folders.items()}

    # A package added after the install needs no new one.
    (checkout / "data" / "__init__.py").write_text("")
    (checkout / "data" / "later").mkdir()
    (checkout / "data" / "later" / "__init__.py").write_text("")
    run(python, "-c", "import multipyro.data.later", cwd=elsewhere)


def test_source_distribution(checkout):
    build = "import sys; from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    run(sys.executable, "-c", build, cwd=checkout)
    (archive,) = (checkout / "dist").glob("multipyro-*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    sources.add("inference/cli/commands/report.html")
    assert sources | {"multipyro/__init__.py", "multipyro/py.typed", "LICENSE", "setup.py"} <= names


def test_readme_and_ci_install_and_test_alike():
    readme, script = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    for command in (r'pip install -e "\.\[(docs,)?test\]"', r"python -m pytest"):
        assert re.search(command, script)
        assert re.search(command, readme)


def requirements():
    """What `setup.py` passes to setuptools."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def test_every_optional_package_is_in_the_requirements():
    settings = requirements()
    extras, default = settings["extras_require"], settings["install_requires"]
    for command in INSTALL.values():
        extra = re.fullmatch(r'"multipyro\[(\w+)\]"', command)
        assert extra[1] in extras if extra else any(re.split(r"\W\W", item)[0] == command for item in default)


def test_only_known_breaks_bound_versions_from_above():
    settings = requirements()
    bounded = {
        re.match(r"[\w-]+", item)[0]
        for items in (settings["install_requires"], *settings["extras_require"].values())
        for item in items
        if re.search(r"<|==|~=", item)
    }
    assert bounded == {"arviz", "opencv-python-headless", "ruff"}
    assert settings["python_requires"] == ">=3.11"


def test_a_missing_package_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    monkeypatch.setitem(sys.modules, "json.nothing", None)
    message = r'arviz is required for an export and not installed: pip install "multipyro\[arviz\]"'
    with pytest.raises(ModuleNotFoundError, match=message), optional_imports("an export"):
        import arviz  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="import of json.nothing halted"), optional_imports("this"):
        importlib.import_module("json.nothing")


def test_the_core_imports_with_torch_pyro_and_numpy_alone():
    code = f"""
import sys
for name in {sorted(INSTALL)}:
    sys.modules[name] = None
import multipyro.inference, multipyro.testing
"""
    run(sys.executable, "-c", code, cwd=ROOT)
