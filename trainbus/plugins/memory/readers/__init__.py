"""What the machine says of itself. Each reader gives what it knows, or raises `UnknownError` with the reason why it doesn't."""

from trainbus.plugins.memory.readers.disks import read_disks
from trainbus.plugins.memory.readers.gpus import GpuReader
from trainbus.plugins.memory.readers.proc import UnknownError, read_memory, read_pressure
from trainbus.plugins.memory.readers.processes import read_tree

__all__ = ["GpuReader", "UnknownError", "read_disks", "read_memory", "read_pressure", "read_tree"]
