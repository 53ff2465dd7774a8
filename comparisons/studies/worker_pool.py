"""Processes that share the work, and end with the one that started them."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent ends


@contextmanager
def workers(jobs: int) -> Generator[ProcessPoolExecutor | None]:
    """So many processes; None for one.

    What they have not begun is dropped at the end; after an error, or Ctrl-C, also what they have.
    """
    if jobs <= 1:
        yield None
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), begin)
    try:
        yield pool
    except BaseException:
        _end(set(multiprocessing.active_children()) - others)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end(children: set[BaseProcess]) -> None:
    for child in children:
        child.terminate()


def begin() -> None:
    """What a process does first."""
    one_thread()
    # Ctrl-C goes to all processes of a terminal: the one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # also in the midst of a long computation
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_follow, name="end with the parent", daemon=True).start()


def _follow() -> None:
    """End this process when the one that started it has ended, in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def one_thread() -> None:
    """Leave the other cores to the other processes: torch's threads would wait for each other.

    Read where torch is loaded.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
