"""Run by every Python that starts under `trainbus exec`: waits for a training framework to be imported, and costs nothing until then.

This file stands alone: the environment that it runs in may lack trainbus, and may be an older Python. Nothing in it may ever fail the
program; what is wrong is said in one line on stderr.
"""

import os
import sys

_FRAMEWORKS = (
    "transformers.trainer",
    "lightning.pytorch.trainer.trainer",
    "pytorch_lightning.trainer.trainer",
    "accelerate.accelerator",
)
_HERE = os.path.dirname(os.path.abspath(__file__))


def _say(error):
    try:
        sys.stderr.write("trainbus: this program is not watched from inside: %s: %s\n" % (type(error).__name__, error))
    except Exception:  # stderr may be closed
        pass


class _Finder:
    """Finds what the others find, and hangs a call behind the execution of the frameworks' modules."""

    def find_spec(self, name, path=None, target=None):
        if name not in _FRAMEWORKS:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _hang_on(spec)
                return spec
        return None


def _hang_on(spec):
    """Only this one loader's instance is changed, so that whoever looks at the module's loader finds the usual one."""
    try:
        original = spec.loader.exec_module

        def exec_module(module):
            original(module)
            try:
                from trainbus.inject.frameworks import loaded

                loaded(spec.name, module)
            except Exception as error:
                _say(error)

        spec.loader.exec_module = exec_module
    except Exception as error:
        _say(error)


def _chain():
    """The sitecustomize that this one stands before. An error in it is reported by Python as ever."""
    # What importlib.machinery and importlib.util give again; they are loaded already, those would take milliseconds at each start.
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import PathFinder

    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path or ".") != _HERE])
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("TRAINBUS_EXEC_RUN"):
    sys.meta_path.insert(0, _Finder())
_chain()
