"""The complex step is left out at what is not analytic, however small its share of the gradient."""

import numpy as np
import pytest
from bptt_crosscheck.reference.numeric import complex_step

W = np.random.default_rng(0).normal(size=(3, 3)) + 0.1
SMALL = 1e-12  # far below what the differences that it is held against could see

NOT_ANALYTIC = {
    "np.abs": lambda w: np.sum(np.abs(w)),
    "abs": lambda w: sum(abs(entry) for entry in w.ravel()),
    "abs of a sum": lambda w: abs(np.sum(w)),
    "abs of one entry": lambda w: abs(w[0, 0]),
    "np.linalg.norm": lambda w: np.linalg.norm(w),
    "a conjugate": lambda w: np.sum(w * w.conj()),
    "np.vdot": lambda w: np.vdot(w[0], w[1]),
    "a real part": lambda w: np.sum(w.real),
    "np.real": lambda w: np.sum(np.real(w)),
    "an imaginary part": lambda w: np.sum(w.imag),
    "np.sign": lambda w: np.sum(np.sign(w)),
    "np.var": lambda w: np.var(w),
    "std": lambda w: w.std(),
    "singular values": lambda w: np.linalg.svd(w)[1][0],
}
ANALYTIC = {
    "softmax": lambda w: np.log(np.exp(w - w.max()) / np.sum(np.exp(w - np.max(w))))[0, 0],
    "relu": lambda w: np.sum(np.maximum(w, 0) ** 2),
    "where": lambda w: np.sum(np.where(w > 0, w, 0.1 * w)),
    "matrices": lambda w: np.sum(np.tanh(w @ w.T).dot(w[0]).reshape(3, 1)),
    "a mean": lambda w: np.mean(w[1:] ** 2, axis=0).sum() + w.mean(),
    "a determinant": lambda w: np.linalg.det(w),
}


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_what_is_not_analytic_is_not_followed(name):
    with pytest.raises(complex_step.DoesNotFollow):
        complex_step.gradients(
            lambda given: np.sum(given["w"] ** 2) + SMALL * NOT_ANALYTIC[name](given["w"]),
            {"w": W},
            0,
        )


@pytest.mark.parametrize("name", ANALYTIC)
def test_what_is_analytic_is_followed(name):
    _, found, _ = complex_step.gradients(lambda given: ANALYTIC[name](given["w"]), {"w": W}, 0)
    step = np.zeros((3, 3))
    step[1, 2] = 1e-6
    slope = (ANALYTIC[name](W + step) - ANALYTIC[name](W - step)) / 2e-6
    assert np.isclose(found["w"][1, 2], slope, rtol=1e-6, atol=1e-8)


def test_a_choice_among_tied_numbers_is_not_followed():
    with pytest.raises(complex_step.DoesNotFollow, match="tied"):
        complex_step.gradients(
            lambda given: np.sum(np.maximum(given["w"], 0)), {"w": np.zeros(3)}, 0
        )
