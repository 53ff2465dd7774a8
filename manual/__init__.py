"""Backpropagation through time, derived by hand in NumPy: the thing under test.

Every module states its equations first, numbered, and tags the line that computes equation (4) with `# (4)`.
Nothing here imports anything but NumPy, and nothing here is shared with `reference/`, so that the two cannot
share a mistake.
"""
