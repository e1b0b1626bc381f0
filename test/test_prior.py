"""Priors of tokens: estimated from a cache, and read."""

import pytest

from espnet_ctckd.choices import InputError
from espnet_ctckd.data import read_prior


def test_a_prior_is_matched_by_token(tmp_path):
    path = tmp_path / "prior.txt"
    path.write_text("<pad> -0.693147\nb -1.609438\na -1.203973\n")  # .5, .2, .3
    assert read_prior(path, ["<blank>", "a", "b", "<unk>"], "<blank>") == [
        *(-0.693147, -1.203973, -1.609438),
        0.0,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no prior"),
        ("", "is no list of priors"),
        ("<blank> x\n", "every line must be a token and a number"),
        ("<blank>\n", "every line must be a token and a number"),
        ("<blank> 0.5\n", "give logarithms"),
        ("<blank> nan\n", "give logarithms"),
        ("<blank> -0.693147\na -0.693147\n", r"lack 1 \(b\) and have 0 others"),
        ("<blank> -0.693147\na -1.386294\nb -2.08\nc -2.08\n", r"have 1 others \(c\)"),
        ("<blank> -5\na -10\nb -20\n", "3 lines have 3 tokens and add up to 0.007"),
        ("<blank> -0.7\na -0.7\na -9\n", "3 lines have 2 tokens"),
    ],
)
def test_a_prior_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "prior.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prior(path, ["<blank>", "a", "b", "<unk>"], "<blank>")
