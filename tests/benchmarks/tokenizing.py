"""Tokenizers on rows of the mix: ids against the library's, texts that come back, and speed.

    python tests/benchmarks/tokenizing.py [--rows 5000] [--vocab 8192] [TOKENIZER ...]

The first rows of both training files, prompts and completions, go through the SeqIO vocabulary.
Trained on them are a SentencePiece unigram model and byte-level BPE; further tokenizers are given
as `data.tokenizer` takes them. `equal` counts texts with the ids of the `tokenizers` library.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tensorflow as tf
import tokenizers

from marker_lm.data.tokenizers.hf import HFTokenizer
from marker_lm.data.tokenizers.load import load_tokenizer
from marker_lm.data.tokenizers.training import train_bpe, train_sentencepiece
from marker_lm.data.vocabularies import TokenizerVocabulary
from tests.data.small import mix_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("tokenizers", nargs="*")
    args = parser.parse_args()
    texts = list(mix_texts(args.rows))
    print(f"{len(texts)} texts")
    print("tokenizer             tokens    equal  come back  encode tokens/s  decode tokens/s")
    for train in (train_sentencepiece, train_bpe):
        measure(train.__name__, train(texts, args.vocab), texts)
    for name in args.tokenizers:
        measure(name, load_tokenizer(name), texts)


def measure(name, tokenizer, texts) -> None:
    vocabulary = TokenizerVocabulary(tokenizer)
    rows = vocabulary.encode_tf(tf.constant(texts)).to_list()
    tokens = sum(map(len, rows))
    equal = "-"
    if isinstance(tokenizer, HFTokenizer):
        library = tokenizers.Tokenizer.from_str(tokenizer.json)
        found = library.encode_batch(texts, add_special_tokens=False)
        equal = sum(ids == one.ids for ids, one in zip(rows, found, strict=True))
    back = sum(vocabulary.decode(ids) == text for ids, text in zip(rows, texts, strict=True))
    encode = best_of_three(lambda: tokenizer.encode_batch(texts))
    decode = best_of_three(lambda: [tokenizer.decode(ids) for ids in rows])
    print(
        f"{name[-20:]:20} {tokens:9} {equal:>8} {back:10} {tokens / encode:16.0f} "
        f"{tokens / decode:16.0f}",
        flush=True,
    )


def best_of_three(run) -> float:
    """The processor time of this process, in seconds, since other work may be going on."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
