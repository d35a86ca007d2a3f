"""The flags of the commands, each a setting that is declared once, and how
``--help`` shows them.

Every value stays text here and goes through the parser of ``key=value``, so that a
flag, an override and a line of YAML mean the same and fail with the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from decentral.errors import ConfigError, unknown
from decentral.signature import first_sentence

# --- flags ------------------------------------------------------------------------


_WHAT, _WHO, _RUN, _SHOWN = "What is trained", "Communication", "The run", "What is shown"


def _members(kind: str) -> Callable[[str], list[str]]:
    """Return what completes the name of a plug-in of that kind in a shell."""

    def complete(incomplete: str) -> list[str]:
        from decentral.registry import names

        return [name for name in names(kind) if name.startswith(incomplete)]

    return complete


def _setting(panel: str, metavar: str, help: str, *names: str, kind: str = "") -> Any:
    """Declare one optional flag with a text value; that of a plug-in names its kind."""
    option: Any = typer.Option(
        *names,
        metavar=metavar,
        help=help,
        rich_help_panel=panel,
        autocompletion=_members(kind) if kind else None,
    )
    return option


def _switch(panel: str, help: str, *names: str) -> Any:
    """Declare one flag without a value."""
    option: Any = typer.Option(*names, help=help, rich_help_panel=panel)
    return option


Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)
]

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A YAML file, and settings such as clip=1 or optimizer.momentum=0.5.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings of the run.", show_default=False
    ),
]

Claims = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CLAIM]... [KEY=VALUE]...",
        help="Claims, and settings of one.",
        show_default=False,
    ),
]
Every = Annotated[bool, typer.Option("--all", help="Try every claim.")]

Text = str | None
Task = Annotated[
    Text,
    _setting(_WHAT, "NAME", "Data, loss and evaluation: digits, quadratic.", kind="task"),
]
Model = Annotated[Text, _setting(_WHAT, "NAME", "The network: mlp, cnn.", kind="model")]
Algorithm = Annotated[
    Text,
    _setting(_WHAT, "NAME", "dsgd, allreduce (the baseline) or local.", kind="algorithm"),
]
Optimizer = Annotated[
    Text, _setting(_WHAT, "NAME", "sgd, adamw, or torch.optim.NAME.", kind="optimizer")
]
Rate = Annotated[Text, _setting(_WHAT, "X", "Peak learning rate.", "--lr")]
Split = Annotated[
    Text,
    _setting(
        _WHAT, "NAME", "Who holds which data: dirichlet, classes, iid.", kind="split"
    ),
]
Steps = Annotated[Text, _setting(_WHAT, "N", "Optimizer steps of every node.")]
Data = Annotated[
    Text, _setting(_WHAT, "AMOUNT", "End after so much: 1M samples, 3 epochs.")
]
BatchSchedule = Annotated[
    Text,
    _setting(
        _WHAT,
        "NAME",
        "Samples per node and step: 32, late_switch.",
        "--batch-schedule",
        "--batch",
        kind="batch",
    ),
]

Nodes = Annotated[Text, _setting(_WHO, "N", "Number of nodes.")]
Topology = Annotated[
    Text,
    _setting(
        _WHO, "NAME", "Who may send to whom: ring, complete, a file.", kind="topology"
    ),
]
Schedule = Annotated[
    Text,
    _setting(
        _WHO,
        "NAME",
        "When, and how much: late, constant.",
        "--schedule",
        "--communication",
        kind="communication",
    ),
]
LocalSteps = Annotated[
    Text, _setting(_WHO, "N", "Steps between two communication steps.")
]

Network = Annotated[
    Text,
    _setting(_WHO, "NAME", "What lies between nodes: lan, home, a file.", kind="network"),
]
Compute = Annotated[
    Text,
    _setting(_WHO, "TIME", "Seconds of a step: 20ms, or a distribution.", kind="compute"),
]
ModelSize = Annotated[
    str, _setting(_WHAT, "N", "Parameters of the model: 25M; or 100MB.")
]
Deadline = Annotated[Text, _setting(_RUN, "TIME", "When training must have ended: 2h.")]
Topologies = Annotated[
    list[str] | None,
    _setting(
        _WHO,
        "NAME",
        "Who may send to whom; may be given several times.",
        "--topology",
        kind="topology",
    ),
]
Schedules = Annotated[
    list[str] | None,
    _setting(
        _WHO,
        "NAME",
        "When; may be given several times.",
        "--schedule",
        kind="communication",
    ),
]

Seed = Annotated[Text, _setting(_RUN, "N", "Seed of every draw.")]
EvalEvery = Annotated[
    Text, _setting(_RUN, "N", "Steps between two evaluations, or auto.")
]
Device = Annotated[Text, _setting(_RUN, "NAME", "auto, cpu, cuda, cuda:1, mps.")]
Tune = Annotated[bool, _switch(_RUN, "Measure how rows are computed fastest.", "--tune")]
Engine = Annotated[Text, _setting(_RUN, "NAME", "local (this process), ray, or auto.")]
Workers = Annotated[
    Text, _setting(_RUN, "N", "Ray actors that share the nodes, or auto.")
]
Address = Annotated[Text, _setting(_RUN, "HOST:PORT", "Ray cluster to join, or auto.")]
Out = Annotated[Text, _setting(_RUN, "FOLDER", "Run folder; else runs/<name>.")]
Resume = Annotated[
    bool,
    _switch(_RUN, "Go on with the run that --out holds, if it holds one.", "--resume"),
]

Change = Annotated[
    list[str] | None,
    _setting(
        _RUN, "KEY=VALUE", "What is otherwise from now on; or the path of a changed file."
    ),
]

Trust = Annotated[
    list[str] | None,
    _setting(
        _RUN, "DIGEST", "Let code run that is not your own, as the refusal shows it."
    ),
]

SweepOut = Annotated[
    Text, _setting(_RUN, "FOLDER", "Its folder; else sweeps/<name of CONFIG>.")
]

Weights = Annotated[
    Text, _setting(_WHO, "NAME", "Mixing weights: metropolis, uniform.", kind="weights")
]
Png = Annotated[Text, _setting(_SHOWN, "FILE", "Draw it into this PNG file, too.")]
Json = Annotated[
    bool,
    _switch(_SHOWN, "Print the result as JSON on stdout, nothing else there.", "--json"),
]
Quiet = Annotated[bool, _switch(_SHOWN, "Print nothing but errors.", "--quiet", "-q")]
Debug = Annotated[bool, _switch(_SHOWN, "Show the traceback of an error.", "--debug")]


@dataclass(frozen=True)
class Shown:
    """What a command shows: JSON alone on stdout, or nothing but errors."""

    json: bool = False
    quiet: bool = False


_PLAIN = Shown()
#: What the command that runs was asked to show.
SHOWN = ContextVar("SHOWN", default=_PLAIN)


#: Flags of settings that stand under another.
_NESTED = {"workers": "engine.workers", "address": "engine.address"}


def read_flags(context: typer.Context) -> dict[str, str]:
    """Return the flags that the user gave and that are settings of the
    configuration.
    """
    others = ("name", "png", "run", "model_size", "deadline")
    flags = context.params
    tuned = {"replicas": "tune"} if flags.get("tune") else {}
    asked = {k: v for k, v in flags.items() if isinstance(v, str) and k not in others}
    return tuned | {_NESTED.get(key, key): value for key, value in asked.items()}


# --- completion -------------------------------------------------------------------

#: Where a shell says that it asks how a line may go on.
COMPLETE = "_DECENTRAL_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


def completion_script(shell: str) -> str:
    """Return what completes the words of the command line in a shell.

    Raises:
        ConfigError: It is none of bash, zsh and fish.
    """
    from typer import completion

    if shell not in _SHELLS:
        raise unknown("shell", shell, _SHELLS)
    written: str = completion.get_completion_script(  # pyright: ignore[reportPrivateImportUsage]
        prog_name="decentral", complete_var=COMPLETE, shell=shell
    )
    return written


# --- help -------------------------------------------------------------------------


#: What every command and group is made with.
STYLE: dict[str, Any] = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "rich_markup_mode": None,
}
_OTHERS = "Other"


def write(command: Any, context: Any, formatter: Any) -> None:
    """Write the help of a command or of a group of commands."""
    words = [
        param.metavar for param in command.params if param.param_type_name == "argument"
    ]
    end = "COMMAND ..." if hasattr(command, "commands") else "[FLAGS]"
    formatter.write(f"usage: {' '.join([context.command_path, *words, end])}\n\n")
    formatter.write(f"{(command.help or '').strip()}\n")
    sections = _sections(command, context)
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    for title, rows in sections.items():
        formatter.write(f"\n{title}\n")
        formatter.indent()
        formatter.write_dl([(name.ljust(width), text) for name, text in rows])
        formatter.dedent()


def _sections(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Return names and explanations of commands and flags, by section."""
    sections: dict[str, list[tuple[str, str]]] = {}
    commands: dict[str, Any] = getattr(command, "commands", {})
    for name, inner in commands.items():
        sections.setdefault("Commands", []).append((name, first_sentence(inner.help)))
    for param in command.get_params(context):
        if param.param_type_name == "argument":
            continue
        shorts = [name for name in param.opts if not name.startswith("--")]
        first, *aliases = [name for name in param.opts if name.startswith("--")]
        names = ", ".join([*shorts, first]) + (
            f" {param.metavar}" if param.metavar else ""
        )
        also = f" (also {', '.join(aliases)})" if aliases else ""
        section = sections.setdefault(
            getattr(param, "rich_help_panel", None) or _OTHERS, []
        )
        section.append((names, f"{param.help}{also}"))
    others = sections.pop(_OTHERS, [])
    return {**sections, _OTHERS: others}


