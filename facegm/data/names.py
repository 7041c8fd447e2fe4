"""Names of files as they can be shown."""


def printable(name: str) -> str:
    """A name with what cannot be shown, such as line ends and bytes that are no UTF-8, as escape sequences."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )
