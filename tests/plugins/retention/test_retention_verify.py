"""Whether what lies on the disk is whole: adapters and full models, with and without a marker."""

import json
import zipfile

import pytest

from tests.plugins.retention.support import make, safetensors, seal
from trainbus.plugins.retention.verify import Stopped, verify


def adapter(path):
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text('{"r": 8}')
    (path / "adapter_model.safetensors").write_bytes(safetensors(3))
    return path


def sharded(path):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    for number, name in enumerate(shards):
        (path / name).write_bytes(safetensors(number))
    return path


@pytest.mark.parametrize(
    ("build", "kind"), [(lambda path: make(path.parent, 1, name=path.name), "model"), (adapter, "adapter"), (sharded, "model")]
)
@pytest.mark.parametrize("marker", [True, False])
def test_a_whole_adapter_or_model_passes(tmp_path, build, kind, marker):
    """With digests where it has a marker, by its structure where not."""
    path = build(tmp_path / "checkpoint-1")
    (path / "trainbus_checkpoint.json").unlink(missing_ok=True)
    if marker:
        seal(path, 1)
    found = verify(path)
    assert (found.faults, found.kind, found.sealed, found.contents) == ((), kind, marker, True)
    assert len(found.digest) == 32


def test_one_flipped_byte_is_found(tmp_path):
    """By the digest; the size is the same."""
    path = make(tmp_path, 1)
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "model.safetensors").write_bytes(content)
    assert verify(path).faults == ("model.safetensors has changed",)
    assert verify(path, contents=False).faults == ()


@pytest.mark.parametrize("marker", [True, False])
@pytest.mark.parametrize("cut", [1, 40, 120])
def test_a_file_that_was_cut_off_is_found_without_reading_all_of_it(tmp_path, marker, cut):
    """In the data and in the header; also where nobody wrote digests down."""
    path = make(tmp_path, 1, marker=marker)
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-cut])
    (fault,) = verify(path, contents=False).faults
    assert "model.safetensors" in fault


def test_a_torch_file_that_was_cut_off_is_found(tmp_path):
    """It is a zip archive, whose directory stands at the end."""
    path = make(tmp_path, 1, marker=False)
    with zipfile.ZipFile(path / "optimizer.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)
    assert verify(path).faults == ()
    content = (path / "optimizer.pt").read_bytes()
    (path / "optimizer.pt").write_bytes(content[:-30])
    assert verify(path).faults == ("optimizer.pt was cut off: it has no directory at its end",)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda path: (path / "config.json").unlink(), "config.json is missing"),
        (
            lambda path: (path / "model-00002-of-00002.safetensors").unlink(),
            "model-00002-of-00002.safetensors is missing: model.safetensors.index.json names it",
        ),
        (lambda path: (path / "model-00001-of-00002.safetensors").write_bytes(b""), "model-00001-of-00002.safetensors was cut off"),
        (lambda path: (path / "config.json").write_text("{"), "config.json can't be read"),
        (lambda path: (path / "model.safetensors.index.json").unlink(), "there are no weights"),
    ],
)
def test_what_is_missing_or_broken_is_named(tmp_path, break_it, expected):
    """One fault is enough."""
    path = sharded(tmp_path / "checkpoint-1")
    break_it(path)
    assert any(fault.startswith(expected) for fault in verify(path).faults), verify(path).faults


def test_a_marker_that_was_changed_is_found(tmp_path):
    """Its digest is over all files."""
    path = make(tmp_path, 1)
    marker = json.loads((path / "trainbus_checkpoint.json").read_text())
    del marker["files"]["trainer_state.json"]
    (path / "trainbus_checkpoint.json").write_text(json.dumps(marker))
    assert verify(path).faults == ("trainbus_checkpoint.json was changed: its digest is not that of its files",)
    (path / "trainbus_checkpoint.json").write_text("[]")
    assert verify(path).faults == ("trainbus_checkpoint.json lists no files",)


def test_the_digest_is_the_trainers(tmp_path):
    """What the trainer seals, we verify."""
    from trainbus.trainer_node import checkpoints

    path = make(tmp_path, 7, marker=False)
    marker = checkpoints.seal(path, run="r", name="n", step=7)
    found = verify(path)
    assert (found.faults, found.digest, found.bytes) == ((), marker.digest, marker.bytes)


def test_reading_can_be_stopped(tmp_path):
    """Between two chunks."""
    with pytest.raises(Stopped):
        verify(make(tmp_path, 1), progress=lambda _: False)


def test_no_directory_is_no_checkpoint(tmp_path):
    """Nor is a file."""
    assert verify(tmp_path / "nowhere").faults == ("it is no directory",)
