"""The command as a file: `python comparisons/report.py …` is `bptt-crosscheck …`.

Comparisons/command_line.py has it.
"""

import sys
from importlib import import_module

if __name__ == "__main__":
    del sys.path[
        0
    ]  # this folder, whose rooms are parts of bptt_crosscheck and no packages of their own
    import_module("bptt_crosscheck.comparisons.command_line").main()
