"""What commands, the server of models, its clients and the readers of the system read. Each may raise only what it promises to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from aiohttp import web

from tests.fuzz.bus_decoders import Decoder
from tests.protocol.examples import example
from trainbus.bus.broker.__main__ import _settings as broker_settings
from trainbus.bus.config import BusConfig
from trainbus.bus.events import MARKER
from trainbus.bus.hosting.inflight import InflightFile
from trainbus.bus.joining import Entry, Ledger
from trainbus.errors import ConfigError, ModelError, PluginError, RefusedError, TrainbusError
from trainbus.inferring import completions
from trainbus.inferring.asking import Answer
from trainbus.inferring.generating.harvest import rows_of
from trainbus.inferring.inspecting import inspect
from trainbus.launch.causes import cause_of, exception_of
from trainbus.machine import cgroups, kernel_log, proc, processes
from trainbus.machine.text import UnknownError
from trainbus.plugins.inference import upload
from trainbus.plugins.inference.engines import transformers
from trainbus.plugins.inference.faults import AskError
from trainbus.plugins.inference.scorers import json_valid
from trainbus.plugins.retention import backups, records
from trainbus.plugins.retention.recognition import NotACheckpoint
from trainbus.plugins.retention.thinning import thinned_marker
from trainbus.plugins.web import plugin_control, steering
from trainbus.serving import answering, jobs, loading, openai, questions, replies, store
from trainbus.trainer_node import records as trainings
from trainbus.trainer_node.dataset import cache
from trainbus.trainer_node.evaluation import examination
from trainbus.trainer_node.evaluation.running import Standing
from trainbus.trainer_node.formats import FORMATS
from trainbus.trainer_node.model import FRESH
from trainbus.trainer_node.shape import shape_of

HEADER = {"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
MODEL = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 99,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64, "text_config": {},
}  # fmt: skip
ADAPTER = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "base_model_name_or_path": "base"}
MEMINFO = b"MemTotal:       16314 kB\nMemAvailable:    8157 kB\nSwapTotal:  0 kB\nSwapFree: 0 kB\nHugePages_Total: 0\n"
VMSTAT = b"nr_free_pages 123\npswpin 5\npswpout 6\noom_kill 1\n"
PRESSURE = b"some avg10=0.12 avg60=0.00 avg300=1.50 total=4113\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
STAT = b"cpu  100 0 50 1000 5 0 1 0 0 0\ncpu0 1 2 3\n"
PROCESS = b"1234 (python (x) y) S 1 " + b" ".join(b"%d" % number for number in range(40)) + b"\n"
GROUP = b"104857600\n"
MOUNTS = b"35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n36 24 0:31 / /x\\040y rw - cgroup cgroup rw,memory\n"
KILLS = (
    b"Out of memory: Killed process 4242 (python) total-vm:100kB, anon-rss:50kB, file-rss:0kB\n"
    b"Memory cgroup out of memory: Killed process 7 (python (x)) anon-rss:9kB\nNVRM: Xid (PCI:0000:3b:00): 79, pid=1\n"
)
CRASH = b'Traceback (most recent call last):\n  File "t.py", line 1\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n'


def _bodies(content: bytes, folder: Path) -> None:
    """A request's body, whichever it is meant for: decoded, or refused with an answer that can be written."""

    async def read() -> bytes:
        return content

    request = cast("web.Request", SimpleNamespace(read=read, client_max_size=1 << 20))
    for kind in (openai.ChatRequest, openai.TextRequest, openai.GenerateRequest, answering.LossRequest, jobs.EvalRequest):
        try:
            asyncio.run(replies.body_of(request, kind))
        except RefusedError as error:
            replies.refusal(error)


def _answers(content: bytes, folder: Path) -> None:
    """What a server of models says to `trainbus infer`: whole, in a stream cut anywhere, as a list, as an error."""
    for read in (completions.read_piece, completions.read_models):
        with contextlib.suppress(TrainbusError):
            read(content, "http://x")
    stream = completions.EventStream("http://x")
    with contextlib.suppress(TrainbusError):
        for start in range(0, len(content), 61):
            for data in stream.feed(content[start : start + 61]):
                completions.read_piece(data, "http://x")
    str(completions.refusal(500, content, "http://x"))


def _generated(content: bytes, folder: Path) -> None:
    answer = Answer(text=content.decode("utf-8", "replace"))
    for wanted in FORMATS:
        for picked in rows_of(answer, wanted):
            str(picked.fault)


