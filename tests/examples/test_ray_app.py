"""examples/serving/ray_app.py on loopback: it answers and streams, and what a killed replica had is not lost in silence."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ray: Any = pytest.importorskip("ray", reason="Ray is an extra of its own: pip install 'unspoken[ray]'")

ROOT = Path(__file__).resolve().parents[2]
KEY = {"Authorization": "Bearer k"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two replicas of the shipped model."""
    from ray import serve  # pyright: ignore[reportMissingImports]

    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "examples" / "serving"), str(ROOT / "src")]))
        for name, value in {"REPLICAS": "2", "UNSPOKEN_API_KEY": "k", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(ROOT / "examples" / "serving"))
        ray.init(num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=100 * 2**20)
        try:
            import ray_app  # pyright: ignore[reportMissingImports]

            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(ray_app.app)
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


def replicas() -> list[int]:
    """The processes of the replicas."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


async def ended(client: httpx.AsyncClient, number: int) -> str:
    """How a request ends for whoever sent it; every other one is a stream."""
    stream = number % 2 == 0
    body = {"prompt": f"Ann has {number} pens and buys 4.", "stream": stream, "ignore_eos": True, "max_tokens": 200}
    try:
        reply = await client.post("/v1/completions", json=body)
    except httpx.HTTPError:
        return "error"
    if reply.status_code != 200 or '"error"' in reply.text:
        return "error"
    whole = reply.text.rstrip().endswith("[DONE]") if stream else reply.json()["choices"][0]["text"]
    return "answered" if whole else "lost"


def test_it_answers_streams_and_asks_for_the_key(address: str):
    assert httpx.get(f"{address}/v1/models").status_code == 401
    assert httpx.get(f"{address}/ready").json() == {"status": "ready"}
    body = {"messages": [{"role": "user", "content": "Ann has 7 figs. She finds 5."}], "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, headers=KEY, timeout=60) as reply:
        chunks = [line for line in reply.iter_lines() if line]
    assert len(chunks) > 3
    assert chunks[-1] == "data: [DONE]"


def test_a_killed_replica_loses_nothing_in_silence(address: str):
    async def load() -> tuple[list[str], list[str]]:
        async with httpx.AsyncClient(base_url=address, headers=KEY, timeout=60) as client:
            sent = [asyncio.create_task(ended(client, number)) for number in range(40)]
            await asyncio.sleep(0.5)
            os.kill(replicas()[0], signal.SIGKILL)
            during = await asyncio.gather(*sent)
            await asyncio.sleep(0.5)
            return during, [await ended(client, number) for number in range(4)]

    assert len(replicas()) == 2
    during, after = asyncio.run(load())
    assert set(during) == {"answered", "error"}
    assert after == ["answered"] * 4
