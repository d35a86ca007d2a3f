"""The fenced blocks of a Markdown page, and a way to run them: ``python tests/snippets.py PAGE``.

A page is run from top to bottom in an empty folder that shows the repository's galleries. An HTML
comment on the line above a block says what to do with it:

    python                         executed, one namespace per page
    bash   <!-- runs -->           executed; plain commands of decentral in this process, which
                                   has loaded what they need
    yaml   <!-- config -->         validated as a configuration
    any    <!-- file: NAME -->     written to NAME, for the blocks below it
    any    <!-- not run: WHY -->   left alone
    bash   <!-- run-command -->    the two commands of the README, which
           <!-- test-command -->   tests/test_docs.py and .ci/run run

Blocks of ``bash`` and ``yaml`` without such a comment, and blocks without a language, are errors;
``text``, ``json``, ... are not looked at.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parent.parent
GALLERIES = ("configs", "topologies", "launch", "constraints.txt")
PROSE = {"bibtex", "diff", "html", "json", "mermaid", "text", "toml"}
SHELL = {"bash", "console", "sh"}
_BLOCK = re.compile(
    r"(?P<marks>(?:^[ ]*<!--[^\n]*-->[ ]*\n)*)"
    r"^(?P<indent>[ ]*)(?P<fence>`{3,})(?P<language>[^\n`]*)\n"
    r"(?P<source>.*?)^(?P=indent)(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!--\s*(?P<key>[\w -]+?)\s*(?::\s*(?P<value>.*?))?\s*-->")


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line of code is, its language, its marks and its text."""

    page: Path
    line: int
    language: str
    source: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    def verdict(self) -> str:
        """Return what to do: python, bash, config, file, command, nothing, or "" for undecided."""
        if "not run" in self.marks:
            return "nothing" if self.marks["not run"] else ""
        if "file" in self.marks:
            return "file" if self.marks["file"] else ""
        if self.language == "python":
            return "python"
        if self.language in SHELL and "runs" in self.marks:
            return "bash"
        if self.language in SHELL and self.marks.keys() & {"run-command", "test-command"}:
            return "command"
        if self.language == "yaml" and "config" in self.marks:
            return "config"
        return "nothing" if self.language in PROSE else ""


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start("source")) + 1,
            language=found["language"].strip(),
            source=textwrap.dedent(found["source"]),
            marks={m["key"]: m["value"] or "" for m in _MARK.finditer(found["marks"])},
        )
        for found in _BLOCK.finditer(text)
    ]


def run(page: Path) -> None:
    """Run one page in the current folder; the first block that fails raises."""
    for gallery in GALLERIES:
        if (REPO / gallery).exists():
            Path(gallery).symlink_to(REPO / gallery)
    # The blocks are the main module, so that what they define finds its own names.
    main = sys.modules["__main__"] = ModuleType("__main__")
    for block in blocks(page):
        verdict = block.verdict()
        print(f"--- {block.place} {block.language}: {verdict}", flush=True)
        if verdict == "python":
            padding = "\n" * (block.line - 1)  # tracebacks then show the line of the page
            exec(compile(padding + block.source, str(page), "exec"), vars(main))
        elif verdict == "bash":
            _shell(block)
        elif verdict == "config":
            _validate(block)
        elif verdict == "file":
            target = Path(block.marks["file"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.source)
        elif not verdict:
            raise ValueError(f"{block.place}: this block needs a verdict; see {__file__}")


#: What a shell does more than start a program with words.
_BEYOND = re.compile(r"[$`]|[|&;<>*?~{}()]")
#: Words kept under a name, and that name among a command's words.
_KEPT = re.compile(r'^(\w+)="([^"$`\\]*)"\n', re.MULTILINE)
_NAME = re.compile(r"(?<=\s)\$(\w+)(?=\s)")


def commands(source: str) -> list[list[str]]:
    """Return the words of each command, if all are plain ones of decentral, else nothing."""
    kept = {name: shlex.join(words.split()) for name, words in _KEPT.findall(source)}
    source = _KEPT.sub("", source)
    source = _NAME.sub(lambda found: kept.get(found[1], found[0]), source)
    lines = [line for line in source.replace("\\\n", " ").splitlines() if line.strip()]
    bare = [
        re.sub(r"'[^']*'|\"[^\"$`]*\"", "", line.partition(" #")[0]) for line in lines
    ]
    if any(_BEYOND.search(line) or not line.startswith("decentral ") for line in bare):
        return []
    return [shlex.split(line, comments=True)[1:] for line in lines]


def _shell(block: Block) -> None:
    if plain := commands(block.source):
        from decentral.cli import run

        for words in plain:
            if status := run(words):
                raise RuntimeError(
                    f"{block.place}: {shlex.join(words)}: exit status {status}"
                )
        return
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block.source]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        raise RuntimeError(f"{block.place}: exit status {done.returncode}")


def _validate(block: Block) -> None:
    from decentral.config import make_config, read_file
    from decentral.loop.preparing import prepare

    Path("snippet.yaml").write_text(block.source)
    prepare(make_config(read_file("snippet.yaml")))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run(page)
            os.chdir(REPO)