def _model(content: bytes, folder: Path) -> None:
    """Files of a model from anywhere: described, or refused."""
    for names in (("config.json", "tokenizer_config.json"), ("adapter_config.json",)):
        place = folder / names[0]
        place.mkdir()
        for name in names:
            (place / name).write_bytes(content)
        weights = "adapter_model.safetensors" if names[0].startswith("adapter") else "model.safetensors"
        (place / weights).write_bytes(_safetensors(HEADER))
        with contextlib.suppress(ModelError):
            inspect(place)
        shape_of(str(place))
        with contextlib.suppress(ModelError):
            loading.adapter_config(place)
    (folder / "fresh.json").write_bytes(content)
    shape_of(f"{FRESH}{folder / 'fresh.json'}")


def _heads(content: bytes, folder: Path) -> None:
    """The head of a file of weights; also with the right length before it, so that the JSON is reached."""
    for number, written in enumerate((content, struct.pack("<Q", len(content)) + content)):
        place = folder / str(number)
        place.mkdir()
        (place / "config.json").write_text(json.dumps(MODEL))
        (place / "model.safetensors").write_bytes(written)
        with contextlib.suppress(ModelError):
            inspect(place)
        shape_of(str(place))


def _kept_by_the_trainer(content: bytes, folder: Path) -> None:
    """Its history of trainings, the running figures in a checkpoint, and the cache of tokens: what can't be read is passed over."""
    file = trainings.records_file(folder)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    trainings.read(folder)
    (folder / examination.FILE).write_bytes(content)
    examination.read_standing(folder)
    (kept := folder / "tokens" / "key").mkdir(parents=True)
    (kept / cache.INFO).write_bytes(content)
    tokens = cache.TokenCache(folder / "tokens", limit_bytes=1 << 20)
    tokens._open(cast("Any", SimpleNamespace(key="key")))
    tokens.stats()


def _set(content: bytes, folder: Path) -> None:
    (folder / "set.jsonl").write_bytes(content)
    with contextlib.suppress(RefusedError):
        questions.read_set(str(folder / "set.jsonl"), [folder], 100)


def _store(content: bytes, folder: Path) -> None:
    """A manifest in the server's store, a checkpoint's contents, the list of a backup."""
    for place, name in (
        (folder / "models" / "one", store.MANIFEST),
        (folder / "checkpoint", MARKER),
        (folder / "b", backups.MANIFEST),
    ):
        place.mkdir(parents=True)
        (place / name).write_bytes(content)
    list(store.Store(folder, 1 << 20).kept())
    with contextlib.suppress(AskError):
        upload.contents_of(folder / "checkpoint")
    backups.listed(str(folder))


def _marker(content: bytes, folder: Path) -> None:
    with contextlib.suppress(NotACheckpoint):
        thinned_marker(content, ["optimizer.pt"])


def _book(content: bytes, folder: Path) -> None:
    """What retention kept in its state: it does not start, and says which key and what to do."""
    for key in (records.RECORD_KEY, records.TRASHED_KEY, records.RUN_KEY):
        with contextlib.suppress(PluginError):
            records.Book("host", {f"{key}x": content})


def _words(content: bytes, folder: Path) -> None:
    """Small things from servers and pages."""
    transformers._progress(content)
    json_valid(content.decode("utf-8", "replace"), None)
    with contextlib.suppress(steering.RefusedRequest):
        plugin_control.read(content)
    with contextlib.suppress(ConfigError):
        broker_settings(content.decode("utf-8", "replace"))


def _kernel(content: bytes, folder: Path) -> None:
    """The kernel's files, torn or of a kernel that nobody knows."""
    (folder / "pressure").mkdir()
    (folder / "1").mkdir()
    (folder / "group").mkdir()
    for name in ("meminfo", "vmstat", "loadavg", "stat", "pressure/memory", "1/mountinfo", "1/cgroup"):
        (folder / name).write_bytes(content)
    for name in ("memory.max", "memory.limit_in_bytes", "memory.stat", "memory.current", "memory.usage_in_bytes", "memory.events"):
        (folder / "group" / name).write_bytes(content if len(content) % 2 else GROUP)
    readers: list[Callable[[], object]] = [
        lambda: proc.read_memory(folder),
        lambda: proc.read_vm(folder),
        lambda: proc.read_load(folder),
        lambda: proc.read_cpu(folder),
        lambda: proc.read_pressure(folder),
        lambda: cgroups.locate(folder, 1),
        lambda: processes.parse_stat(content.decode("utf-8", "replace")),
        *(lambda v=version: cgroups.read_group(cgroups.Place(folder / "group", folder / "group", v)) for version in (1, 2)),
    ]
    for read in readers:
        with contextlib.suppress(UnknownError):
            read()


