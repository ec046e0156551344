"""Our own client, the yardstick: what any stack goes through."""

from collections.abc import Callable

import pytest

from ringkeeper import TokenError
from tests.integrations.stage import Stage, go_through
from tests.integrations.table import COLUMNS

pytestmark = pytest.mark.integrations


def test_the_client_signs_and_verifies(stage: Stage, shows: Callable[..., None]) -> None:
    signer, verifier = stage.keyring(), stage.keyring()

    def accepts(token: str) -> bool:
        try:
            return bool(verifier.verify(token)["sub"] == "alice")
        except TokenError:
            return False

    go_through(stage, lambda: signer.sign({"sub": "alice"}), accepts, within=1)
    shows("ringkeeper.Keyring", *COLUMNS)
