import io
import re
import sys

import pytest

from flows.phases import note, phase


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_phase_has_a_line_when_it_begins_and_one_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with phase("export"):
        assert capsys.readouterr().err == "export ...\n"
        note("in between")
    assert re.fullmatch(r"in between\nexport: \d+\.\d s\n", capsys.readouterr().err)


def test_on_a_terminal_a_phase_ends_on_the_line_it_began_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with phase("export"):
        assert terminal.getvalue() == "export ..."
    assert re.fullmatch(r"export \.\.\.\r\x1b\[Kexport: \d+\.\d s\n", terminal.getvalue())


def test_what_goes_wrong_begins_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ZeroDivisionError), phase("divide"):
        raise ZeroDivisionError
    assert terminal.getvalue() == "divide ...\n"
