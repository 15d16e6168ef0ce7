"""The arms of an experiment about markers, on the instruction rows of configs/mix.py.

    marker-lm experiment --config=configs/experiment.py:/data/mix --workdir=/tmp/experiment
    marker-lm experiment --config=configs/experiment.py:small,/data/mix --workdir=/tmp/small
    marker-lm train --config=configs/experiment.py:shuffled,/data/mix --workdir=/tmp/shuffled

The argument is a list of words in any order: an arm, a size (small, scratch, smollm2), a folder of
rows as in configs/mix.py, and
- `unnamed`: prompts that name no language stay as they are, so that the marker alone says it and a
  baseline can only guess;
- `paragraphs`: lists end with the number of paragraphs, a field of the rows, which a model infers
  from the number of words that is asked for.
An arm is what it changes in `markers`, below; all else is the same: rows, their order, steps,
seeds, and a loss that is divided by the tokens of answers.
"""

from configs import mix, smollm2

LONG_TAIL = {"lang": 0.002, "domain": 0.005}  # category -> the share that its values are raised to

# Each arm, and what it is there to tell apart.
ARMS = {
    "markers": {},
    # Everything but markers.
    "baseline": {"arm": "baseline"},
    # Whether what the markers say matters, or only that there is something to learn and to write.
    "shuffled": {"arm": "shuffled"},
    "filler": {"arm": "filler"},
    # Which side does the work; with example dropout 1 the prompt side is never there.
    "completion_only": {"arm": "completion_only"},
    "prompt_only": {"arm": "prompt_only"},
    # Whether the list helps as a condition or as an auxiliary loss; whether another one would do.
    "no_list_loss": {"train.loss_weights.completion_markers": 0.0},
    "prompt_loss": {"arm": "baseline", "train.loss_weights.prompt": 1.0},
    # What the form of the list is worth. One of text and compact is the size's own, as in markers.
    "text": {"template": "text"},
    "compact": {"template": "compact"},
    "sentence": {"template": "sentence"},
    # Whether the plain remedy for a long tail does as much. These two draw other rows than the
    # rest, the same as each other, in as many steps.
    "upsampled": {"arm": "baseline", "data.least_share": LONG_TAIL},
    "markers_upsampled": {"data.least_share": LONG_TAIL},
    # How much of the prompt side is dropped: example_dropout, marker_dropout.
    "dropout_0_50": {"markers.example_dropout": 0.0},
    "dropout_50_50": {"markers.example_dropout": 0.5},
    "dropout_70_50": {"markers.example_dropout": 0.7},
}
SIZES = ("small", "scratch", "smollm2")
UNNAMED, PARAGRAPHS = WORDS = ("unnamed", "paragraphs")
ONCE = ("completion_only", "prompt_only", "no_list_loss")


def get_config(arg: str = ""):
    """`arg` is words between commas: an arm of ARMS, a size of SIZES, WORDS, a folder; all
    optional."""
    words = [word for word in arg.split(",") if word]
    arms = [word for word in words if word in ARMS]
    sizes = [word for word in words if word in SIZES]
    folders = [word for word in words if word not in (*ARMS, *SIZES, *WORDS)]
    if max(map(len, (arms, sizes, folders))) > 1:
        raise ValueError(f"'{arg}' names two arms, two sizes or two folders (arms: {list(ARMS)}).")
    folder, size = (folders or ["data/mix"])[0], (sizes or ["scratch"])[0]
    if size == "smollm2":
        c = smollm2.get_config(f"full,{folder}").unlock()
    else:
        c = mix.get_config(f"markers,{folder}").unlock()
    with c.data.rows.ignore_type():
        # What the marker says, every arm is told: else a baseline could only guess the language.
        sentences = {"lang": "Answer in {}.", "code_type": "Write code in {}."}
        c.data.rows.named = {} if UNNAMED in words else sentences
        c.data.rows.named_where = {"source": ("tatoeba", "nusax", "tldr-pages", "exercism")}
    # The number of words is a lever, too, and lengths come last: they may follow from all the rest.
    levers = ("domain", "task", "lang", "code_type", "format", "length_bucket", "length_tokens")
    if PARAGRAPHS in words:
        levers += (PARAGRAPHS,)
        with c.data.rows.ignore_type():
            c.data.rows.markers[PARAGRAPHS] = PARAGRAPHS
    c.markers.update(prompt_side=levers, completion_side=levers)
    c.plan_arms = ()  # `marker-lm experiment` fills in what its arms need
    # One language has 71 % of the rows, and all others would be tail; the paper splits domains.
    c.eval.update(tail_category="domain", tail_share=0.05, share=1.0, rows=1000)
    c.train.update(eval_every=0, save_minutes=10.0, save_every=0)
    c.experiment = x = type(c)()
    x.question = (
        "Does fine-tuning with markers make a model better, above all on the long tail, and is it "
        "what the markers say that does it?"
    )
    x.arms = ("baseline", "markers", "shuffled")
    x.seeds = (0, 1, 2)
    x.once = ()  # arms that are trained with the first seed only, after all others
    x.reference = "baseline"  # that the other arms are compared with
    x.sweep_steps = 0  # of the runs that choose each arm's learning rate; 0: no such runs
    x.learning_rates = ()  # that are tried; the final one keeps its ratio
    x.dev_share = 0.15  # of the held-out rows: for the choice of rates, never for results
    x.dev_rows = 300  # at most
    x.hold = ""  # a number, such as of words, that answers are also held to where it is pinned
    x.best_of = 0  # also keep the best of so many answers by what is pinned; takes a temperature
    x.decoded = 150  # rows a stratum that are answered, too; all others are scored only
    x.strata = ("domain", "lang", "task")  # whose values are compared one by one, corrected
    x.least_items = 30  # of a value that is
    x.seconds_per_step = 1.0  # for an estimate before the first run is done
    x.bears = ""  # what a run of this size can and can't show
    _SIZES[size](c, x)
    for key, value in (ARMS[arms[0]] if arms else {}).items():
        *path, last = key.split(".")
        section = c
        for name in path:
            section = section[name]
        section[last] = value
    return c.lock()


