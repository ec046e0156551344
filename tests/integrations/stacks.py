"""Every row of the table: what is tested, and why what is not cannot be."""

from tests.integrations.table import Stack

VERIFIES = {"sign": "verifies only"}
STACKS = [
    Stack("ringkeeper.Keyring", "../README.md#add-it-to-an-app", "two of them in threads"),
]
