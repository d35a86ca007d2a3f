"""Build the site: ``python docs/make_site.py FOLDER``; warnings and broken links are errors.

Sphinx with furo, and not MkDocs with Material: Material for MkDocs is in maintenance since
November 2025 with twelve months of support announced, and MkDocs 1 has no maintainer.

The pages of the repository keep their places, so that their links hold as they are; what
the code knows better than a page could (commands, plug-ins, topologies, functions) is written
into ``reference/``.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from decentral import __all__ as public
from decentral import __version__
from decentral.cli.app import app
from decentral.cli.listing import type_text
from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap
from decentral.plugins import Plugin, plain, plural
from decentral.registry import KINDS, build, find, names
from decentral.report import figures, reader
from decentral.report.drawing import css_variables
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
    "docs/python", "docs/graphs", "docs/schedules", "docs/sweeps", "docs/papers",
    "docs/phases", "docs/batch", "docs/optimizers",
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


sys.path.insert(0, str(REPO / "docs"))
from make_concepts import embedded, illustrate  # noqa: E402


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
            # On one line: a minus that begins one would begin a list.
            part = " ".join(part.split())
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
    """Write a page per topology; return the page that leads to them, by family."""
    families: dict[str, list[str]] = {}
    for name in names("topology"):
        found = find("topology", name)
        family = found.target.__module__.rpartition(".")[2].replace("_", " ").capitalize()
        families.setdefault(family, []).append(f"topology_{name}")
        lines = [f"# {name}", "", prose(found), *drawing(found), *settings(found)]
        lines += [f"```python\n{inspect.getsource(found.target).strip()}\n```"]
        page = folder / f"topology_{name}.md"
        page.write_text("\n".join(lines), encoding="utf-8")
    said = "# Topologies, drawn\n\nWho may send to whom. The gap is the share of disagreement "
    said += "that a round removes ([concepts](../docs/concepts.md#spectral-gap)).\n\n"
    return said + "\n".join(tree(name, tuple(pages)) for name, pages in families.items())


def drawing(found: Plugin) -> Iterator[str]:
    """Yield a topology's drawing, which follows light and dark, and its gap."""
    spelled = str(found.traits.example or found.name)
    topology = Topology(build("topology", spelled), NODES)
    mixer = Mixer.make(topology)
    graph = topology.union()
    links = tuple((int(a), int(b)) for a, b in graph.edges())
    picture = reader.Topology(NODES, links, graph.is_directed(), topology.time_varying)
    yield embedded(figures.network(picture), found.name, f"{found.name}, {NODES} nodes")
    many = ", all its rounds together" if topology.time_varying else ""
    gap = max(0.0, spectral_gap(mixer))
    yield f"`{spelled}` on {NODES} nodes{many}: spectral gap {gap:.3g}.\n"


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


def licence_of(about: metadata.PackageMetadata) -> str:
    """Return the licence as a package states it."""
    marks = [c for c in about.get_all("Classifier", []) if c.startswith("License ::")]
    # The free text of "License" is whole licences with some: it comes last.
    listed = ", ".join(mark.rpartition(" :: ")[2] for mark in marks)
    said = about.get("License-Expression") or listed
    return said or (about.get("License") or "").strip().partition("\n")[0] or "not stated"


def depended_on() -> dict[str, metadata.Distribution]:
    """Return all that is installed of what decentral needs, extras and their needs included."""
    found: dict[str, metadata.Distribution] = {}
    extras = [n for n in metadata.metadata("decentral").get_all("Provides-Extra", [])]
    asked = [("decentral", frozenset(extras))]
    while asked:
        name, wanted = asked.pop()
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            key = canonicalize_name(need.name)
            marks = [{"extra": extra} for extra in ("", *wanted)]
            if need.marker and not any(need.marker.evaluate(mark) for mark in marks):
                continue
            if key in found or key == "decentral":
                continue
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[key] = metadata.distribution(key)
                asked.append((key, frozenset(need.extras)))
    return dict(sorted(found.items()))


