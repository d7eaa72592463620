"""Seconds from a change of the world to the end of the adaptation, stage by stage, against a running stack.

    python -m benchmarks.closed_loop --serving http://127.0.0.1:8001

For each kind of change, this changes the world of the show, watches the show as a viewer without a screen, and restores
the world. All five kinds are ten adaptations; the deployment's `most_an_hour` must allow them.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import time
import urllib.request
from typing import Any, Final

from websockets.asyncio.client import connect

KINDS: Final[dict[str, dict[str, Any]]] = {
    "reversed motor": {"force_mag": -10.0},
    "sensor bias": {"sensor_bias": [0.0, 0.0, 0.0873, 0.0]},
    "delay 3": {"action_delay": 3},
    "short pole, strong motor": {"length": 0.1, "force_mag": 30.0},
    "gravity 30, short pole": {"gravity": 30.0, "length": 0.1},
}
HEALED: Final = ("recovered", "confirmed", "as predicted")
ENDS: Final = (*HEALED, "refused", "rolled back", "failed", "waiting")
PATIENCE: Final = 300.0
QUIET: Final = 20.0
"""If there is no drift for so many seconds, the version balances in the changed world too."""


def main() -> None:
    """Print a row for each change, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serving", default="http://127.0.0.1:8001", help="URL of the server that plays")
    parser.add_argument("--token", default="", help="its token, where it has one")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="changes to make")
    asyncio.run(measure(parser.parse_args()))


async def measure(options: argparse.Namespace) -> None:
    """Make every change, and restore the world after each."""
    server = Server(options.serving, options.token)
    viewer = asyncio.create_task(watch(options.serving))
    times: dict[bool, list[float]] = {True: [], False: []}
    try:
        for kind in options.kinds:
            for name, world in ((kind, KINDS[kind]), (f"{kind}, restored", {})):
                steps = await asyncio.to_thread(heal, server, world)
                seconds = ", ".join(f"{stage} {at:.1f}" for stage, at in steps)
                print(f"{name}: {seconds}", flush=True)
                if steps[-1][0] in HEALED:
                    times[any(stage == "training" for stage, _ in steps)].append(steps[-1][1])
    finally:
        viewer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await viewer
    for trained, found in times.items():
        how = "trained" if trained else "without a training"
        print(f"{how}: {len(found)} healed, median {statistics.median(found) if found else float('nan'):.1f} s")


def heal(server: "Server", world: dict[str, Any]) -> list[tuple[str, float]]:
    """Change the world and wait. Returns each stage and the seconds from the change to its beginning."""
    before = server.ask("/api/adaptation")["drift"]
    server.ask("/api/world", world, method="PUT")
    changed = time.time()
    while time.time() - changed < PATIENCE:
        time.sleep(0.2)
        now = server.ask("/api/adaptation")
        drift, stages = now["drift"], now["stages"]
        if drift is None or (before and drift["id"] == before["id"]):
            if time.time() - changed > QUIET:
                return [("balances", 0.0)]
            continue
        if not stages:
            continue
        if stages[-1]["stage"] in ENDS:
            seen = [("noticed", drift["noticed_at"] - changed)]
            return seen + [(stage["stage"], stage["at"] - changed) for stage in stages]
    return [("nothing", PATIENCE)]


async def watch(url: str) -> None:
    """Watch the show, as one viewer without commands."""
    while True:
        with contextlib.suppress(OSError):
            async with connect(f"ws{url.removeprefix('http')}/api/show", max_size=None) as socket:
                async for _ in socket:
                    pass
        await asyncio.sleep(1.0)


class Server:
    """The server that plays."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def ask(self, path: str, body: dict[str, Any] | None = None, *, method: str = "GET") -> Any:
        """Send JSON, or no body. Returns the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)  # noqa: S310 -- of a stack here
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 -- as above
            return json.load(answer)


if __name__ == "__main__":
    main()
