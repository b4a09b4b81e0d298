"""What a server stands: cancelled requests, overload, idle connections, slow senders, killed clients, a stop under load.

    python -m benchmarks.endurance                       # every trial at full size, some 20 minutes
    python -m benchmarks.endurance cancelled overload    # some of them
    python -m benchmarks.endurance --small               # as the tests run them

Each trial starts `unspoken serve builtin:tiny` as a process of its own (those that leave it well may share one: `at`),
asks it over loopback, and prints what it found.
`tests/serving/test_endurance.py` holds the same figures to bounds, but for slow senders, whose 20 seconds a test shortens
(`tests/serving/test_strangers.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from unspoken.bench.http_client import post
from unspoken.bench.server_process import ServerProcess

QUESTION = "Ann has 7 figs. She finds 5. How many figs has Ann?"
LONG = {"max_tokens": 400, "ignore_eos": True}


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": QUESTION, "temperature": 0, "max_tokens": 16, **more}


def _started(at: ServerProcess | None, *options: str) -> contextlib.AbstractContextManager[ServerProcess]:
    """A server that is there already, or one of the trial's own."""
    return contextlib.nullcontext(at) if at is not None else ServerProcess("builtin:tiny", *options)


async def _idle(server: ServerProcess, seconds: float = 10.0) -> float:
    """Wait until nothing is under way; how long that took."""
    began = time.perf_counter()
    while server.metric("num_requests_running") + server.metric("num_requests_waiting"):
        if time.perf_counter() - began > seconds:
            return float("inf")
        await asyncio.sleep(0.05)
    return time.perf_counter() - began


def cancelled(requests: int = 200, after: float = 0.5, at: ServerProcess | None = None) -> dict[str, Any]:
    """Many long requests are given up; then one is answered."""

    async def trial(server: ServerProcess) -> dict[str, Any]:
        place = f"{server.url}/v1/completions"

        async def one(i: int) -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(post(place, _body(**LONG, stream=bool(i % 2))), after)

        await asyncio.gather(*map(one, range(requests)))
        answer = await post(place, _body())
        return {
            "requests": requests,
            "then_answered": answer.whole,
            "seconds_of_that_answer": answer.ended - answer.began,
            "seconds_until_idle": await _idle(server),
        }

    with _started(at, "--max-waiting", "1000") as server:
        return asyncio.run(trial(server))


def overload(seconds: float = 180.0, factor: int = 10, slots: int = 8, waiting: int = 8) -> dict[str, Any]:
    """So many times more clients than have room, asking again as soon as they are told to come back."""

    async def trial(server: ServerProcess) -> dict[str, Any]:
        place, end = f"{server.url}/v1/completions", time.perf_counter() + seconds
        statuses: Counter[int] = Counter()
        broken, first, slowest = 0, server.memory, 0.0

        async def client(i: int) -> None:
            nonlocal broken, slowest
            while time.perf_counter() < end:
                answer = await post(place, _body(max_tokens=40, ignore_eos=True, stream=bool(i % 2)))
                statuses[answer.status] += 1
                if answer.status == 200:
                    broken += not answer.whole
                    slowest = max(slowest, answer.ended - answer.began)
                else:
                    await asyncio.sleep(0.2)

        await asyncio.gather(*map(client, range(factor * (slots + waiting))))
        return {
            "clients": factor * (slots + waiting),
            "seconds": seconds,
            "statuses": dict(statuses),
            "accepted_but_not_answered": broken,
            "slowest_answer_seconds": slowest,
            "memory_before_mb": first,
            "memory_after_mb": server.memory,
            "seconds_until_idle": await _idle(server),
        }

    with ServerProcess("builtin:tiny", "--slots", str(slots), "--max-waiting", str(waiting)) as server:
        return asyncio.run(trial(server))


