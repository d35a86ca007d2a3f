"""What of a configuration makes the result of a run, and how two of them differ.

That includes the files of the user that a setting refers to, however it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError
from decentral.limits import digest_of_file, open_file, read_json
from decentral.schedules.progress import Past
from decentral.spec import Spec, is_graph_file, parse_spec
from decentral.userfile import find_again, lies, place_of, resolve_path, sources
from decentral.yamltext import dump, load

# --- identity ---------------------------------------------------------------------


#: Settings that say where a run computes: it may go on anywhere. Of the engine that
#: is all but ``wire``, by which rows are rounded on their way.
WHEREABOUTS = ("engine", "faults")
#: What changes neither models nor records: those, and where and how often they are
#: kept.
WITHOUT_EFFECT = frozenset(
    {*WHEREABOUTS, "out", "keep_checkpoints", "checkpoint_every", "track"}
)
#: Characters of a setting's digest.
_LENGTH = 16
#: Under which a file of JSON holds the digest of what else it says.
_SEAL = "sha256"
#: Differences that are listed.
_LISTED = 3


def identity(
    settings: Mapping[str, Any], past: Past | None, frozen: str | None = None
) -> dict[str, Any]:
    """Return what every checkpoint says of its run.

    ``settings`` and ``files`` are digests by key and by path, ``past`` what was
    done before the present schedules applied, ``base`` the digest of the part of
    the model that lies in no checkpoint.

    Args:
        settings: The resolved configuration.
        past: What was done before the present schedules applied.
        frozen: Digest of the parameters that are not trained.
    """
    files = {path: file_digest(path) for path in sorted(named_files(settings))}
    # Through YAML and back, as a resumed run will read them: tuples become lists.
    stated = {"settings": setting_digests(load(dump(settings))), "files": files}
    stated |= {"base": {"sha256": frozen}} if frozen else {}
    return stated | ({"past": asdict(past)} if past else {})


def setting_digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each setting that is part of a result, as it is read from
    YAML.

    >>> list(setting_digests({"seed": 0, "out": "runs/a", "engine": {"wire": "same"}}))
    ['seed', 'engine.wire']
    """
    engine = settings.get("engine")
    wire = (
        {"engine.wire": engine.get("wire", "same")} if isinstance(engine, Mapping) else {}
    )
    counted = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
    return {key: digest_of(value)[:_LENGTH] for key, value in (counted | wire).items()}


def find_edited(stated: Mapping[str, str], settings: Mapping[str, Any]) -> list[str]:
    """Return which settings are not what ``setting_digests`` has ``stated``; none:
    nothing was.
    """
    found = setting_digests(settings) if stated else {}
    return [key for key in {**stated, **found} if stated.get(key) != found.get(key)]


def file_digest(path: str) -> str | None:
    """Return the digest of a user's file, None where it is gone."""
    place = place_of(path)
    return digest_of_file(place) if place.is_file() else None


class Growing:
    """The digest of a file that lines are appended to: only what is new is read."""

    def __init__(self, path: Path) -> None:
        """Begin with nothing."""
        self.path, self.length, self.digest = path, 0, hashlib.sha256()

    def stamp(self) -> tuple[int, str]:
        """Return length and digest, when all of that is on the disk; raises
        OSError.
        """
        if self.path.exists():
            with open_file(self.path) as file:
                os.fsync(file.fileno())
                file.seek(self.length)
                for chunk in iter(lambda: file.read(1 << 20), b""):
                    self.digest.update(chunk)
                self.length = file.tell()
        return self.length, self.digest.hexdigest()


def stamp_of(path: Path, length: int) -> str | None:
    """Return the digest of the beginning of a file; None: it is shorter than that.

    A file that is not there is an empty one.
    """
    digest, left = hashlib.sha256(), length
    if not os.path.lexists(path):
        return None if length else digest.hexdigest()
    with open_file(path) as file:
        while chunk := file.read(min(left, 1 << 20)):
            digest.update(chunk)
            left -= len(chunk)
    return None if left else digest.hexdigest()


def refuse_changed(files: Mapping[str, str], named: Set[str]) -> None:
    """Raise ConfigError for a file that is not what it was, and was not named.

    Args:
        files: What files of a run were, by their digests.
        named: The whole paths that the user has named.
    """
    for path, digest in files.items():
        now = file_digest(path)
        if now != digest and path not in named:
            what = "is gone" if now is None else "has changed since the run began"
            raise ConfigError(
                f"{path} {what}, and is part of the result; restore it, or go on with it as it is "
                f"by --change {path}."
            )


def digest_of(value: Any) -> str:
    """Return the digest of what JSON can hold, in whatever order its keys are."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of JSON says, with a digest of it.

    >>> is_sealed(seal({"step": 3})), is_sealed({**seal({"step": 3}), "step": 4})
    (True, False)
    """
    inner = {key: value for key, value in content.items() if key != _SEAL}
    return {**inner, _SEAL: digest_of(inner)}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether the digest of what a file says is right, or there is none."""
    return _SEAL not in content or content == seal(content)


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what of a result is settled otherwise, by dotted key: ``there``, and
    ``here``.

    >>> differences({"seed": 0, "sam": {"rho": 0.1}}, {"seed": 0, "sam": {"rho": 0.2}})
    {'sam.rho': (0.1, 0.2)}
    """
    one, other = _flat(there), _flat(load(dump(here)))
    for flat in (one, other):
        flat.setdefault("engine.wire", "same")  # also where no rows travel
    found = {
        key: (one.get(key), other.get(key))
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key) and _has_effect(key)
    }
    # Of another plug-in all settings differ, which its name says already.
    renamed = tuple(key.removesuffix("name") for key in found if key.endswith(".name"))
    return {
        k: v for k, v in found.items() if k.endswith(".name") or not k.startswith(renamed)
    }


