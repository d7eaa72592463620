"""The server behind nginx and Caddy, below a prefix, with the very files that the documents show."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import sync_playwright
from starlette.types import Message, Receive, Scope, Send

from serving.arguments import UsageError, parse
from serving.web.proxies import Forwarded, networks
from tests.support.serving.browser import until
from tests.support.serving.inprocess import serving

DOCKER: Final = Path(__file__).parents[3] / "docker/proxy"
CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NGINX: Final = "pid {folder}/pid; error_log {folder}/log; events {{}} http {{ access_log off; include {folder}/site; }}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def proxy(name: str, folder: Path, upstream: str) -> Iterator[str]:
    """A proxy with its file from docker/proxy in front of a server; gives the address below its prefix."""
    port = free_port()
    site = (DOCKER / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[name]).read_text()
    for shown, here in (("127.0.0.1:8000", upstream), (":8080", f":{port}")):
        assert shown in site
        site = site.replace(shown, here)
    (folder / "site").write_text(site)
    if name == "nginx":
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
        words = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;"]
    else:
        words = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "site")]
    home = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin", "XDG_DATA_HOME": str(folder)}
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=home)
        try:
            until_listening(port, process, folder)
            yield f"http://127.0.0.1:{port}/dqn/"
        finally:
            process.terminate()
            process.wait(30)


def until_listening(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(params=["nginx", "caddy"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here: apt-get install {request.param} (.ci/run does)")
    with (
        serving(proxies=networks("127.0.0.1"), hosts=["balance.example"]) as server,
        proxy(request.param, tmp_path, server.url.removeprefix("http://")) as url,
    ):
        yield url


@pytest.mark.slow
def test_changes_are_admitted_from_the_proxys_own_pages_alone(behind: str) -> None:
    episode: dict[str, Any] = {"url": f"{behind}api/episodes", "json": {"seed": 1}}
    host = {"Host": "balance.example"}
    assert httpx.get(behind, headers=host).status_code == 200
    assert httpx.get(behind.removesuffix("/")).headers["location"].endswith("/dqn/")
    assert httpx.post(**episode, headers=host | {"Origin": "http://balance.example"}, timeout=60).is_success
    refused = httpx.post(**episode, headers=host | {"Origin": "http://elsewhere.example"})
    assert refused.status_code == 403
    assert "pass Host on or start with --trusted-proxies" in refused.json()["error"]
    assert httpx.get(behind, headers={"Host": "elsewhere.example"}).status_code == 421


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium (.ci/run does)")
def test_the_page_plays_below_a_prefix(behind: str) -> None:
    failed: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"{behind}?compare=champion,2", wait_until="domcontentloaded")
        until(page, "window.page?.frames > 20")
        assert page.url == f"{behind}?compare=champion,2"
        page.goto(behind, wait_until="domcontentloaded")
        until(page, "window.page?.frames > 5")
        page.keyboard.press("g")
        until(page, "document.querySelector('.pixels').naturalWidth > 0")
        page.goto(f"{behind}?seed=3&pushes=", wait_until="domcontentloaded")
        page.wait_for_url(f"{behind}api/episodes/*.html")
        browser.close()
    assert failed == []


async def nothing() -> Message:
    return {"type": "http.disconnect"}


async def ignored(_: Message) -> None:
    return


@pytest.mark.parametrize(
    ("peer", "trusted", "host"),
    [
        ("127.0.0.1", "127.0.0.1", "balance.example"),
        ("10.1.2.3", "192.168.0.1, 10.0.0.0/8", "balance.example"),
        ("11.1.2.3", "10.0.0.0/8", "upstream"),
        ("::1", "::1", "balance.example"),
        (None, "127.0.0.1", "upstream"),
    ],
)
def test_the_headers_of_a_trusted_peer_are_believed_and_of_no_other(peer: str | None, trusted: str, host: str) -> None:
    asked: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)

    headers = [
        (b"host", b"upstream"),
        (b"x-forwarded-host", b"balance.example, inner"),
        (b"x-forwarded-proto", b"https"),
    ]
    client = (peer, 1) if peer else None
    scope = {"type": "http", "scheme": "http", "client": client, "headers": headers}
    asyncio.run(Forwarded(app, networks(trusted))(scope, nothing, ignored))
    [seen] = asked
    assert [value.decode() for name, value in seen["headers"] if name == b"host"] == [host]
    assert seen["scheme"] == ("https" if host == "balance.example" else "http")


@pytest.mark.parametrize("wrong", ["nginx", "10.0.0.1/8", "10.0.0.0/8,*"])
def test_a_proxy_that_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="is not an address or a network of addresses"):
        parse(["--trusted-proxies", wrong])


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_the_documents_show_the_files_that_are_tried_here(name: str) -> None:
    assert (DOCKER / name).read_text() in (DOCKER.parents[1] / "docs/serving.md").read_text()
