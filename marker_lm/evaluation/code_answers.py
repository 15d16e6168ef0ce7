"""The program in what a model said: out of its fence, cut at its end, under its declaration."""

import re
import textwrap

LANGUAGES = ("python", "js", "java", "go", "cpp", "rust")
LANGUAGE_NAMES = {
    "python": "Python",
    "js": "JavaScript",
    "java": "Java",
    "go": "Go",
    "cpp": "C++",
    "rust": "Rust",
}

# Where a continued function body has ended, by language (of the official harness, which has them
# from CodeGeeX); the other languages end by their braces.
STOPS = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert"),
    "go": ("\n//", "\nfunc main(", "struct", "\nfunc"),
}
_DEPTH = {"java": 2}  # braces that a declaration leaves open; 1 elsewhere

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S)
_DEFINES = {
    "python": r"^(?:async[ \t]+)?def[ \t]+{name}\b",
    "js": r"\bfunction\s*\*?\s*{name}\b"
    r"|\b(?:const|let|var)\s+{name}\s*=\s*(?:async\s*)?(?:function\b|\([^()]*\)\s*=>|\w+\s*=>)",
    "java": r"^[ \t]*(?:@\w+\s+)*(?:[\w.<>\[\],?]+[ \t]+)+{name}[ \t]*\([^;{{}}]*\{{",
    "go": r"^func\s+{name}\b",
    "cpp": r"^[ \t]*(?:[\w:<>,&*]+[ \t*&]+)+{name}\s*\([^;{{}}]*\)\s*(?:const\s*)?\{{",
    "rust": r"\bfn\s+{name}\b",
}
_IMPORTS = {
    "python": r"^(?:import|from)\s.*",
    "js": r"(?!)",
    "java": r"^import\s.*",
    "go": r"(?!)",
    "cpp": r"^(?:#\s*include|using\s).*",
    "rust": r"^use\s.*",
}


def name_in(signature: str) -> str:
    """The function's name in a signature of any of the languages."""
    found = re.search(r"(\w+)\s*(?:=\s*)?\(", signature)
    if not found:
        raise ValueError(f"the signature {signature!r} names no function.")
    return found[1]


def defines(code: str, name: str, language: str) -> bool:
    """Whether code defines a function (in C++ and Java: with a body)."""
    return bool(re.search(_DEFINES[language].format(name=re.escape(name)), code, re.M))


def fenced(text: str, name: str, language: str) -> str | None:
    """The code in a Markdown fence: of the first that defines the function, else of the first.

    A fence that is never closed ends with the text. None where there is no fence.
    """
    blocks = [textwrap.dedent(block[2]) for block in _FENCE.finditer(text)]
    return next((b for b in blocks if defines(b, name, language)), blocks[0] if blocks else None)


def extract_program(text: str, declaration: str, name: str, language: str) -> str:
    """The program that an answer stands for.

    Text in a fence is the answer, or all of it where there is none. If that defines the function,
    it is a program; what of the declaration stands before the function (imports, helpers) and is
    not in it is put before it. Else it goes on after the declaration, up to the first stop string
    or the end of the function.

    Args:
      text: what a model said.
      declaration: the code that the prompt ends with, from imports to the function's head.
      name: of the function.
      language: one of LANGUAGES.
    """
    found = fenced(text, name, language)
    code = text if found is None else found
    if defines(code, name, language):
        return _with_head(code, declaration, name, language)
    if language == "python" and code[:1].strip():
        # A body in a fence may stand at the margin; of other text only the first line can have lost
        # its indentation, to trimming.
        code = "    " + code if found is None else textwrap.indent(code, "    ")
    body = cut_body(code.rstrip(), language)
    return declaration.rstrip() + ("" if body.startswith("\n") else "\n") + body + "\n"


def cut_body(body: str, language: str) -> str:
    """The rest of a function whose head stands in the prompt, without what comes after it."""
    ends = [end for stop in STOPS.get(language, ()) if (end := body.find(stop)) >= 0]
    body = body[: min(ends, default=len(body))]
    if language == "python":
        ended = re.search(r"\n(?=[^\s])", body)
        return body[: ended.start()] if ended else body
    depth = _DEPTH.get(language, 1)
    for end, sign in enumerate(body, 1):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return body[:end]
    if language == "java":
        main = body.find("public static void main")
        body = body[:main] if main >= 0 else body
        return body + "\n}" * max(0, 2 + body.count("{") - body.count("}"))
    return body[: body.rfind("}") + 1] if "}" in body else body


def _with_head(code: str, declaration: str, name: str, language: str) -> str:
    """The code after those parts of the declaration's head that it lacks."""
    if language == "go":  # its imports are found by what is used
        return code
    found = re.search(_DEFINES[language].format(name=re.escape(name)), declaration, re.M)
    head = declaration[: found.start()] if found else declaration
    if language == "java" and re.search(r"\bclass\s+Solution\b", code):
        head = head[: head.find("class Solution")]
    elif language == "java":
        code += "\n}" * max(0, (head + code).count("{") - (head + code).count("}"))
    imports = re.compile(_IMPORTS[language], re.M)
    if language == "rust" and imports.search(code):  # a name can't be imported twice
        head = imports.sub("", head)
    helpers = set(re.findall(r"(\w+)\s*(?:=\s*)?\([^;{}]*\{|def\s+(\w+)", head))
    if any(defines(code, helper, language) for pair in helpers for helper in pair if helper):
        kept = "\n".join(imports.findall(head))
        return f"{kept}\n{code}\n"
    return f"{head}\n{code}\n"
