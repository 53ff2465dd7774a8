"""The comparison: the only package that imports both `manual/` and `reference/`."""
