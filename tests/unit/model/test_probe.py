from pktmirror.model.probe import NONCE_BYTES, TOKEN_BYTES, is_token, new_token

SHARED = b"what agents and monitors share"


def test_a_token_is_one_to_whoever_shares_the_secret_and_to_nobody_else() -> None:
    token = new_token(SHARED)
    assert len(token) == TOKEN_BYTES
    assert is_token(SHARED, token)
    assert not is_token(b"another", token)


def test_no_two_tokens_have_a_nonce_in_common() -> None:
    assert len({new_token(SHARED)[:NONCE_BYTES] for _ in range(1000)}) == 1000


def test_a_token_of_which_any_bit_differs_is_none() -> None:
    token = new_token(SHARED)
    for bit in range(8 * TOKEN_BYTES):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        assert not is_token(SHARED, bytes(changed)), f"bit {bit}"


def test_a_token_that_is_shorter_or_longer_is_none() -> None:
    token = new_token(SHARED)
    assert not is_token(SHARED, token[:-1])
    assert not is_token(SHARED, token + b"\0")
    assert not is_token(SHARED, b"")
