"""Tokenizers of Hugging Face folders: tokenizer.json, and the JSON files beside it."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from marker_lm.data.tokenizers.base import PLAIN, TokenizerError, check_ids, check_text
from marker_lm.data.tokenizers.json_content import (
    Content,
    bos_processor,
    build,
    check_content,
    for_spans,
    place_added_tokens,
)

# The work is spread over processes already, and the library's threads would not outlive a fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
_TEMPLATE_FILE = "chat_template.jinja"
_MORE_TEMPLATES = "additional_chat_templates"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class HFTokenizer:
    """A tokenizer.json through the `tokenizers` package.

    `encode` gives the ids of the library's `encode(text, add_special_tokens=False)`: special tokens
    that stand in the text become their ids. So a text that holds the eos token comes back without
    it; and some models change texts themselves (NFC), or lack the tokens of rare bytes.

    A space that the tokenizer puts before every text (Llama 2, Mistral v0.1) is switched off, with
    a line in the log, because spans are tokenized apart and joined. `save` keeps that change, so
    that what is served is tokenized as it was in training.

    Attributes (besides those of `Tokenizer`):
      bos_id: None unless the tokenizer puts its bos token before a text, as many don't that have
        one for their chat template.
      pad_id, unk_id: eos_id where the tokenizer has none.
      special: 'bos_token', 'eos_token', 'pad_token', 'unk_token' -> text, of those it has.
      chat_templates: name -> Jinja text; chat_template: the one named 'default', or None.
      json: the text of tokenizer.json.
    """

    lossless = False

    def __init__(
        self,
        content: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
    ):
        """
        Args:
          content: what tokenizer.json holds.
          config: what tokenizer_config.json holds. Used are bos_token, eos_token, pad_token,
            unk_token (a text, or an object with `content`), add_bos_token, chat_template (a text,
            or a list of {name, template}), model_max_length.
          generation: what generation_config.json holds. Its bos_token_id, eos_token_id (one or a
            list, whose first counts) and pad_token_id stand in where `config` names no token.

        Raises:
          TokenizerError: no text could be had back, two tokens share an id, or there is no eos.
        """
        check_content(content)
        content, changes = for_spans(content)
        if changes:
            logging.getLogger(__name__).warning(
                "tokenizer.json: switched off for spans: %s", ", ".join(changes)
            )
        content = place_added_tokens(content)
        self._library = build(content)
        ids = self.vocabulary()
        self.size = max(ids.values()) + 1
        self._config = {**(config or {})}
        self.special = _special_tokens(self._config, generation or {}, self._library)
        self._set_ids(ids, content)
        self.json = _dump(self._with_bos(content))
        self.chat_templates = _templates(self._config.pop("chat_template", None))
        self.chat_template = self.chat_templates.get("default")
        if self.decode(self._library.encode(PLAIN, add_special_tokens=False).ids) != PLAIN:
            raise TokenizerError(
                "tokenizer.json does not even give a plain English text with two spaces and line "
                "breaks back; give a tokenizer of a model that writes text"
            )

    def _set_ids(self, ids: Mapping[str, int], content: Content) -> None:
        special = self.special
        for name, token in special.items():
            if token not in ids:
                raise TokenizerError(
                    f"the {name} {token!r} is no token of tokenizer.json; correct it in "
                    f"{_CONFIG_FILE}"
                )
        if "eos_token" not in special:
            raise TokenizerError(
                f"the tokenizer has no eos token, which ends every completion; set eos_token in "
                f"{_CONFIG_FILE}"
            )
        self.eos_id = ids[special["eos_token"]]
        self.pad_id = ids[special.get("pad_token", special["eos_token"])]
        self.unk_id = ids[special.get("unk_token", special["eos_token"])]
        self._bos = special.get("bos_token", "")
        bos_id = ids.get(self._bos)
        adds_bos = self._config.get("add_bos_token")
        self.bos_id = bos_id if (self._adds(bos_id) if adds_bos is None else adds_bos) else None
        self._silent = {self.pad_id, self.eos_id, self.bos_id}
        self._added = {t["id"]: t["content"] for t in content.get("added_tokens") or ()}
        gaps = set(range(self.size)) - set(ids.values())
        # Ids that the library's decoder does not write as they are: it takes the characters of
        # added tokens for bytes too, and leaves out ids without a token.
        self._apart = dict.fromkeys(gaps, "\ufffd") | self._added | dict.fromkeys(self._silent, "")

    def _adds(self, bos_id: int | None) -> bool:
        return self._library.encode("", add_special_tokens=True).ids[:1] == [bos_id]

    def _with_bos(self, content: Content) -> Content:
        """The content that puts bos before a text, or not, as `bos_id` says: servers go by it."""
        if (self.bos_id is not None) == self._adds(self._library.token_to_id(self._bos)):
            return content
        return {**content, "post_processor": bos_processor(self._bos, self.bos_id)}

    @functools.cached_property
    def hash(self) -> str:
        ids = [self.eos_id, self.pad_id, self.unk_id, self.bos_id]
        return hashlib.sha256(f"{self.json} {ids}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        texts = list(texts)
        for text in texts:
            check_text(text)
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in found]

    def decode(self, ids: Sequence[int]) -> str:
        ids = check_ids(ids, self.size)
        if self._apart.keys().isdisjoint(ids):
            return self._library.decode(ids, skip_special_tokens=False)
        parts: list[str] = []
        run: list[int] = []
        for id in ids:
            if id in self._silent:
                continue
            if id in self._apart:
                parts += [self._library.decode(run, skip_special_tokens=False), self._apart[id]]
                run = []
            else:
                run.append(id)
        return "".join([*parts, self._library.decode(run, skip_special_tokens=False)])

    def piece(self, id: int) -> str:
        [id] = check_ids([id], self.size)
        token = self._library.id_to_token(id)
        if token is None:
            return f"<no token {id}>"
        text = self._library.decode([id], skip_special_tokens=False)
        if id in self._added or (token.startswith("<0x") and len(token) == 6):
            return token
        if "\ufffd" not in text:
            return text
        raw = [BYTE_CHARACTERS.get(character) for character in token]
        if None in raw:
            return token
        return "".join(chr(b) if b < 128 else f"<0x{b:02X}>" for b in raw)

    def save(self, folder: epath.PathLike) -> None:
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_FILE).write_text(self.json, encoding="utf-8")
        # The classes of single models build normalizers of their own; this one takes the file's.
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.bos_id is not None,
            "clean_up_tokenization_spaces": False,
            **self.special,
        }
        if "model_max_length" in self._config:
            config["model_max_length"] = self._config["model_max_length"]
        (folder / _CONFIG_FILE).write_text(_dump(config, indent=2), encoding="utf-8")
        (folder / "special_tokens_map.json").write_text(_dump(self.special, indent=2), "utf-8")
        for name, template in self.chat_templates.items():
            path = folder / _TEMPLATE_FILE
            if name != "default":
                path = folder / _MORE_TEMPLATES / f"{name}.jinja"
                path.parent.mkdir(exist_ok=True)
            path.write_text(template, encoding="utf-8")

    def vocabulary(self) -> dict[str, int]:
        """Token -> id, added ones included."""
        return self._library.get_vocab(with_added_tokens=True)

    def replace(self, content: Mapping[str, Any]) -> "HFTokenizer":
        """The same special tokens and templates over another tokenizer.json."""
        return HFTokenizer(content, self._whole_config())

    def _whole_config(self) -> dict[str, Any]:
        templates = [{"name": n, "template": t} for n, t in self.chat_templates.items()]
        config = {**self._config, **self.special, "chat_template": templates}
        return config | {"add_bos_token": self.bos_id is not None}

    def __reduce__(self):
        return _restore, (self.json, _dump(self._whole_config()))


@functools.lru_cache(2)
def _restore(json_text: str, config: str) -> HFTokenizer:
    """Made once in a process: workers are sent the tokenizer anew with every piece of work."""
    return HFTokenizer(json.loads(json_text), json.loads(config))


def load_hf(folder: epath.PathLike) -> HFTokenizer:
    """The tokenizer of a Hugging Face folder, local or gs://.

    Reads tokenizer.json and, where they are there, tokenizer_config.json, special_tokens_map.json,
    generation_config.json, chat_template.jinja and additional_chat_templates/*.jinja.

    Raises FileNotFoundError or TokenizerError, each with one sentence.
    """
    folder = epath.Path(folder)
    if not (folder / TOKENIZER_FILE).exists():
        raise FileNotFoundError(
            f"the folder '{folder}' has no {TOKENIZER_FILE}; save it there with transformers: "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    content = _read_json(folder / TOKENIZER_FILE)
    config = _optional(folder / "special_tokens_map.json") | _optional(folder / _CONFIG_FILE)
    templates = _templates(config.get("chat_template"))
    if (folder / _TEMPLATE_FILE).exists():
        templates["default"] = (folder / _TEMPLATE_FILE).read_text("utf-8")
    if (folder / _MORE_TEMPLATES).exists():
        for path in sorted((folder / _MORE_TEMPLATES).glob("*.jinja")):
            templates[path.stem] = path.read_text("utf-8")
    config["chat_template"] = [{"name": n, "template": t} for n, t in templates.items()]
    try:
        return HFTokenizer(content, config, _optional(folder / "generation_config.json"))
    except TokenizerError as error:
        raise TokenizerError(f"{folder}: {error}") from None


def _dump(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, ensure_ascii=False, sort_keys=True, indent=indent)


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is no JSON ({error}); copy the file again") from None
    if not isinstance(found, dict):
        raise TokenizerError(f"{path} holds no JSON object; copy the file again")
    return found


def _optional(path: epath.Path) -> dict[str, Any]:
    """What the file holds, but for the keys without a value; {} where it is not there."""
    found = _read_json(path) if path.exists() else {}
    return {key: value for key, value in found.items() if value is not None}


def _special_tokens(config, generation, library) -> dict[str, str]:
    found = {}
    for name in _SPECIAL:
        token = config.get(name)
        if isinstance(token, Mapping):
            token = token.get("content")
        if token is None and (id := generation.get(f"{name}_id")) is not None:
            first = id[0] if isinstance(id, list) else id
            token = library.id_to_token(int(first))
        if token is not None:
            found[name] = token
    return found


def _templates(given: str | Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    if isinstance(given, str):
        return {"default": given}
    return {one["name"]: one["template"] for one in given or ()}


def _byte_characters() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): b for n, b in enumerate(others)}


BYTE_CHARACTERS = _byte_characters()
