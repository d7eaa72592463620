"""The runs of a workbook, their drifted environments, and what counts as healed."""

import math
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import drift_returns
from benchmarks.drift_returns import adapt, row_of, say, world_of
from benchmarks.workbook import runs
from dqn.environments.world import World
from dqn.identification.record import UnexplainedError
from dqn.presets import PRESETS

NAMES = ["instance", "force", "'goal_velocity'", "gravity", "vanilla_average_reward", "pruning_average_reward"]


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """Two runs, as a spreadsheet has them: texts apart from the cells, and empty rows at the end."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    texts = "".join(f"<si><t>{name}</t></si>" for name in [*NAMES, "0_0", "0_1"])
    head = "".join(f'<c t="s"><v>{index}</v></c>' for index in range(len(NAMES)))
    values = ["9.5E-4 0 3E-3 -120.5 -130", "1E-3 0.05 2.5E-3 -140 -110"]
    rows = [
        f'<c t="s"><v>{len(NAMES) + index}</v></c>' + "".join(f"<c><v>{value}</v></c>" for value in line.split())
        for index, line in enumerate(values)
    ]
    with zipfile.ZipFile(tmp_path / "runs.xlsx", "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{texts}</sst>")
        lines = "".join(f"<row>{cells}</row>" for cells in [head, *rows, ""])
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{lines}</sheetData></worksheet>")
    return tmp_path / "runs.xlsx"


def test_the_runs_of_a_workbook_are_read(workbook: Path) -> None:
    first, second = runs(workbook)
    assert world_of(first) == World(gravity=0.003, force_mag=0.00095, attributes={"goal_velocity": 0.0})
    assert world_of(second).attributes == {"goal_velocity": 0.05}
    row = row_of(second, -150.0)
    assert (row["run"], row["fine-tuned"], row["Dr. DRL"], row["champion"]) == ("0_1", -140.0, -110.0, -150.0)


def test_of_acrobot_four_parameters_are_set() -> None:
    names = ("link_length_1", "link_com_pos_1", "link_com_pos_2", "link_mass_1", "link_mass_2", "link_moi")
    assert world_of(dict.fromkeys(names, 1.5)) == World(
        attributes=dict.fromkeys(("LINK_LENGTH_1", "LINK_COM_POS_1", "LINK_MASS_1", "LINK_MASS_2"), 1.5)
    )


def test_a_run_that_is_not_identified_is_not_trained_for(workbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexplained(*_: Any) -> World:
        raise UnexplainedError("the steps are as predicted")

    monkeypatch.setattr(drift_returns, "train", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(drift_returns, "record", lambda *_: ((), (), ()))
    monkeypatch.setattr(drift_returns, "identify_by_step", unexplained)
    _, second = runs(workbook)
    champion: Any = None
    row = row_of(second, -150.0)
    adapt(row, champion, PRESETS["mountaincar"])
    assert row["identified"] == "refused: the steps are as predicted"
    assert math.isnan(row["trained"])


def test_the_better_of_champion_and_trained_counts(workbook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (row_of(run, -150.0) for run in runs(workbook))
    say([first | {"trained": -115.0, "identified": "x"}, second], -121.0)
    told: Any = capsys.readouterr().out.splitlines()
    assert told[0] == "of 2 runs, all, healed: this project 1, champion 0, fine-tuned 1, Dr. DRL 1"
    assert told[1].endswith("this project 1, champion 0, fine-tuned 1, Dr. DRL 0")
