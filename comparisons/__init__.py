"""The only folder that sees both sides: a problem is answered by a candidate and by references,
and the answers are compared.

Its rooms, in the order in which data passes through them: problems, candidates and witnesses,
judging, diagnosis, checking, reporting, studies, trial; speed stands apart. No room imports one
that comes after it.
"""
