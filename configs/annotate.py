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
    # Each annotator has a section of its own; what it may hold stands in its file in
    # marker_lm/annotate/.
    c.lengths = ConfigDict({"tokenizer": ""})  # of the unit 'model tokens': bytes, or a path
    c.quality = ConfigDict(
        {
            "field": "",  # numeric score of a row, where it is not a marker already
            "min_rows": 20,  # languages with fewer scored rows get no quality bucket
        }
    )

    c.output = "jsonl"  # jsonl | jsonl.gz | parquet
    c.shard_rows = 65_536  # rows of the input that go to one file of the output
    c.max_reject_share = 0.01  # the run stops when more of the rows are bad
    c.max_line_bytes = 1_000_000  # longer rows are rejected
    c.workers = 0  # processes; 0 is one a core
    return c.lock()
