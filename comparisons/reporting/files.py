"""Files written whole or not at all, whatever stands under their name.

What is to be written is gathered first in a file without a name, so that a process that is killed
leaves nothing behind. A regular file then takes the place of the old one, with its mode and owner,
at one stroke. Links are followed. What cannot be replaced is written through: a device, a FIFO, a
descriptor of this process such as /dev/stdout, a file with several names, one in a folder that is
closed.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import BadTarget, QuestionError

MOST_LINKS = 40  # as many as Linux follows
IN_MEMORY = 1 << 26  # bytes that are gathered in memory before a device gets them
# What the system says of a name that can be written and not given to another file: a mount, an
# owner that cannot be kept.
NOT_TO_BE_REPLACED = {errno.EACCES, errno.EBUSY, errno.EINVAL, errno.EPERM, errno.EXDEV}


@dataclass(frozen=True)
class Target:
    """Where the content of a file is to go.

    path          as it was given
    real          the same with its links followed
    there         what stands there; None for nothing
    descriptor    where the path is one of this process's own open files
    """

    path: Path
    real: Path
    there: os.stat_result | None = None
    descriptor: int | None = None

    @property
    def replaceable(self) -> bool:
        """Whether a new file can take its place, and be told from it by its content alone."""
        if self.descriptor is not None:
            return False
        if self.there is None:
            return True
        alone = stat.S_ISREG(self.there.st_mode) and self.there.st_nlink == 1
        may = os.access(self.real.parent, os.W_OK | os.X_OK)
        return alone and may and _can_be_given_to(self.there)


def _can_be_given_to(there: os.stat_result) -> bool:
    """Whether a file of this process can have the same owner and group."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return True
    mine = os.geteuid() == there.st_uid
    return mine and there.st_gid in (os.getegid(), *os.getgroups())


