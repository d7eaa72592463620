r"""Mutation testing: break the lines of a module one at a time, and print the mutants that no test notices.

    python -m benchmarks.mutants dqn/experience/buffer.py               # tested by tests/dqn/experience
    python -m benchmarks.mutants flows/registry/champion.py --tests tests/flows/registry/test_promotion.py \
        --then tests/flows/registry/test_promote.py
    python -m benchmarks.mutants dqn/learning/learner.py --sample 0.2   # a fifth of the mutants, drawn by --seed

A mutant swaps a comparison or an operator, changes a number or a truth value, negates a condition, empties a return, or
deletes a statement. Each is tested in a fork of one process that has imported the libraries. An import hook replaces
the module's source there: no file is written, and several runs may share a checkout. Processes that tests start run the
unbroken code.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.metadata
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

PROJECT: Final = ("benchmarks", "dqn", "flows", "serving", "tests")
LIBRARIES: Final = (
    "torch", "torch._dynamo", "gymnasium", "onnx", "scipy", "matplotlib", "sqlalchemy", "prefect", "fastapi",
)  # fmt: skip
"""Imported once. None of them may start a thread, as MLflow does: a fork would wait for its locks for ever."""
SINGLE_THREADED: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
SWAPS: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
DELETABLE: Final = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)
SLOWEST: Final = 5.0
"""A mutant that takes this many times the CPU or wall time of the unbroken code counts as an endless loop."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One breakage of a module."""

    line: int
    change: str
    source: str


def main() -> int:
    """Print the survivors and the share that was killed; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("--tests", nargs="+", help="by default those in the same folder of tests/")
    parser.add_argument("--then", nargs="+", default=[], help="slower tests, for what survives --tests")
    parser.add_argument("--lines", type=int, nargs=2, metavar=("FIRST", "LAST"), default=(1, sys.maxsize))
    parser.add_argument("--sample", type=float, default=1.0, help="share of the mutants to try")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rounds = [arguments.tests or [f"tests/{arguments.module.parent}"]]
    rounds += [arguments.then] * bool(arguments.then)
    first, last = arguments.lines
    mutants = [mutant for mutant in mutants_of(arguments.module.read_text()) if first <= mutant.line <= last]
    generator = random.Random(arguments.seed)  # noqa: S311 # draws a sample, guards no secret
    mutants = [mutant for mutant in mutants if generator.random() < arguments.sample]
    os.environ |= SINGLE_THREADED
    for library in LIBRARIES:
        importlib.import_module(library)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    survivors = mutants
    for tests in rounds:
        begin, cpu = time.monotonic(), os.times().children_user
        if tested(arguments.module, arguments.module.read_text(), tests, seconds=3600, cpu_seconds=3600) != 0:
            parser.error(f"{' '.join(tests)} fail without any mutant")
        seconds = 60 + SLOWEST * (time.monotonic() - begin)
        cpu_seconds = 5 + SLOWEST * (os.times().children_user - cpu)
        print(f"survivors of {' '.join(tests)}:", flush=True)
        tried, survivors = survivors, []
        for mutant in tried:
            if tested(arguments.module, mutant.source, tests, seconds=seconds, cpu_seconds=cpu_seconds) == 0:
                survivors.append(mutant)
                print(f"{arguments.module}:{mutant.line}: {mutant.change}", flush=True)
    killed = len(mutants) - len(survivors)
    print(f"{arguments.module}: {killed} of {len(mutants)} mutants killed, {killed / max(len(mutants), 1):.1%}")
    return 0


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    mutants = []
    tree = ast.parse(source)
    types = _annotations(tree)
    node: Any  # has a line wherever something can be changed
    for index, node in enumerate(ast.walk(tree)):
        for change in changes(node) if node not in types else ():
            broken = copy.deepcopy(tree)
            target = list(ast.walk(broken))[index]
            before = ast.unparse(target)
            gone = change(target)
            text = f"{_shown(before)}  ->  {_shown(ast.unparse(target))}"
            if isinstance(gone, ast.stmt):
                text = f"{_shown(ast.unparse(gone))}  ->  nothing"
            mutants.append(Mutant(line=(gone or node).lineno, change=text, source=ast.unparse(broken)))
    return sorted(mutants, key=lambda mutant: mutant.line)


def _annotations(tree: ast.Module) -> set[ast.AST]:
    """Nodes of type annotations, which decide nothing."""
    found = [
        part
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(part, ast.AST)
    ]
    return {node for part in found for node in ast.walk(part)}


def changes(node: Any) -> Iterator[Callable[[Any], ast.stmt | None]]:
    """The changes of a node, as functions that change a copy of it. One that deletes a statement returns that."""
    match node:
        case ast.Compare():
            for position, operator in enumerate(node.ops):
                swapped = SWAPS[type(operator)]
                yield lambda n, at=position, to=swapped: n.ops.__setitem__(at, to())  # type: ignore[misc] # mypy infers no lambda with defaults
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in SWAPS:
            yield lambda n: setattr(n, "op", SWAPS[type(n.op)]())
        case ast.If() | ast.While() | ast.IfExp():
            yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
        case ast.Constant(value=bool() | int() | float()):
            yield lambda n: setattr(n, "value", not n.value if isinstance(n.value, bool) else n.value + 1)
        case ast.Return(value=ast.AST() as value) if ast.unparse(value) != "None":
            yield lambda n: setattr(n, "value", ast.Constant(None))
    if isinstance(node, ast.FunctionDef | ast.If | ast.For | ast.While | ast.With | ast.Try):
        for position, statement in enumerate(node.body):
            if isinstance(statement, DELETABLE) and not _is_text(statement):
                yield lambda n, at=position: _delete(n.body, at)  # type: ignore[misc] # as above


def _delete(body: list[ast.stmt], position: int) -> ast.stmt:
    gone, body[position] = body[position], ast.Pass()
    return gone


def tested(module: Path, source: str, tests: Sequence[str], *, seconds: float, cpu_seconds: float) -> int:
    """Exit status of the tests in a forked process in which a module has this source; 124 if they take too long."""
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds)))
        for name in [name for name in sys.modules if name.split(".")[0] in PROJECT and name != "__main__"]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Mutated(module, source))
        preloaded = "ignore::pytest.PytestAssertRewriteWarning"  # of pytest's own plugins, imported with the libraries
        os._exit(pytest.main(["-x", "-q", "-W", preloaded, "-p", "no:cacheprovider", "-m", "not stack", *tests]))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


class _Mutated(importlib.abc.MetaPathFinder):
    """Finds one module with other source than its file's."""

    def __init__(self, module: Path, source: str) -> None:
        self._name = ".".join(module.with_suffix("").parts)
        self._path = str(module.absolute())
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(fullname, self._path, self._source))


class _Loader(SourceFileLoader):
    """A file's module with other source, which Python's cache of compiled files must not shadow."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> Any:
        return compile(self._source, self.path, "exec", dont_inherit=True)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _shown(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= 90 else line[:87] + "..."


if __name__ == "__main__":
    sys.exit(main())
