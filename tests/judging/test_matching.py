from decimal import Decimal

import pytest

from trainbus.judging.matching import exact_match, final_number, normalised_match, number_match


def test_an_exact_match_forgives_white_space_at_the_ends_only():
    """Case and punctuation count."""
    assert exact_match(" Paris\n", "Paris")
    assert not exact_match("paris", "Paris")
    assert not exact_match("Paris.", "Paris")


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("The Paris.", "paris", True),
        ("  it's   fine ", "It s fine!", True),
        ("-5", "5", False),
        ("3.5", "35", False),
        ("Straße", "STRASSE", True),
        ("北京", "上海", False),
        ("", "a", True),
        ("U.S.A.", "u.s.a", True),
    ],
)
def test_a_normalised_match_ignores_case_punctuation_and_articles(answer, expected, same):
    """But neither sign nor decimal point of a number."""
    assert normalised_match(answer, expected) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48 + 24 = 72\n#### 72", "72"),
        ("#### 1,234", "1234"),
        ("#### $-3.50 or so", "-3.50"),
        ("first #### 1\nthen #### 2", "2"),
        ("so 5 apples and 7 pears make 12.", "12"),
        ("####", None),
        ("no number", None),
        ("costs $.5", "0.5"),
        ("1,23", "23"),
    ],
)
def test_the_final_number_is_the_marked_or_the_last_one(text, number):
    """GSM8K's mark wins over what stands before it."""
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numbers_match_by_value():
    """5.0 is 5; a text without a number is wrong, a question without one says nothing."""
    assert number_match("#### 5.0", "it is 5")
    assert number_match("no idea", "5") is False
    assert number_match("5", "five") is None
