"""Who is asked: the table of engines, asking one or many at once, and how much an answer errs by
rounding.
"""
