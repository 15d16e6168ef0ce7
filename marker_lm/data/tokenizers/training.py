"""Training of tokenizers on the texts of a run."""

import heapq
import io
import json
from collections.abc import Iterable, Iterator
from random import Random

import sentencepiece
import tokenizers

from marker_lm.data.tokenizers.base import TokenizerError, check_text
from marker_lm.data.tokenizers.hf import HFTokenizer
from marker_lm.data.tokenizers.sentencepiece import SPACE_PIECE, SentencePieceTokenizer

_BPE_SPECIAL = {"pad_token": "<|padding|>", "eos_token": "<|endoftext|>"}
# Qwen 2's, but that marks stand with the letters they belong to: Thai and Hindi fall apart else.
_BPE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _training_lines(texts: Iterable[str], max_chars: int) -> Iterator[str]:
    """Texts, cut where they are long: SentencePiece leaves overlong ones out without a word."""
    for text in texts:
        check_text(text)
        text = text.replace("\0", "")  # SentencePiece keeps U+0000 for its own use
        for start in range(0, len(text), max_chars):
            yield text[start : start + max_chars]


def _sample(texts: Iterable[str], most: int) -> Iterable[str]:
    """`most` of the texts, 0 for all. SentencePiece's own sample is another one in every run."""
    random = Random(0)
    return heapq.nsmallest(most, texts, key=lambda _: random.random()) if most else texts


def train_sentencepiece(
    texts: Iterable[str],
    size: int,
    *,
    model_type: str = "unigram",
    character_coverage: float = 0.9995,
    max_texts: int = 0,
    threads: int = 2,
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model of at most `size` pieces that gives every text back.

    Whole texts are given to the trainer, newlines included, so pieces may span a newline: on
    multilingual instructions this takes 3 % fewer tokens than newlines as symbols of their own.
    `max_texts` > 0 trains on a random sample of that many texts, always the same of the same texts.
    Ids: pad 0, eos 1, unk 2, no bos.
    Raises TokenizerError when there is too little text, or too small a size, for a model.
    """
    model = io.BytesIO()
    errors: list[Exception] = []

    def lines() -> Iterator[str]:
        try:
            yield from _training_lines(_sample(texts, max_texts), max_chars=4096)
        except Exception as error:
            errors.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            required_chars=SPACE_PIECE + "0123456789.-",
            split_digits=True,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            max_sentence_length=1 << 20,
            num_threads=threads,
            minloglevel=2,
        )
    except (RuntimeError, StopIteration) as error:
        if errors:  # the trainer makes a text of its own of what the texts raise
            raise errors[0] from None
        raise TokenizerError(
            f"SentencePiece could not train a model of {size} pieces ({error}); "
            "give more text, or a size of at least 259 plus the number of characters"
        ) from None
    return SentencePieceTokenizer(model.getvalue())


def train_bpe(texts: Iterable[str], size: int, *, max_texts: int = 0) -> HFTokenizer:
    """Trains byte-level BPE of at most `size` tokens, which gives back every text without them.

    Every digit is a token of its own. Ids: pad 0, eos 1, no bos, then the 256 bytes.
    `max_texts` as for `train_sentencepiece`.
    Raises TokenizerError for a lone surrogate in the texts, or a size under 258.
    """
    least = len(_BPE_SPECIAL) + 256
    if size < least:
        raise TokenizerError(
            f"byte-level BPE can't have {size} tokens; set data.vocab_size to {least} or more"
        )
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_BPE_SPLIT), "isolated")
    to_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_bytes])
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(_BPE_SPECIAL.values()),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator(_training_lines(_sample(texts, max_texts), 1 << 20), trainer)
    return HFTokenizer(json.loads(library.to_str()), _BPE_SPECIAL)


TRAINERS = {"train": train_sentencepiece, "train_bpe": train_bpe}  # by data.tokenizer
