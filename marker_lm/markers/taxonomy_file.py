"""Reads taxonomy files into plain data, and remembers the line of every key for the errors."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

import yaml
from etils import epath

from marker_lm.markers.category import MarkerError, mend, show

Where = Callable[[tuple], str]  # path of keys -> the place to name in an error

_SHIPPED = epath.Path(__file__).parent / "taxonomies"
_TOP_KEYS = ("name", "extends", "categories")
_DEEPEST = 4  # categories / name / values / value


def read_taxonomy(source: str) -> tuple[str, dict[str, Any], Where]:
    """Name, merged plain categories (not yet validated) and where each key stands."""
    name, categories, places = _read(source, None, (), "")

    def where(path: tuple) -> str:
        while path and path not in places:
            path = path[:-1]
        return places[path]

    return name, categories, where


def _read(source: Any, folder: Any, stack: tuple[str, ...], asker: str) -> tuple[str, dict, dict]:
    path = _resolve(source, folder, asker)
    file = str(path)
    if file in stack:
        raise MarkerError(
            f"{asker}taxonomies extend each other in a circle:"
            f" {' -> '.join((*stack, file))}; remove one 'extends'"
        )
    places: dict[tuple, str] = {}
    top = _parse_yaml(path, places)
    if not isinstance(top, dict):
        raise MarkerError(f"{file}:1: a taxonomy is a mapping with the key 'categories'")
    for key in top:
        if key not in _TOP_KEYS:
            raise MarkerError(f"{places[(key,)]}: unknown key {show(key)}; {mend(key, _TOP_KEYS)}")
    name = top.get("name", path.stem)
    if not isinstance(name, str) or not name.strip():
        raise MarkerError(f"{places[('name',)]}: name is {show(name)}; give it a text in quotes")
    own = top.get("categories", {} if "extends" in top else None)
    if not isinstance(own, dict) or not (own or "extends" in top):
        place = places.get(("categories",), f"{file}:1")
        raise MarkerError(
            f"{place}: categories is {show(own)}; list at least one as 'name: {{type: ...}}'"
        )
    if "extends" not in top:
        return name, own, places
    _, base, base_places = _read(
        top["extends"], path.parent, (*stack, file), f"{places[('extends',)]}: "
    )
    kept = {p: at for p, at in base_places.items() if len(p) > 1 and p[1] not in own}
    return name, {**base, **own}, {**kept, **places}


def _resolve(source: Any, folder: Any, asker: str) -> Any:
    """The file of a shipped name ('paper') or of a path; `folder` is what a path starts from."""
    if not isinstance(source, str) or not source:
        raise MarkerError(f"{asker}a taxonomy is given as a name or a path, not {show(source)}")
    if "/" not in source and not source.endswith((".yaml", ".yml")):
        path = _SHIPPED / f"{source}.yaml"
        known = sorted(file.stem for file in _SHIPPED.glob("*.yaml"))
        if source not in known:
            raise MarkerError(
                f"{asker}no taxonomy {show(source)} is shipped; {mend(source, known)}"
                " (a file of your own is given by a path that ends in .yaml)"
            )
        return path
    path = epath.Path(source)
    if folder is not None and not path.is_absolute() and "://" not in source:
        path = folder / source
    path = _normal(path)
    if not path.is_file():
        near = path.parent.glob("*.y*ml") if path.parent.exists() else ()
        names = sorted(file.name for file in near)
        raise MarkerError(f"{asker}no taxonomy file {str(path)!r}; {mend(path.name, names)}")
    return path


def _normal(path: Any) -> Any:
    """The path without '.' and '..', so that a circle of 'extends' is seen."""
    scheme, mark, rest = str(path).partition("://")
    # Path.resolve would turn gs://bucket into a folder of the working directory.
    return epath.Path(f"{scheme}://{posixpath.normpath(rest)}") if mark else path.resolve()


def _parse_yaml(path: Any, places: dict[tuple, str]) -> Any:
    """The plain data of one file; fills `places` with file:line of every path of keys."""
    file, raw = str(path), path.read_bytes()
    try:
        loader = yaml.SafeLoader(raw.decode("utf-8"))
        node = loader.get_single_node()
        places[()] = f"{file}:1"
        return None if node is None else _plain(loader, node, (), places, file)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise MarkerError(f"{file}:{line}: not valid UTF-8; save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise MarkerError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = raw.decode("utf-8").count("\n", 0, error.position) + 1
        raise MarkerError(
            f"{file}:{line}: character {error.character!r} is not allowed in YAML; write it as an"
            " escape in double quotes"
        ) from error


def _plain(loader: Any, node: Any, path: tuple, places: dict[tuple, str], file: str) -> Any:
    if len(path) > _DEEPEST:
        raise MarkerError(f"{file}:{_line(node)}: {dotted(path)} is nested too deep")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, file)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), places, file) for i, item in enumerate(node.value)]
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{file}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise MarkerError(f"{place}: a key in {dotted(path)} is not a plain text")
        key = _scalar(loader, key_node, file)
        if not isinstance(key, str):
            raise MarkerError(
                f"{place}: key {key_node.value} in {dotted(path)} is read by YAML as"
                f" {type(key).__name__}, not as text; write it in quotes: '{key_node.value}'"
            )
        if key in data:
            raise MarkerError(
                f"{place}: key {show(key)} stands twice in {dotted(path)}, first at"
                f" {places[(*path, key)]}; remove one"
            )
        places[(*path, key)] = place
        data[key] = _plain(loader, value_node, (*path, key), places, file)
    return data


def _scalar(loader: Any, node: Any, file: str) -> Any:
    try:
        return loader.construct_object(node)
    except ValueError as error:  # such as the date 2025-13-45
        raise MarkerError(
            f"{file}:{_line(node)}: {show(node.value)} cannot be read ({error}); write it in quotes"
        ) from error


def _line(node: Any) -> int:
    return node.start_mark.line + 1


def dotted(path: tuple) -> str:
    """A path of keys as an error names it."""
    return ".".join(str(key) for key in path) or "the file"
