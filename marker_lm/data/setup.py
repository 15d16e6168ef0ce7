"""From a config to the objects that write rows as tokens: taxonomy, tokenizer, codec, layout."""

import dataclasses
import difflib

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from marker_lm.data.arms import ARMS, Arm
from marker_lm.data.assembly import Layout, order_categories
from marker_lm.data.cache import Cache
from marker_lm.data.chat import Chat, load_chat
from marker_lm.data.loader import Batches, Rows, Stream
from marker_lm.data.mixture import make_mixture, row_factors
from marker_lm.data.spans import Index
from marker_lm.data.tokenizers.base import Tokenizer
from marker_lm.markers.codec import MarkerCodec
from marker_lm.markers.dropout import Dropout
from marker_lm.markers.taxonomy import MarkerError, Taxonomy

FILLER = "."  # what a list of filler tokens is made of


class SetupError(ValueError):
    """A config that contradicts itself or the data it is used with; one sentence."""


def data_folder(config: ConfigDict, workdir: epath.PathLike) -> epath.Path:
    """Where the prepared data of a run lies."""
    return epath.Path(config.data.prepared or epath.Path(workdir) / "data")


@dataclasses.dataclass(frozen=True)
class Setup:
    """How one arm writes rows.

    Attributes:
      arm: which one.
      taxonomy, tokenizer, codec: as the config names them.
      layout: of this arm.
      plan_layouts: of all arms that are to share one packing plan.
      pretrained_vocab: rows of the tables of the pretrained model; 0 without one.
      chat: writes rows by a chat template; None for prompt, separator and completion.
    """

    arm: Arm
    taxonomy: Taxonomy
    tokenizer: Tokenizer
    codec: MarkerCodec
    layout: Layout
    plan_layouts: tuple[Layout, ...]
    pretrained_vocab: int = 0
    chat: Chat | None = None

    @property
    def vocab(self) -> int:
        """Rows of the model's tables: ids of tokenizer and markers fit in.

        That is the pretrained model's own number where they do; else padded so that any usual mesh
        divides it.
        """
        ids = self.tokenizer.size + self.codec.n_reserved
        return self.pretrained_vocab if ids <= self.pretrained_vocab else -(-ids // 128) * 128


def make_setup(
    config: ConfigDict, taxonomy: Taxonomy, tokenizer: Tokenizer, pretrained_vocab: int = 0
) -> Setup:
    """Builds what the config's `arm`, `template` and `markers` sections describe."""
    codec = MarkerCodec(taxonomy, config.template, tokenizer)
    chat = load_chat(config.data.get("chat", {}), tokenizer)
    layouts = {
        name: make_layout(config, taxonomy, tokenizer, codec, find_arm(name), chat)
        for name in (config.arm, *config.plan_arms)
    }
    return Setup(
        find_arm(config.arm),
        taxonomy,
        tokenizer,
        codec,
        layouts[config.arm],
        tuple(dict.fromkeys(layouts.values())),
        pretrained_vocab,
        chat,
    )


def find_arm(name: str) -> Arm:
    """The arm of this name; SetupError with the nearest name when there is none."""
    if name not in ARMS:
        near = difflib.get_close_matches(name, ARMS, n=1, cutoff=0)[0]
        raise SetupError(f"arm={name!r} is not one of {', '.join(ARMS)}; did you mean '{near}'?")
    return ARMS[name]


def make_layout(config, taxonomy, tokenizer, codec, arm: Arm, chat: Chat | None = None) -> Layout:
    """The Layout of one arm."""

    def side(name: str, wanted: bool) -> tuple[str, ...]:
        names = tuple(config.markers[name]) or tuple(taxonomy.categories)
        for category in names:
            try:
                taxonomy.category(category)
            except MarkerError as error:
                raise SetupError(f"markers.{name}: {error}") from None
        return order_categories(taxonomy, names, config.markers.order) if wanted else ()

    prompt_side = side("prompt_side", arm.prompt_side)
    completion_side = side("completion_side", arm.completion_side)
    if arm.completion_side and not set(prompt_side) <= set(completion_side):
        raise SetupError(
            f"markers.prompt_side has {sorted(set(prompt_side) - set(completion_side))}, which "
            "markers.completion_side lacks; the completion side must hold all of them."
        )
    layout = Layout(
        prompt_side=prompt_side,
        completion_side=completion_side,
        open=tuple(codec.open),
        close=tuple(codec.close),
        separator=tuple(tokenizer.encode(config.data.separator)),
        bos=() if tokenizer.bos_id is None else (tokenizer.bos_id,),
        eos=tokenizer.eos_id,
        shuffled=arm.shuffled,
        filler=tokenizer.encode(FILLER)[-1] if arm.filler else -1,
    )
    if chat is None:
        return layout
    # The template writes what stands between the answers, bos too where there is one.
    return dataclasses.replace(layout, separator=(), bos=(), eos=chat.end_id(tokenizer))


def make_dropout(config: ConfigDict) -> Dropout:
    """The Dropout of the config's `markers` section."""
    markers = config.markers
    return Dropout(
        example=markers.example_dropout,
        marker=markers.marker_dropout,
        per_category=dict(markers.dropout_per_category),
        schedule=tuple(tuple(point) for point in markers.dropout_schedule),
    )


def train_batches(config: ConfigDict, setup: Setup, cache: Cache, rows: Rows) -> Batches:
    """The training batches; `rows` are those of each global batch that this host reads."""
    data, tasks = config.data, cache.manifest["tasks"]
    factors_N = row_factors(
        cache.index, setup.taxonomy, data.upsample, data.least_share, data.most_upsampling
    )
    mixture = make_mixture(
        [task["rows"] for task in tasks],
        [task["rate"] for task in tasks],
        data.temperature,
        factors_N,
    )
    stream = make_stream(config, setup, make_dropout(config), cache)
    batches = Batches(cache, stream, config.train.epochs, mixture, rows)
    if not len(batches):
        raise SetupError(
            f"there is nothing to train on: {len(cache)} rows, train.epochs={config.train.epochs}, "
            f"and none that fits in train.length={config.train.length}; raise one of the two."
        )
    return batches


def eval_batches(config: ConfigDict, setup: Setup, cache: Cache, rows: Rows) -> Batches:
    """Every held-out row once, prompt side empty, with its own list on the completion side."""
    stream = make_stream(config, setup, Dropout(example=1.0), cache)
    own = {layout: dataclasses.replace(layout, shuffled=False) for layout in setup.plan_layouts}
    others = [(dataclasses.replace(x, shuffled=False), index) for x, index in stream.plan_others]
    stream = dataclasses.replace(
        stream,
        layout=own[setup.layout],
        plan_layouts=tuple(dict.fromkeys(own.values())),
        plan_dropout=None,
        plan_others=tuple(others),
    )
    return Batches(cache, stream, epochs=1, rows=rows)


def make_stream(config: ConfigDict, setup: Setup, dropout: Dropout, cache: Cache) -> Stream:
    """What a run trains on; `cache` holds its rows."""
    least = min(config.get("plan_dropout", 1.0), dropout.example)
    return Stream(
        layout=setup.layout,
        plan_layouts=setup.plan_layouts,
        dropout=dropout,
        plan_dropout=dataclasses.replace(dropout, example=least),
        plan_others=other_layouts(config, setup, cache),
        seed=config.seed,
        length=config.train.length,
        batch=config.train.batch,
        weights=dict(config.train.loss_weights),
        too_long=config.train.too_long,
    )


def other_layouts(
    config: ConfigDict, setup: Setup, cache: Cache
) -> tuple[tuple[Layout, Index], ...]:
    """The layouts of arms of other templates, each with the index of the same rows in its cache.

    Raises:
      SetupError: a folder in `plan_data` holds other rows, or the same under another tokenizer.
    """
    found = []
    for folder in config.get("plan_data", ()):
        other = Cache(epath.Path(folder) / cache.folder.name)
        same = ("example_hash_N", "prompt_len_N", "completion_len_N")
        if not all(
            np.array_equal(getattr(other.index, name), getattr(cache.index, name)) for name in same
        ):
            raise SetupError(
                f"plan_data names {folder}, whose rows or tokens are not those of {cache.folder}; "
                "prepare both from the same rows with one tokenizer (data.tokenizer=FOLDER)."
            )
        codec = MarkerCodec(setup.taxonomy, other.manifest["template"], setup.tokenizer)
        for name in config.plan_arms:
            about = setup.taxonomy, setup.tokenizer, codec, find_arm(name), setup.chat
            found.append((make_layout(config, *about), other.index))
    return tuple(found)
