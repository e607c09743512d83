"""How long `amp --help` takes beside bare Python, in turns in one run. Usage: python tests/bench/startup.py [RUNS]"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "amp --help": [sys.executable, "-c", "from amp_cli.main import main; main()", "--help"],
    "amp eval pope --help": [sys.executable, "-c", "from amp_cli.main import main; main()", "eval", "pope", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for command in COMMANDS.values():
        seconds(command)  # files into the cache
    taken = {name: [] for name in COMMANDS}  # type: dict[str, list[float]]
    for _ in range(runs):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    bare = statistics.median(taken["python -c pass"])
    print(f"{'command':24} {'median s':>9} {'above Python s':>15}   ({runs} runs in turns)")
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:24} {median:9.3f} {median - bare:15.3f}")


if __name__ == "__main__":
    main()
