"""The command as a file: `python comparisons/report.py …` is `bptt-crosscheck …`.

comparisons/command_line.py has it.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NOT_INSTALLED = """\
bptt-crosscheck is not installed: pip install -e . in the folder of its README.md"""

if __name__ == "__main__":
    # Python looks first in the folder of the file that it runs; the rooms in it are parts of
    # bptt_crosscheck, and no packages of their own.
    here = Path(__file__).resolve().parent
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != here]
    if find_spec("bptt_crosscheck") is None:
        print(NOT_INSTALLED, file=sys.stderr)
        sys.exit(2)
    try:
        command = import_module("bptt_crosscheck.comparisons.command_line")
    except ImportError as error:
        print(f"bptt-crosscheck cannot be started: {error}", file=sys.stderr)
        sys.exit(2)
    command.main()
