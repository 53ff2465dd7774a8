"""A user's file in its own surroundings: its neighbours can be imported and its data found, and
nothing of that is left to the process.

Whatever the file's code imports by a bare name is looked for beside the file first, as it is where
Python runs the file; whatever anybody else imports is not. So a neighbour called problem.py is the
user's to the user, and a neighbour called torch.py is nobody else's.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TypeVar

from ..errors import CandidateFailed
from ..user_code import STDLIB

Told = TypeVar("Told")
IMPORTLIB = "importlib"
OURS = __name__.partition(".")[0]


@dataclass
class Neighbours:
    """A finder of modules beside a file, for the code of that folder alone."""

    folder: Path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The neighbour of this name, where a neighbour asks for it."""
        if path is not None or not self._asks():
            return None
        return PathFinder.find_spec(fullname, [str(self.folder)], target)

    def _asks(self) -> bool:
        """Whether the code that imports is in the folder."""
        frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        while frame is not None and _is_machinery(frame):
            frame = frame.f_back
        return frame is not None and is_within(frame.f_code.co_filename, self.folder)


def _is_machinery(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name == __name__ or name.partition(".")[0] in (IMPORTLIB, "_frozen_importlib")


def is_within(file: Any, folder: Path) -> bool:
    """Whether the file is the folder's own, and not of something that is installed in it."""
    if not isinstance(file, str):
        return False
    path = Path(file)
    return path.is_relative_to(folder) and "site-packages" not in path.parts


@dataclass
class Place:
    """The surroundings of a file.

    folder    where it lies
    working   the folder in which its code works: the caller's, or where the code itself has gone
    path      sys.path as its code has left it
    modules   what its code has imported of the folder
    """

    folder: Path
    working: Path = field(default_factory=Path.cwd)
    path: list[str] = field(default_factory=lambda: [*sys.path])
    modules: dict[str, ModuleType] = field(default_factory=dict[str, ModuleType])

    def run(
        self, asked: Callable[[], Told], error_of: Callable[[Told], Any] = lambda _: None
    ) -> Told:
        """What is asked for, in these surroundings.

        Where that fails because a file is not there, it is asked for again in the file's own
        folder. `error_of` is the error that something told holds.
        """
        try:
            told = self._once(asked)
        except CandidateFailed as error:
            if not self._misses_a_file(error):
                raise
        else:
            if not self._misses_a_file(error_of(told)):
                return told
        self.working = self.folder
        return self._once(asked)

    def _misses_a_file(self, error: Any) -> bool:
        cause = getattr(error, "__cause__", None)
        return isinstance(cause, FileNotFoundError) and self.working != self.folder

    def _once(self, asked: Callable[[], Told]) -> Told:
        with _as_they_were(), self._neighbours(), self._here():
            return asked()

    @contextlib.contextmanager
    def _here(self) -> Generator[None]:
        """In the folder and with the path that the file's code has left."""
        os.chdir(self.working)
        sys.path[:] = [*self.path, str(self.folder)]
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                self.working = Path.cwd()
            entries: list[Any] = [*sys.path]
            own = [each for each in entries if isinstance(each, str)]
            self.path = [each for each in own if each != str(self.folder)]

    @contextlib.contextmanager
    def _neighbours(self) -> Generator[None]:
        """With the file's neighbours to import, in place of what others have under their names."""
        finder: Any = Neighbours(self.folder)
        before, finders = dict(sys.modules), [*sys.meta_path]
        for name in self._names_beside() & set(before):
            if _is_strange(before[name], self.folder):
                del sys.modules[name]
        sys.modules.update(self.modules)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            added = [each for each in sys.meta_path if each not in (finder, *finders)]
            sys.meta_path[:] = [*finders, *added]
            self._take_back(before)

    def _names_beside(self) -> set[str]:
        """The names of the modules and packages in the folder."""
        names = {path.stem for path in self.folder.glob("*.py")}
        names |= {path.parent.name for path in self.folder.glob("*/__init__.py")}
        return names - {OURS, "__main__"}

    def _take_back(self, before: dict[str, ModuleType]) -> None:
        """Keep what was imported of the folder, and put what was there before in its place."""
        for name, module in list(sys.modules.items()):
            is_as_before = name in before and before[name] is module
            if is_as_before or name.partition(".")[0] == OURS:
                continue
            if not isinstance(module, ModuleType):  # pyright: ignore[reportUnnecessaryIsInstance]
                del sys.modules[name]  # something else that the code has put there
            elif is_within(_file_of(module), self.folder):
                self.modules[name] = module
                del sys.modules[name]
        for name, module in before.items():
            sys.modules.setdefault(name, module)


def _file_of(module: ModuleType) -> Any:
    """Where a module comes from; asked without its own __getattr__."""
    return getattr(module, "__dict__", {}).get("__file__")


def _is_strange(module: ModuleType, folder: Path) -> bool:
    """Whether a module is neither the folder's, nor installed, nor Python's own."""
    file = _file_of(module)
    if not isinstance(file, str) or is_within(file, folder):
        return False
    path = Path(file)
    return "site-packages" not in path.parts and not path.is_relative_to(STDLIB)


@contextlib.contextmanager
def _as_they_were() -> Generator[None]:
    """The working folder and the path as before, afterwards."""
    working, path = Path.cwd(), [*sys.path]
    try:
        yield
    finally:
        os.chdir(working)
        sys.path[:] = path
