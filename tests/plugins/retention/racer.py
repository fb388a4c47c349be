"""One side of the race between a lease and a deletion, in a process of its own.

python racer.py reader|deleter HOME OUT ROUNDS: says "enough" after so many rounds, of which some were granted and some refused, and
races on until its standard input ends, so that the other side is never alone. Then one line of JSON: granted, refused, and what should
not have been seen.
"""

import json
import sys
import threading
from pathlib import Path

from tests.plugins.retention.support import record
from trainbus.bus import wire
from trainbus.bus.client import Client
from trainbus.errors import RefusedError
from trainbus.plugins.retention.trash import Trash

RESOURCE = "r@1"


def read(path):
    """What a reader of a leased checkpoint does; anything that is missing is a fault."""
    try:
        for _ in range(5):
            for name in ("config.json", "model.safetensors", "trainbus_checkpoint.json"):
                (path / name).read_bytes()
    except OSError as error:
        return str(error)
    return ""


def delete(trash, path):
    """What a deletion does, and back again for the next round."""
    thing = trash.put(record(path, 1), reason="race")
    fault = "it is still there" if path.exists() else ""
    trash.restore(thing)
    return fault


def main():
    side, home, out, rounds = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    path, trash = out / "checkpoint-1", Trash(out, who=side)
    granted = refused = 0
    faults = []
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    enough = False
    with Client(root=home) as client:
        while not over.is_set():
            if not enough and granted + refused >= rounds and granted and refused:
                enough = True
                sys.stdout.write("enough\n")
                sys.stdout.flush()
            request = wire.TakeLease(resource=RESOURCE, holder=side, mode="shared" if side == "reader" else "exclusive", ttl=30.0)
            try:
                lease = client.call(request, wire.Lease)
            except RefusedError as error:
                if error.facts["code"] != "conflict":
                    raise
                refused += 1
                continue
            granted += 1
            fault = read(path) if side == "reader" else delete(trash, path)
            if fault:
                faults.append(fault)
            client.call(wire.ReleaseLease(id=lease.id), type(None))
    sys.stdout.write(json.dumps({"granted": granted, "refused": refused, "faults": faults[:5]}) + "\n")


if __name__ == "__main__":
    main()
