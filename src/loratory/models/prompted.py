"""Models before whose texts stand virtual tokens: the call goes through stock PEFT's own model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from peft import PeftModel

    from loratory.models.families import Family


def call_through(model: nn.Module, wrapper: PeftModel, family: Family) -> None:
    """Let whoever calls `model` call `wrapper`, which puts its virtual tokens before the texts and calls `model`.

    The tokens' parameters become `model`'s, as `prompt_encoder`. Batches are padded from now on: the tokens of one
    prompt are every sequence's.
    """
    from loratory.models.flat import Classifier

    own: Any = model
    plain, inside = own.forward, False

    @functools.wraps(plain)  # PEFT reads the signature
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return plain(*args, **kwargs)
        inside = True
        try:
            return wrapper(*args, **kwargs)
        finally:
            inside = False

    if (classifier := Classifier(model, family, 0)).flat:
        classifier.unflatten()
    model.add_module("prompt_encoder", wrapper.prompt_encoder)
    own.forward = forward
