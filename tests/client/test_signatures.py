"""The two forms of a signature on an elliptic curve are turned into one another as cryptography does."""

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import example, given
from hypothesis import strategies as st

from ringkeeper.signatures import _pair_in, der_of

NUMBERS = st.integers(0, 2**384 - 1) | st.integers(0, 2**256 - 1) | st.integers(0, 300)


@pytest.mark.parametrize("half", [32, 48])
@given(r=NUMBERS, s=NUMBERS)
@example(r=0, s=0)
@example(r=127, s=128)
@example(r=2**255, s=2**255 - 1)
@example(r=2**384 - 1, s=2**383)
def test_der_and_pair(half: int, r: int, s: int) -> None:
    r, s = r % 2 ** (8 * half), s % 2 ** (8 * half)
    pair = r.to_bytes(half, "big") + s.to_bytes(half, "big")
    der = encode_dss_signature(r, s)
    assert der_of(pair) == der
    assert decode_dss_signature(der) == (r, s)
    assert _pair_in(der, half) == pair
