"""What several verbs share: reading a config with overrides, and folders."""

import argparse
import difflib
import os
import re
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

import marker_lm


class ConfigError(ValueError):
    """A config file or an override that can't be used; one sentence."""


def add_config(parser: argparse.ArgumentParser, workdir: bool = True) -> None:
    """Adds --config (with --config.key=value overrides) and --workdir."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="config file with get_config(arg); any key is overridden by --config.KEY=VALUE",
    )
    if workdir:
        add_workdir(parser)


def add_workdir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="the run's folder, local or gs://"
    )


def find_step(args) -> int | None:
    """The step of the checkpoint of --workdir and --step; None of an exported model, without one.

    Raises CheckpointError: there is no such step, or it is damaged.
    """
    from etils import epath

    from marker_lm.training.checkpoints import load_about

    path = epath.Path(args.workdir)
    exported = (path / "config.json").exists()
    return None if exported else load_about(path / "checkpoints", args.step)["step"]


def add_beam(parser: argparse.ArgumentParser) -> None:
    """Adds --beam; options that are not ours come in `args.rest` then."""
    parser.add_argument(
        "--beam",
        action="store_true",
        help="run as an Apache Beam job; further options, such as --runner, are Beam's",
    )


def load_config(file: str, overrides: list[str]) -> ConfigDict:
    """The locked config of a file, with `--config.key=value` overrides checked by type.

    Of several overrides of a key the last one counts.

    Raises ConfigError: a missing file, one that fails (with its line), an unknown key (with the
    nearest one), a value of another type.
    """
    path = file.split(":", 1)[0]
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        near = difflib.get_close_matches(os.path.basename(path), names, n=1)
        hint = f"; did you mean {os.path.join(folder, near[0])}?" if near else "."
        raise ConfigError(f"there is no config {path}{hint}")
    # A config imports others as `from configs import default`: those beside it, else the shipped.
    for root in (Path(path).absolute().parents[1], Path(marker_lm.__file__).parents[1]):
        if str(root) not in sys.path:
            sys.path.append(str(root))
    # Once plainly, so that a slip in an override is told apart from one in the file.
    try:
        config = _parse([f"--config={file}"])
    except Exception as error:  # whatever the code in the file raises
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        place = ":".join(map(str, [path, *lines[-1:]]))
        raise ConfigError(f"{place}: {type(error).__name__}: {_one_line(error)}") from error
    known, last = list(_keys(config)), {}  # key -> override: the parser would join two tuples
    for override in overrides:
        key = override.removeprefix("--config.").split("=", 1)[0]
        if "=" not in override:
            raise ConfigError(f"{override} has no value; write {override}=VALUE.")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"see {path} for those it has."
            raise ConfigError(f"the config has no key '{key}'; {hint}")
        last[key] = override
    try:
        return _parse([f"--config={file}", *last.values()])
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError(f"an override has the wrong type: {_one_line(error)}") from None


def _parse(args: list[str]) -> ConfigDict:
    values, argv = flags.FlagValues(), ["marker-lm", *args]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    values(argv)
    return values.config


def _keys(config: ConfigDict, prefix: str = ""):
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{key}.")


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
