"""Where YAML itself trips: the parser's complaint, told as what to write instead."""

from __future__ import annotations

import re

import yaml

_NEARBY = 200  # characters looked at on either side of the mark, however long the line is


def explain_syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line to look at and one sentence; the words of libyaml and of PyYAML's own parser are both known."""
    mark = error.problem_mark or error.context_mark
    number, column = (mark.line, mark.column) if mark is not None else (0, 0)
    lines = text.splitlines()
    line = lines[number] if number < len(lines) else ""
    opened = error.context_mark.line if error.context_mark is not None else number
    problem, context = error.problem or "", error.context or ""
    if re.match(r" *\t", line):
        return number + 1, "a tab indents this line; YAML wants spaces"
    if "quoted scalar" in context or "-quoted" in context:
        if "escape" in problem or "hex" in problem or "Unicode" in problem:
            return number + 1, r"in double quotes a backslash must be doubled; single quotes keep it: '\d+'"
        return opened + 1, "a quote opens here and does not close"
    if "flow" in context:
        if not line[column:].strip():
            return opened + 1, "a bracket opens here and does not close"
        unclosed = f", or the bracket that opens on line {opened + 1} does not close" if opened != number else ""
        return number + 1, _quote_in_brackets(line[max(0, column - _NEARBY) : column + _NEARBY]) + unclosed
    return number + 1, _sentence(problem, context, line[column:].strip()[:1])


def _sentence(problem: str, context: str, character: str) -> str:
    if "cannot start any token" in problem:
        return f"a text that begins with {character!r} must be quoted"
    if any(kind in context for kind in (" an alias", " an anchor", " a tag")):
        return "a text that begins with *, & or ! must be quoted"
    if "mapping values are not allowed" in problem:
        return "a second ': ' belongs to the value and must be quoted, or the indentation is off"
    if "expected ':'" in problem:
        return "expected 'key: value', found no ': '"
    if "block" in context:
        return (
            "this does not follow from the lines above: "
            "the indentation is off, or a text that begins with [ or { must be quoted"
        )
    return f"is not valid YAML: {' '.join(filter(None, (context, problem)))}"


def _quote_in_brackets(line: str) -> str:
    advice = "inside { } and [ ] a text with [ ] { } or , must be quoted"
    for found in re.finditer(r"[\w.]+: +([^\s'\"\[\]{}&*!|>,][^'\"]*)", line):
        value = _up_to_its_end(found.group(1))
        if "[" in value or "{" in value:
            return f"{advice}: '{value}'"
    return advice


def _up_to_its_end(text: str) -> str:
    """`text` up to the first comma or closing bracket that is not inside brackets of its own."""
    depth = 0
    for index, character in enumerate(text):
        if depth == 0 and character in ",]}":
            return text[:index].rstrip()
        depth += (character in "[{") - (character in "]}")
    return text.rstrip()
