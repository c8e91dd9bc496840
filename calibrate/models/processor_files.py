"""The files of a model folder that its processor is built from. No torch."""

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

PROCESSOR_PATTERNS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "*processor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*.jinja",
    "chat_template*.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""What `AutoProcessor.from_pretrained` reads. Code (*.py) and pickles (*.bin, *.pt, *.pkl) match none of these."""


def is_processor_file(name: str) -> bool:
    """True for the name of a file that AutoProcessor reads."""
    return any(fnmatchcase(name, pattern) for pattern in PROCESSOR_PATTERNS)


def processor_digest(folder: str | Path) -> str:
    """sha256 over names and bytes of these files: what prompts and pixels follow from."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if is_processor_file(file.name) and file.is_file():
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()
