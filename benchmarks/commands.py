"""How long the commands that train nothing take, whole processes, interleaved; medians and ratios.

    python benchmarks/commands.py [--rounds 5]

`pipeline --help` is to answer within half a second; `pipeline plan recipes/demo` is to take at most 1.4 times as long as
importing the two TRL configs that it checks against.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "import trl configs": ["-c", "from trl import SFTConfig, GRPOConfig"],
    "plan recipes/demo": ["-m", "pipeline", "plan", "recipes/demo"],
    "--help": ["-m", "pipeline", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begin)
    pairs = zip(seconds["plan recipes/demo"], seconds["import trl configs"], strict=True)
    for name, values in seconds.items():
        print(f"{name:<20} median {statistics.median(values):6.2f} s")
    print(f"plan / import        median {statistics.median(plan / imported for plan, imported in pairs):6.2f}")


if __name__ == "__main__":
    main()
