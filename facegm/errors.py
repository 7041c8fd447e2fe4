"""What facegm raises when the user, not the programmer, has to act."""


class FacegmError(Exception):
    """Bad input: the message names the file or key and says what to do. The command line exits with 1."""


class UsageError(FacegmError):
    """A command, option or config key that cannot be understood. The command line exits with 2."""
