"""Static keys by hand: what comes in whole or not at all, who follows whom, and the way back."""

import pytest

from tests.plugins.brought_keys import made, pem, put
from tests.plugins.daemons import Site

BASE64 = "1234+abc/DEF_x=="


@pytest.mark.parametrize("kid", ["", "k" * 400, 'bad kid"', "a\\b", "a\x1b[2J"])
def test_a_name_that_a_key_may_not_have_is_wrong_usage_and_the_rule_is_told(
    site: Site, kid: str
) -> None:
    site.configure()
    put(site.folder / "key.pem", pem(made("ES256")))
    for arguments in (
        ("static", "import", "key.pem", "--kid", kid),
        ("init", "--import", "key.pem", "--kid", kid),
        ("init", "--import", f"{kid}=key.pem"),
    ):
        done = site.run(*arguments)
        assert done.returncode == 2, done.stderr
        assert "a kid has 1 to 64 characters of A-Z a-z 0-9 and -._~" in done.stderr
        assert "ringkeeper status" not in done.stderr


def test_a_kid_in_base64_is_told_from_the_file_that_it_names(site: Site) -> None:
    site.configure()
    put(site.folder / "key.pem", pem(made("ES256")))
    assert f"{BASE64} signs" in site.done("init", "--import", f"{BASE64}=key.pem")
