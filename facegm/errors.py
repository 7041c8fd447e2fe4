"""What facegm raises when the user, not the programmer, has to act."""


class FacegmError(Exception):
    """Bad input: the message names the file or key and says what to do."""

    exit_code = 1
    """What the command line exits with."""


class UsageError(FacegmError):
    """A command, option or config key that cannot be understood."""

    exit_code = 2


class StoppedError(FacegmError):
    """Work that a signal has ended early; what was done is saved."""

    exit_code = 130
