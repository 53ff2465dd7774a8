"""Where this package lies: the folder that holds manual/, reference/ and comparisons/, in a clone
or installed.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
