import io
import re
import sys

import pytest

from flows.orchestration.console import SAID_SECONDS, Estimate, duration, note, phase


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


def test_long_work_says_how_far_it_is_and_how_long_it_takes_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [100.0]
    estimate = Estimate("agents tested", 20, done=4, now=lambda: clock[0])
    for seconds, done in ((1, 5), (SAID_SECONDS + 1, 8), (SAID_SECONDS + 2, 9), (2 * SAID_SECONDS + 2, 12)):
        clock[0] = 100.0 + seconds
        estimate(done, "all well")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "agents tested: 8 of 20, 18 s left at most; all well",
        "agents tested: 12 of 20, 12 s left at most; all well",
    ]
    clock[0] += 100
    estimate(20)
    assert capsys.readouterr().err == "", "it is over"
    Estimate("nothing done", 5, now=lambda: clock[0])(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (120, "2 min"), (5399, "90 min"), (7200, "2.0 h")]
)
def test_a_duration_is_rounded_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
