"""The command line: ``trainbus COMMAND``. Add a command by one line in `trainbus.cli.lazy.LAZY`."""

from __future__ import annotations

from trainbus.cli.app import main as main
from trainbus.cli.lazy import LAZY as LAZY
