"""Numeric methods: complex step, differences, balls that enclose the exact gradient."""
