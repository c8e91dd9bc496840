"""The processor of a model folder: tokenizer, image processor and chat template, without torchvision.

transformers' own processor classes need torchvision as soon as a family takes videos, although no video processor is
needed to read frames. What they do beside calling their parts, expanding placeholders, each family does itself.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Args:
    tokenizer: transformers' tokenizer.
    image_processor: transformers' image processor of the PIL kind, so that pixels do not depend on whether
        torchvision is installed.
    chat_template: Jinja text that makes a prompt of a conversation.
    settings: the content of processor_config.json, empty where there is none.
    video_settings: the content of video_preprocessor_config.json, empty where there is none.
    """

    tokenizer: Any
    image_processor: Any
    chat_template: str
    settings: dict[str, Any]
    video_settings: dict[str, Any]

    @property
    def pad_token(self) -> int:
        """The id that fills up rows; it is masked, so any would do."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    def prompt_text(self, conversation: list[dict[str, Any]]) -> str:
        """A conversation as the model's own prompt text, ready for the answer."""
        return self.tokenizer.apply_chat_template(
            conversation, chat_template=self.chat_template, add_generation_prompt=True, tokenize=False
        )

    def token_ids(self, text: str) -> list[int]:
        """Ids of a prompt text whose placeholders are expanded."""
        # As transformers does after a template: the first token is added only where the template left it out.
        templated = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        return list(self.tokenizer(text, add_special_tokens=not templated)["input_ids"])


def read_processor(folder: Path, tokenizer: Any, image_processor: Any) -> Processor:
    """Join the parts with the folder's own template and settings. Raises InputError where there is no template."""
    settings = _read_json(folder / "processor_config.json")
    template = _chat_template(folder) or settings.get("chat_template") or getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str) or not template:
        raise InputError(f"{folder}: no chat template (chat_template.jinja), so a conversation cannot become a prompt")
    return Processor(
        tokenizer=tokenizer,
        image_processor=image_processor,
        chat_template=template,
        settings=settings,
        video_settings=_read_json(folder / "video_preprocessor_config.json") or settings.get("video_processor") or {},
    )


def _chat_template(folder: Path) -> str | None:
    try:
        if (folder / "chat_template.jinja").is_file():
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / 'chat_template.jinja'}: cannot be read ({error})") from None
    return _read_json(folder / "chat_template.json").get("chat_template")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from None
    return data if isinstance(data, dict) else {}
