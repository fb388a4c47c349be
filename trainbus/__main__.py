"""``python -m trainbus`` is the same as ``trainbus``."""

from __future__ import annotations

from trainbus.cli import main

if __name__ == "__main__":
    main()
