"""The errors that mean something to the person at the keyboard, and the exit status of each.

They live on the ground floor because every package raises them. Anything else that escapes is our own bug (exit
status 1).
"""


class VitcopError(Exception):
    """Base of the errors below. The message is one line: what is wrong, where, and what to do."""

    exit_status = 1


class InputError(VitcopError, ValueError):
    """The user's input (recipe, samples, model folder, schedule, bundle) cannot be used."""

    exit_status = 2


class GateError(VitcopError):
    """A bundle was measured and failed an accuracy or regression gate."""

    exit_status = 3


class MissingError(VitcopError):
    """Something that the task needs (a package, a device) is missing on this machine."""

    exit_status = 4