def prepare_folder(folder: Path) -> None:
    """Make the folder if need be. Raises BadTarget when it cannot be written."""
    with _bad_target(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _must_take_files(folder)


def prepare_file(path: Path) -> None:
    """Raises BadTarget when a file of this name cannot be written; nothing is made or changed."""
    with _bad_target(path):
        _target(path)


def is_replaceable(path: Path) -> bool:
    """Whether writing to it again replaces what was written, as a device or a pipe does not.

    Raises BadTarget.
    """
    with _bad_target(path):
        return _target(path).replaceable


def write_text(path: Path, text: str) -> None:
    """The text to the file in UTF-8, whole or not at all. Raises BadTarget."""
    with complete_or_absent(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def contents(path: Path, most: int, error: type[QuestionError]) -> bytes:
    """The bytes of a regular file, or of a pipe that was handed to this process as /dev/fd/N.

    Raises `error` for what is neither, cannot be read, or has more bytes than `most`.
    """
    try:
        kind = path.stat().st_mode
        handed = stat.S_ISFIFO(kind) and _own_descriptor(path) is not None
        if not stat.S_ISREG(kind) and not handed:
            raise error(f"{path} is no regular file")
        with path.open("rb") as stream:
            found = stream.read(most + 1)
    except OSError as failed:
        raise error(f"{path} cannot be read: {failed.strerror or failed}") from failed
    if len(found) > most:
        raise error(f"{path} has more than {most:,} bytes: give a part of it")
    return found


@contextmanager
def complete_or_absent(path: Path) -> Generator[BinaryIO]:
    """A stream whose content becomes that of the file after a good end, and of none otherwise.

    Raises BadTarget; BrokenPipeError where nobody reads the pipe any more.
    """
    with _bad_target(path):
        target = _target(path)
        with _gathering(target) as stream:
            yield stream
            stream.flush()
            if not (target.replaceable and _takes_the_place(stream, target)):
                _write_through(stream, target)


@contextmanager
def _bad_target(path: Path) -> Generator[None]:
    """What the system refuses, as BadTarget."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadTarget(f"{path} cannot be written: {error.strerror or error}") from error


def _target(path: Path) -> Target:
    """Raises BadTarget or OSError for what cannot be written."""
    descriptor = _own_descriptor(path)
    if descriptor is not None:
        import fcntl  # there is none where there are no such paths

        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise BadTarget(f"{path} cannot be written: it is open for reading alone")
        return Target(path, path, descriptor=descriptor)
    real = Path(os.path.realpath(path))
    try:
        there = path.stat()
    except FileNotFoundError:
        if not real.parent.is_dir():
            raise BadTarget(f"{path} cannot be written: there is no folder {real.parent}") from None
        _must_take_files(real.parent)
        return Target(path, real)
    if stat.S_ISDIR(there.st_mode):
        raise BadTarget(f"{path} is a folder")
    if stat.S_ISSOCK(there.st_mode):
        raise BadTarget(f"{path} is a socket")
    if not os.access(path, os.W_OK):
        raise BadTarget(f"{path} cannot be written: it is read-only")
    return Target(path, real, there)


def _own_descriptor(path: Path) -> int | None:
    """N where the path, its links followed, is /dev/fd/N of this process."""
    folders = ("/dev/fd", "/proc/self/fd", f"/proc/{os.getpid()}/fd")
    for _ in range(MOST_LINKS):
        if os.path.realpath(path.parent) in folders and path.name.isdecimal():
            return int(path.name)
        try:
            path = path.parent / path.readlink()
        except OSError:  # no link, or nothing at all
            return None
    return None


def _must_take_files(folder: Path) -> None:
    """Raises OSError where no file can be made in it."""
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _gathering(target: Target) -> Generator[BinaryIO]:
    """A file without a name, beside the target where it is to take its place."""
    if not target.replaceable:
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as stream:
            yield cast(BinaryIO, stream)
        return
    descriptor = _nameless(target)
    if descriptor is None:
        with tempfile.TemporaryFile(dir=target.real.parent) as stream:
            yield cast(BinaryIO, stream)
        return
    with os.fdopen(descriptor, "w+b") as stream:
        yield stream


def _nameless(target: Target) -> int | None:
    """The descriptor of a file that can be given a name later; None where there are no such."""
    flag = getattr(os, "O_TMPFILE", 0)
    try:
        return os.open(target.real.parent, flag | os.O_RDWR, _mode(target)) if flag else None
    except OSError:
        return None


def _mode(target: Target) -> int:
    return 0o666 if target.there is None else stat.S_IMODE(target.there.st_mode)


def _takes_the_place(stream: BinaryIO, target: Target) -> bool:
    """Whether the file could be given its name, in place of what had it."""
    part = target.real.with_name(f".{secrets.token_hex(8)}.part")
    try:
        _name(stream, part, target)
        if target.there is not None:
            _make_alike(part, target.there)
        part.replace(target.real)
    except OSError as error:
        if target.there is None or error.errno not in NOT_TO_BE_REPLACED:
            raise
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def _make_alike(part: Path, there: os.stat_result) -> None:
    """Owner, group and mode of the file that it replaces."""
    new = part.stat()
    if (new.st_uid, new.st_gid) != (there.st_uid, there.st_gid):
        os.chown(part, there.st_uid, there.st_gid)
    part.chmod(stat.S_IMODE(there.st_mode))  # whatever the mask; a new owner has undone part of it


def _name(stream: BinaryIO, part: Path, target: Target) -> None:
    """The content under the name of `part`: the nameless file itself, or a copy of it."""
    with contextlib.suppress(OSError, AttributeError):  # it can have no name, or no longer
        _link(stream.fileno(), part)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(part, flags, _mode(target))
    stream.seek(0)
    with os.fdopen(descriptor, "wb") as named:
        shutil.copyfileobj(stream, named)


def _link(descriptor: int, part: Path) -> None:
    folder = os.open(part.parent, os.O_RDONLY)
    try:  # a folder's descriptor makes it follow the link in /proc
        os.link(f"/proc/self/fd/{descriptor}", part.name, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _write_through(stream: BinaryIO, target: Target) -> None:
    """The content into what is there, which stays what it is."""
    stream.seek(0)
    if target.descriptor is None:
        # Nothing is created where it has gone meanwhile; a terminal does not become ours.
        more = getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        opened = os.open(target.path, os.O_WRONLY | os.O_TRUNC | more)
    else:
        for printed in (sys.stdout, sys.stderr):
            printed.flush()
        opened = os.dup(target.descriptor)
    with os.fdopen(opened, "wb") as there:
        shutil.copyfileobj(stream, there)