def _has_effect(key: str) -> bool:
    return key == "engine.wire" or key.partition(".")[0] not in WITHOUT_EFFECT


def differences_text(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Write differences on one line, the first few of many.

    >>> differences_text({"seed": (0, 1), "clip": (None, 1.0)})
    'seed: 0 there, 1 here; clip: none there, 1.0 here'
    """
    listed = [
        f"{key}: {_short_text(there)} there, {_short_text(here)} here"
        for key, (there, here) in list(found.items())[:_LISTED]
    ]
    left = len(found) - len(listed)
    return "; ".join(listed) + (f"; and {left} more" if left else "")


def _short_text(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# --- which files a setting names --------------------------------------------------


def names_in(value: Any) -> Iterator[str]:
    """Yield every name of a plug-in that a value may hold, as the reader of
    plug-ins sees it.

    >>> list(names_in({"communication": "every(k=2, schedule=own.py:pulses(width=3))"}))
    ['every', 'own.py:pulses']
    """
    if isinstance(value, Spec):
        yield value.name
        yield from names_in([*value.args, *value.settings.values()])
    elif isinstance(value, Mapping):
        own = [value[key] for key in ("name", "path") if isinstance(value.get(key), str)]
        yield from own
        yield from names_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            yield from names_in(one)
    elif isinstance(value, str):
        try:
            found = parse_spec(value, "setting")
        except ConfigError:
            yield value
        else:
            yield from names_in(found)


def named_files(value: Any) -> set[str]:
    """Return the paths of the plug-in and graph files that a value names, and that
    are there.

    With a plug-in file come the files beside and below it that it may import.
    """
    found: set[str] = set()
    for name in names_in(value):
        plug_in = ".py:" in name
        path = name.rpartition(":")[0] if plug_in else name
        if not (plug_in or is_graph_file(path)) or not lies(path):
            continue
        file = Path(resolve_path(path))
        found |= {str(one) for one in (sources(file) if plug_in else [file])}
    return found


def find_moved(folder: Path, settings: Mapping[str, Any]) -> None:
    """Find the files that a run names where they lie now, if they have moved along
    with its folder.

    Its ``env.json`` says where it was: what lay beside it then lies beside it now.
    """
    try:
        was = read_json(folder / "env.json")["folder"]
    except (OSError, ValueError, KeyError, TypeError):  # of an older version, or damaged
        return
    if not isinstance(was, str):
        return
    for name in set(names_in(settings)):
        path = name.rpartition(":")[0] if ".py:" in name else name
        if os.path.isabs(path) and not place_of(path).exists():
            find_again(
                path,
                Path(os.path.normpath(folder.resolve() / os.path.relpath(path, was))),
            )


# --- formats ----------------------------------------------------------------------


#: The format that is written. Later versions of it add keys; a reader ignores those
#: it does not know.
FORMAT = 3
#: Formats that are read; only a run of the present one can go on.
READ = (2, FORMAT)

#: What stood beside ``engine`` in format 2, and stands under it now.
_OF_ENGINE = (
    "workers", "address", "placement", "wire", "on_failure", "max_failures", "liveness_s",
    "progress_s", "dashboard_port",
)  # fmt: skip


def config_head(changed: bool = False) -> str:
    """Return the first line of a run folder's configuration; one may be ``changed``
    on its way.
    """
    says = "`decentral launch` on this file repeats the run"
    if changed:
        says = "changed on its way, see events.jsonl; these are its settings at the end"
    return f"# decentral run, format {FORMAT}: {says}\n"


def format_of(config: Path) -> int | None:
    """Return the format that a run folder's configuration names in its first line."""
    with open_file(config) as file:
        found = re.search(rb"\bformat (\d{1,9}):", file.readline(1000))
    return int(found[1]) if found else None


def present(settings: Mapping[str, Any], format: int | None) -> dict[str, Any]:
    """Return the settings of a run folder as the present format has them."""
    if format != 2:
        return dict(settings)
    kept = {key: value for key, value in settings.items() if key not in _OF_ENGINE}
    engine = {"name": settings.get("engine", "auto")}
    if engine["name"] == "ray":
        engine |= {key: settings[key] for key in _OF_ENGINE if key in settings}
    return {key: engine if key == "engine" else value for key, value in kept.items()}


# --- what a manifest may say ------------------------------------------------------

#: Counters by what they are, as far as a checkpoint has them.
_COUNTS = ("round", "samples", "first_batch", "epoch")
_NUMBERS = ("elapsed_s", "intensity")
_MAPPINGS = ("ledger", "clock", "offsets", "stamps", "callbacks", "simulation")


def are_counters(found: Mapping[str, Any]) -> bool:
    """Whether counters are of the kinds that a run writes: a digest says only that they
    are as somebody has written them.
    """
    ledger, offsets = found.get("ledger") or {}, found.get("offsets") or {}
    mappings = [found[key] for key in _MAPPINGS if key in found]
    return (
        all(_is_count(found.get(key, 0)) for key in _COUNTS)
        and all(_is_number(found.get(key, 0)) for key in _NUMBERS)
        and all(isinstance(each, dict) for each in mappings)
        and all(map(_is_count, found.get("absent", ())))
        and isinstance(found.get("sharp"), bool | None)
        and isinstance(found.get("feedback"), dict | None)
        and (not offsets or {*offsets} == {"metrics.jsonl", "events.jsonl"})
        and all(map(_is_count, [*offsets.values(), *ledger.values()]))
    )


def _is_count(found: object) -> bool:
    return type(found) is int and found >= 0


def _is_number(found: Any) -> bool:
    return type(found) in (int, float) and 0 <= found < float("inf")
