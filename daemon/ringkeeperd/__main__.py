"""The `ringkeeper` command, also as `python -m ringkeeperd`."""

import signal


def main() -> None:
    """Run it; whoever interrupts it while it is still being loaded ends it, without a word."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ringkeeperd import cli  # noqa: PLC0415 - a fifth of a second, in which Ctrl-C may come

    signal.signal(signal.SIGINT, usual)
    cli.main()


if __name__ == "__main__":
    main()
