"""How ``--help`` looks: plain text, flags in named sections, no boxes."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

#: What every command and group is made with.
STYLE: dict[str, Any] = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "rich_markup_mode": None,
}
_OTHERS = "Other"


def write(command: Any, context: Any, formatter: Any) -> None:
    """Write the help of a command or of a group of commands."""
    words = [param.metavar for param in command.params if param.param_type_name == "argument"]
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
        sections.setdefault("Commands", []).append((name, inner.help.partition("\n")[0]))
    for param in command.get_params(context):
        if param.param_type_name == "argument":
            continue
        shorts = [name for name in param.opts if not name.startswith("--")]
        first, *aliases = [name for name in param.opts if name.startswith("--")]
        names = ", ".join([*shorts, first]) + (f" {param.metavar}" if param.metavar else "")
        also = f" (also {', '.join(aliases)})" if aliases else ""
        section = sections.setdefault(getattr(param, "rich_help_panel", None) or _OTHERS, [])
        section.append((names, f"{param.help}{also}"))
    others = sections.pop(_OTHERS, [])
    return {**sections, _OTHERS: others}


class Command(TyperCommand):
    """A command with plain help."""

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
