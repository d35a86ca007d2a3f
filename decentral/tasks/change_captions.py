"""What has changed between two images of one place, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, MultipleOf
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral.errors import ConfigError
from decentral.registry import Count, Location, plugin
from decentral.tasks.base import Samples, Task
from decentral.tasks.scenes import (
    ADDED,
    KINDS,
    PLACES,
    REMOVED,
    SAME,
    Scenes,
    read_pairs,
    scenes,
)

#: What a model must take: pixels of two images and words, flat, [6 S S + T].
PAIRS = "image pairs with words"

_SENTENCES = {
    SAME: (
        "nothing has changed",
        "the two images show the same scene",
        "there is no difference",
        "the scene is the same as before",
        "no change can be seen",
    ),
    ADDED: (
        "a {kind} has appeared at the {place}",
        "there is a new {kind} at the {place}",
        "at the {place} a {kind} was built",
        "a new {kind} can be seen at the {place}",
        "the scene has gained a {kind} at the {place}",
    ),
    REMOVED: (
        "the {kind} at the {place} has vanished",
        "there is no {kind} at the {place} anymore",
        "at the {place} a {kind} was removed",
        "the {kind} at the {place} can no longer be seen",
        "the scene has lost a {kind} at the {place}",
    ),
}
#: What can be said of one place at one date.
_EMPTY = "the {place} of the {date} image shows nothing"
_FULL = "the {place} of the {date} image shows a {kind}"
_DATES = ("first", "second")
_GREY = 128
_END, _BEGIN, _NONE = 0, 1, -1
#: Stands for words that training captions have not.
_OTHER = "<other>"


@plugin(
    "task",
    defaults={
        "model": {"name": "change_captioner"},
        "split": {"name": "iid"},
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
        "learning_rate": {"name": "cosine", "lr": 0.002, "warmup": "5%"},
        "batch": {"name": "constant", "size": 32},
        "clip": 1.0,
        "steps": 1500,
        "eval_samples": 256,
    },
    example={"name": "change_captions", "pairs": 24, "test": 8, "size": 16},
)
def change_captions(
    seed: int,
    *,
    pairs: Count = 4000,
    test: Count = 500,
    size: Annotated[int, Ge(16), MultipleOf(8)] = 32,
    shift: Annotated[int, Ge(0)] = 3,
    about: Literal["changes", "contents"] = "changes",
    path: Location | None = None,
) -> Task:
    """Say what was added or removed, and where, between two drawn images of one
    place, or nothing.

    Every pair has five captions from templates, each of which is a sample; half of
    the pairs have not changed. The dates differ in light, colour cast and noise,
    and the second is moved by up to ``shift`` pixels (0: registered). Inputs are
    pixels [6 S S] and the words before the one to guess [T]; the loss is the mean
    cross-entropy of the words [T], ``accuracy`` the share of words guessed right.
    Splits divide by what changed. ``about: contents`` is for training beforehand:
    what stands at each place of each date, and the captions of changes with grey
    images, words alone. The images are drawn: a small stand-in for LEVIR-CC, which is
    read from ``path`` instead, or whatever is laid out like it: images/SPLIT/A and B,
    scaled to ``size``, and a JSON file of captions. (Wang et al., "CCExpert: advancing
    MLLM capability in remote sensing change captioning", arXiv 2411.11360, 2024.)

    Args:
        seed: Seed of the run.
        pairs: Pairs of images for training.
        test: Pairs for the test.
        size: Side of an image in pixels.
        shift: Pixels that the second image is moved by, at most.
        about: Whether captions tell ``changes`` or ``contents``.
        path: Folder of pairs with captions; all of them are taken. None: drawn ones.
    """
    if path is not None:
        if about == "contents":
            raise ConfigError(
                "task 'change_captions': about = contents needs drawn images, of which it is "
                "known what they show; leave about out, or path."
            )
        return _task_of_files(path, size)
    if shift > size // 4:
        raise ConfigError(
            f"task 'change_captions': shift = {shift} moves objects out of their quarter of "
            f"{size // 2} pixels; use at most {size // 4}."
        )
    first, second = (
        scenes(seed, numbers, size, shift)
        for numbers in (range(pairs), range(pairs, pairs + test))
    )
    train, test_ = (
        _samples(drawn.images, _number_captions(drawn, about), vocabulary(), length())
        for drawn in (first, second)
    )
    return Task(
        loss=word_loss,
        train=train,
        test=test_,
        accuracy=words_right,
        labels=torch.from_numpy(first.change).repeat_interleave(len(train) // pairs),
        classes=("same", "added", "removed"),
        outputs=len(vocabulary()),
        takes=PAIRS,
    )


def _task_of_files(path: str, size: int) -> Task:
    """Return the task of the pairs in a folder."""
    found = read_pairs(path, size)
    known = words_of(found["train"].captions)
    longest = max(
        len(caption.split())
        for pairs in found.values()
        for some in pairs.captions
        for caption in some
    )
    parts = {
        split: _samples(
            pairs.images,
            ((number, c) for number, some in enumerate(pairs.captions) for c in some),
            known,
            longest + 1,
        )
        for split, pairs in found.items()
    }
    each = torch.tensor([len(some) for some in found["train"].captions])
    return Task(
        loss=word_loss,
        accuracy=words_right,
        labels=torch.from_numpy(found["train"].changed).repeat_interleave(each),
        classes=("same", "changed"),
        outputs=len(known),
        takes=PAIRS,
        train=parts["train"],
        val=parts.get("val"),
        test=parts["test"],
    )


def words_of(captions: Iterable[Iterable[str]]) -> dict[str, int]:
    """Return the number of every word of captions; 0 ends and 1 begins one, 2 is any
    other word.

    >>> words_of([["a house", "a road"]])
    {'<end>': 0, '<begin>': 1, '<other>': 2, 'a': 3, 'house': 4, 'road': 5}
    """
    words = sorted({word for some in captions for text in some for word in text.split()})
    marks = ["<end>", "<begin>", _OTHER]
    return {word: number for number, word in enumerate([*marks, *words])}


def references(drawn: Scenes) -> list[list[str]]:
    """Return the five captions of every pair.

    >>> references(scenes(0, range(1), 16, 0))[0][0]
    'nothing has changed'
    """
    return [
        [
            text.format(kind=KINDS[kind], place=PLACES[place])
            for text in _SENTENCES[change]
        ]
        for change, kind, place in zip(drawn.change, drawn.kind, drawn.place, strict=True)
    ]


def contents(drawn: Scenes) -> list[list[str]]:
    """Return what stands at the four places of the first date of every pair, then
    of the second.

    >>> contents(scenes(0, range(1), 16, 0))[0][2]
    'the bottom left of the first image shows a house'
    """
    return [
        [
            (_FULL if full else _EMPTY).format(place=place, date=date, kind=KINDS[kind])
            for date, whole in zip(_DATES, there, strict=True)
            for place, full, kind in zip(PLACES, whole, kinds, strict=True)
        ]
        for there, kinds in zip(drawn.there, drawn.kinds, strict=True)
    ]


def says_change(caption: str) -> bool:
    """Tell whether a caption speaks of a change: it names something that came or
    went.

    >>> (
    ...     says_change("there is a new pond at the top left"),
    ...     says_change("nothing has changed"),
    ... )
    (True, False)
    """
    return not set(KINDS).isdisjoint(caption.split())


def vocabulary() -> dict[str, int]:
    """Return the number of every word; 0 ends and 1 begins a caption."""
    texts = [*_templates(), *KINDS, *PLACES, *_DATES]
    words = sorted({word for text in texts for word in text.split() if "{" not in word})
    return {word: number for number, word in enumerate(["<end>", "<begin>", *words])}


def length() -> int:
    """Return the words of the longest caption, and its end: T."""
    return max(len(text.split()) for text in _templates()) + 2  # a place has two words


def _templates() -> list[str]:
    return [_EMPTY, _FULL, *(text for group in _SENTENCES.values() for text in group)]


def _samples(
    images: NDArray[np.uint8],
    captions: Iterable[tuple[int, str]],
    known: Mapping[str, int],
    room: int,
) -> Samples:
    """Return (number of the images, words before) and words of every caption; a
    view adds pixels.

    The images after the last pair are grey.

    Args:
        images: Pairs of images, [m, 6, S, S].
        captions: The number of its images, and a caption.
        known: The number of every word.
        room: Words of the longest caption, and its end.
    """
    numbered = list(captions)
    targets = torch.full((len(numbered), room), _NONE)
    inputs = torch.full((len(numbered), 1 + room), _END)
    inputs[:, 0] = torch.tensor([number for number, _ in numbered])
    other = known.get(_OTHER, _NONE)
    for row, (_, caption) in enumerate(numbered):
        words = [known.get(word, other) for word in caption.split()]
        numbers = torch.tensor([_BEGIN, *words, _END])
        inputs[row, 1 : len(numbers)] = numbers[:-1]
        targets[row, : len(numbers) - 1] = numbers[1:]
    grey = np.full_like(images[:1], _GREY)
    pixels = torch.from_numpy(np.concatenate([images, grey]))

    def view(stored: Tensor, keys: Tensor | None) -> Tensor:
        return join_inputs(
            pixels[stored[..., 0].cpu()].to(stored.device), stored[..., 1:]
        )

    return Samples(inputs, targets, view)


def _number_captions(drawn: Scenes, about: str) -> Iterator[tuple[int, str]]:
    """Yield the number of its images with every caption, pair by pair."""
    grey = len(drawn.images)
    seen = references(drawn) if about == "changes" else contents(drawn)
    for number, (shown, captions) in enumerate(zip(seen, references(drawn), strict=True)):
        yield from ((number, caption) for caption in shown)
        if about == "contents":
            yield from ((grey, caption) for caption in captions)


def join_inputs(images: Tensor, words: Tensor) -> Tensor:
    """Return pixels [..., 6, S, S] in [-1, 1] and words [..., T] as one input [...,
    6 S S + T].
    """
    pixels = images.flatten(-3).float() / 127.5 - 1
    return torch.cat([pixels, words.float()], -1)


def word_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of outputs [B, T, V] at words [B, T], -1 where
    there is none.

    Captions are of different length: a batch's mean is over its words.
    """
    return cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=_NONE)


