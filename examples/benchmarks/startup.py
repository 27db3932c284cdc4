"""How long does `multipyro --help` take beyond a bare `import torch`? Prints seconds of each, and the difference.

A command line should answer at once. Each command runs in an interpreter of its own, in turn, so that a change of the
machine's speed affects all alike; the least time of several runs is the one that other work disturbed least. Expect
`multipyro --help` to take less time than `import torch`, since it imports neither torch nor Pyro.
"""

import argparse
import subprocess
import sys
import time

HELP = "import sys; sys.argv = ['multipyro', '--help']; from multipyro.inference.cli.parser import main; main()"
COMMANDS = {
    "import torch": "import torch",
    "multipyro --help": HELP,
    "import multipyro.guides": "import multipyro.guides",
    "import multipyro.inference": "import multipyro.inference",
}


def seconds(code):
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(args):
    runs = [{name: seconds(code) for name, code in COMMANDS.items()} for _ in range(1 if args.smoke else args.runs)]
    least = {name: min(run[name] for run in runs) for name in COMMANDS}
    for name, value in least.items():
        print(f"{name:28} {value:6.2f} s  {value - least['import torch']:+6.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0, help="not used: nothing here is random")
    parser.add_argument("--smoke", action="store_true", help="one run, to see that it works")
    main(parser.parse_args())
