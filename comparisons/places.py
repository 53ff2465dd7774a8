"""Where this package lies.

The folder that holds manual/, reference/ and comparisons/, in a clone or installed.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
