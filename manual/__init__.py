"""Backpropagation through time, derived by hand in NumPy: the thing under test.

Conventions of all derivations. The equations are of one sample, and their vectors columns, as in
the literature. In code a sample is a row:

    states, inputs     (B, ·), over all steps (T, B, ·)
    weights            (out, in), several gates stacked along out:  W v is v @ W.T
    cotangents         rows, each shaped as what it is the derivative by:
                       Wᵀ δ is δ @ W,  Σ δ vᵀ is δ.T @ v
    Jacobians          numerator layout, J[i, j] = ∂s_t[i]/∂s_{t−1}[j], one a row: (B, S, S)

Every module states its equations first, numbered, and tags the line that computes equation (4) with
`# (4)`. Nothing here imports anything but NumPy, and nothing here is shared with `reference/`, so
that the two cannot share a mistake.
"""
