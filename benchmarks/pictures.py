"""Pictures of README and docs, except those of measurements, into `images/`: pages and artifacts of a stack.

    python -m benchmarks.pictures

Prefect, MLflow and the server are those of `PREFECT_API_URL`, `MLFLOW_TRACKING_URI` and `SERVING_URL`, with their own
variables for logins. Train twice before, so that the stress test has two versions. Needs Chromium.
"""

import base64
import io
import os
import shutil
import time
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.figures import IMAGES

MODEL: Final = "dqn-CartPole-v1"
OF_THE_CHAMPION: Final = ("learning_curves.png", "learning.gif", "episode.gif")
OF_THE_NEWEST: Final = ("stress_test.png",)  # it compares the version with the champion
CHANGE: Final = "world => void fetch('api/world', { method: 'PUT', body: JSON.stringify(world) })"
PATIENCE: Final = 120.0


def main() -> None:
    """Take all of them and print where they are."""
    client = MlflowClient()
    champion = client.get_model_version_by_alias(MODEL, "champion")
    newest = max(client.search_model_versions(f"name='{MODEL}'"), key=lambda version: int(version.version))
    for version, names in ((champion, OF_THE_CHAMPION), (newest, OF_THE_NEWEST)):
        for name in names:
            shutil.copy(download_artifacts(run_id=version.run_id, artifact_path=name), IMAGES / name)
            print(IMAGES / name)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        print(server_page(browser, os.environ["SERVING_URL"]))
        print(healing(browser, os.environ["SERVING_URL"]))
        print(mlflow_version(browser, os.environ["MLFLOW_TRACKING_URI"], champion.version))
        print(prefect_run(browser, os.environ["PREFECT_API_URL"].removesuffix("/api")))
        browser.close()


def server_page(browser: Browser, url: str) -> Path:
    """The page of the server a second after a push, with at least one earlier episode."""
    page = browser.new_page(viewport={"width": 1180, "height": 985})
    page.goto(url, wait_until="domcontentloaded")
    until(page, "page.status?.players[0]?.history.length > 0")
    page.keyboard.press("r")
    until(page, "page.frame.k < 100")
    until(page, "page.frame.k >= 150")
    page.click("#push-right")
    until(page, "page.frame.k >= 200")
    return taken(page, "page.png")


def healing(browser: Browser, url: str) -> Path:
    """The motor is reversed, noticed and healed, in real time: the player and the timeline above it."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.goto(url, wait_until="domcontentloaded")
    until(page, "page.frame?.k >= 100")
    players = page.locator("#players").bounding_box()
    assert players, "the page shows its players"
    clip: Any = {"x": 0, "y": players["y"] - 6, "width": 1000, "height": 640}
    shots: list[tuple[float, bytes]] = []
    began = time.monotonic()
    changed = healed = 0.0
    while not healed or time.monotonic() < healed + 4:
        now = time.monotonic()
        if now > began + PATIENCE:
            raise TimeoutError(f"the motor was reversed at {url}, and nothing healed it within {PATIENCE:g} seconds")
        if not changed and now > began + 1.5:
            page.evaluate(CHANGE, {"force_mag": -10})
            changed = now
        if not healed and page.locator("#loop[data-state=over]").count():
            healed = now
        shots.append((now, page.screenshot(clip=clip)))
    page.evaluate(CHANGE, {})
    page.close()
    return animation(shots, IMAGES / "healing.gif")


def animation(shots: Sequence[tuple[float, bytes]], path: Path) -> Path:
    """Screenshots with the seconds at which they were taken, as a GIF of half their size in real time."""
    pictures = [Image.open(io.BytesIO(content)).convert("RGB").reduce(2) for _, content in shots]
    palette = pictures[len(pictures) // 2].quantize(64)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    times = [at for at, _ in shots]
    durations = [round(1000 * (after - at)) for at, after in pairwise(times)] + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return path


def mlflow_version(browser: Browser, url: str, version: str) -> Path:
    """The page of a version in MLflow."""
    login: Any = {
        "username": os.environ.get("MLFLOW_TRACKING_USERNAME", ""),
        "password": os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
    }
    page = browser.new_page(viewport={"width": 1280, "height": 1160}, http_credentials=login)
    page.goto(f"{url}/#/models/{MODEL}/versions/{version}?workflowType=machine_learning")
    page.get_by_text("How good it is").wait_for(timeout=1000 * PATIENCE)
    page.get_by_role("button", name="Close").first.click()  # MLflow's assistant
    page.wait_for_timeout(1000)
    return taken(page, "mlflow_version.png")


def prefect_run(browser: Browser, url: str) -> Path:
    """The page of the latest training in Prefect."""
    login = base64.b64encode(os.environ.get("PREFECT_API_AUTH_STRING", "").encode()).decode()
    request = urllib.request.Request(  # noqa: S310 -- the address is the caller's own
        f"{url}/api/flow_runs/filter",
        orjson.dumps(
            {
                "flows": {"name": {"any_": ["train-dqn"]}},
                "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
                "sort": "END_TIME_DESC",
                "limit": 1,
            }
        ),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 -- as above
        (run,) = orjson.loads(answer.read())
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.goto(url, wait_until="domcontentloaded")
    page.evaluate("login => localStorage.setItem('prefect-password', login)", login)
    page.goto(f"{url}/runs/flow-run/{run['id']}", wait_until="domcontentloaded")
    page.get_by_text("submitted to infrastructure").wait_for(timeout=1000 * PATIENCE)
    page.wait_for_timeout(3000)  # the graph is drawn on a canvas, which does not tell when it is ready
    return taken(page, "prefect_run.png")


def until(page: Page, expression: str) -> None:
    """Wait for an expression to be true; playwright's own wait needs eval, which the server's policy forbids.

    Raises:
        TimeoutError: if it stays false.
    """
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{expression} stayed false at {page.url}: does a champion play there?")
        page.wait_for_timeout(20)


def taken(page: Page, name: str) -> Path:
    """The page as a file of `images/`."""
    path = IMAGES / name
    page.screenshot(path=path)
    page.close()
    return path


if __name__ == "__main__":
    main()
