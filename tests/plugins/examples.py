"""How many examples Hypothesis tries: a quarter in `make test`, all of them in `make minutes`."""

import os


def examples(all_of_them: int) -> int:
    """`all_of_them` where RINGKEEPER_TESTS_THOROUGH=1, else a quarter."""
    is_thorough = os.environ.get("RINGKEEPER_TESTS_THOROUGH") == "1"
    return all_of_them if is_thorough else all_of_them // 4
