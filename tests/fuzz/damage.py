"""Bytes that were good once: cut, spliced, repeated, overwritten, nested too deep. By Hypothesis, so that what fails is made small."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

MAX_BYTES = 256 * 1024
"""Edits that repeat can't make more of it than this: size limits have tests of their own."""

DEPTHS = (10, 1_000, 50_000)
NESTS = (b"\x91", b"\x81\xa1a", b"[", b'{"a":', b"(", b"[[")
TOKENS = (
    b"\x00", b"\xff", b"\xc1", b"\xff\xfe", b"\xf0\x9f", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xdf\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff",
    b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b"1" + b"0" * 400,
    b"9" * 30, b"\\ud800", b"\\u0000", b"\n", b"\r", b",", b'"', b"'", b"{", b"}", b"]", b"=", b"[[", b"true", b"../..", b"%s%n",
    b"\x1b[2J",
)  # fmt: skip
"""Values at the edges of formats: length bytes that promise much, halves of characters, numbers that no type holds."""

_place = st.floats(0, 1)
_edit = st.one_of(
    st.tuples(st.just("flip"), _place, st.integers(0, 255)),
    st.tuples(st.just("cut"), _place, _place),
    st.tuples(st.just("end"), _place, st.just(0)),
    st.tuples(st.just("repeat"), _place, st.integers(1, 64)),
    st.tuples(st.just("token"), _place, st.sampled_from(TOKENS)),
    st.tuples(st.just("over"), _place, st.sampled_from(TOKENS)),
    st.tuples(st.just("noise"), _place, st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("nest"), _place, st.tuples(st.sampled_from(NESTS), st.sampled_from(DEPTHS))),
    st.tuples(st.just("splice"), _place, _place),
)


def damaged(corpus: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of ``corpus`` after some edits; now and then untouched, or nothing but noise."""
    good = st.sampled_from(list(corpus))
    edited = st.builds(_apply, good, good, st.lists(_edit, max_size=6))
    return st.one_of(edited, edited, edited, st.binary(max_size=64))


def _apply(content: bytes, other: bytes, edits: list[tuple]) -> bytes:
    for kind, place, value in edits:
        at = int(place * len(content))
        if kind == "flip" and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
        elif kind == "cut":
            first, last = sorted((at, int(value * len(content))))
            content = content[:first] + content[last:]
        elif kind == "end":
            content = content[:at]
        elif kind == "repeat":
            content = content[:at] + content[at : at + 16] * value + content[at:]
        elif kind in ("token", "noise"):
            content = content[:at] + value + content[at:]
        elif kind == "over":
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "nest":
            content = content[:at] + value[0] * value[1] + content[at:]
        elif kind == "splice":
            content = content[:at] + other[int(value * len(other)) :]
    return content[:MAX_BYTES]