def words_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of a caption's words that are guessed right from those
    before, [B].
    """
    asked = (targets != _NONE).double()
    return ((outputs.argmax(-1) == targets).double() * asked).sum(-1) / asked.sum(-1)


def caption(
    model: nn.Module,
    images: Tensor,
    known: Iterable[str] | None = None,
    room: int | None = None,
) -> list[str]:
    """Return a model's captions of pairs uint8 [m, 6, S, S], the likeliest word at
    each place.

    Args:
        model: The model.
        images: The pairs.
        known: Words by their number; none: those of drawn pairs.
        room: Words of the longest caption, and its end; none: those of drawn pairs.
    """
    words = list(vocabulary() if known is None else known)
    return [
        " ".join(words[word] for word in row[: (row == _END).int().argmax()])
        for some in images.split(256)
        for row in _greedy(model, some, length() if room is None else room)
    ]


def _greedy(model: nn.Module, images: Tensor, room: int) -> Iterator[Tensor]:
    """Yield the words [T + 1] of every pair, of which the last ends it."""
    words = torch.full((len(images), 1 + room), _END, device=images.device)
    words[:, 0] = _BEGIN
    with torch.no_grad():
        for place in range(room - 1):
            likely = model(join_inputs(images, words[:, :-1]))[:, place].argmax(-1)
            words[:, place + 1] = likely
    yield from words[:, 1:]