def _small(c, x):
    """Under half an hour on two cores: the machinery, and effects as large as a first look has."""
    c.data.update(share=0.02, vocab_size=4096)
    c.model.update(width=128, layers=2, heads=4, kv_heads=2, head_size=32, ff=352)
    c.train.update(length=512, batch=4, epochs=4, steps=400, learning_rate=4e-3, warmup_steps=30)
    c.train.update(final_learning_rate=2e-4, save_minutes=2.0)
    c.eval.rows = 250
    c.decode.update(batch=32, max_tokens=32)
    x.update(seeds=(0, 1), sweep_steps=80, learning_rates=(4e-3, 8e-3))
    x.update(dev_rows=100, decoded=32, least_items=40, seconds_per_step=0.25)
    x.bears = (
        "A model of about a million parameters that has seen some hundred thousand answer tokens. "
        "It can bear: whether the code does what it says; that a marked model infers what the "
        "prompt fixes (language, task); the sign of the largest effects in nats. It cannot bear: "
        "any statement about pretrained models, about answers as people judge them, about single "
        "rare strata, or about an effect under the least detectable one in the table; with two "
        "seeds, intervals are as wide as they look."
    )


def _scratch(c, x):
    """Two hours on two cores: a model of two million parameters from scratch."""
    c.data.update(share=0.12, vocab_size=8192)
    c.model.update(width=128, layers=4, heads=4, kv_heads=2, head_size=32, ff=352)
    c.train.update(length=512, batch=8, epochs=2, steps=1500, learning_rate=4e-3)
    c.train.update(final_learning_rate=2e-4, warmup_steps=50)
    c.decode.update(batch=64, max_tokens=192)
    x.update(sweep_steps=150, learning_rates=(2e-3, 4e-3, 8e-3), seconds_per_step=0.5)
    x.update(once=ONCE, arms=(*x.arms, *ONCE))
    x.bears = (
        "A model of two million parameters, from scratch. It can bear: mechanisms (what the "
        "list, its truth, its loss and its side each do to the likelihood of answers), inference "
        "and control of markers in this mix. It cannot bear: sizes of effects on pretrained "
        "models, where little is left that an auxiliary loss could teach, or win rates of answers."
    )


def _smollm2(c, x):
    """SmolLM2-135M-Instruct on one GPU."""
    c.train.update(length=1024, batch=32, epochs=2, steps=1500, learning_rate=3e-4)
    c.train.update(final_learning_rate=3e-5, warmup_steps=50)
    c.decode.update(batch=128, max_tokens=128)
    x.update(sweep_steps=200, learning_rates=(1e-4, 3e-4, 1e-3), seconds_per_step=0.5)
    x.update(decoded=300, dev_rows=500)
    x.update(once=ONCE, arms=(*x.arms, *ONCE))
    x.bears = (
        "A pretrained model of 135 million parameters. It can bear: effects on the likelihood of "
        "answers and on control at this size, on this mix. It cannot bear: statements about larger "
        "models or about answers as people judge them."
    )


_SIZES = {"small": _small, "scratch": _scratch, "smollm2": _smollm2}
