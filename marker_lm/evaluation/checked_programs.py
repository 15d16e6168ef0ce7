"""A HumanEvalPack program with its tests, as one file that can be run."""

import re
from collections.abc import Mapping
from typing import Any

# What the official harness puts before each program; NumPy, which is slow to load, only where used.
_PYTHON = """\
import math
import re
import sys
import copy
import datetime
import itertools
import collections
import heapq
import statistics
import functools
import hashlib
import string
from typing import *
from collections import *
"""
_NUMPY = "import numpy\nimport numpy as np\n"
_CPP = """\
#include<stdlib.h>
#include<algorithm>
#include<cmath>
#include<math.h>
#include<numeric>
#include<stdio.h>
#include<vector>
#include<set>
#include<map>
#include<queue>
#include<stack>
#include<list>
#include<deque>
#include<string>
#include<climits>
#include<cstring>
#include<iostream>
#include<sstream>
#include<fstream>
using namespace std;
"""
_GO = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort")
_GO_PATHS = {**{name: name for name in _GO}, "rand": "math/rand", "md5": "crypto/md5"}


def checked_program(problem: Mapping[str, Any], code: str, end: str) -> str:
    """The file to compile or run.

    Args:
      problem: a row of HumanEvalPack.
      code: a program that defines the function.
      end: what Python and JavaScript, which can be made to end early without an error, print when
        the tests are through.
    """
    return _MAKE[problem["language"]](problem, code, end)


def _python(problem, code, end):
    numpy = _NUMPY if re.search(r"\b(?:np|numpy)\b", code) else ""
    return f"{_PYTHON}{numpy}{code}\n{problem['test']}\nprint({end!r})\n"


def _js(problem, code, end):
    return f"{code}\n{problem['test']}\nconsole.log({end!r})\n"


def _java(problem, code, end):
    return f"{_without_main(code)}\n{problem['test']}\n"


def _without_main(code: str) -> str:
    """Java code without a class Main, which the tests are."""
    found = re.search(r"^\s*(?:public\s+)?class\s+Main\b", code, re.M)
    return code[: found.start()] if found else code


def _cpp(problem, code, end):
    return f"{_CPP}{code.split('int main')[0]}\n{problem['test']}\n"


def _rust(problem, code, end):
    code = re.sub(r"^\s*(?:pub\s+)?fn\s+main\s*\(\s*\)\s*\{\s*\}", "", code, count=1, flags=re.M)
    return f"fn main(){{}}\n{code.split('fn main()')[0]}\n{problem['test']}\n"


def _go(problem, code, end):
    """Go refuses an import that isn't used, so imports are those of what is used."""
    setup, test = problem["test_setup"], problem["test"]
    asked = _go_imports(setup) | _go_imports(code)
    body = _strip_go_head(code) + "\n" + test
    said = re.sub(r"//.*", "", body)
    used = {path for name, path in _GO_PATHS.items() if re.search(rf"\b{name}\.\w", said)}
    known = set(_GO_PATHS.values())
    paths = sorted(used | (asked - known))
    lines = "\n".join(f'    "{path}"' for path in paths)
    return f"package main\n\nimport (\n{lines}\n)\n\n{body}\n"


_GO_IMPORT = re.compile(r"^import\s*(?:\(([^)]*)\)|(\"[^\"]+\"))[^\n]*\n?", re.M)


def _go_imports(code: str) -> set[str]:
    return {
        path for found in _GO_IMPORT.finditer(code) for path in re.findall(r'"([^"]+)"', found[0])
    }


def _strip_go_head(code: str) -> str:
    code = re.sub(r"^package\s+\w+\s*", "", code, flags=re.M)
    return _GO_IMPORT.sub("", code)


_MAKE = {
    "python": _python,
    "js": _js,
    "java": _java,
    "go": _go,
    "cpp": _cpp,
    "rust": _rust,
}
