"""procrastinate doing the posts of bench.delivery: `procrastinate_posts.py DATABASE_URL RECEIVER POSTS SLOTS`.

A job is a post with the same headers and as many bytes of body. It is sent by plain aiohttp, which is quicker than our
own door; its rows stay, as ours do. Prints `ready` once the jobs are there, and works once it reads a line.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid

import aiohttp
import procrastinate
import uvloop

from protocol import webhook

SECRET = webhook.secret_from(bytes(range(32)))


async def main(database: str, far: str, posts: int, slots: int) -> None:
    """All of it."""
    connector = procrastinate.PsycopgConnector(conninfo=database, min_size=4, max_size=10)
    app = procrastinate.App(connector=connector)
    async with app.open_async(), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=slots)) as session:
        await app.schema_manager.apply_schema_async()

        @app.task(name="post")  # type: ignore[untyped-decorator]
        async def post(id: str, body: str) -> None:
            raw = body.encode()
            headers = webhook.headers(
                event_id=id,
                event_type="punch.created",
                delivery_uuid=uuid.uuid4(),
                attempt=1,
                timestamp=int(time.time()),
                body=raw,
                secret=SECRET,
            )
            async with session.post(far, data=raw, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()

        for first in range(0, posts, 500):
            jobs = [{"id": f"evt_{n}", "body": "x" * 640} for n in range(first, min(first + 500, posts))]
            await post.batch_defer_async(*jobs)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await app.run_worker_async(concurrency=slots, wait=False, install_signal_handlers=False)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
