"""`python -m ringkeeperd` is the `ringkeeper` command."""

from ringkeeperd.cli import main

if __name__ == "__main__":
    main()
