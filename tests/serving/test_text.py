"""Tokens to text: whole characters, and stop texts that are never shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainbus.serving.text import TextStream


def decode(ids):
    """One token a byte, as byte-level tokenizers have them."""
    return bytes(ids).decode(errors="replace")


def shown(text, stops=()):
    """What a stream shows of a text, piece by piece, and the stop text that it met."""
    stream, pieces = TextStream(decode, stops), []
    for byte in text.encode():
        piece = stream.push(byte)
        pieces.append(piece.text)
        if piece.stop is not None:
            return pieces, piece.stop
    last = stream.finish()
    return [*pieces, last.text], last.stop


def test_a_character_of_several_bytes_comes_at_once():
    """Nothing is shown of half an emoji."""
    pieces, _ = shown("ä🚂!")
    assert [piece for piece in pieces if piece] == ["ä", "🚂", "!"]


def test_bytes_that_are_no_text_don_t_hold_the_stream_up():
    """They are shown as replacement characters in the end."""
    stream = TextStream(decode)
    pieces = [stream.push(0xFF).text for _ in range(20)]
    assert "".join([*pieces, stream.finish().text]) == "\ufffd" * 20
    assert any(pieces)


def test_what_may_begin_a_stop_text_waits_until_it_is_known():
    """``END`` is no part of the text; what only begins like it is."""
    pieces, stop = shown("an ENtry END rest", ["END"])
    assert ("".join(pieces), stop) == ("an ENtry ", "END")
    assert "".join(shown("half EN", ["END"])[0]) == "half EN"


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_any_text_comes_through_up_to_its_first_stop(text, stops):
    """However it is cut, the pieces are the text before the first stop text."""
    pieces, stop = shown(text, stops)
    found = [text.index(one) for one in stops if one in text]
    if stop is None:
        assert not found
        assert "".join(pieces) == text
    else:
        assert text.startswith("".join(pieces) + stop)
        assert all(one not in "".join(pieces) for one in stops)
