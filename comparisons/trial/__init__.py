"""Is the cross-check itself any good.

Planted mistakes, sensitivity, false alarms, other checkers.
"""
