"""The command line as a module: `python -m multipyro` is the command `multipyro`."""

from multipyro.inference.cli.parser import main

__all__: list[str] = []

if __name__ == "__main__":
    raise SystemExit(main())
