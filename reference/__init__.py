"""Independent witnesses: the same equations typed a second time, differentiated by frameworks.

Each module imports NumPy and one framework, and only when it is used. Nothing here imports
`manual/` or `comparisons/`.
"""
