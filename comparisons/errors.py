"""What can be said instead of a verdict, and the error that a wrong gradient raises."""


class GradientMismatch(AssertionError, RuntimeError):
    """A gradient disagrees: an AssertionError for pytest's users, a RuntimeError for gradcheck's. Its text is the report."""


class QuestionError(ValueError):
    """The question itself cannot be asked; nothing was said about any gradient."""


class UnknownName(QuestionError):
    """A cell, reference, activation, loss or case that does not exist; the text lists those that do."""


class MissingFramework(QuestionError):
    """A reference needs a package that is not installed."""


class BadText(QuestionError):
    """The text cannot be read, is empty, or is shorter than one window."""


class BadOption(QuestionError):
    """An option out of its range."""


class BadTarget(QuestionError):
    """A file or folder that cannot be written."""


class ForwardMismatch(QuestionError):
    """The candidate and a reference do not compute the same function, so that their gradients cannot be compared."""


class BadCell(QuestionError):
    """A cell that breaks the contract: a missing method or key, a wrong shape or type, an exception of its own."""
