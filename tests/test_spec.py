"""The one-line form of plug-ins: everything that can be written can be read, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from decentral import ConfigError
from decentral.spec import GRAPHS, Spec, parse_spec, parse_value, scalar, spell

keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9_.:/%-]{0,10}", fullmatch=True).filter(
    lambda text: scalar(text) == text
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = numbers | st.booleans() | st.none() | words
quotable = st.text(max_size=12).filter(lambda text: "'" not in text or '"' not in text)
quoted = quotable.map(lambda text: ("quoted", text))
values = st.deferred(
    lambda: scalars | quoted | st.lists(values, max_size=3) | specs.filter(has_brackets)
)
specs = st.builds(
    Spec,
    words,
    st.lists(values, max_size=3).map(tuple),
    st.dictionaries(keys, values, max_size=3),
)


def has_brackets(spec: Spec) -> bool:
    return bool(spec.args or spec.settings)


def write(value: Any) -> str:
    """Write a value as a user would."""
    match value:
        case Spec(name, args, settings):
            items = [write(arg) for arg in args]
            items += [f"{key}={write(item)}" for key, item in settings.items()]
            return f"{name}({', '.join(items)})" if items else name
        case list():
            return f"[{', '.join(map(write, value))}]"
        case ("quoted", text):
            quote = '"' if "'" in text else "'"
            return f"{quote}{text}{quote}"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def meant(value: Any) -> Any:
    """Return what was meant: quoted text is text."""
    match value:
        case Spec(name, args, settings):
            read = {key: meant(item) for key, item in settings.items()}
            return Spec(name, tuple(map(meant, args)), read)
        case list():
            return list(map(meant, value))
        case ("quoted", text):
            return text
        case _:
            return value


@given(spec=specs)
@example(spec=Spec("late", (), {"start": "90%", "then": 1.0}))
@example(
    spec=Spec("a", (Spec("b", (), {"x": [1, 2.5, None]}),), {"c": ("quoted", "x=(1,")})
)
def test_what_is_written_is_read_back(spec: Spec) -> None:
    assert parse_spec(write(spec), "topology") == meant(spec)


@given(spec=specs)
def test_blanks_do_not_matter(spec: Spec) -> None:
    text = write(spec)
    assume("'" not in text and '"' not in text)
    loose = (
        text.replace("(", " ( ")
        .replace(",", " , ")
        .replace("=", " = ")
        .replace(")", " ) ")
    )
    assert parse_spec(f"  {loose}  ", "topology") == meant(spec)


@given(text=st.text(max_size=30))
@example(text="''")
@example(text='""(x=1)')
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        found = parse_spec(text, "topology")
    except ConfigError as refusal:
        assert str(refusal).startswith("topology: ")  # noqa: PT017
        assert "\n" not in str(refusal) or "\n" in text  # noqa: PT017
    else:
        assert isinstance(found, Spec)
        assert found.name


@given(value=numbers)
def test_numbers_are_read_as_python_writes_them(value: float) -> None:
    found = scalar(repr(value))
    assert type(found) is type(value)
    assert found == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-2", -2), ("5e-4", 5e-4), ("true", True), ("False", False), ("none", None),
        ("90%", "90%"), ("2700 steps", "2700 steps"), (" a b ", "a b"), ("1Gbit/s", "1Gbit/s"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_mappings_specs_and_text_say_the_same() -> None:
    text = parse_spec("late(start=90%, intensity=0.1)", "communication")
    mapping = {"name": "late", "start": "90%", "intensity": 0.1}
    assert parse_spec(mapping, "communication") == text
    assert parse_spec(text, "communication") is text
    assert parse_spec({"path": "mine.py:wheel", "reach": 2}, "topology") == Spec(
        "mine.py:wheel", (), {"reach": 2}
    )
    assert (
        parse_spec({"name": "late(start=90%)", "intensity": 0.1}, "communication") == text
    )
    assert mapping == {"name": "late", "start": "90%", "intensity": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("late(", "missing"),
        ("late(start=90%", "missing ')'"),
        ("late)", "unexpected text at column 5"),
        ("late(start=90%) x", "unexpected text"),
        ("late(start=1, start=2)", "'start' is given twice"),
        ("late(start=a, 2)", "a setting without a name follows a named one"),
        (
            "late(start=0,9)",
            r"start=0,9 is no number; write start=0.9, or start=[0, 9]",
        ),
        (
            "sgd(lr=1, momentum=0, 95)",
            r"momentum=0,95 is no number; write momentum=0.95,",
        ),
        ("sgd(steps=1,000, lr=2)", "write steps=1000 or 1.000."),
        ("(x)", "a name is missing"),
        ("", "give a name"),
        ("late([1, 2)", "missing ']'"),
        (3, "cannot read 3"),
        ({"start": 3}, "a mapping needs 'name'"),
        ({"name": 3}, "a mapping needs 'name'"),
    ],
)
def test_mistakes_say_where_and_how_to_write_it(text: object, message: str) -> None:
    with pytest.raises(ConfigError, match="communication: ") as caught:
        parse_spec(text, "communication")
    assert message in str(caught.value)


@given(value=st.lists(scalars, max_size=4))
def test_lists_of_values(value: list[Any]) -> None:
    assert parse_value(write(value), "model.hidden") == value


def test_a_missing_value_and_text_after_one_are_refused() -> None:
    for text, message in (("  ", "the value is missing"), ("[1] 2", "unexpected text")):
        with pytest.raises(ConfigError, match=message):
            parse_value(text, "nodes")


ODD = st.text(alphabet="ab 1.()[]{},='\"#&:;%é-", min_size=1, max_size=12)


@given(name=ODD, value=ODD, items=st.lists(ODD, max_size=3))
@example(name="it's", value="a, 'b' = \"c\"", items=["1e-3", "none", ""])
def test_odd_characters_are_spelled_and_read_back(
    name: str, value: str, items: list[str]
) -> None:
    """Names with ``.py:f`` are files, whatever is in their path; a value stays text."""
    for named in (name, f"job {name}/plug.py:mine"):
        one = Spec(
            named, (value, Spec(named, (), {"x": value})), {"key": value, "all": items}
        )
        assert parse_spec(spell(one), "tracker") == one
    assert parse_value(spell(value), "task.path") == value


@given(folder=ODD, settings=st.dictionaries(keys.filter("name".__ne__), ODD, max_size=2))
@example(folder="job (2)", settings={"x": "[1]"})
@with_settings(max_examples=20)
@pytest.mark.parametrize("file", ["plug.py:mine", *(f"graph{end}" for end in GRAPHS)])
def test_the_name_of_a_mapping_is_a_path_as_it_is(
    folder: str, settings: dict[str, str], file: str
) -> None:
    path = f"/{folder}/{file}"
    assert parse_spec({"name": path, **settings}, "topology") == Spec(path, (), settings)
    assert parse_spec(path, "topology").name == path


def test_an_existing_file_wins_over_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outer(inner=a").mkdir()
    assert parse_spec("outer(inner=a/p.py:f(x=1))", "model").name == "outer"
    (tmp_path / "outer(inner=a/p.py").touch()
    found = parse_spec("outer(inner=a/p.py:f(x=1)", "model")
    assert found == Spec("outer(inner=a/p.py:f", (), {"x": 1})
    assert parse_value("outer(inner=a/p.py", "task.path") == "outer(inner=a/p.py"
    (tmp_path / "[1]").mkdir()
    assert parse_value("[1]/", "task.path") == "[1]/"
    assert parse_value("[1]", "model.hidden") == [1]
