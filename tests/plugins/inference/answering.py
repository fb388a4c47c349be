"""A small OpenAI-compatible server as a process that can be killed: ``python answering.py PORT LOG ALLOWANCE``.

Each model answers with its own name; LOG gets one line for each answer, and no more lines than the file ALLOWANCE says.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

LOOK = 0.02


async def chat(request: web.Request) -> web.Response:
    body = await request.json()
    log, allowance = Path(sys.argv[2]), Path(sys.argv[3])
    while log.read_text().count("\n") >= int(allowance.read_text() or 0):
        await asyncio.sleep(LOOK)
    with log.open("a") as file:
        file.write(f"{body['model']} {body['messages'][-1]['content']}\n")
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": body["model"]}}]})


if __name__ == "__main__":
    application = web.Application()
    application.router.add_post("/v1/chat/completions", chat)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=lambda text: sys.stderr.write(f"{text}\n"))
