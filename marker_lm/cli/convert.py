"""Turns checkpoints into each other: real models in, real models out.

--from is the workdir of a run, a Hugging Face folder (config.json and *.safetensors) or a .gguf
file, local or gs:// (.gguf: local). --out is a folder that does not exist yet.

A run becomes a Hugging Face folder, which transformers, vLLM and others load; taxonomy.yaml and
marker_lm.json beside the weights let `marker-lm decode --workdir=/tmp/exported` pull its markers as
levers. A LoRA is merged; --to=adapter writes it alone, as a folder for peft:

  marker-lm convert --from=/tmp/run --out=/tmp/exported
  marker-lm convert --from=/tmp/run --out=gs://bucket/exported --step=500 --dtype=bfloat16
  marker-lm convert --from=/tmp/run --out=/tmp/adapter --to=adapter

A GGUF file is dequantized on the way to a Hugging Face folder; a Hugging Face folder is written in
another dtype:

  marker-lm convert --from=model.gguf --out=/tmp/model --dtype=bfloat16
  marker-lm convert --from=/models/llama --out=/tmp/llama32 --dtype=float32

--to=run makes a run of a model without markers, so that `marker-lm decode` answers with it. To
train a model no conversion is needed: `marker-lm train --config.init_from=/models/llama`.

--dry-run reads no weights: it prints what is there, and checks all names and shapes.
"""

from marker_lm.cli.common import ConfigError, load_config


def add_arguments(parser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SOURCE",
        help="workdir of a run, Hugging Face folder or .gguf file",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write, local or gs://")
    parser.add_argument(
        "--to", choices=("hf", "run", "adapter"), default="hf", help="what to write; default: hf"
    )
    parser.add_argument("--step", type=int, help="of a run's checkpoint; the newest by default")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="of what is written; by default one that keeps every value as it is",
    )
    parser.add_argument(
        "--family", default="", help="write the model as this one, such as llama or qwen3"
    )
    parser.add_argument("--dry-run", action="store_true", help="only look and check")


def run(args) -> None:
    if not args.dry_run and not args.out:
        raise ConfigError("--out is missing; only --dry-run does without.")
    # JAX takes seconds to import; a slip in the arguments should not wait for it.
    from etils import epath

    is_run = (epath.Path(args.source) / "checkpoints").is_dir()
    if is_run and args.to == "run":
        raise ConfigError(f"{args.source} is a run already; leave out --to=run.")
    if args.to == "adapter" and not is_run:
        raise ConfigError(f"--to=adapter is for runs with LoRA, and {args.source} is no run.")
    if args.step is not None and not is_run:
        raise ConfigError(f"--step={args.step} is for runs, and {args.source} is none.")
    if is_run:
        convert_run(args)
    else:
        convert_pretrained(args)


def convert_run(args) -> None:
    """A run to a Hugging Face folder, or its LoRA to an adapter folder."""
    import dataclasses

    from etils import epath

    from marker_lm.convert.export import export, find_writer
    from marker_lm.data.tokenizers.load import load_tokenizer
    from marker_lm.markers.taxonomy import Taxonomy
    from marker_lm.model.config import ModelConfig
    from marker_lm.sharding.mesh import mesh_here
    from marker_lm.sharding.rules import laid_out_params
    from marker_lm.training.checkpoints import load_about, load_params

    folder = epath.Path(args.source) / "checkpoints"
    about = load_about(folder, args.step)
    model = ModelConfig.from_dict(about["model"])
    whole = dataclasses.replace(model, lora=None)
    taxonomy = Taxonomy.from_dict(about["taxonomy"])
    family = find_writer(whole, args.family or about.get("model_type", ""))
    family.to_hf(whole)  # says what this family can't express before anything is read
    report(family, whole, args.dtype or model.param_dtype)
    print(f"step {about['step']}, arm '{about['config']['arm']}', taxonomy '{taxonomy.name}'")
    if args.to == "adapter":
        check_adapter(args, about, model)
    if args.dry_run:
        return
    mesh = mesh_here(about["config"]["mesh"])
    params = load_params(folder, laid_out_params(model, mesh), about["step"])
    if args.to == "adapter":
        write_adapter(args, about, model, family, params)
    else:
        export(
            args.out,
            params,
            model,
            load_tokenizer(epath.Path(args.source) / "tokenizer"),
            taxonomy,
            about["config"],
            about.get("seen"),
            model_type=family.model_type,
            generation=about.get("generation"),
            dtype=args.dtype or "",
        )
    print(f"wrote {args.out}")


