"""What is shown of the progress of a command."""

import io
import logging
import sys

import pytest

from espnet_ctckd.data.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO")
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_log_gets_a_line_at_the_end(lines, capsys):
    with Progress(3, "frames") as bar:
        for _ in range(3):
            bar.update()
    assert lines() == ["3 of 3 frames, 0 s left"]
    assert capsys.readouterr() == ("", "")


def test_the_log_gets_a_line_now_and_then_and_none_twice(lines):
    with Progress(2, "searches", seconds=0) as bar:
        bar.update()
        bar.set_postfix_str("of two", refresh=False)
        bar.update()
    assert len(lines()) == 2
    assert lines()[0].startswith("1 of 2 searches, ")
    assert lines()[1] == "2 of 2 searches, of two, 0 s left"


def test_of_nothing_to_do_there_is_no_line(lines):
    with Progress(0, "frames"):
        pass
    assert lines() == []


def test_a_terminal_gets_a_bar(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(2, "frames") as bar:
        bar.update(2)
    assert lines() == []
    shown = terminal.getvalue().split("\r")
    assert shown[-1].startswith("100%|")
    assert shown[-1].endswith("| 2 of 2 frames, 0 s left\n")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_it_is_silent_where_the_log_is(caplog, monkeypatch, stream):
    caplog.set_level(logging.ERROR)
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(2, "frames") as bar:
        bar.update(2)
    assert (caplog.records, stderr.getvalue()) == ([], "")
