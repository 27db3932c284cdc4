"""Build of multipyro: the source folders at the top of the repository install under one import root."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
SUBPACKAGES = ("data", "guides", "inference", "ppl_models")


def version():
    """Read the version without importing the package, whose dependencies a build does not have."""
    text = (ROOT / "multipyro" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def packages():
    """List every package: each top-level source folder and whatever packages it holds."""
    found = ["multipyro"]
    for folder in SUBPACKAGES:
        found.append(f"multipyro.{folder}")
        found.extend(f"multipyro.{folder}.{inner}" for inner in find_packages(str(ROOT / folder)))
    return found


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
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=packages(),
    package_dir={"multipyro": "multipyro", **{f"multipyro.{folder}": folder for folder in SUBPACKAGES}},
    package_data={"multipyro": ["py.typed"]},
    zip_safe=False,
    python_requires=">=3.11,<3.12",
    # The tests were run with the lower bounds; an upper bound is the first minor version that was not.
    install_requires=[
        "arviz>=0.23.4,<1",
        "lightning>=2.6.6,<2.7",
        "matplotlib>=3.11.2,<3.12",
        "numpy>=2.4.6,<2.5",
        "pillow>=13.0.0,<13.1",
        "pyro-ppl>=1.9.2,<1.10",
        "rich>=15.0.0,<15.1",
        "scikit-learn>=1.9.1,<1.10",
        "scipy>=1.17.1,<1.18",
        "torch>=2.15.0,<2.16",
        "torchvision>=0.29.2,<0.30",
    ],
    extras_require={
        # OpenCV 5 has no Haar cascades
        "faces": ["opencv-python-headless>=4.14.0.94,<4.15"],
        "render": ["pyvista>=0.49.1,<0.50"],
        "tensorboard": ["tensorboard>=2.21.0,<2.22"],
        "test": [
            "ipykernel>=7.4.0,<7.5",
            "nbclient>=0.11.0,<0.12",
            "nbformat>=5.11.1,<5.12",
            "pytest>=9.2.0,<9.3",
            "pytest-xdist>=3.8.0,<3.9",
            "ruff>=0.17.5,<0.18",
            "setuptools>=84.2.1",
            "tensorboard>=2.21.0,<2.22",
        ],
    },
    entry_points={"console_scripts": ["multipyro = multipyro.inference.cli.parser:main"]},
)
