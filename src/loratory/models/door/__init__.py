"""The door: what is asked of a model's files before a library sees any of them.

    files       where a file leads, how large it is, what JSON it holds
    config      config.json: families, keys and sizes that are let in
    tokenizer   tokenizer_config.json and the files beside it
    pipeline    tokenizer.json: what its steps could make of a text
    weights     headers of safetensors files, and whether they are the architecture's
    adapter     adapter_config.json of PEFT

What could run code or exhaust the machine is a SafetyError; what is damaged or does not fit is a ModelError.
"""
