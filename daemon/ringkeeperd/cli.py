"""The `ringkeeper` command."""


def main() -> None:
    """Run it."""
