"""Is the cross-check itself any good: planted mistakes, sensitivity, false alarms, other checkers."""