def check_adapter(args, about: dict, model) -> None:
    """Raises ConfigError when a LoRA alone would not be the model that was trained."""
    if model.lora is None or not about.get("base"):
        raise ConfigError(
            f"{args.source} was not trained with LoRA (lora.rank) from a pretrained model "
            "(init_from); leave out --to=adapter."
        )
    if about["base"]["new_marker_rows"]:
        raise ConfigError(
            f"the embedding of {args.source} has {about['base']['new_marker_rows']} rows for "
            "marker tokens, which an adapter has no place for; leave out --to=adapter to export "
            "the merged model, or train with template=text."
        )


def write_adapter(args, about: dict, model, family, params) -> None:
    """The LoRA of a run as a folder for peft."""
    from marker_lm.convert.peft import export_adapter
    from marker_lm.training.trainable import trained_paths

    export_adapter(
        args.out,
        params,
        model,
        family,
        base_name=about["config"]["init_from"],
        trained=trained_paths(model, about["config"]["train"]["trainable"]),
        base_vocab=about["base"]["vocab"],
    )


def convert_pretrained(args) -> None:
    """A Hugging Face folder or a GGUF file to a Hugging Face folder or to a run."""
    from marker_lm.convert.check import (
        check_tensors,
        check_tokenizer,
        model_config,
        own_dtype,
        their_tensors,
    )
    from marker_lm.convert.checkpoint import open_pretrained
    from marker_lm.convert.export import export
    from marker_lm.convert.load import load_params
    from marker_lm.sharding.mesh import make_mesh

    pretrained = open_pretrained(args.source)
    dtype = args.dtype or own_dtype(pretrained)
    model = model_config(pretrained, param_dtype=dtype)
    family, table = their_tensors(pretrained, model)
    report(family, model, dtype)
    check_tensors(pretrained, family, table)
    tokenizer = pretrained.tokenizer()
    check_tokenizer(tokenizer, model.vocab, args.source)
    print(f"tokenizer with {tokenizer.size} ids")
    if args.dry_run:
        print("names and shapes of all tensors are as they should be")
        return
    params = load_params(pretrained, model, make_mesh())
    if args.to == "run":
        write_run(args, model, params, tokenizer, pretrained)
    else:
        export(
            args.out,
            params,
            model,
            tokenizer,
            model_type=args.family or family.model_type,
            generation=pretrained.generation,
        )
    print(f"wrote {args.out}")


def write_run(args, model, params, tokenizer, pretrained) -> None:
    """The workdir of a run of no steps, whose arm has no markers."""
    import dataclasses

    from etils import epath

    import marker_lm
    from marker_lm.markers.taxonomy import load_taxonomy
    from marker_lm.training.checkpoints import save_params

    shipped = epath.Path(marker_lm.__file__).parents[1] / "configs" / "default.py"
    config = load_config(f"{shipped}:baseline", []).unlock()
    config.init_from = args.source
    config.data.tokenizer = "pretrained"
    taxonomy = load_taxonomy(config.taxonomy)
    workdir = epath.Path(args.out)
    if workdir.exists():
        raise ConfigError(f"{workdir} is there already; remove it or choose another folder.")
    tokenizer.save(workdir / "tokenizer")
    about = {
        "config": config.to_dict(),
        "taxonomy": taxonomy.to_dict(),
        "taxonomy_hash": taxonomy.hash,
        "tokenizer_hash": tokenizer.hash,
        "model": dataclasses.asdict(model),
        "model_type": pretrained.config["model_type"],
        "generation": pretrained.generation,
    }
    save_params(workdir / "checkpoints", params, about)


def report(family, model, dtype: str) -> None:
    """Prints what is converted: architecture, parameters, tensors, bytes."""
    from marker_lm.convert.tensors import tensor_table
    from marker_lm.model.params import parameter_count

    tensors = sum(map(len, tensor_table(family, model).values()))
    count = parameter_count(model)
    size = count * {"bfloat16": 2, "float32": 4}[dtype]
    print(
        f"{family.architecture} ({family.model_type}): {model.layers} layers, width {model.width}, "
        f"{model.heads} heads ({model.kv_heads} for keys and values) of size {model.head_size}, "
        f"feed-forward {model.ff}, {model.vocab} rows in the embedding"
    )
    print(f"{count:,} parameters in {tensors} tensors, {size:,} bytes as {dtype}")
