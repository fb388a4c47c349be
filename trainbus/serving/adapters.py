"""Adapters by name over one base model, which is read once and never again. Imports torch; peft with the first adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainbus.errors import ModelError, RefusedError
from trainbus.serving.loading import check_adapter, reason

BASE = ""
"""Selects the base model without any adapter."""


class Adapters:
    """Not thread-safe, and a change may not happen within a forward pass: one thread owns it together with the model.

    LoRA layers are put into the model's own modules, so the model object that was given answers with the adapter that is selected.

    Args:
        model: The base model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._peft: Any = None
        self._slots: dict[str, str] = {}
        self._made = 0
        self._selected = BASE

    @property
    def names(self) -> tuple[str, ...]:
        """Those that can be selected, besides `BASE`."""
        return tuple(self._slots)

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter beside those that there are; only its own weights are read.

        Raises:
            RefusedError: The name is taken (``facts["code"]``: ``exists``).
            ModelError: The folder holds no adapter, one that can't be trusted, or one of another base.
        """
        if name in self._slots:
            raise RefusedError(f"There is an adapter {name!r} already.", hint="Unload it first, or give another name.", code="exists")
        check_adapter(folder)
        # PEFT's names become names of modules, which may not hold dots; and it looks for them within longer ones.
        self._made += 1
        slot = f"slot{self._made:08d}"
        try:
            self._load(slot, folder)
        except ModelError:
            self._drop(slot)
            raise
        except Exception as error:  # a foreign library's many exceptions, wrapped once at the edge
            self._drop(slot)
            raise ModelError(
                f"The adapter in {folder} can't be loaded: {reason(error)}", hint="Was it trained on this base model?", file=str(folder)
            ) from error
        self._slots[name] = slot

    def remove(self, name: str) -> None:
        """Let an adapter go.

        Raises:
            RefusedError: There is none of that name (``facts["code"]``: ``unknown``).
        """
        if name not in self._slots:
            raise RefusedError(f"There is no adapter {name!r}.", hint=_known(self.names), code="unknown")
        self._drop(self._slots.pop(name))

    def select(self, name: str) -> None:
        """The model answers with this adapter from now on, or, for `BASE`, without any.

        Raises:
            RefusedError: There is none of that name.
        """
        if name != BASE and name not in self._slots:
            raise RefusedError(f"There is no adapter {name!r}.", hint=_known(self.names), code="unknown")
        if name == self._selected or self._peft is None:
            return
        if name == BASE:
            self._peft.base_model.disable_adapter_layers()
        else:
            if self._selected == BASE:
                self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._slots[name], inference_mode=True)
        self._selected = name

    def _load(self, slot: str, folder: Path) -> None:
        from peft import PeftConfig, PeftModel

        if self._peft is None:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            self._peft = PeftModel(self._model, config, adapter_name=slot)
        # Another adapter's selection is undone: PEFT touches what is active when one comes in.
        result = self._peft.load_adapter(folder, adapter_name=slot, torch_device=str(self._model.device))
        self._peft.eval()  # new dropout layers start in training mode
        self._reselect()
        if wrong := [*result.missing_keys, *result.unexpected_keys]:
            raise ModelError(
                f"The adapter in {folder} does not fit this base model: {len(wrong)} weights have no counterpart, such as {wrong[0]}.",
                hint="Load it over the base model that it was trained on.",
                file=str(folder),
            )

    def _drop(self, slot: str) -> None:
        if self._peft is not None and slot in self._peft.peft_config:
            self._peft.delete_adapter(slot)
            self._reselect()

    def _reselect(self) -> None:
        """Whatever PEFT has made active meanwhile: none is, until the next one is selected."""
        self._peft.base_model.disable_adapter_layers()
        self._selected = BASE


def _known(names: tuple[str, ...]) -> str:
    return f"Loaded are: {', '.join(names)}." if names else "None is loaded: load one first."
