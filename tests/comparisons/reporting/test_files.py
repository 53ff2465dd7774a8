"""Files: whole or absent, and what stands under a name stays what it is."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bptt_crosscheck.comparisons.errors import BadTarget, BadText
from bptt_crosscheck.comparisons.reporting import files

TEXT = "∂L/∂W\n" * 3


@pytest.fixture(params=["nameless", "copied"])
def way(request, monkeypatch):
    """With files that have no name at first, and where there are no such."""
    if request.param == "copied":
        monkeypatch.setattr(files, "_nameless", lambda target: None)


def written(path, text=TEXT):
    files.prepare_file(path)
    files.write_text(path, text)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("way")
class TestRegular:
    """What can be replaced."""

    def test_a_new_file_has_the_mode_of_new_files(self, tmp_path):
        beside = tmp_path / "beside"
        beside.write_text("")
        written(tmp_path / "new")
        assert (tmp_path / "new").read_text(encoding="utf-8") == TEXT
        assert (tmp_path / "new").stat().st_mode == beside.stat().st_mode
        assert names_in(tmp_path) == ["beside", "new"]

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
    def test_the_mode_is_kept(self, tmp_path, mode):
        path = tmp_path / "mine"
        path.write_text("a longer text that was there before" * 9)
        path.chmod(mode)
        before = path.stat()
        written(path)
        after = path.stat()
        assert stat.S_IMODE(after.st_mode) == mode
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
        assert path.read_text(encoding="utf-8") == TEXT
        assert after.st_ino != before.st_ino, "replaced at one stroke"

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="for root")
    def test_the_owner_is_kept(self, tmp_path):
        path = tmp_path / "somebody's"
        path.write_text("")
        os.chown(path, 12345, 54321)
        path.chmod(0o4750)
        written(path)
        there = path.stat()
        owner = (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode))
        assert owner == (12345, 54321, 0o4750)

    def test_links_are_followed(self, tmp_path):
        (tmp_path / "folder").mkdir()
        real = tmp_path / "folder" / "real"
        real.write_text("before")
        (tmp_path / "link").symlink_to(real)
        (tmp_path / "relative").symlink_to("folder/../link")
        written(tmp_path / "relative")
        assert (tmp_path / "relative").is_symlink()
        assert (tmp_path / "link").is_symlink()
        assert real.read_text(encoding="utf-8") == TEXT
        assert names_in(real.parent) == ["real"]

    def test_a_link_to_nothing_yet(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "folder" / "new")
        written(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "new").read_text(encoding="utf-8") == TEXT

    def test_both_names_of_a_file_are_written(self, tmp_path):
        (tmp_path / "a").write_text("before" * 99)
        (tmp_path / "b").hardlink_to(tmp_path / "a")
        written(tmp_path / "a")
        assert (tmp_path / "b").read_text(encoding="utf-8") == TEXT
        assert (tmp_path / "b").samefile(tmp_path / "a")

    @pytest.mark.parametrize("name", ["x" * 255, "-", " ", "*?", ".part", "a\nb", "\udc80"])
    def test_any_name_a_file_can_have(self, tmp_path, name):
        written(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == TEXT
        assert names_in(tmp_path) == [name]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
    def test_without_a_good_end_there_is_what_was_there(self, tmp_path, error):
        (tmp_path / "mine").write_text("before")
        for name in ("mine", "new"):
            with pytest.raises((error, BadTarget)):
                self.half(tmp_path / name, error)
        assert (tmp_path / "mine").read_text() == "before"
        assert names_in(tmp_path) == ["mine"]

    def half(self, path, error):
        with files.complete_or_absent(path) as stream:
            stream.write(b"half of it")
            stream.flush()
            raise error


HALF = """
import pathlib, sys
from bptt_crosscheck.comparisons.reporting import files
with files.complete_or_absent(pathlib.Path(sys.argv[1])) as stream:
    stream.write(b"half" * 100_000)
    stream.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of Unix")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_who_is_killed_leaves_nothing(tmp_path, name):
    command = [sys.executable, "-c", HALF, tmp_path / "new"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(getattr(signal, name))
    assert names_in(tmp_path) == []


# What cannot be replaced.


def gathered(stream_of):
    """(what a thread reads to the end, the thread), begun."""
    read = []
    thread = threading.Thread(target=lambda: read.append(stream_of()))
    thread.start()
    return read, thread


def test_a_fifo_stays_one_and_is_written(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    (tmp_path / "link").symlink_to(path)
    for name in ("fifo", "link"):
        read, thread = gathered(lambda: path.read_text(encoding="utf-8"))
        assert not files.is_replaceable(tmp_path / name)
        written(tmp_path / name)
        thread.join()
        assert read == [TEXT]
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert (tmp_path / "link").is_symlink()


def test_looking_at_a_fifo_does_not_wait_for_a_reader(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    files.prepare_file(tmp_path / "fifo")


def test_a_device_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "link"):
        written(path)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_terminal_is_written():
    leader, follower = os.openpty()
    written(Path(os.ttyname(follower)))
    assert os.read(leader, 100).decode().splitlines() == TEXT.splitlines()
    os.close(leader)
    os.close(follower)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk():
    with pytest.raises(BadTarget, match="/dev/full cannot be written: No space left on device"):
        written(Path("/dev/full"))


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_a_pipe_of_this_process(tmp_path, name):
    reader, writer = os.pipe()
    path = Path(name.format(writer))
    if name == "link":
        path = tmp_path / name
        path.symlink_to(f"/dev/fd/{writer}")
    written(path)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as stream:
        assert stream.read() == TEXT


def test_a_descriptor_of_a_file_goes_on_where_it_is(tmp_path):
    """As a shell's 3>>file: what is there is not replaced, nor lost."""
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        stream.write("before\n")
        stream.flush()
        written(Path(f"/dev/fd/{stream.fileno()}"))
        stream.seek(0, os.SEEK_END)
        stream.write("after\n")
    assert (tmp_path / "log").read_text(encoding="utf-8") == f"before\n{TEXT}after\n"


SAID_BETWEEN = """
import pathlib
from bptt_crosscheck.comparisons.reporting import files
print("before")
files.write_text(pathlib.Path("/dev/stdout"), "between\\n")
print("after")
"""


@pytest.mark.parametrize("kind", ["file", "pipe", "socket"])
def test_standard_output_whatever_it_is(tmp_path, kind):
    command = [sys.executable, "-c", SAID_BETWEEN]
    if kind == "file":
        with (tmp_path / "out").open("wb") as out:
            subprocess.run(command, stdout=out, check=True)
        told = (tmp_path / "out").read_bytes()
    elif kind == "pipe":
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    else:
        mine, theirs = socket.socketpair()
        with mine, theirs:
            subprocess.run(command, stdout=theirs.fileno(), check=True)
            told = mine.recv(1000)
    assert told == b"before\nbetween\nafter\n"


# What cannot be written at all is said before.


def closed(folder):
    folder.mkdir(mode=0o500)
    return folder / "new"


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def a_loop(path):
    path.symlink_to(path.name)
    return path


def below_a_file(path):
    path.write_text("mine")
    return path / "new"


def a_folder(path):
    path.mkdir()
    return path


def read_only(path):
    path.write_text("mine")
    path.chmod(0o400)
    return path


ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
NOT_TO_BE_WRITTEN = {
    "too long a name": lambda path: path.with_name("x" * 256),
    "too long a path": lambda path: path.joinpath(*["y" * 200] * 30),
    "no folder": lambda path: path / "new",
    "no folders": lambda path: path / "a" / "b" / "new",
    "a folder": a_folder,
    "below a file": below_a_file,
    "a socket": a_socket,
    "a link to itself": a_loop,
    "a pipe's other end": lambda path: Path(f"/dev/fd/{os.pipe()[0]}"),
    "not open": lambda path: Path("/dev/fd/987"),
}
BY_MODE = {"read-only": read_only, "a closed folder": closed}
BY_SYSTEM = {
    "a system's folder": lambda path: Path("/proc/new"),
    "not there": lambda path: Path("/dev/fd/x"),
}


@pytest.mark.parametrize(
    "make", [*NOT_TO_BE_WRITTEN.values(), *BY_SYSTEM.values()], ids=[*NOT_TO_BE_WRITTEN, *BY_SYSTEM]
)
def test_what_cannot_be_written_is_refused_and_nothing_is_made(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    path = make(Path("it"))
    before = names_in(tmp_path)
    for ask in (files.prepare_file, files.is_replaceable, written):
        with pytest.raises(BadTarget) as refused:
            ask(path)
        assert "\n" not in str(refused.value)
    assert names_in(tmp_path) == before


@pytest.mark.skipif(ROOT, reason="root may")
@pytest.mark.parametrize("make", BY_MODE.values(), ids=BY_MODE)
def test_what_may_not_be_written_is_refused(tmp_path, make):
    with pytest.raises(BadTarget):
        files.prepare_file(make(tmp_path / "it"))


@pytest.mark.skipif(ROOT, reason="root may")
def test_a_file_in_a_closed_folder_is_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "mine"
    path.write_text("before" * 99)
    path.parent.chmod(0o500)
    written(path)
    path.parent.chmod(0o700)
    assert path.read_text(encoding="utf-8") == TEXT


def test_a_file_that_no_other_can_replace_is_written_through(tmp_path, monkeypatch):
    """As one that a container has mounted: the system says that it is busy."""

    def busy(*_):
        raise OSError(16, "Device or resource busy")

    (tmp_path / "mine").write_text("before" * 99)
    monkeypatch.setattr(Path, "replace", busy)
    written(tmp_path / "mine")
    assert (tmp_path / "mine").read_text(encoding="utf-8") == TEXT
    assert names_in(tmp_path) == ["mine"]


def test_folders_are_made_with_those_above(tmp_path):
    files.prepare_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    for make in (below_a_file, lambda path: path.with_name("x" * 256), lambda _: Path("/proc/a/b")):
        with pytest.raises(BadTarget):
            files.prepare_folder(make(tmp_path / "it"))


# What is read.


def test_what_is_read_has_an_end(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"x" * 100)
    assert files.contents(path, 100, BadText) == b"x" * 100
    with pytest.raises(BadText, match="has more than 99 bytes"):
        files.contents(path, 99, BadText)


def test_a_pipe_that_was_handed_over_is_read(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    assert files.contents(Path(f"/dev/fd/{reader}"), 10, BadText) == b"hello"
    os.close(reader)


def a_fifo(path):
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda path: Path("/dev/zero"),
        lambda path: Path(os.devnull),
        lambda path: path.with_name("x" * 256),
        lambda path: path,
        a_fifo,
        a_folder,
        a_loop,
    ],
)
def test_what_has_no_end_or_is_no_file_is_not_read(tmp_path, make):
    with pytest.raises(BadText, match=r"is no regular file|cannot be read"):
        files.contents(make(tmp_path / "it"), 1000, BadText)
