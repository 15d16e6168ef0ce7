"""The commented template of a config: copy it, or import it and change what differs.

    marker-lm train --config=configs/default.py --workdir=/tmp/run \
        --config.data.tasks.rows.train=rows.jsonl --config.train.epochs=3
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """`--config=configs/default.py:ARM` chooses the arm."""
    c = ConfigDict()
    c.seed = 0  # of initialisation, shuffle and dropout
    # markers | baseline | shuffled | completion_only | prompt_only | filler
    c.arm = arg or "markers"
    c.plan_arms = ()  # further arms that must fit the same packing: same rows, order and steps
    c.plan_data = ()  # folders of the same rows, prepared for other templates that must fit, too
    c.plan_dropout = 1.0  # the least example_dropout of these arms, where they differ in it
    # A Hugging Face folder (local or gs://) or a local .gguf file to begin from; to plan, a file of
    # configs/architectures will do. The architecture is the checkpoint's; of `model`, only dtype,
    # param_dtype, scan, remat and ff_blocks count then.
    c.init_from = ""
    c.taxonomy = "paper"  # paper | atlas | path of a YAML file
    c.template = "text"  # text (the paper's list) | compact (reserved tokens) | sentence

    c.markers = m = ConfigDict()
    m.prompt_side = ()  # categories; () is all of the taxonomy
    m.completion_side = ()  # the same; must hold all of the prompt side
    m.order = "lengths_last"  # lengths_last | alphabetical (as in the paper)
    m.example_dropout = 0.5  # chance that an example loses all prompt-side markers
    m.marker_dropout = 0.5  # else, chance of each one to go
    m.dropout_per_category = ConfigDict()  # category -> rate instead of marker_dropout
    m.dropout_schedule = ()  # ((progress 0..1, factor), ...): scales all rates over training

    c.data = d = ConfigDict()
    # Each task: JSONL(.gz) or Parquet files, globs or folders, and its rate in the mixture. With
    # tfds='name/config:version' of TensorFlow Datasets, train and heldout are splits of that.
    d.tasks = ConfigDict({"rows": {"train": "", "heldout": "", "rate": 1.0, "tfds": ""}})
    d.tfds_folder = ""  # where TFDS keeps its datasets; its own default when empty
    d.rows = ConfigDict(  # where a row keeps what; see marker_lm/data/row_format.py
        {
            "prompt": "prompt",
            "completion": "completion",
            "messages": "messages",  # a conversation instead of the two; needs a chat template
            "markers": "markers",
            "id": "id",
            "value_maps": {},  # category -> {value of the row: value of the taxonomy}
            "cut_at": {},  # category -> text; only what stands before it counts
            "defaults": {},  # category -> value
            "unknown_values": "reject",  # reject | leave_out
            "trust": {},  # origin or category -> least confidence of its markers
            "named": {},  # category -> "Answer in {}.": below prompts that don't name the value
            "named_where": {},  # field of the row -> values of the rows where this is done
        }
    )
    # The chat template that writes rows of messages, and prompts as a user's message: '' (none),
    # 'model' (the tokenizer's own), or the path of a Jinja file; system: text before a prompt.
    d.chat = ConfigDict({"template": "", "system": ""})
    d.temperature = 0.0  # 0: rates as they are; T > 0: each times the task's rows ** (1 / T)
    # Of several values of a category the first one decides how often a row is drawn.
    d.upsample = ConfigDict()  # category -> {value: factor}: how often its rows are drawn
    d.least_share = ConfigDict()  # category -> share that its rare values are brought up to
    d.most_upsampling = 20.0  # least_share draws no row more often than so many times another
    d.share = 1.0  # use this share of the rows, chosen by a hash of their id
    # train (SentencePiece unigram) | train_bpe (byte-level BPE) | pretrained (that of init_from) |
    # bytes | path of a Hugging Face folder, a SentencePiece model or a saved tokenizer
    d.tokenizer = "train"
    d.vocab_size = 8192  # tokens, where it is trained
    d.vocab_balance = 1.0  # under 1, rare values get more pieces: rows count n ** this
    d.vocab_balance_by = "lang"  # category whose values are balanced
    d.separator = "\n\n"  # stands between prompt and what follows
    d.max_reject_share = 0.01  # the run stops when more of the rows are bad
    d.max_line_bytes = 1_000_000  # longer lines are rejected
    d.workers = 0  # processes that prepare; 0: one a core
    d.threads = 2  # that read batches ahead
    d.prepared = ""  # folder with the caches; WORKDIR/data when empty

    c.model = o = ConfigDict()
    o.width = 512  # D
    o.layers = 8
    o.heads = 8  # H
    o.kv_heads = 4  # K
    o.head_size = 64  # N
    o.ff = 1536  # F
    o.rope_base = 10_000.0
    o.norm_eps = 1e-6
    o.tied_head = True
    o.dtype = "bfloat16"  # of the computation
    o.param_dtype = "float32"
    o.scan = True  # over layers; False to debug
    # What the backward pass computes again: none | dots (all but products with weights) | attention
    # (all but attention) | full (whole blocks) | offload (full, blocks' inputs in host memory)
    o.remat = "none"
    o.ff_blocks = 1  # pieces of the feed-forward's hidden units; more need less memory

    c.lora = ConfigDict(  # low-rank factors beside the matrices of the blocks
        {
            "rank": 0,  # 0: none
            "alpha": 16.0,  # the factors' product counts alpha / rank
            "targets": "",  # regex over paths such as layers/attention/query; "": all matrices
        }
    )

    c.topology = ""  # pod that `marker-lm plan` compiles for: v5e:4x4, v5p:2x2x4, v5e:16x16*2, ...
    c.mesh = ConfigDict(  # -1: all devices that are left
        {
            "data": -1,  # replicas
            "fsdp": 1,  # parts of the parameters, and of the batch
            "tensor": 1,  # parts of heads, feed-forward and vocabulary
            "context": 1,  # parts of the sequences, and of the parameters
            "slice": 1,  # replicas on pods that only the data centre's network joins
        }
    )

    c.train = t = ConfigDict()
    t.length = 2048  # L, slots of a packed sequence
    t.batch = 32  # B, sequences of a global batch
    t.too_long = "reject"  # reject | truncate_completion | split: rows that do not fit
    t.epochs = 2
    t.steps = 0  # at most, the schedule's end too; 0: as many as the epochs have
    t.trainable = ""  # regex over parameter paths; "": all, or LoRA's factors where lora.rank > 0
    t.optimizer = "adamw"  # adamw | adafactor | lion | muon
    t.learning_rate = 2.5e-4
    t.final_learning_rate = 1.25e-4
    t.muon_learning_rate = 0.02  # of the blocks' matrices under muon, on the same schedule
    t.warmup_steps = 10
    t.beta1 = 0.9
    t.beta2 = 0.95
    t.weight_decay = 0.1
    t.learning_rate_factors = ()  # ((regex over parameter paths, factor), ...)
    t.clip_norm = 1.0
    t.moment_dtype = "float32"  # of the optimizer's moments; bfloat16 halves them
    # Of the layers' gradients. bfloat16 is what a step in bfloat16 makes them in: half the memory,
    # and nothing lost, but where accumulate adds many.
    t.gradient_dtype = "float32"
    t.stochastic_rounding = False  # of parameters that are stored as bfloat16
    t.accumulate = 1  # pieces of a batch that go through the model one after the other
    t.z_loss = 0.0  # weight of log(normalizer) ** 2; 1e-4 keeps logits small
    t.loss_weights = ConfigDict(
        {"prompt": 0.0, "prompt_markers": 0.0, "completion_markers": 1.0, "completion": 1.0}
    )
    t.loss_blocks = 16  # a device's tokens are cut into so many pieces for the vocabulary's logits
    t.log_every = 10  # steps
    t.eval_every = 200  # steps; 0 never
    t.eval_batches = 20  # at most
    t.on_spike = "stop"  # stop | skip: what becomes of a step whose loss or gradient is not finite
    t.spike_factor = 0.0  # so is one whose gradient has so many times the usual norm; 0: none
    t.most_skipped = 10  # steps in a row that may be skipped
    t.save_every = 500  # steps
    t.save_minutes = 0.0  # also when so many have passed since the last save; 0: never
    t.keep = 2  # newest checkpoints
    t.keep_every = 0  # steps whose checkpoints are never deleted; 0: none
    t.profile_at = 0  # step before which a profile begins; 0: none, but a file WORKDIR/profile_now
    t.profile_steps = 5  # that a profile shows
    t.wandb_project = ""  # also report to Weights & Biases; pip install 'marker-lm[wandb]'

    c.decode = ConfigDict(
        {
            "batch": 32,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "repetition_penalty": 1.0,  # over 1: against tokens that an answer has already
            "marker_temperature": 0.0,
            "max_tokens": 256,
        }
    )

    c.eval = ConfigDict(
        {
            "tail_category": "lang",  # whose values are split into head and tail
            "tail_share": 0.05,  # values under this share of the training rows are tail
            "strata": "",  # file that `marker-lm stats --freeze` wrote; instead of the two above
            "share": 0.0,  # of the held-out rows, as data.share, which 0 takes
            "rows": 500,  # at most so many of them a stratum
            "samples": 6,  # prompts with a lever moved through its values
        }
    )
    return c.lock()
