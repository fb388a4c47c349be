"""A real HTTP server on loopback that speaks OpenAI's form, well or badly, by the name of the model that it is asked for."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = ("echo", "upper")


def event(text=None, finish=None):
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


def usage_event(usage):
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


class StandIn:
    """``asked`` are the bodies of requests; ``gone`` is set when a client cut an answer off; ``hold`` keeps a slow answer from going on."""

    def __init__(self):
        self.models = list(GOOD)
        self.asked = []
        self.headers = []
        self.gone = threading.Event()
        self.hold = threading.Event()
        self.started = threading.Event()
        self.answer = None
        self.url = ""

    def reply(self, body):
        """What a good model says: the question, or it in capitals, or what a test wants."""
        question = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        if self.answer is not None:
            return self.answer(body)
        return question.upper() if body["model"] == "upper" else question


@contextmanager
def serving():
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def say(self, status, kind, *chunks):
            self.say_all(chunks, status, kind)

        def say_json(self, value, status=200):
            self.say(status, "application/json", json.dumps(value).encode())

        def do_GET(self):
            self.say_json({"object": "list", "data": [{"id": name} for name in state.models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append(body)
            state.headers.append(dict(self.headers))
            state.started.set()
            other = "model_echo" if body["model"] in state.models else "unknown"  # a name that a test has added is one more echo
            getattr(self, f"model_{body['model']}" if body["model"].isalpha() else other, self.unknown)(body)

        def unknown(self, body):
            self.say_json({"error": {"message": f"no model {body['model']}"}}, 404)

        def model_echo(self, body):
            reply = state.reply(body)
            usage = {"prompt_tokens": 3, "completion_tokens": len(reply.split())}
            if not body["stream"]:
                self.say_json({"choices": [{"message": {"content": reply}, "finish_reason": "stop"}], "usage": usage})
                return
            pieces = [event(piece) for piece in reply.partition(" ") if piece]
            self.say(200, "text/event-stream", b": hello\n\n", *pieces, event(None, "stop"), usage_event(usage), b"data: [DONE]\n\n")

        model_upper = model_echo

        def model_slow(self, body):
            """One word, then nothing until the client goes."""

            def words():
                yield event("first ")
                while not state.hold.wait(0.01):
                    yield b": still here\n\n"
                yield event("second", "stop")
                yield b"data: [DONE]\n\n"

            self.say_all(words())

        def say_all(self, chunks, status=200, kind="text/event-stream"):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            try:
                for chunk in chunks:
                    self.wfile.write(chunk)
                    self.wfile.flush()
            except OSError:
                state.gone.set()

        def model_whole(self, body):
            """Can't stream."""
            if body["stream"]:
                self.say_json({"error": {"message": "stream: true is not supported"}}, 400)
            else:
                self.say_json({"choices": [{"message": {"content": "all at once"}, "finish_reason": "length"}]})

        def model_plain(self, body):
            """Streams, and refuses fields that it does not know."""
            if "stream_options" in body:
                self.say_json({"detail": "Unsupported fields in the request: {'stream_options'}"}, 422)
            else:
                self.say(200, "text/event-stream", event(state.reply(body)), event(None, "stop"), b"data: [DONE]\n\n")

        def model_html(self, body):
            self.say(200, "text/html", b"<html>Welcome to nginx \x1b]0;owned\x07</html>")

        def model_busy(self, body):
            self.say(503, "text/html", b"<html>upstream</html>")

        def model_strict(self, body):
            self.say_json({"detail": "Unauthorized"}, 401)

        def model_torn(self, body):
            self.say(200, "text/event-stream", event("half "), b'data: {"choices": [{"del')

        def model_broken(self, body):
            self.say(200, "text/event-stream", event("half "), b'data: {"error": {"message": "CUDA out of memory"}}\n\n')

        def model_endless(self, body):
            def noise():
                while True:
                    yield event("x" * 60_000)

            self.say_all(noise())

        def model_longline(self, body):
            self.say(200, "text/event-stream", b"data: ", *[b"x" * 500_000] * 4)

        def model_drip(self, body):
            def drops():
                while not state.hold.wait(0.01):
                    yield b"d"

            self.say_all(drops())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        state.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(20)
