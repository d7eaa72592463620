"""What a command line is refused for, in one sentence."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dqn.config import ConfigError, DQNConfig
from flows.cli import options, sweep, train
from flows.cli.refusals import require_version
from flows.cli.terminal import BAD_INPUT
from flows.request.suggestions import expected
from flows.search.spaces import SPACES
from serving.models.glance import Registered

of_a_sweep = partial(options.parse, sweep.Arguments, prog="", default=sweep.Arguments())


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--seed x", "--seed takes a whole number, got x"),
        ("--seed=1.5", "--seed takes a whole number, got 1.5"),
        ("--num_agents 2 --seed", "--seed takes a whole number, got nothing"),
        ("--gamma high --seed x", "--gamma takes a number, got high"),
        ("--double-dqn yes", "--double-dqn takes True or False, got yes"),
        ("--loss hubr", "--loss takes one of squared, huber, got hubr; did you mean huber?"),
        ("--hidden-sizes 32,32", "--hidden-sizes takes whole numbers, got 32,32"),
        ("--observation-scale 1 a", "--observation-scale takes numbers, got 1 a"),
        ("--world.length 1 2 3", "--world.length takes a number or two numbers, from low to high, got 1 2 3"),
        ("--randomisation.wind a", "--randomisation.wind takes a number or two numbers, from low to high, got a"),
        ("--world.push-interval 1.5", "--world.push-interval takes a whole number or two numbers, from low to high"),
        ("--world.sensor-bias x", "--world.sensor-bias takes numbers, got x"),
        ("--world.wind 2 1", "world.wind must be a finite number, or a range from low to high, got (2.0, 1.0)"),
        ("--randomisation.tau 0", "world.tau must be a number above 0, or a range from low to high, got 0.0"),
        ("--worlds 3", "--worlds takes worlds as JSON objects, such as '{\"length\": 1}', got 3"),
        ('--worlds {"length":1} {"tau":0}', "--worlds takes worlds as JSON objects, such as "),
        ('--worlds {"length":1} {"tau":1}', "worlds must be one for each of num_agents = 16 agents"),
        ("--resume", "--resume takes one word, got nothing"),
        ("--checkpoint-dir", "--checkpoint-dir takes a path, got nothing"),
        ("--preset", "there is no preset ''; there are cartpole, robust"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_sentence(
    argument: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(argument.split()) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--prset cartpole", "there is no option --prset; did you mean --preset?"),
        ("--preset cartpol", "lunarlander, got cartpol; did you mean cartpole?"),
        ("--method tpee", "--method takes one of tpe, random, got tpee; did you mean tpe?"),
        ("--method pbt", "--method takes one of tpe, random, got pbt"),
        ("--trials many", "--trials takes a whole number, got many"),
        ("--promote --trials many", "--trials takes a whole number, got many"),
        ("--promote yes", "yes belongs to no option; --help lists all"),
        ("--promote=false", "--promote takes no value, got false: give it or leave it out"),
        ("--space smal", "there is no space 'smal'; did you mean small?"),
        ("--space mine.json", "there is no space 'mine.json': name one of small, arlbench, or a JSON file"),
        ("--resume s --trials 8 --keep 0.2", "keeps its own settings: leave out --trials, --keep"),
    ],
)
def test_a_sweep_is_refused_in_one_sentence_too(
    argument: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(argument.split()) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_what_a_sweep_may_be_given_passes(tmp_path: Path) -> None:
    assert {*sweep.SPACES} == {*SPACES}
    (tmp_path / "space.json").touch()
    for argument in ("--space arlbench", f"--space {tmp_path}/space.json", "--resume s --save mine --promote"):
        sweep.check(of_a_sweep(argument.split()))


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        (int, ["-3"], -3),
        (float, ["1e-3"], 1e-3),
        (bool, ["False"], False),
        (str | None, ["None"], None),
        (float | tuple[float, float] | None, ["None"], None),
        (float | tuple[float, float] | None, ["1", "2"], (1.0, 2.0)),
        (tuple[int, ...], [], ()),
        (tuple[int, ...], ["1", "2", "3"], (1, 2, 3)),
        (tuple[int, ...], ["none"], ()),
        (Path, ["a/b"], Path("a/b")),
    ],
)
def test_words_become_values(kind: Any, words: list[str], value: Any) -> None:
    assert options.converted(words, kind) == value
    assert type(options.converted(words, kind)) is type(value)


@pytest.mark.parametrize("parse", [train.parse, of_a_sweep])
@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--preset", "robust", "--preset", "cartpole"], "--preset is given 2 times (robust, cartpole): give it once"),
        (["--preset=article", "--preset", "article"], "--preset is given 2 times (article, article)"),
        (["--seed", "1", "--seed", "2", "--seed", "3"], "--seed is given 3 times (1, 2, 3)"),
        (["--checkpoint-dir", "a", "--checkpoint_dir", "b"], "--checkpoint-dir is given 2 times (a, b)"),
    ],
)
def test_an_option_given_twice_is_refused(parse: Any, argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(argv)
    assert str(refused.value).startswith(sentence)


def test_every_option_of_training_has_words_for_what_it_takes() -> None:
    types = options.option_types(train.Arguments)
    assert all(expected(kind) for kind in types.values())
    assert len(types) == len(dataclasses.fields(train.Arguments)) - 1 + len(dataclasses.fields(DQNConfig)) - 2 + 2 * 14


def test_what_a_value_is_refused_for_is_the_sentence() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Even:
        number: int = 0

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")

    with pytest.raises(ConfigError, match=r"^odd$"):
        options.parse(Even, ["--number", "3"], prog="even", default=Even())
    assert options.parse(Even, ["--number", "4"], prog="even", default=Even()) == Even(number=4)


@dataclass(frozen=True, kw_only=True)
class Two:
    first: str = ""
    second: int = 0
    force: bool = False


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        ("", Two()),
        ("a", Two(first="a")),
        ("a 3", Two(first="a", second=3)),
        ("a 3 --force", Two(first="a", second=3, force=True)),
        ("--force a 3", Two(first="a", second=3, force=True)),
        ("--second 3 --force a", Two(first="a", second=3, force=True)),
        ("a b", "SECOND takes a whole number, got b"),
        ("a 3 b", "b belongs to no option; --help lists all"),
        ("a --first b", "FIRST is given 2 times (a, b): give it once"),
        ("a --first", "--first takes one word, got nothing"),
    ],
)
def test_words_without_a_name_are_arguments_in_order(words: str, parsed: Two | str) -> None:
    def parse() -> Two:
        return options.parse(Two, words.split(), prog="two", default=Two(), positional=("first", "second"))

    if isinstance(parsed, Two):
        assert parse() == parsed
    else:
        with pytest.raises(ConfigError) as refused:
            parse()
        assert str(refused.value) == parsed


def test_a_version_to_start_from_is_looked_up_before_anything_heavy_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Registered(models=("dqn-CartPole-v1",), versions=("1", "2"), aliases=("champion",))
    monkeypatch.setattr("flows.cli.refusals.glance", {"dqn-CartPole-v1": there}.get)
    assert train.main(["--warm-start", "99"]) == BAD_INPUT
    assert capsys.readouterr().err == (
        "error: dqn-CartPole-v1 has no version '99' to start from; registered are: 1, 2; an alias that is set, such as "
        "champion, does too\n"
    )
    for reference in ("1", "champion"):
        require_version("CartPole-v1", reference)
    require_version("Acrobot-v1", "99")  # nothing is known of it: MLflow is to say
    with pytest.raises(ConfigError):
        require_version("CartPole-v1", "challenger")
