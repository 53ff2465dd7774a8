"""Is the cross-check any good: planted mistakes, sensitivity, false alarms, other checkers."""
