"""Serving compared with `mlflow models serve`, with viewers and with swaps: `python -m benchmarks.serving [--quick]`.

SERVING_PYTHON names the interpreter that runs our server. Resident memory depends on the packages installed there,
because MLflow imports pandas and others if they are installed. On a busy machine, `chrt -f 1 python -m ...` (as root)
gives both servers and the client priority over all other work.
"""

import argparse
import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path
from statistics import median

import mlflow
import orjson
import uvloop

from benchmarks.load import HANDSHAKE, Load, arrive, command, hammer, watch
from benchmarks.servers import MODEL, cpu_seconds, current, mlflow_serving, refresh, register, resident, serving

ROW = [0.01, -0.02, 0.03, 0.04]
OIP = orjson.dumps({"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": ROW}]})
MLFLOW = orjson.dumps({"inputs": {"observation": [ROW]}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parts = {
        "start": start, "infer": infer, "beside": beside, "viewers": viewers, "join": join, "memory": memory,
        "swaps": swaps, "drain": drain, "soak": soak,
    }  # fmt: skip
    parser.add_argument("only", nargs="*", help=f"any of: {' '.join(parts)} (default: all)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        register(folder)
        for name in options.only or parts:
            parts[name](folder, options.quick)


def start(folder: Path, quick: bool) -> None:
    """Time from the start of the process to ready: first without, then with a cached model."""
    for kind in ("empty cache", "cached model", "cached model"):
        began = time.perf_counter()
        with serving(folder) as (_, process):
            seconds = time.perf_counter() - began
            time.sleep(4)  # until mlflow is imported and has polled
            print(f"start to ready, {kind}: {seconds:.2f} s; resident {resident(process.pid):.0f} MB")


def infer(folder: Path, quick: bool) -> None:
    """Single rows over 16 connections, both servers in turn."""
    seconds = 1.0 if quick else 4.0
    with serving(folder) as (port, process), mlflow_serving(folder) as (peer, peer_pid):
        pid, spent = process.pid, [0.0, 0.0]
        ours: list[Load] = []
        theirs: list[Load] = []
        for _ in range(2 if quick else 5):
            spent[0] -= cpu_seconds(pid)
            ours.append(uvloop.run(hammer(port, f"/v2/models/{MODEL}/infer", OIP, seconds=seconds)))
            spent[0] += cpu_seconds(pid)
            spent[1] -= cpu_seconds(peer_pid)
            theirs.append(uvloop.run(hammer(peer, "/invocations", MLFLOW, seconds=seconds)))
            spent[1] += cpu_seconds(peer_pid)
        costs = [
            1e6 * cpu / sum(load.count for load in loads) for cpu, loads in zip(spent, (ours, theirs), strict=True)
        ]
        for name, loads, member, cost in (
            ("serving", ours, pid, costs[0]),
            ("mlflow models serve", theirs, peer_pid, costs[1]),
        ):
            rate = median(load.rate for load in loads)
            p50 = median(load.quantile(0.5) for load in loads) * 1e3
            p99 = median(load.quantile(0.99) for load in loads) * 1e3
            errors = sum(load.errors for load in loads)
            print(
                f"{name}: {rate:.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms (x{p99 / p50:.1f}), "
                f"{cost:.0f} us of CPU a request, {errors} errors, resident {resident(member):.0f} MB"
            )
        ratios = [mine.rate / peer.rate for mine, peer in zip(ours, theirs, strict=True)]
        print(f"ratio of CPU a request: {costs[1] / costs[0]:.1f}")
        print(f"ratio of requests a second: median {median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}")


def viewers(folder: Path, quick: bool) -> None:
    """Viewers of one show: the frames that each received, and the CPU time of the server."""
    count, seconds = (50, 3.0) if quick else (300, 9.5)
    with serving(folder) as (port, process):
        pid = process.pid
        time.sleep(4)
        before, began = cpu_seconds(pid), time.perf_counter()
        frames = uvloop.run(watch(port, count, seconds))
        cpu = (cpu_seconds(pid) - before) / (time.perf_counter() - began)
        rates = sorted(number / seconds for number in frames)
        print(
            f"{count} viewers: {rates[0]:.1f} to {rates[-1]:.1f} frames/s each (median {median(rates):.1f}), "
            f"{100 * cpu:.0f} % of a core in the server, joining and the wait for an episode included; "
            f"resident {resident(pid):.0f} MB"
        )


def beside(folder: Path, quick: bool) -> None:
    """Frames of the show and latency of liveness, during 16 connections of single rows and one of large batches."""
    seconds, path = 2.0 if quick else 9.5, f"/v2/models/{MODEL}/infer"
    large = {"name": "observation", "shape": [4096, 4], "datatype": "FP32", "data": ROW * 4096}
    kinds = {"nothing": (b"", 0), "single rows": (OIP, 16), "4,096 rows": (orjson.dumps({"inputs": [large]}), 1)}

    async def scenario(port: int, body: bytes, connections: int) -> tuple[float, Load]:
        loads = [hammer(port, path, body, seconds=seconds + 30, connections=connections)] if connections else []
        loading = [asyncio.create_task(load) for load in loads]
        frames = asyncio.create_task(watch(port, 1, seconds))
        alive = Load(seconds)
        while not frames.done():
            began = time.perf_counter()
            health = await hammer(port, "/v2/health/live", b"", seconds=0.0, connections=1, method="GET")
            alive.latencies += health.latencies
            alive.errors += health.errors
            await asyncio.sleep(max(0.0, 0.02 - (time.perf_counter() - began)))
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        return frames.result()[0] / seconds, alive

    with serving(folder) as (port, process):
        time.sleep(4)
        for name, (body, connections) in kinds.items():
            before, began = cpu_seconds(process.pid), time.perf_counter()
            rate, alive = uvloop.run(scenario(port, body, connections))
            share = (cpu_seconds(process.pid) - before) / (time.perf_counter() - began)
            print(
                f"beside {name}: {rate:.1f} frames/s of the show; liveness p50 {1e3 * alive.quantile(0.5):.1f} ms, "
                f"p99 {1e3 * alive.quantile(0.99):.1f} ms over {alive.count} new connections, {alive.errors} errors; "
                f"the server had {share:.2f} of a core"
            )


def join(folder: Path, quick: bool) -> None:
    """The cost of many viewers that join at once. The show is paused, so that its frames are not counted."""
    count = 50 if quick else 500

    async def scenario(port: int, pid: int) -> float:
        (first,) = await arrive(port, 1)
        first.write(command("pause"))
        await asyncio.sleep(1)
        before = cpu_seconds(pid)
        crowd = await arrive(port, count)
        spent = cpu_seconds(pid) - before
        for viewer in (first, *crowd):
            viewer.close()
        return spent

    with serving(folder) as (port, process):
        time.sleep(4)
        spent = [uvloop.run(scenario(port, process.pid)) for _ in range(1 if quick else 3)]
        print(f"{count} viewers join: {', '.join(f'{seconds:.2f}' for seconds in spent)} CPU-seconds in the server")


def memory(folder: Path, quick: bool) -> None:
    """Resident memory while one viewer watches and another client infers."""
    with serving(folder) as (port, process):
        time.sleep(4)
        uvloop.run(watch(port, 1, 0.1))
        uvloop.run(hammer(port, f"/v2/models/{MODEL}/infer", OIP, seconds=1.0))
        print(f"resident after one viewer and inference: {resident(process.pid):.0f} MB")


def soak(folder: Path, quick: bool) -> None:
    """Fifty viewers, inference, episodes and swaps for eleven minutes: errors, and whether memory grows."""
    minutes, client = 1.5 if quick else 11.0, mlflow.MlflowClient()
    errors: list[str] = []
    sizes: list[float] = []
    counts = {"requests": 0, "episodes": 0, "swaps": 0, "frames": 0}

    async def scenario(port: int, pid: int) -> None:
        until = time.perf_counter() + 60 * minutes

        async def seen() -> None:
            while time.perf_counter() < until:
                counts["frames"] += sum(await watch(port, 50, 5.0))

        async def asked() -> None:
            while time.perf_counter() < until:
                load = await hammer(
                    port, f"/v2/models/{MODEL}/infer", OIP, seconds=0.2, connections=2, check=names_its_version
                )
                counts["requests"] += load.count
                errors.extend(["an answer"] * load.errors)
                await asyncio.sleep(0.8)

        async def played() -> None:
            while time.perf_counter() < until:
                body = orjson.dumps({"seed": counts["episodes"], "pushes": [{"step": 5, "force": 20}]})
                load = await hammer(port, "/api/episodes", body, seconds=0.0, connections=1, success=b"201")
                errors.extend(["an episode"] * load.errors)
                counts["episodes"] += 1
                await asyncio.sleep(2)

        async def swapped() -> None:
            while time.perf_counter() < until:
                number = str(2 - counts["swaps"] % 2)
                await asyncio.to_thread(client.set_registered_model_alias, MODEL, "champion", number)
                await asyncio.to_thread(refresh, port)
                while await asyncio.to_thread(current, port) != number:
                    await asyncio.sleep(0.1)
                counts["swaps"] += 1
                await asyncio.sleep(3)

        async def measured() -> None:
            while time.perf_counter() < until:
                sizes.append(resident(pid))
                await asyncio.sleep(5)

        async with asyncio.TaskGroup() as group:
            for task in (seen, asked, played, swapped, measured):
                group.create_task(task())

    with serving(folder) as (port, process):
        before, began = cpu_seconds(process.pid), time.perf_counter()
        uvloop.run(scenario(port, process.pid))
        share = (cpu_seconds(process.pid) - before) / (time.perf_counter() - began)
    settled = sizes[len(sizes) * 60 // int(60 * minutes) :]
    done = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(f"{minutes:g} minutes, 50 viewers, {share:.2f} of a core: {done}; {len(errors)} errors {sorted(set(errors))}")
    print(
        f"resident after the first minute: {min(settled):.0f} to {max(settled):.0f} MB, at the end {sizes[-1]:.0f} MB"
    )


def drain(folder: Path, quick: bool) -> None:
    """Time from SIGTERM to the end of the process, with streams of every kind open."""
    with serving(folder) as (port, process):
        pixels = (f"GET /api/live.mjpeg{query} HTTP/1.1\r\nHost: localhost\r\n\r\n" for query in ("", "?seed=1"))
        streams = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for stream, request in zip(streams, (HANDSHAKE % port, *map(str.encode, pixels)), strict=True):
            stream.sendall(request)
            assert stream.recv(64)[9:12] in (b"101", b"200")
        time.sleep(2)
        began = time.perf_counter()
        process.terminate()
        process.wait(10)
        print(f"SIGTERM to the end, 3 streams open: {time.perf_counter() - began:.2f} s")
        for stream in streams:
            stream.close()


def swaps(folder: Path, quick: bool) -> None:
    """The alias moves back and forth under load; every answer must come from the version it names."""
    wanted, requests = (10, 2_000) if quick else (100, 20_000)
    client = mlflow.MlflowClient()

    async def scenario(port: int) -> tuple[list[Load], int]:
        swapped = 0

        async def keep_swapping() -> None:
            nonlocal swapped
            while swapped < wanted:
                number = str(2 - swapped % 2)
                await asyncio.to_thread(client.set_registered_model_alias, MODEL, "champion", number)
                await asyncio.to_thread(refresh, port)
                while (await asyncio.to_thread(current, port)) != number:
                    await asyncio.sleep(0.01)
                swapped += 1

        swapping = asyncio.create_task(keep_swapping())
        loads: list[Load] = []
        while not swapping.done() or sum(load.count for load in loads) < requests:
            loads.append(await hammer(port, f"/v2/models/{MODEL}/infer", OIP, seconds=1.0, check=names_its_version))
        await swapping
        return loads, swapped

    with serving(folder) as (port, _):
        loads, swapped = uvloop.run(scenario(port))
    total, errors = sum(load.count for load in loads), sum(load.errors for load in loads)
    print(f"{swapped} swaps during {total} requests: {errors} errors or answers from a version other than named")
    client.set_registered_model_alias(MODEL, "champion", "1")


def names_its_version(body: bytes) -> bool:
    """Whether the named version answered: version n adds 100 n to its Q-values."""
    answer = orjson.loads(body)
    return bool(abs(answer["outputs"][0]["data"][0] - 100 * int(answer["model_version"])) < 10)


if __name__ == "__main__":
    main()
