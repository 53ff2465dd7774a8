"""The one way from a problem and a candidate to a report, and the entry points that lead to it."""
