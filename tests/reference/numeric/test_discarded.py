"""An imaginary part that is discarded raises where that was asked for, and nowhere else."""

import threading
import warnings

import numpy as np
import pytest
from bptt_crosscheck.reference.numeric.discarded import Discarded, discarding_is_an_error
from numpy.exceptions import ComplexWarning

Z = np.ones(2) * (1 + 1j)

DISCARDING = {
    "into a buffer": lambda: np.zeros(2).__setitem__(slice(None), Z),
    "one number into a buffer": lambda: np.zeros(2).__setitem__(0, Z[0]),
    "float": lambda: float(Z[0]),
    "int": lambda: int(Z[0]),
    "astype": lambda: Z.astype(float),
    "asarray": lambda: np.asarray(Z, float),
    "array of arrays": lambda: np.array([Z], dtype=float),
    "full": lambda: np.full(2, Z[0], dtype=float),
    "fill": lambda: np.zeros(2).fill(Z[0]),
    "put": lambda: np.put(np.zeros(2), [0], Z[:1]),
}
every_way = pytest.mark.parametrize("discard", DISCARDING.values(), ids=DISCARDING)


@every_way
@pytest.mark.parametrize("action", ["ignore", "once", "error"])
def test_it_is_an_error_whatever_the_filters_say(discard, action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        for _ in range(2):
            with discarding_is_an_error(), pytest.raises(Discarded, match="imaginary part"):
                discard()


def meanwhile_in_another_thread(discard):
    with discarding_is_an_error():
        other = threading.Thread(target=discard)
        other.start()
        other.join()


@every_way
def test_elsewhere_it_is_the_warning_that_it_was(discard):
    with pytest.warns(ComplexWarning, match="imaginary part") as before:
        discard()
    with pytest.warns(ComplexWarning) as meanwhile:
        meanwhile_in_another_thread(discard)
    with pytest.warns(ComplexWarning) as after:
        discard()
    texts = [str(told.list[0].message) for told in (before, meanwhile, after)]
    assert len(set(texts)) == 1
    assert {type(told.list[0].message) for told in (before, meanwhile, after)} == {ComplexWarning}


def test_numpy_s_class_is_as_it_was_when_the_last_one_leaves():
    with discarding_is_an_error():
        with discarding_is_an_error():
            assert "__init__" in vars(ComplexWarning)
        with pytest.raises(Discarded):
            float(Z[0])
    assert "__init__" not in vars(ComplexWarning)


def test_the_filters_stay():
    before = list(warnings.filters)
    with discarding_is_an_error():
        assert warnings.filters == before
    assert warnings.filters == before