def licences(folder: Path) -> str:
    """Write the bill of materials (CycloneDX); return the page of licences."""
    packages = depended_on()
    lines = ["# Licences of dependencies", "", "decentral itself is under Apache-2.0."]
    lines += [
        "What it, its extras, its tests and this site stand on, as installed where",
        "the page was made; versions and licences as the packages state them. The same",
        "as a bill of materials: {download}`CycloneDX <sbom.cdx.json>`.",
        "",
    ]
    lines += ["| package | version | licence |", "|---|---|---|"]
    parts: list[dict[str, object]] = []
    for name, one in packages.items():
        licence = licence_of(one.metadata).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {name} | {one.version} | {licence} |")
        parts.append(
            {
                "type": "library",
                "name": name,
                "version": one.version,
                "purl": f"pkg:pypi/{name}@{one.version}",
                "licenses": [{"license": {"name": licence_of(one.metadata)}}],
            }
        )
    own = {"type": "application", "name": "decentral", "version": __version__}
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    bill |= {"metadata": {"component": own}, "components": parts}
    (folder / "sbom.cdx.json").write_text(json.dumps(bill, indent=1), encoding="utf-8")
    return "\n".join(lines)


def stylesheet() -> str:
    """Return the colours of drawings, by the theme that the reader has chosen."""
    dark = css_variables(1)
    return (
        f"body {{ {css_variables(0)} }}\nbody[data-theme=dark] {{ {dark} }}\n"
        "@media (prefers-color-scheme: dark) { body:not([data-theme=light]) "
        f"{{ {dark} }} }}\nsvg.drawn {{ max-width: 100%; height: auto; }}\n"
        "table { display: block; overflow-x: auto; max-width: 100%; }\n"
        "@media (max-width: 480px) { .highlight-bash pre { white-space: pre-wrap; } "
        "table.docutils { font-size: .8em; } table.docutils :is(td, th) { padding: .2rem; } }\n"
    )


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
    illustrate(root / "docs/concepts.md")
    (root / "_static").mkdir()
    (root / "_static/site.css").write_text(stylesheet(), encoding="utf-8")
    made = root / "reference"
    made.mkdir()
    (root / "index.md").write_text(index(), encoding="utf-8")
    (made / "commands.md").write_text("".join(commands()), encoding="utf-8")
    (made / "plugins.md").write_text(plugins(made), encoding="utf-8")
    (made / "topologies.md").write_text(topologies(made), encoding="utf-8")
    (made / "licences.md").write_text(licences(made), encoding="utf-8")
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


def unfound(
    site: Path, words: tuple[str, ...] = ("consensus", "mergeability")
) -> Iterator[str]:
    """Yield words that the site's search does not find, asked in a headless browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium: the search was not tried")
        return
    for word in words:
        page = f"{(site / 'search.html').as_uri()}?q={word}"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--virtual-time-budget=20000", "--dump-dom", page]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        shown = done.stdout.partition('id="search-results">')[2].partition("</div>")[0]
        if "docs/concepts.html" not in shown:
            yield f"search.html: does not find {word}"


def too_wide(site: Path) -> Iterator[str]:
    """Yield the pages that do not fit a phone or a screen, looked at in a browser."""
    if shutil.which("chromium") is None or find_spec("aiohttp") is None:
        print("no Chromium, or no aiohttp to drive it: the pages' widths were not tried")
        return
    sys.path.insert(0, str(REPO / "tests"))
    yield from import_module("browser").wider_than_a_phone(sorted(site.rglob("*.html")))


def main(out: str) -> int:
    """Build the site into a folder; return how many links are broken, or what Sphinx returns."""
    from sphinx.cmd.build import build_main

    site = Path(out).resolve()
    with tempfile.TemporaryDirectory() as folder:
        pages, made = Path(folder, "pages"), Path(folder, "site")
        pages.mkdir()
        gather(pages)
        words = ["-q", "-W", "--keep-going", "-E", "-d", f"{folder}/.doctrees"]
        # MyST-NB keeps what notebooks made beside the folder that it is given.
        if status := build_main([*words, str(pages), str(made)]):
            return status
        shutil.copytree(made, site, dirs_exist_ok=True)
    found = sorted({*broken(site), *unfound(site), *too_wide(site)})
    print("\n".join(found) or f"built {site / 'index.html'}")
    return len(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
