"""Taxonomy files: `extends`, and faults told with file:line, the key, the value and the mend."""

import copy

import pytest
import yaml
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from marker_lm.markers.taxonomy import MarkerError, Taxonomy, load_taxonomy
from tests.markers.small import SMALL, load

FAULTS = {
    "unknown key": ("unit: points", "unti: points", 14, "score.unti.*did you mean 'unit'"),
    "unknown top key": ("name: small", "nam: small", 1, "'nam'; did you mean 'name'"),
    "no definition": ("    definition: A score.\n", "", 9, "score has no 'definition'"),
    "empty definition": ("definition: A score.", "definition:", 11, "score.definition is None"),
    "wrong type": ("type: closed", "type: closd", 16, "'closd'; did you mean 'closed'"),
    "no type": ("    type: closed\n", "", 15, "lang has no 'type'"),
    "wrong origin": ("origin: metadata", "origin: meta_data", 18, "did you mean 'metadata'"),
    "wrong side": ("describes: completion", "describes: answer", 7, "one of 'prompt', 'completion"),
    "of unknown": ("of: words", "of: word", 28, "'word', which does not exist; did you mean 'wor"),
    "of closed": ("of: words", "of: lang", 28, "'lang', which is of a closed type"),
    "edges fall": ("[10, 20.5]", "[20, 10]", 29, "does not increase"),
    "edges equal": ("[10, 20.5]", "[10, 10]", 29, "does not increase"),
    "edges few": ("[10, 20.5]", "[10]", 29, "1 numbers for 3 values; give 2"),
    "edges words": ("[10, 20.5]", "[10, x]", 29, "list of numbers"),
    "edges infinite": ("[10, 20.5]", "[10, .inf]", 29, "list of numbers"),
    "edges huge": ("[10, 20.5]", f"[10, 1{'0' * 400}]", 29, "list of numbers"),
    "no edges": ("    edges: [10, 20.5]\n", "", 23, "either 'edges' or 'quantiles_per'"),
    "both": ("of: words", "of: words\n    quantiles_per: lang", 23, "and not both"),
    "quantiles": ("edges: [10, 20.5]", "quantiles_per: words", 29, "no closed category; .*'lang'"),
    "twice": ("  score:", "  words:", 9, "'words' stands twice.*:3"),
    "value twice": ("      'no'", "      English", 22, "'English' stands twice"),
    "alike": ("      'no'", "      ENGLISH", 22, "differs from 'English' in case"),
    "not text": ("      'no'", "      no", 22, "key no .*bool.*write it in quotes: 'no'"),
    "number value": ("      'no'", "      1", 22, "key 1 .*int.*write it in quotes: '1'"),
    "empty value": ("      'no'", "      ''", 22, "empty value"),
    "no value meaning": ("      'no': In Norwegian.", "      'no':", 22, "is None"),
    "values as list": ("      English: In English.\n      'no': In Norwegian.",
                       "      - English", 20, "list each value as 'value: definition'"),
    "bad name": ("  score:", "  Score:", 9, "Score is no category name"),
    "reserved": ("  score:", "  prompt:", 9, "reserved name"),
    "misplaced": ("unit: points", "unit: points\n    edges: [1]", 15, "does not belong to type"),
    "no fields": ("  score:\n    type: number", "  extra_one: x\n  score:\n    type: number", 9,
                  "extra_one is 'x'; write a mapping"),
    "several": ("type: closed", "type: closed\n    several: 2", 17, "2; write true or false"),
    "several lengths": ("of: words", "of: words\n    several: true", 29,
                        "several does not belong to type 'bucket'; remove it"),
    "severel": ("type: closed", "type: closed\n    severel: true", 17, "did you mean 'several'"),
    "tab": ("    unit: points", "\tunit: points", 14, "not valid YAML"),
    "control": ("A score.", "A \x07 score.", 11, "not allowed in YAML"),
    "date": ("A score.", "2025-13-45", 11, "write it in quotes"),
    "deep": ("In English.", "{a: b}", 21, "nested too deep"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_line_key_and_mend(tmp_path, fault):
    old, new, line, says = FAULTS[fault]
    assert old in SMALL
    with pytest.raises(MarkerError, match=says) as caught:
        load(tmp_path, SMALL.replace(old, new, 1))
    assert f"own.yaml:{line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quantiles_need_a_category_of_one_value(tmp_path):
    text = SMALL.replace("edges: [10, 20.5]", "quantiles_per: lang")
    assert load(tmp_path, text).categories["size"].quantiles_per == "lang"
    text = text.replace("type: closed", "type: closed\n    several: true")
    with pytest.raises(MarkerError, match=r"own.yaml:30: .*'lang', which allows several values"):
        load(tmp_path, text)


def test_file_faults(tmp_path):
    for text, says in {
        "": "a taxonomy is a mapping",
        "- a": "a taxonomy is a mapping",
        "name: x": "list at least one",
        "categories: {}": "list at least one",
        "name: 3\ncategories: {a: {}}": "own.yaml:1: name is 3",
    }.items():
        with pytest.raises(MarkerError, match=says):
            load(tmp_path, text)
    (tmp_path / "latin.yaml").write_bytes("name: x\n# é\n".encode("latin-1"))
    with pytest.raises(MarkerError, match="latin.yaml:2: not valid UTF-8"):
        load_taxonomy(str(tmp_path / "latin.yaml"))
    with pytest.raises(MarkerError, match="did you mean 'latin.yaml'"):
        load_taxonomy(str(tmp_path / "latn.yaml"))
    with pytest.raises(MarkerError, match="no taxonomy 'papr' is shipped; did you mean 'paper'"):
        load_taxonomy("papr")
    with pytest.raises(MarkerError, match="name or a path"):
        load_taxonomy("")


def test_extends(tmp_path):
    load(tmp_path, SMALL, "base.yaml")
    child = load(
        tmp_path,
        "extends: ./base.yaml\ncategories:\n"
        "  extra_lang: &c {type: closed, definition: d, origin: metadata, describes: prompt,"
        " values: {x: y}}\n  score: *c\n",
        "child.yaml",
    )
    assert child.name == "child"
    assert list(child.categories) == ["words", "score", "lang", "size", "extra_lang"]
    assert child.categories["score"].type == "closed"
    alone = load(tmp_path, "extends: ./base.yaml\n", "alone.yaml")
    assert alone.hash == load_taxonomy(str(tmp_path / "base.yaml")).hash


def test_extends_faults(tmp_path):
    with pytest.raises(MarkerError, match=r"own.yaml:2: no taxonomy 'papper'.*'paper'"):
        load(tmp_path, "name: x\nextends: papper\n")
    load(tmp_path, SMALL, "base.yaml")
    breaks = "extends: ./base.yaml\ncategories:\n  words: {type: closed, definition: d,"
    breaks += " origin: metadata, describes: prompt, values: {x: y}}\n"
    with pytest.raises(MarkerError, match=r"base.yaml:28: categories.size.of is 'words'"):
        load(tmp_path, breaks)
    (tmp_path / "a.yaml").write_text("extends: ./b.yaml\n")
    with pytest.raises(MarkerError, match=r"a.yaml:1: .* circle: .*b.yaml -> .*a.yaml -> .*b.yaml"):
        load(tmp_path, "extends: ./a.yaml\n", "b.yaml")


def test_paths_in_a_bucket_stay_there(monkeypatch):
    asked = []
    monkeypatch.setattr(epath.gpath.PosixGPath, "is_file", lambda path: asked.append(str(path)))
    monkeypatch.setattr(epath.gpath.PosixGPath, "exists", lambda path: False)
    with pytest.raises(MarkerError, match="no taxonomy file 'gs://bucket/own.yaml'"):
        load_taxonomy("gs://bucket/folder/../own.yaml")
    assert asked == ["gs://bucket/own.yaml"]


def test_alias_to_itself_is_refused(tmp_path):
    with pytest.raises(MarkerError, match="nested too deep"):
        load(tmp_path, "categories: &a\n  x: *a\n")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(st.sampled_from(["lang", "size", "words", "score"]), st.data())
def test_any_change_loads_or_is_a_marker_error(tmp_path_factory, category, data):
    """Whatever stands in place of a field, the only exception is MarkerError with a line."""
    plain = copy.deepcopy(yaml.safe_load(SMALL))
    key = data.draw(st.sampled_from(sorted(plain["categories"][category]) + ["other"]))
    value = data.draw(scalars | st.lists(scalars, max_size=3) | st.dictionaries(scalars, scalars))
    plain["categories"][category][key] = value
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    try:
        path.write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    try:
        taxonomy = load_taxonomy(str(path))
    except MarkerError as error:
        assert "any.yaml:" in str(error)
    else:
        assert Taxonomy.from_dict(taxonomy.to_dict()) == taxonomy
