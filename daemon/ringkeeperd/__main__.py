"""The `ringkeeper` command, also as `python -m ringkeeperd`."""

import os
import signal
import sys

from ringkeeperd import memory, probe


def main() -> None:
    """Run it; whoever interrupts it while it is still being loaded ends it, without a word."""
    status = probe.answered(sys.argv[1:], os.environ)
    if status is not None:
        sys.exit(status)
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() == 1:  # of a container: to it, a signal that is not handled does nothing
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with memory.nothing_collected():
        from ringkeeperd import cli  # noqa: PLC0415 - a fifth of a second, in which Ctrl-C may come

    signal.signal(signal.SIGINT, usual)
    cli.main()


if __name__ == "__main__":
    main()
