"""Build the site: ``python docs/make_site.py FOLDER``; warnings and broken links are errors.

Sphinx with furo, and not MkDocs with Material: Material for MkDocs is in maintenance since
November 2025 with twelve months of support announced, and MkDocs 1 has no maintainer.

The pages of the repository keep their places, so that their links hold as they are; what
the code knows better than a page could (commands, plug-ins, topologies, functions) is written
into ``reference/``.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from decentral import __all__ as public
from decentral.cli.app import app
from decentral.cli.listing import type_text
from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap
from decentral.plugins import Plugin, plain, plural
from decentral.registry import KINDS, build, find, names
from decentral.report import figures, reader
from decentral.topology.base import Topology

REPO = Path(__file__).resolve().parent.parent
#: Beside docs/: pages that it links to, with what lies in their folders.
FOLDERS = ("docs", "configs", "topologies", "launch", "benchmarks")
PAGES = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "constraints.txt",
    "tests/README.md",
)  # fmt: skip
#: Nodes of the drawings.
NODES = 16
FIRST = ("README", "docs/tutorial", "docs/concepts")
HOW_TO = (
    "docs/python", "docs/graphs", "docs/phases", "docs/batch", "docs/optimizers",
    "docs/other-optimizers", "docs/network", "docs/asynchrony", "docs/mergeability",
    "docs/language_models", "docs/cluster", "docs/torchrun", "docs/own_loop", "launch/README",
    "docs/trouble", "docs/trust", "docs/paths", "configs/README", "topologies/README",
)  # fmt: skip
NOTEBOOKS = tuple(
    f"docs/notebooks/{name}"
    for name in (
        "quickstart", "bring_your_own", "when_to_communicate", "straggler",
        "reading_a_report",
    )
)  # fmt: skip
COMING_FROM = tuple(
    f"docs/coming_from/{name}"
    for name in (
        "flower", "gossipy", "decentralizepy", "exo_gym", "decent_bench", "ddp",
        "ray_train",
    )
)  # fmt: skip
REFERENCE = (
    "reference/commands", "reference/topologies", "reference/plugins", "reference/api",
    "docs/plugins", "docs/algorithms", "docs/limits",
)  # fmt: skip
ABOUT = (
    "tests/README", "docs/results", "docs/claims",
    "docs/against-the-papers", "docs/soak", "docs/mutants", "benchmarks/README",
    "CONTRIBUTING", "CHANGELOG", "reference/licences",
)  # fmt: skip


def tree(caption: str, pages: tuple[str, ...]) -> str:
    """Return a part of the navigation."""
    return "\n".join(
        ["```{toctree}", f":caption: {caption}", ":maxdepth: 1", "", *pages, "```", ""]
    )


def index() -> str:
    """Return the first page, with the navigation."""
    parts = {
        "Begin": FIRST, "Notebooks": NOTEBOOKS, "How to": HOW_TO,
        "Coming from": COMING_FROM, "Reference": REFERENCE, "About": ABOUT,
    }  # fmt: skip
    said = "# decentral\n\nTrain one model on many machines that communicate little, and find out "
    said += "*when* they should. Begin with the [tutorial](docs/tutorial.md).\n\n"
    said += (
        "![Accuracy of the local models and of their average](docs/default-run.png)\n\n"
    )
    return said + "\n".join(tree(*part) for part in parts.items())


def commands() -> Iterator[str]:
    """Yield the help of every command, as the terminal shows it."""
    from typer.main import get_command

    yield "# Commands\n\nThe exit status is 0 where all went well, 2 where what was asked cannot "
    yield "be, and 1 where it failed on the way. `NO_COLOR` turns colours off.\n"

    def walk(path: str, command: object) -> Iterator[str]:
        for name, inner in getattr(command, "commands", {}).items():
            whole = f"{path} {name}"
            with inner.make_context(whole, ["--json"], resilient_parsing=True) as context:
                yield f"\n## {whole}\n\n```text\n{inner.get_help(context).strip()}\n```\n"
            yield from walk(whole, inner)

    yield from walk("decentral", get_command(app))


def prose(found: Plugin) -> str:
    """Return the help of a plug-in as Markdown, its examples as code."""
    parts = []
    for part in found.help.split("\n\n"):
        if part.strip().startswith(">>>"):
            parts.append(f"```pycon\n{part}\n```")
        else:
            parts.append(part.replace("``", "`").replace("*", "\\*").replace("<", "&lt;"))
    return "\n\n".join(parts)


def settings(found: Plugin) -> Iterator[str]:
    """Yield the table of the settings of a plug-in."""
    if found.accepts:
        yield "\n| setting | default | type | meaning |\n|---|---|---|---|"
    for key, one in found.accepts.items():
        default = "required" if one.required else f"`{plain(one.default)}`"
        cells = (
            f"`{key}`",
            default,
            type_text(one.annotation),
            one.text.replace("``", "`"),
        )
        yield (
            "| "
            + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
            + " |"
        )
    yield ""


def plugins(folder: Path) -> str:
    """Write a page per kind of plug-in; return the page that leads to them."""
    for kind in KINDS:
        lines = [f"# {plural(kind).replace('_', ' ').capitalize()}"]
        for name in names(kind):
            found = find(kind, name)
            lines += [f"\n## {name}\n", prose(found), *settings(found)]
        (folder / f"kind_{kind}.md").write_text("\n".join(lines), encoding="utf-8")
    return "# Plug-ins, with every setting\n\n" + tree(
        "Kinds", tuple(f"kind_{kind}" for kind in KINDS)
    )


def topologies(folder: Path) -> str:
    """Write a page per family of topologies; return the page that leads to them."""
    families: dict[str, list[Plugin]] = {}
    for name in names("topology"):
        found = find("topology", name)
        families.setdefault(found.target.__module__.rpartition(".")[2], []).append(found)
    for family, members in families.items():
        lines = [f"# {family.replace('_', ' ').capitalize()}"]
        for found in members:
            lines += [f"\n## {found.name}\n", prose(found), *drawing(found, folder)]
            lines += [f"```python\n{inspect.getsource(found.target).strip()}\n```"]
        (folder / f"family_{family}.md").write_text("\n".join(lines), encoding="utf-8")
    return "# Topologies, drawn\n\n" + tree(
        "Families", tuple(f"family_{family}" for family in families)
    )


def drawing(found: Plugin, folder: Path) -> Iterator[str]:
    """Draw a topology into the folder, and yield what shows it."""
    spelled = str(found.traits.example or found.name)
    topology = Topology(build("topology", spelled), NODES)
    mixer = Mixer.make(topology)
    graph = topology.union()
    links = tuple((int(a), int(b)) for a, b in graph.edges())
    picture = reader.Topology(NODES, links, graph.is_directed(), topology.time_varying)
    figures.save_png(figures.network(picture), str(folder / f"{found.name}.png"))
    yield f"\n![{found.name} on {NODES} nodes]({found.name}.png)\n"
    yield f"`{spelled}` on {NODES} nodes: spectral gap {max(0.0, spectral_gap(mixer)):.3g}.\n"


def api() -> str:
    """Return the page of public functions and classes."""
    lines = ["# Python", "", "All that `import decentral` offers.", "", "```{eval-rst}"]
    for name in public:
        if name in ("__version__", "GLOBAL_MERGE"):
            continue
        import decentral

        kind = (
            "autoclass" if inspect.isclass(getattr(decentral, name)) else "autofunction"
        )
        lines += [f".. {kind}:: decentral.{name}", ""]
        if kind == "autoclass":
            lines.insert(-1, "   :members:")
    return "\n".join([*lines, "```"])


def licences() -> str:
    """Return the page of what is depended on: version and licence as its package states them."""
    lines = ["# Licences of dependencies", "", "decentral itself is under Apache-2.0."]
    lines += ["", "| package | version | licence |", "|---|---|---|"]
    for line in (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, pinned, version = line.partition("==")
        if not pinned:
            continue
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            lines.append(
                f"| {name} | {version} | not installed where this page was made |"
            )
            continue
        marks = [c for c in about.get_all("Classifier", []) if c.startswith("License ::")]
        # The free text of "License" is whole licences with some: it comes last.
        listed = ", ".join(mark.rpartition(" :: ")[2] for mark in marks)
        said = about.get("License-Expression") or listed
        said = said or (about.get("License") or "").strip().partition("\n")[0]
        lines.append(f"| {name} | {version} | {said or 'not stated'} |")
    return "\n".join(lines)


def gather(root: Path) -> None:
    """Lay the pages of the site into a folder."""
    for name in FOLDERS:
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in PAGES:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, root / name)
    for page in root.rglob("*.md"):  # GitHub shows a folder; a site has none to show
        text = page.read_text(encoding="utf-8")
        text = text.replace("](docs/scripts)", "](docs/scripts/cnn_dataset.py)")
        page.write_text(
            text.replace("](scripts)", "](scripts/cnn_dataset.py)"), encoding="utf-8"
        )
    shutil.copy(REPO / "docs/conf.py", root / "conf.py")
    made = root / "reference"
    made.mkdir()
    (root / "index.md").write_text(index(), encoding="utf-8")
    (made / "commands.md").write_text("".join(commands()), encoding="utf-8")
    (made / "plugins.md").write_text(plugins(made), encoding="utf-8")
    (made / "topologies.md").write_text(topologies(made), encoding="utf-8")
    (made / "licences.md").write_text(licences(), encoding="utf-8")
    (made / "api.md").write_text(api(), encoding="utf-8")


class Links(HTMLParser):
    """What a page links to, and where it can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep its links and its place."""
        held = dict(attrs)
        self.anchors |= {held["id"]} if held.get("id") else set()
        self.targets += [held[k] or "" for k in ("href", "src") if held.get(k)]


def broken(site: Path) -> Iterator[str]:
    """Yield the links of a built site that lead nowhere within it."""
    pages = {page: Links(page) for page in site.rglob("*.html")}
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            lost = not place.exists()
            if not lost and parts.fragment and place in pages:
                lost = unquote(parts.fragment) not in pages[place].anchors
            if lost:
                yield f"{page.relative_to(site)}: {target}"


def main(out: str) -> int:
    """Build the site into a folder; return how many links are broken, or what Sphinx returns."""
    from sphinx.cmd.build import build_main

    site = Path(out).resolve()
    with tempfile.TemporaryDirectory() as folder:
        gather(Path(folder))
        words = ["-q", "-W", "--keep-going", "-E", "-d", f"{folder}/.doctrees"]
        if status := build_main([*words, folder, str(site)]):
            return status
    found = sorted(set(broken(site)))
    print("\n".join(found) or f"built {site / 'index.html'}")
    return len(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
