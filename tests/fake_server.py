"""A server of OpenAI's chat protocol on a real socket, which answers by script."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


class Server:
    """Answers 7 to everything, but first what `script` holds, one entry a request: an answer's content, a number
    of seconds to hang, a Response, or "close"."""

    def __init__(self):
        self.forget()
        app = FastAPI()
        app.post("/v1/chat/completions")(self.chat)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="critical"))
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)

    def forget(self) -> None:
        self.script: list[str | float | Response] = []
        self.delay = 0.0
        self.unanswerable = ""  # a text that holds this gets nonsense, however often it is asked about
        self.requests: list[dict] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0

    @property
    def texts(self) -> list[str]:
        users = [request["messages"][1]["content"] for request in self.requests]
        return [user.split("<text>\n")[1].split("\n</text>")[0] for user in users]

    async def chat(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.times.append(time.monotonic())
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            if self.unanswerable and self.unanswerable in self.texts[-1]:
                return completion("nonsense")
            return await self.act(self.script.pop(0) if self.script else '{"score": 7}')
        finally:
            self.in_flight -= 1

    async def act(self, step: str | float | Response) -> Response:
        await asyncio.sleep(step if isinstance(step, float) else self.delay)
        if step == "close":
            return StreamingResponse(iter([b"{"]), headers={"content-length": "99"})  # the connection ends after it
        return step if isinstance(step, Response) else completion(step if isinstance(step, str) else '{"score": 7}')


def completion(content: str | None) -> JSONResponse:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return JSONResponse(reply)


@contextmanager
def fake_server() -> Iterator[Server]:
    """A running Server."""
    server = Server()
    server.thread.start()
    while not server.uvicorn.started:
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.uvicorn.should_exit = server.uvicorn.force_exit = True
        server.thread.join()
