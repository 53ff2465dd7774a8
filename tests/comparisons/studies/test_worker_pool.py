"""Processes that share the work end with the one that started them, however that ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from bptt_crosscheck.comparisons.studies.built_in_cases import results
from bptt_crosscheck.comparisons.studies.worker_pool import workers

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of Unix")

ASLEEP = "time.sleep(600)"
AT_WORK = "sum(iter(int, 1))"  # endless, and no other thread of it ever gets its turn
STARTER = """
import signal, time
from bptt_crosscheck.comparisons.reporting.terminal import run
from bptt_crosscheck.comparisons.studies.worker_pool import workers

def busy():
    print("begun", flush=True)
    {work}

def app(standalone_mode):
    with workers(2) as pool:
        for future in [pool.submit(busy) for _ in range(2)]:
            future.result()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(run("a command", app))
"""


@pytest.mark.parametrize("work", [ASLEEP, AT_WORK])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT", "SIGHUP"])
def test_nobody_outlives_the_parent(tmp_path, name, work):
    """A worker would hold the pipe open, which then never ends."""
    starter = tmp_path / "starter.py"
    starter.write_text(STARTER.format(work=work))
    number = getattr(signal, name)
    with subprocess.Popen(
        [sys.executable, starter], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        for _ in range(2):
            assert parent.stdout.readline() == "begun\n"
        parent.send_signal(number)
        out, err = parent.communicate(timeout=60)
    assert parent.returncode == (-number if name == "SIGKILL" else 128 + number)
    assert out == ""
    assert "Traceback" not in err


def test_a_process_that_is_ended_from_outside_is_one_line(tmp_path):
    """As the system does it where memory runs out."""
    starter = tmp_path / "starter.py"
    work = "import os; os.kill(os.getpid(), signal.SIGKILL)"
    starter.write_text(STARTER.format(work=work))
    done = subprocess.run([sys.executable, starter], capture_output=True, text=True, check=False)
    said = "a command: a process at work was ended from outside, perhaps for want of memory\n"
    assert (done.returncode, done.stderr) == (3, said)


def test_one_job_is_no_process():
    with workers(1) as pool:
        assert pool is None


def pid_later(seconds):
    time.sleep(seconds)
    return os.getpid()


def fail_with_one_at_work():
    with workers(2) as pool:
        pool.submit(pid_later, 0).result()
        pool.submit(pid_later, 600)
        raise KeyError


def test_an_error_ends_what_was_begun():
    """Nobody waits for what will not be told."""
    begun = time.monotonic()
    with pytest.raises(KeyError):
        fail_with_one_at_work()
    assert time.monotonic() - begun < 60
    assert not multiprocessing.active_children()


def refuse():
    raise ValueError("a piece that cannot be")


def test_an_error_in_a_process_ends_the_others():
    begun = time.monotonic()
    pieces = [refuse, sleeper]
    with pytest.raises(ValueError, match="a piece that"), results(pieces, 2) as arriving:
        list(arriving)
    assert time.monotonic() - begun < 60


def sleeper():
    time.sleep(600)
