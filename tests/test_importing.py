"""A plug-in file and the files beside it: found wherever they are needed, and mixed up nowhere."""

from __future__ import annotations

import inspect
import io
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from decentral import ConfigError, userfile
from decentral.registry import find
from decentral.userfile import load_file, load_installed, sources


def written(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files below a folder; return the path of the first."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / next(iter(files))


def loaded(folder: Path, files: Mapping[str, str]) -> ModuleType:
    """Import the first of some files, which are written below a folder."""
    return load_file(str(written(folder, files)))


@pytest.mark.parametrize(
    ("statement", "beside"),
    [
        ("from helpers import f", {"helpers.py": "def f(): return 3"}),
        ("import helpers; f = helpers.f", {"helpers.py": "def f(): return 3"}),
        ("from helpers import *", {"helpers.py": "def f(): return 3"}),
        ("from .helpers import f", {"helpers.py": "def f(): return 3"}),
        ("from . import helpers; f = helpers.f", {"helpers.py": "def f(): return 3"}),
        (
            "def f():\n    from helpers import three\n    return three",
            {"helpers.py": "three = 3"},
        ),
        (
            "from helpers import f",
            {"helpers.py": "from deeper import f", "deeper.py": "def f(): return 3"},
        ),
        (
            "import helpers.deep.est as est; f = est.f",
            {
                "helpers/__init__.py": "",
                "helpers/deep/__init__.py": "from ..near import f",
                "helpers/deep/est.py": "from . import f",
                "helpers/near.py": "import other\nf = other.f",
                "other.py": "def f(): return 3",
            },
        ),
        (
            "import helpers.deep.est\nf = helpers.deep.est.f",
            {"helpers/deep/est.py": "def f(): return 3"},
        ),
        (
            "from helpers import f",
            {
                "helpers.py": "import own_file\ndef f(): return own_file.three",
            },
        ),
    ],
)
@pytest.mark.parametrize("carried", [False, True])
def test_a_plug_in_file_imports_what_lies_beside_it(
    carried: bool,
    statement: str,
    beside: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also on a worker: there is nothing at the old place, and all that it needs was carried."""
    files = {"own_file.py": f"three = 3\n{statement}\n", **beside}
    if carried:
        monkeypatch.setattr(userfile, "_opened", {})
        monkeypatch.setattr(userfile, "_carried", {})
        file = written(tmp_path / "old", files)
        load_file(str(file))
        contents = userfile.opened_files()
        assert {*map(Path, contents)} == {file.parent / name for name in files}
        forget()
        shutil.rmtree(file.parent)
        with userfile.unpacked(contents, tmp_path / "new"):
            found = load_file(str(file))
            assert found.__file__ == str(file)
            assert "def f" in inspect.getsource(found.f)
            assert found.f() == 3
    else:
        assert loaded(tmp_path, files).f() == 3
    assert str(tmp_path) not in sys.path
    assert not {name.partition(".")[0] for name in sys.modules} & {
        "helpers",
        "deeper",
        "other",
    }
    assert not [*tmp_path.rglob("__pycache__")]


def test_after_a_job_carried_files_are_read_where_they_lie_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that took part in a run may start the next: the folder of the first has gone."""
    for known in ("_opened", "_carried"):
        monkeypatch.setattr(userfile, known, {})
    file = tmp_path / "graph.json"
    file.write_text("here")
    assert userfile.locate(file).read_text() == "here"
    first = userfile.opened_files()
    with (
        userfile.unpacked({**first, "/nowhere/else.csv": b"there"}, tmp_path / "job"),
        userfile.unpacked(first, tmp_path / "second"),
    ):
        assert userfile.locate(file).is_relative_to(tmp_path / "second")
        assert userfile.locate("/nowhere/else.csv").read_text() == "there"
    for folder in ("job", "second"):
        shutil.rmtree(tmp_path / folder)
    assert userfile.locate(file) == file
    assert not userfile.lies("/nowhere/else.csv")
    assert userfile.opened_files() == first


def forget() -> None:
    """Forget all user's modules, as a new process would."""
    for name in [name for name in sys.modules if name.startswith("decentral_user_")]:
        del sys.modules[name]


def test_equal_names_beside_two_files_stay_two_modules(tmp_path: Path) -> None:
    text = (
        "import helpers\ndef f():\n    from helpers import value\n"
        "    return value, helpers.value"
    )
    one = loaded(tmp_path / "one", {"mine.py": text, "helpers.py": "value = 1"})
    two = loaded(tmp_path / "two", {"mine.py": text, "helpers.py": "value = 2"})
    assert one.f() == (1, 1)
    assert two.f() == (2, 2)
    assert one is not two
    assert load_file(str(tmp_path / "one" / "mine.py")) is one
    again = loaded(tmp_path / "one", {"other.py": "import helpers, mine"})
    assert again.mine is one
    assert again.helpers is one.helpers


def test_what_python_finds_in_that_place_is_not_loaded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the folder of a script: its own module and that of the plug-in are one."""
    text = "import helpers_of_a_script as found"
    file = written(tmp_path, {"mine.py": text, "helpers_of_a_script.py": ""})
    monkeypatch.syspath_prepend(tmp_path)
    import helpers_of_a_script  # pyright: ignore[reportMissingImports]

    assert load_file(str(file)).found is helpers_of_a_script
    monkeypatch.delitem(sys.modules, "helpers_of_a_script")


def test_a_sibling_hides_neither_the_standard_library_nor_decentral_nor_a_namesake(
    tmp_path: Path,
) -> None:
    """A plug-in file ``networkx.py`` wants the library, and so does one beside a folder of data."""
    text = "import json, networkx, decentral, torch\nfrom decentral import plugin"
    names = ("json.py", "decentral/__init__.py", "torch/data.py")
    found = loaded(
        tmp_path, {"networkx.py": text, **dict.fromkeys(names, "raise OSError")}
    )
    for name in ("json", "networkx", "decentral", "torch"):
        assert getattr(found, name) is sys.modules[name]


def test_only_what_may_be_imported_is_carried(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {
            "mine.py": "def f():\n    if False:\n        import used",
            "used.py": "import package.part",
            "package/__init__.py": "",
            "package/part.py": "import json",
            "unused.py": "",
            "unused/__init__.py": "",
        },
    )
    names = {str(path.relative_to(tmp_path)) for path in sources(file)}
    assert names == {"mine.py", "used.py", "package/__init__.py", "package/part.py"}


def test_many_threads_import_a_file_once(tmp_path: Path) -> None:
    file = written(tmp_path, {"slow.py": "import time\ntime.sleep(0.05)\nvalue = []"})
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_file(str(file)).value))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(value is found[0] for value in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import helpers", "ZeroDivisionError: division by zero ({0}/helpers.py:3)."),
        (
            "import nothing",
            "ModuleNotFoundError: No module named 'nothing' ({0}/mine.py:1).",
        ),
        ("def f(:", "SyntaxError: invalid syntax ({0}/mine.py:1)."),
        (
            "from decentral import plugin\nplugin('frui')",
            "unknown kind of plug-in 'frui'. Available: {1} ({0}/mine.py:2).",
        ),
    ],
)
def test_what_an_import_raises_is_said_with_file_and_line(
    text: str, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, {"mine.py": text, "helpers.py": "\n\n1 / 0"})
    with pytest.raises(ConfigError) as caught:
        load_file(str(file))
    kinds = str(caught.value).partition("Available: ")[2].partition(" (")[0]
    said = said.format(tmp_path, kinds)
    assert str(caught.value) == f"plug-in file {file} cannot be imported: {said}"
    file.write_text("value = 3")
    assert load_file(str(file)).value == 3


# --- imports without end --------------------------------------------------------------------------

#: It waits until it has been told of, or a second.
SLOW = """
import sys, time
end = time.monotonic() + 1
while not getattr(sys.stderr, "told", True) and time.monotonic() < end:
    time.sleep(0.001)
"""


class Stderr(io.StringIO):
    """What is written; ``told`` once something was."""

    told = False

    def write(self, text: str) -> int:
        done = super().write(text)
        self.told = True
        return done


def load_plug_in(folder: Path) -> None:
    load_file(str(written(folder, {"slow.py": SLOW})))


def load_entry_point(folder: Path) -> None:
    written(folder, {"slow_package.py": SLOW + "def ring(n): return n"})
    load_installed("topology", EntryPoint("slow", "slow_package:ring", "decentral"))


def load_dotted_name(folder: Path) -> None:
    written(folder, {"slow_optimizers.py": SLOW + "from torch.optim import SGD"})
    find("optimizer", "slow_optimizers.SGD")


@pytest.mark.parametrize(
    ("load", "what"),
    [
        (load_plug_in, "plug-in file {}/slow.py"),
        (load_entry_point, "topology 'slow' from slow_package:ring"),
        (load_dotted_name, "optimizer slow_optimizers.SGD"),
    ],
)
def test_an_import_that_does_not_end_says_what_it_waits_for(
    load: Callable[[Path], None],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(userfile, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(sys, "stderr", said := Stderr())
    load(tmp_path)
    told = f"still waiting for {what.format(tmp_path)} to be imported, since 0.01 s"
    assert said.getvalue().splitlines() == [f"{told}; Ctrl-C ends it."]


def test_an_import_that_ends_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    loaded(tmp_path, {"quick.py": ""})
    assert capsys.readouterr() == ("", "")
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(1)
    assert threading.active_count() <= before
