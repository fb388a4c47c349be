"""A tokenizer that needs no download and no training: one token for each byte, and a chat template.

For models that are made from a configuration. Imports transformers: load only where training runs.
"""

from __future__ import annotations

from typing import Any

PAD, END = "<|pad|>", "<|end|>"
SPEAKERS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
SPECIAL = (PAD, END, *SPEAKERS)
VOCABULARY = 256 + len(SPECIAL)

# One token a speaker keeps the conversations of small models short.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_tokenizer(max_length: int = 32_768) -> Any:
    """A ``PreTrainedTokenizerFast`` of `VOCABULARY` tokens; the special ones come first, so padding is 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *alphabet))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPEAKERS),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
