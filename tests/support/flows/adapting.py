"""An adaptation with a page in memory as its server."""

from typing import Any

from dqn.environments.world import World
from flows.adaptation.timeline import Adaptation
from flows.tracking.attempt import Attempt

MODEL = "dqn-CartPole-v1"
REVERSED = World(force_mag=-10.0).to_dict()


class Page:
    """A server that answers what it is given, the last again and again, and raises what is an error."""

    url = "http://127.0.0.1:9"
    drift = "d"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.told: list[tuple[str, str]] = []
        self.asked: list[int] = []
        self.progress: list[float | None] = []

    def status(self) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def experience(self, since: int) -> Any:
        self.asked.append(since)
        count = self.status()
        transitions = {"id": list(range(since + 1, since + 1 + count))} if count else {}
        return {"transitions": transitions, "next": since + count}

    def tell(self, stage: str, text: str, **more: Any) -> None:
        self.told.append((stage, text))
        self.progress.append(more.get("progress"))


def adapting(page: Any) -> Adaptation:
    return Adaptation(show=page, attempt=Attempt(run_id="0000001a" + "0" * 24, token="t"))
