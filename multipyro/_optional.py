"""Imports of packages that the core does not need, with the command that installs them where they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["INSTALL", "optional_imports"]

# import name -> what `pip install` is called with; the core is torch, pyro-ppl and numpy alone
INSTALL = {
    "PIL": "pillow",
    "arviz": '"multipyro[arviz]"',
    "cv2": '"multipyro[faces]"',
    "lightning_fabric": "lightning-fabric",
    "matplotlib": "matplotlib",
    "pandas": '"multipyro[tables]"',
    "pyarrow": '"multipyro[tables]"',
    "pyvista": '"multipyro[render]"',
    "ray": '"multipyro[ray]"',
    "rich": "rich",
    "safetensors": '"multipyro[export]"',
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorboard": '"multipyro[tensorboard]"',
    "torchvision": '"multipyro[vision]"',
    "xarray": '"multipyro[arviz]"',
    "yaml": "pyyaml",
}


@contextmanager
def optional_imports(purpose: str) -> Iterator[None]:
    """Names the command that installs a package, where an import in this context finds it missing.

    Args:
        purpose: What needs the package, for the message: `"figures"`.

    Raises:
        ModuleNotFoundError: If a package of `INSTALL` is not installed. Any other failed import passes unchanged.

    Example:
        >>> with optional_imports("figures"):
        ...     raise ModuleNotFoundError(name="matplotlib")  # as `import matplotlib` does where it is missing
        Traceback (most recent call last):
            ...
        ModuleNotFoundError: matplotlib is required for figures and not installed: pip install matplotlib
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in INSTALL:
            raise
        message = f"{package} is required for {purpose} and not installed: pip install {INSTALL[package]}"
        raise ModuleNotFoundError(message, name=error.name) from error
