"""What commands print of texts that a model wrote."""

from backflip.errors import in_one_line
from backflip.terminal import visible


def test_a_terminal_obeys_nothing_that_a_model_wrote() -> None:
    assert visible("naïve 漢字\n\tso") == "naïve 漢字\n\tso"
    assert visible("\x1b[2J\x1b]0;title\x07 a\rb\x00") == "␛[2J␛]0;title␇ a␍b␀"
    assert visible("\x7f\x9b31m\u202eabc") == "��31m�abc"


def test_words_from_outside_are_one_short_line() -> None:
    assert in_one_line(' {"error":\n\t"naïve\x1b[2J"}\r\n', 100) == '{"error":  "naïve [2J"}'
    assert in_one_line(ValueError("x" * 50), 10) == "x" * 10
