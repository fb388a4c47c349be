import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from aiohttp import web

from tests.plugins.inference.tools import QUESTIONS, WORDS, Journaled, write_set
from trainbus.plugins.inference.plugin import InferencePlugin
from trainbus.testing.live import LiveHarness


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test touches the state of this machine."""
    monkeypatch.setenv("TRAINBUS_HOME", str(tmp_path / "home"))


class ChatServer:
    """An OpenAI-compatible server on loopback in a thread of its own, which can be told to misbehave.

    ``mode`` is what the next answers look like; ``answer`` makes the text from the last user message. ``routes`` holds further POST
    addresses: each takes a request's JSON and gives status and answer; what is not there is 404 as FastAPI has it.
    ``reply`` does so for chats, ``blob`` for uploads.
    """

    def __init__(self) -> None:
        self.mode = "good"
        self.answer: Callable[[str], str] = lambda prompt: str(eval(prompt.rstrip("?").strip(), {"__builtins__": {}}))  # sums of the test
        self.requests: list[dict] = []
        self.routes: dict[str, Callable[[dict], tuple[int, object]]] = {}
        self.calls: list[tuple[str, dict]] = []
        self.reply: Callable[[dict], tuple[int, object]] | None = None
        self.blob: Callable[[str, str, dict, bytes], tuple[int, object]] | None = None
        self.headers: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.held = threading.Event()
        self.held.set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def listen(self) -> None:
        self._on_loop(self._listen())

    def hang_up(self) -> None:
        self._on_loop(self._hang_up())

    def close(self) -> None:
        self.held.set()
        self.hang_up()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_loop(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(90)

    async def _listen(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _hang_up(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            while not self.held.is_set():
                await asyncio.sleep(0.005)
            return await self._misbehave(request, body)
        finally:
            self.at_once -= 1

    async def _other(self, request: web.Request) -> web.Response:
        if self.blob is not None and request.path.startswith("/v1/blobs/"):
            status, answer = self.blob(request.method, request.path.rpartition("/")[2], dict(request.query), await request.read())
            return web.json_response(answer, status=status)
        body = await request.json()
        self.calls.append((request.path, body))
        status, answer = self.routes.get(request.path, lambda _: (404, {"detail": "Not Found"}))(body)
        return web.Response(text=answer, status=status) if isinstance(answer, str) else web.json_response(answer, status=status)

    async def _misbehave(self, request: web.Request, body: dict) -> web.StreamResponse:
        if self.reply is not None:
            status, answer = self.reply(body)
            return web.json_response(answer, status=status)
        text = self.answer(body["messages"][-1]["content"])
        match self.mode:
            case "good":
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                if body.get("logprobs"):
                    choice["logprobs"] = {"content": [{"token": letter, "logprob": -0.5} for letter in text]}
                return web.json_response({"id": "x", "choices": [choice]})
            case "silent":
                await asyncio.sleep(3_600)
                return web.Response()
            case "deep json":
                return web.Response(text='{"other":' + "[" * 3_900, content_type="application/json")
            case "not utf-8":
                return web.Response(body=b'{"choices": [{"message": {"content": "\xff\xfe"}}]}', content_type="application/json")
            case "gzip bomb":
                squeezed = zlib.compress(b" " * 5_000_000, wbits=31)
                return web.Response(body=squeezed, headers={"Content-Encoding": "gzip"}, content_type="application/json")
            case "bad gzip":
                return web.Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}, content_type="application/json")
            case "no http":
                assert request.transport is not None
                request.transport.write(b"\x00\x01\x02 hello\r\n\r\n")
                request.transport.close()
                return web.Response()
            case "long header":
                return web.json_response({}, headers={"X-Long": "x" * 100_000})
            case "hang up":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "too long":
                return web.json_response({"error": {"message": "This model's maximum context length is 8 tokens."}}, status=400)
            case "broken json":
                return web.Response(text='{"choices": [', content_type="application/json")
            case "html":
                return web.Response(text="<html><h1>It works!</h1></html>", content_type="text/html")
            case "html error":
                return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")
            case "no choices":
                return web.json_response({"choices": []})
            case "wrong shape":
                return web.json_response({"choices": "none"})
            case "wrong model":
                return web.json_response({"error": {"message": f"The model {body['model']} does not exist."}}, status=404)
            case "redirect":
                raise web.HTTPTemporaryRedirect("http://example.invalid/")
            case "10 MB":
                return web.json_response({"choices": [{"message": {"content": "x" * 10_000_000}}]})
            case "endless" | "slow drip":
                response = web.StreamResponse(headers={"Content-Type": "application/json"})
                await response.prepare(request)
                while True:
                    await response.write(b" " * (65536 if self.mode == "endless" else 1))
                    await asyncio.sleep(0 if self.mode == "endless" else 0.02)
            case other:
                raise AssertionError(other)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    chat = ChatServer()
    chat.listen()
    yield chat
    chat.close()


@pytest.fixture
def examiner(server, tmp_path):
    """Makes a started plugin; a context given to several is a restart with the same state and journal."""
    file = write_set(tmp_path / "sums.jsonl", QUESTIONS)
    started = []

    def make(*, context=None, **config) -> LiveHarness:
        settings = {"url": server.url, "questions": file, "pause": 0.01, "longest_pause": 0.02, "timeout": 30.0} | config
        harness = LiveHarness(InferencePlugin(), config=settings, context=context or Journaled(name="inference", directory=tmp_path))
        started.append(harness)
        harness.start()
        return harness

    yield make
    for harness in started:
        harness.stop()


@pytest.fixture
def sealed(tmp_path):
    """Makes a checkpoint with its marker."""
    from trainbus.trainer_node.checkpoints import seal

    def make(step, weights):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(weights)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "empty.json").write_text("")
        (folder / "optimizer.pt").write_bytes(b"x" * 50_000)
        seal(folder, run="r", name="r", step=step)
        return str(folder)

    return make


@pytest.fixture
def until():
    """Wait for a condition with a deadline."""

    def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Two small models with random weights, and what each says to the questions, greedily, asked without any server."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from trainbus.trainer_node.byte_tokenizer import VOCABULARY, byte_tokenizer

    tokenizer = byte_tokenizer(512)
    root, said = tmp_path_factory.mktemp("models"), {}
    for step in (1, 2):
        torch.manual_seed(step)
        shape = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.LlamaConfig(**shape, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
        model = transformers.LlamaForCausalLM(config).eval()
        model.save_pretrained(root / f"checkpoint-{step}")
        tokenizer.save_pretrained(root / f"checkpoint-{step}")
        for question in QUESTIONS:
            chat = [{"role": "user", "content": question["question"]}]
            asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
            written = model.generate(**asked, max_new_tokens=WORDS, do_sample=False)[0, asked["input_ids"].shape[1] :]
            said[step, question["id"]] = tokenizer.decode(written, skip_special_tokens=True)
    return root, said