def _refuse_repeated(command: Any, context: Any, words: Sequence[str]) -> None:
    """Raise ConfigError for a flag that is given twice: the parser takes the last one.

    Args:
        command: The command.
        context: Of its call.
        words: What follows its name.
    """
    options = [p for p in command.get_params(context) if p.param_type_name == "option"]
    flags = {name: one for one in options for name in one.opts if not one.is_flag}
    given: dict[str, tuple[str, str]] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        name, equals, value = word.partition("=")
        if (flag := flags.get(name)) is None:
            continue
        value = value if equals else next(rest, "")
        if flag.name in given and not flag.multiple:
            before, first = given[flag.name]
            which = name if before == name else f"{before} and {name}"
            verb = "is given twice," if before == name else "are the same flag, given"
            raise ConfigError(f"{which} {verb} as {first} and as {value}; keep one.")
        given[flag.name] = name, value


class Command(TyperCommand):
    """A command with plain help, to which no flag is given twice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run it, with what --json and --quiet say in reach of whatever prints."""
        asked = {key: bool(ctx.params.get(key)) for key in ("json", "quiet")}
        token = SHOWN.set(Shown(**asked))
        try:
            return super().invoke(ctx)
        finally:
            SHOWN.reset(token)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        write(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands with plain help, listed in the order of definition."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        write(self, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help where no command is named."""
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order in which they were defined."""
        return list(self.commands)
