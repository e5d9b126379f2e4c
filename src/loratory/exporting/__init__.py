"""Trained models taken away: in forms that stock libraries open, each checked against the run before it is there."""

FORMATS = {
    "merged": "a whole model for transformers, adapters folded in",
    "adapter": "the adapter alone, for PEFT",
    "onnx": "the merged model for ONNX Runtime",
    "pth": "all weights as tensors, adapters folded in",
}
"""What a model is exported as, and what that is. `pth` is a file with a card beside it, the others are directories."""
