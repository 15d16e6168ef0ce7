"""What `marker-lm annotate` does: copy it, or import it and change what differs.

    marker-lm annotate --config=configs/annotate.py --out=/tmp/annotated \
        --config.files='data/*.jsonl.gz' --config.quality.field=score
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is a folder, file or glob of rows, as `files`."""
    c = ConfigDict()
    c.files = arg  # JSONL, JSONL.gz or Parquet: a file, a folder, a glob, or a tuple of them
    c.taxonomy = "paper"  # paper | atlas | path of a YAML file

    c.rows = ConfigDict(  # where a row keeps what, and the rules that map its fields to categories
        {
            "prompt": "prompt",
            "completion": "completion",
            "messages": "messages",  # a conversation of one answer instead of the two
            "markers": "markers",  # a field, or a mapping category -> field
            "id": "id",
            "value_maps": {},  # category -> {value of the row: value of the taxonomy}
            "cut_at": {},  # category -> text; only what stands before it counts
            "defaults": {},  # category -> value
            "unknown_values": "leave_out",  # reject | leave_out
            "trust": {},  # origin or category -> least confidence; what is below is found anew
        }
    )

    # category -> annotators, in the order in which they are asked for what is still lacking; () is
    # none. A category that is not named has those that its origin in the taxonomy asks for.
    # metadata | lang | lengths | code_type | format | quality | classifier | llm
    c.annotators = ConfigDict()
    # Each annotator has a section of its own.
    c.lang = ConfigDict(
        {
            "category": "lang",
            "threshold": 0.15,  # least confidence of a marker
            "letters": 2,  # shorter texts are left unmarked
            "characters": 400,  # that are looked at, markup left out
            "codes": {},  # value of the taxonomy -> ISO 639 code, where it does not say it itself
        }
    )
    c.lengths = ConfigDict({"tokenizer": ""})  # of the unit 'model tokens': bytes, or a path
    c.code_type = ConfigDict(
        {
            "category": "code_type",
            "detector": "none",  # none | magika: for code without a label
            "threshold": 0.5,
            "labels": {},  # value of the taxonomy -> further labels of code blocks
        }
    )
    c.format = ConfigDict(
        {
            "category": "format",
            "threshold": 0.5,
            "values": {},  # kind of format -> value of the taxonomy, where the names differ
        }
    )
    c.quality = ConfigDict(
        {
            "field": "",  # numeric score of a row, where it is not a marker already
            "min_rows": 20,  # languages with fewer scored rows get no quality bucket
        }
    )
    c.classifier = ConfigDict(  # learns from the rows that have the label
        {
            "categories": (),  # () is those it is chosen for
            "rows": 20_000,  # labelled rows of a category to learn from, at most
            "min_rows": 10,  # a value with fewer is not learned
            "threshold": 0.5,
            "max_chars": 4000,  # of a text
            "features": 65_536,  # hashed words and pairs of words
            "folds": 5,  # of the cross-validation that calibrates the confidence
            "epochs": 10,
            "save": "",  # folder to save what was learned to
            "load": "",  # folder of a saved one, instead of learning
        }
    )
    c.llm = ConfigDict(
        {
            "endpoint": {
                "url": "",  # of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1
                "model": "",
                "key_env": "",  # environment variable with the key
                "cache": "",  # file that keeps the answers, so that nothing is asked twice
                "concurrency": 8,
                "timeout": 60.0,  # seconds for an answer
                "attempts": 6,
                "backoff": 1.0,  # seconds, doubled with each attempt
                "longest_wait": 120.0,  # seconds that an endpoint may ask for
                "requests_per_minute": 0.0,  # 0 is no limit
                "tokens_per_minute": 0.0,
                "price_in": 0.0,  # of a million tokens
                "price_out": 0.0,
                "budget": 0.0,  # in the currency of the prices; 0 is no limit
                "body": {},  # further fields of every request
            },
            "categories": (),  # () is those it is chosen for
            "one_call": True,  # for all categories of a prompt or completion
            "structured": "schema",  # schema | json | none
            "logprobs": True,  # as confidences
            "temperature": 0.0,
            "max_tokens": 200,  # of an answer
            "max_chars": 6000,  # of a text
            "confidence": 0.8,  # where there are no log-probabilities
            "threshold": 0.0,
        }
    )

    c.output = "jsonl"  # jsonl | jsonl.gz | parquet
    c.shard_rows = 65_536  # rows of the input that go to one file of the output
    c.max_reject_share = 0.01  # the run stops when more of the rows are bad
    c.max_line_bytes = 1_000_000  # longer rows are rejected
    c.workers = 0  # processes; 0 is one a core
    return c.lock()