def connections(count: int = 2000, at: ServerProcess | None = None) -> dict[str, Any]:
    """Many connections that are opened and left, without a byte sent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else max(soft, min(hard, count + 200)), hard)
    )

    async def trial(server: ServerProcess) -> dict[str, Any]:
        before = server.files
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(count)]
        meanwhile = await post(f"{server.url}/v1/completions", _body())
        most = server.files
        for _, writer in held:
            writer.transport.abort()
        for _ in range(100):
            if server.files <= before + 2:
                break
            await asyncio.sleep(0.1)
        return {
            "connections": count,
            "answered_meanwhile": meanwhile.whole,
            "seconds_of_that_answer": meanwhile.ended - meanwhile.began,
            "files_before": before,
            "files_most": most,
            "files_after": server.files,
        }

    with _started(at) as server:
        return asyncio.run(trial(server))


def slow_bodies(count: int = 100, patience: float = 40.0) -> dict[str, Any]:
    """Clients that send a byte of their request a second."""

    async def trial(server: ServerProcess) -> dict[str, Any]:
        async def drip() -> float:
            began = time.perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: 999\r\n\r\n")
            try:
                while time.perf_counter() - began < patience:
                    writer.write(b" ")
                    await writer.drain()
                    if reader.at_eof() or await _said(reader):
                        break
            except OSError:
                pass
            writer.transport.abort()
            return time.perf_counter() - began

        dripping = asyncio.gather(*(drip() for _ in range(count)))
        await asyncio.sleep(1)
        meanwhile = await post(f"{server.url}/v1/completions", _body())
        lasted = await dripping
        return {"clients": count, "answered_meanwhile": meanwhile.whole, "longest_seconds": max(lasted)}

    with ServerProcess("builtin:tiny") as server:
        return asyncio.run(trial(server))


async def _said(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 1.0)
    except TimeoutError:
        return False
    return True


def soak(seconds: float = 600.0, clients: int = 12, at: ServerProcess | None = None) -> dict[str, Any]:
    """Valid, invalid and given-up requests of all kinds; memory and files along the way."""
    bodies: list[dict[str, Any]] = [
        _body(),
        _body(stream=True),
        _body(n=4, temperature=1.0),
        _body(prompt=[QUESTION, "Bob has 3 pens."]),
        _body(logprobs=3, stop=["\n"]),
        _body(max_tokens=-1),
        _body(model="nope"),
        _body(prompt=""),
        _body(prompt="x" * 5000),
        {"nothing": 1},
    ]

    async def trial(server: ServerProcess) -> dict[str, Any]:
        place, end, dice = f"{server.url}/v1/completions", time.perf_counter() + seconds, random.Random(0)
        statuses: Counter[int] = Counter()
        samples: list[tuple[float, int]] = []

        async def client() -> None:
            while time.perf_counter() < end:
                if dice.random() < 0.2:
                    try:
                        await asyncio.wait_for(post(place, _body(**LONG, stream=dice.random() < 0.5)), dice.random())
                    except TimeoutError:
                        statuses[499] += 1
                else:
                    statuses[(await post(place, dice.choice(bodies))).status] += 1

        async def watch() -> None:
            while time.perf_counter() < end:
                samples.append((server.memory, server.files))
                await asyncio.sleep(seconds / 20)

        await asyncio.gather(watch(), *(client() for _ in range(clients)))
        idle = await _idle(server)
        settled = samples[len(samples) // 4 :]  # the first quarter fills caches
        return {
            "seconds": seconds,
            "statuses": dict(statuses),
            "memory_mb": {"settled": settled[0][0], "end": settled[-1][0], "most": max(m for m, _ in settled)},
            "files": {"settled": settled[0][1], "end": server.files},
            "seconds_until_idle": idle,
            "answered_at_the_end": (await post(place, _body())).whole,
        }

    with _started(at, "--slots", "8") as server:
        return asyncio.run(trial(server))


def killed_client(count: int = 5, at: ServerProcess | None = None) -> dict[str, Any]:
    """Clients killed with signal 9 in the middle of a stream."""
    code = (
        "import sys, urllib.request as r\n"
        "q = r.Request(sys.argv[1], data=sys.argv[2].encode(), headers={'Content-Type': 'application/json'})\n"
        "a = r.urlopen(q)\n"
        "while a.readline(): print('line', flush=True)\n"
    )

    async def trial(server: ServerProcess) -> dict[str, Any]:
        said, before = json.dumps(_body(**LONG, stream=True)), server.metric("request_success_total")
        lost = []
        for _ in range(count):
            client = subprocess.Popen(
                [sys.executable, "-c", code, f"{server.url}/v1/completions", said], stdout=subprocess.PIPE
            )
            assert client.stdout is not None
            client.stdout.readline()
            client.kill()
            client.wait()
            lost.append(await _idle(server))
        return {
            "clients": count,
            "seconds_until_idle": max(lost),
            "aborted": server.metric("request_success_total") - before >= count,
        }

    with _started(at) as server:
        return asyncio.run(trial(server))


def stopped(requests: int = 64, drain: float = 3.0) -> dict[str, Any]:
    """SIGTERM with requests running and waiting: each ends with an answer or an error."""

    async def trial(server: ServerProcess) -> dict[str, Any]:
        place = f"{server.url}/v1/completions"
        asked = [asyncio.ensure_future(post(place, _body(**LONG, stream=bool(i % 2)))) for i in range(requests)]
        while server.metric("num_requests_running") < 8:
            await asyncio.sleep(0.02)
        began = time.perf_counter()
        server.terminate()
        await asyncio.sleep(0.3)
        late = await post(place, _body())
        answers = await asyncio.gather(*asked)
        code = server.process.wait(60)
        told = sum(bool(answer.chunks) and any("error" in chunk for chunk in answer.chunks) for answer in answers)
        return {
            "requests": requests,
            "answered": sum(answer.whole for answer in answers),
            "ended_with_an_error": told,
            "lost_without_a_word": sum(not answer.chunks for answer in answers),
            "late_status": late.status,
            "seconds": time.perf_counter() - began,
            "exit_code": code,
        }

    with ServerProcess("builtin:tiny", "--slots", "8", "--drain", str(drain)) as server:
        return asyncio.run(trial(server))


TRIALS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "cancelled": (cancelled, {"requests": 60}),
    "overload": (overload, {"seconds": 4.0, "slots": 2, "waiting": 2}),
    "connections": (connections, {"count": 300}),
    "slow_bodies": (slow_bodies, {"count": 10}),  # half a minute, whatever the count
    "soak": (soak, {"seconds": 5.0, "clients": 6}),
    "killed_client": (killed_client, {"count": 2}),
    "stopped": (stopped, {"requests": 16, "drain": 1.0}),
}
"""Each with the arguments that make it short."""


def main() -> None:
    """Run trials and print what they found, a JSON object a line."""
    parser = argparse.ArgumentParser(description="What a server stands.")
    parser.add_argument("trials", nargs="*", choices=[[], *TRIALS], help="all where none is named")
    parser.add_argument("--small", action="store_true", help="as the tests run them")
    given = parser.parse_args()
    for name in given.trials or TRIALS:
        trial, small = TRIALS[name]
        print(json.dumps({"trial": name, **trial(**(small if given.small else {}))}), flush=True)


if __name__ == "__main__":
    main()