def _last_words(content: bytes, folder: Path) -> None:
    """The last lines of a command and of the kernel."""
    lines = content.decode("utf-8", "replace").splitlines()
    cause_of(lines)
    exception_of(lines)
    kernel_log.interesting(lines)


def _joined(content: bytes, folder: Path) -> None:
    """What processes under `trainbus exec` wrote of their runs."""
    (folder / "ledger").write_bytes(content)
    Ledger(folder).entries()


def _inflight(content: bytes, folder: Path) -> None:
    """A plugin host's memory of what it died on."""
    (folder / "inflight").write_bytes(content[:8_192])
    file = InflightFile(folder / "inflight", "p")
    file.marked()
    file.load_attempts()
    file.bind("journal")
    file.close()


def _safetensors(header: dict[str, Any]) -> bytes:
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 16


def _inflight_file(folder: Path) -> bytes:
    file = InflightFile(folder / "inflight", "p")
    file.bind("j")
    file.mark(7, b"on_step")
    file.save_attempts({7: 2})
    file.close()
    return (folder / "inflight").read_bytes()


def model_decoders(folder: Path) -> list[Decoder]:
    """All of them; ``folder`` is where their corpora are made."""
    chat = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stop": ["x"], "stream": true}'
    asked = [chat, b'{"model": "m", "prompt": ["a", [1, 2]], "logprobs": 2}', b'{"prompt": "a"}']
    streamed = b': ping\n\ndata: {"choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    answered = [b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 3}}', streamed, b'{"data": [{"id": "m"}]}']
    answered += [b'{"error": {"message": "no"}}', b'{"detail": ["x"]}']
    examples = [b'Here: ```json\n{"question": "1+1?", "answer": "2"}\n```\n{"instruction": "a", "output": "b"}', b'[{"text": "x"}]']
    heads = [_safetensors(HEADER), json.dumps(HEADER).encode()]
    info = cache._Info(source="s", format="f", kind="k", report=cast("Any", example(cache.Report)), rejected=1, sizes={"a": 1})
    trained = [msgspec.json.encode(one) for one in (example(trainings.RunRecord), Standing(asked=3, recent=[True]), info)]
    kept = [msgspec.json.encode(one) for one in (example(store.Manifest), example(upload.Contents), example(backups.Backup))]
    marker = b'{"id": "r:8:d", "files": {"model.safetensors": {"bytes": 1, "xxh3": "0"}, "optimizer.pt": {}}, "thinned": ["x"]}'
    retained = [msgspec.msgpack.encode(example(kind)) for kind in (records.Record, records.RunMarks)]
    words = [b'data: {"status": "ok"}', b'{"verb": "restart", "save": false}', msgspec.json.encode(BusConfig())]
    entry = json.dumps(Entry("r", 1, 2, "completed", "", 3)).encode() + b"\n"
    lines = (
        b'{"question": "2+2?", "answer": "4"}\n{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    kernel = [MEMINFO, VMSTAT, PRESSURE, STAT, PROCESS, GROUP, MOUNTS, b"0.5 0.6 0.7 1/234 5678\n", b"0::/\n5:memory:/a/b\n"]
    (place := folder / "inflight").mkdir()
    return [
        Decoder("requests to the server of models", asked, _bodies),
        Decoder("answers to trainbus infer", answered, _answers),
        Decoder("generated examples", examples, _generated),
        Decoder("a model's files", [json.dumps(MODEL).encode(), json.dumps(ADAPTER).encode()], _model),
        Decoder("heads of weights", heads, _heads),
        Decoder("what the trainer keeps", trained, _kept_by_the_trainer),
        Decoder("sets on the server", [lines], _set),
        Decoder("the server's store", kept, _store),
        Decoder("markers that are thinned", [marker], _marker),
        Decoder("what retention keeps", retained, _book),
        Decoder("words of servers and pages", words, _words),
        Decoder("the kernel's files", kernel, _kernel),
        Decoder("last words", [CRASH, KILLS], _last_words),
        Decoder("the ledger of a command's processes", [entry], _joined),
        Decoder("what a plugin host was doing", [_inflight_file(place)], _inflight),
    ]
