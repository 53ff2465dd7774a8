"""Files written whole or not at all: under a temporary name first, renamed when complete."""

import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import BadTarget


def prepare_folder(folder: Path) -> None:
    """Make the folder if need be. Raises BadTarget when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadTarget(f"{folder} cannot be written: {error.strerror}") from error


def prepare_file(path: Path) -> None:
    """Raises BadTarget when a file of this name cannot be written."""
    prepare_folder(path.parent)
    if path.is_dir():
        raise BadTarget(f"{path} is a folder")


def write_text(path: Path, text: str) -> None:
    """The text to the file, whole or not at all. Raises BadTarget."""
    with complete_or_absent(path) as stream:
        stream.write(text.encode())


@contextmanager
def complete_or_absent(path: Path) -> Generator[BinaryIO]:
    """A stream to a temporary file beside `path`: renamed to it after a good end, else removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with temporary.open("xb") as stream:
                yield stream
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise BadTarget(f"{path} cannot be written: {error.strerror}") from error
