"""What is refused before PyTorch and MLflow are imported."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dqn.config import ConfigError
from flows.cli import train
from flows.cli.refusals import preset_warning, require_run
from flows.cli.terminal import BAD_INPUT

ROOT = Path(__file__).parents[3]
MAIN = (
    "import sys; from flows.cli.train import main; code = main();"
    "print(code, [name for name in ('torch', 'mlflow', 'prefect') if name in sys.modules])"
)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lr", "1"], "there is no option --lr; did you mean --learning-rate?"),
        (["--world.lenght=1"], "there is no option --world.lenght; did you mean --world.length?"),
        (
            ["--randomisation.lenght", "1"],
            "there is no option --randomisation.lenght; did you mean --randomisation.length?",
        ),
        (["--epochs", "1"], "there is no option --epochs; --help lists all"),
        (["fast"], "fast belongs to no option; --help lists all"),
        (["--env-id", "CartPol-v1"], "there is no environment 'CartPol-v1'; did you mean CartPole-v1 or CartPole-v0?"),
        (["--preset", "lunarlandr"], "there is no preset 'lunarlandr'; did you mean lunarlander?"),
        (
            ["--preset", "x"],
            "there is no preset 'x'; there are cartpole, robust, frugal, article, acrobot, mountaincar, minatar, "
            "lunarlander, general",
        ),
        (["--device", "cdua:0"], "there is no device 'cdua:0'; did you mean cuda?"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_names(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where no preset was saved
    assert train.main(arguments) == BAD_INPUT
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_typo_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, "--env-id", "CartPol-v1"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert refused.stdout == "2 []\n"


def test_a_run_to_go_on_with_is_looked_up_before_anything_heavy_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as tables:
        tables.execute("CREATE TABLE runs (run_uuid TEXT, status TEXT)")
        tables.execute("CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT)")
        for run_id, tags in (("stopped", ["population"]), ("trained", ["population", "trained"]), ("child", [])):
            tables.execute("INSERT INTO runs VALUES (?, 'FAILED')", (run_id,))
            tables.executemany("INSERT INTO tags VALUES (?, '', ?)", [(tag, run_id) for tag in tags])
        tables.commit()
    command = [sys.executable, "-c", MAIN, "--resume", "nothing"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env=environment)
    assert refused.stdout == "2 []\n"
    assert f"error: there is no run 'nothing' in {tmp_path}/mlflow.db; its id is printed" in refused.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=f"run stopped has no checkpoint {tmp_path}/elsewhere/stopped.ckpt; resume"):
        require_run("stopped", Path("elsewhere"))
    Path("stopped.ckpt").touch()
    require_run("stopped", Path())
    for left_to_mlflow in ("trained", "child"):
        require_run(left_to_mlflow, Path("elsewhere"))
    Path("mlflow.db").write_text("no database")
    require_run("none", Path())


def test_devices_that_pytorch_may_know_are_left_to_it() -> None:
    for name in ("cpu", "cuda", "cuda:1", "mps", "vulkan"):
        assert train.check(train.parse(["--device", name])) is None


@pytest.mark.parametrize(
    ("preset", "env_id", "warning"),
    [
        ("lunarlander", "LunarLander-v3", None),
        ("article", "CartPole-v1", None),
        (
            "lunarlander",
            "CartPole-v1",
            "the hyper-parameters of preset lunarlander were tuned to LunarLander-v3, not to CartPole-v1; "
            "--preset cartpole is",
        ),
        (
            "cartpole",
            "Other-v0",
            "the hyper-parameters of preset cartpole were tuned to CartPole-v1, not to Other-v0; expect to tune them",
        ),
    ],
)
def test_a_preset_of_another_environment_is_pointed_out(preset: str, env_id: str, warning: str | None) -> None:
    assert preset_warning(preset, env_id) == warning  # type: ignore[arg-type]


def test_the_first_line_says_what_how_many_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train.announcement(train.parse(["--seed", "3"])) == (
        "Training 16 DQN agents on CartPole-v1 (preset cartpole, seed 3); runs and models go to "
        f"sqlite:///{tmp_path}/mlflow.db"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert train.announcement(train.parse(["--preset", "article"])) == (
        "Training 1 DQN agent on CartPole-v1 (preset article, seed 0); runs and models go to http://127.0.0.1:5000"
    )
    assert train.announcement(train.parse(["--resume", "ab"])) == "Resuming run ab of http://127.0.0.1:5000"
