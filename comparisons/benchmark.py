"""The benchmark as a file: `python comparisons/benchmark.py …`.

Comparisons/speed/benchmark.py has it.
"""

import sys
from importlib import import_module

if __name__ == "__main__":
    del sys.path[
        0
    ]  # this folder, whose rooms are parts of bptt_crosscheck and no packages of their own
    import_module("bptt_crosscheck.comparisons.speed.benchmark").main()
