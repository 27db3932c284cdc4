"""Build of multipyro: the source folders at the top of the repository install under one import root."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
SUBPACKAGES = ("data", "guides", "inference", "ppl_models")
EXTRAS = {
    "arviz": ["arviz>=0.19,<1"],  # arviz 1 has other data structures
    "export": ["safetensors>=0.4"],
    "faces": ["opencv-python-headless>=4.9,<5"],  # OpenCV 5 has no Haar cascades
    "onnx": ["onnx>=1.17", "onnxscript>=0.3"],
    "ray": ["ray>=2.9"],
    "render": ["pyvista>=0.44"],
    "tables": ["pandas>=2.1", "pyarrow>=14"],
    "tensorboard": ["tensorboard>=2.16"],
    "vision": ["torchvision>=0.17"],  # not in the default install: each version takes one version of torch
}


def version():
    """Read the version without importing the package: its dependencies are absent during a build."""
    text = (ROOT / "multipyro" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def packages():
    """List every package: each top-level source folder and the packages inside it."""
    names = ["multipyro", "multipyro.testing"]
    for folder in SUBPACKAGES:
        names.append(f"multipyro.{folder}")
        names.extend(f"multipyro.{folder}.{inner}" for inner in find_packages(str(ROOT / folder)))
    return names


setup(
    name="multipyro",
    version=version(),
    description="Multimodal variational autoencoders written as Pyro programs",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=packages(),
    package_dir={"multipyro": "multipyro", **{f"multipyro.{folder}": folder for folder in SUBPACKAGES}},
    package_data={"multipyro": ["py.typed"], "multipyro.inference.cli.commands": ["report.html"]},
    zip_safe=False,
    python_requires=">=3.11",
    # The whole suite has passed with Python 3.11 and the lower bounds (torch 2.2.2), and with Python 3.12, torch 2.8,
    # pyro-ppl 1.9.1 and NumPy 2.2; .ci/run installs the newest. An upper bound stands only where a break is known.
    # The modules import with torch, pyro-ppl and numpy alone; see multipyro/_optional.py for the others.
    install_requires=[
        "lightning-fabric>=2.4",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=10.2",
        "pyro-ppl>=1.9",
        "pyyaml>=6",
        "rich>=13.7",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "torch>=2.2",
    ],
    extras_require={
        **EXTRAS,
        "all": sorted({requirement for extra in EXTRAS.values() for requirement in extra}),
        "docs": [
            "mkdocs-jupyter>=0.26",
            "mkdocs-material>=9.7",
            "mkdocstrings[python]>=1",
        ],
        "test": [
            *EXTRAS["arviz"],
            *EXTRAS["export"],
            *EXTRAS["onnx"],
            *EXTRAS["tables"],
            *EXTRAS["tensorboard"],
            *EXTRAS["vision"],
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "onnxruntime>=1.20",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.17.5,<0.18",  # a new minor version formats differently
            "setuptools>=77",
            "zuko>=1.3",  # its flows as experts of our guides
        ],
    },
    entry_points={"console_scripts": ["multipyro = multipyro.inference.cli.parser:main"]},
)
