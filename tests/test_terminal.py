"""What commands print of texts that a model wrote."""

from backflip.terminal import visible


def test_a_terminal_obeys_nothing_that_a_model_wrote() -> None:
    assert visible("naïve 漢字\n\tso") == "naïve 漢字\n\tso"
    assert visible("\x1b[2J\x1b]0;title\x07 a\rb\x00") == "␛[2J␛]0;title␇ a␍b␀"
    assert visible("\x7f\x9b31m\u202eabc") == "��31m�abc"
