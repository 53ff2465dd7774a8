"""What can be said instead of a verdict, and the error that a wrong gradient raises."""


class GradientMismatch(AssertionError, RuntimeError):
    """A gradient disagrees: an AssertionError for pytest's users, a RuntimeError for gradcheck's.
    Its text is the report.
    """


class QuestionError(ValueError):
    """The question itself cannot be asked; nothing was said about any gradient."""


class UnknownName(QuestionError):
    """A cell, reference, activation, loss or case that does not exist; the text lists those that
    do.
    """


class MissingFramework(QuestionError):
    """A reference needs a package that is not installed."""


class MissingDevice(QuestionError):
    """A device, such as "cuda", that torch or jax does not have on this machine."""


class BadText(QuestionError):
    """The text cannot be read, is empty, or is shorter than one window."""


class BadModelFile(QuestionError):
    """A file of weights that cannot be read, or that holds no recurrent layer."""


class BadOption(QuestionError):
    """An option out of its range."""


class BadTarget(QuestionError):
    """A file or folder that cannot be written."""


class BadContract(QuestionError):
    """What was handed in is not what the contract says: a method, key or argument missing, a wrong
    shape or type.
    """


class BadFile(QuestionError):
    """A file with a derivation that cannot be found, imported, or holds nothing to check."""


class CandidateFailed(QuestionError):
    """The code under test raised an exception, left the interpreter, or flooded the output."""


class DoesNotReturn(QuestionError):
    """A call of the code under test took longer than the time limit; the text has its line."""


class ForwardMismatch(QuestionError):
    """The forward pass differs between NumPy and a reference: their gradients are those of
    different functions.
    """


class NotFinite(QuestionError):
    """NaN or an infinity in the weights, the inputs, the loss or a state, before any gradient."""


class Overflow(NotFinite):
    """A state, or the true gradient, exceeds the largest number there is, so that it is infinite;
    the text has the step.
    """


class NotRepeatable(QuestionError):
    """The code under test answers differently when it is asked the same thing again."""


class LayoutMatters(QuestionError):
    """The code under test answers differently for the same numbers in another memory order."""


class InputsChanged(QuestionError):
    """The code under test writes into the arrays that it is given."""


class AtKink(QuestionError):
    """The problem stands at a point where the function has no derivative: a tie of max, a zero of
    relu or abs.
    """


class Vacuous(QuestionError):
    """The true gradient is zero, or nothing but rounding: a wrong derivation could not be seen."""


class NotDecidable(QuestionError):
    """The problem amplifies rounding until no digit of a gradient is left that two right programs
    share; the text has the step at which the digits end, and how many steps were judged.
    """


class CannotFollow(Exception):
    """One reference cannot follow the function; it is left out, and the others are asked."""


class NothingFollows(QuestionError):
    """No reference can follow the function."""
