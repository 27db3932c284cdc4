"""How long does `multipyro --help` take beyond a bare `import torch`? Prints CPU seconds of each, and the difference.

A command line should respond at once, so nothing that only some commands need is imported before they run. Each command
runs in an interpreter of its own, in turn, so that a change of the machine's speed affects all alike; of several runs
the one that other work disturbed least counts. Expect about 0.3 s more than `import torch`: Pyro and the methods,
whose options `--help` lists.
"""

import argparse
import resource
import subprocess
import sys

HELP = "import sys; sys.argv = ['multipyro', '--help']; from multipyro.inference.cli.parser import main; main()"
COMMANDS = {
    "import torch": "import torch",
    "import pyro": "import pyro",
    "import multipyro.guides": "import multipyro.guides",
    "import multipyro.inference": "import multipyro.inference",
    "multipyro --help": HELP,
}


def seconds(code):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
