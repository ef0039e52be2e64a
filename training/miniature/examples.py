"""Training examples: a task with its prompt, its references and the target image."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.miniature.captions import (
    ATTRIBUTES,
    KINDS,
    RARE,
    Said,
    contents_of,
    describe,
    fragment,
    random_said,
)
from training.world.drawing import (
    Contents,
    Oddment,
    Person,
    Subject,
    random_palette,
    random_person,
    random_scene,
    random_subject,
)
from training.world.faces import BARE, WORN
from training.world.words import one_of, with_noise

# One combination in this many is held out.
HELD_OUT = 10
# The share of references that show a thing without a name, which can only be copied.
ODD_SHARE, ODDMENTS = 0.35, 1_000_000
# The share of these that are photographed; it is small because each must be encoded in advance.
PHOTOGRAPHED_SHARE, PHOTOGRAPHS = 0.5, 800
# What prompts describe without a reference of it, and how often: one thing, two, a person, or a
# person and a thing.
FORMS: Mapping[tuple[str, ...], Sequence[tuple[str, float]]] = {
    (): (("one", 0.45), ("two", 0.15), ("person", 0.25), ("both", 0.15)),
    ("style",): (("one", 0.5), ("two", 0.1), ("person", 0.4)),
}
# The share of examples whose prompt adds a hat or glasses to the person of the reference.
WORN_SHARE = 0.25
# The share of the negative pass's prompts that are empty.
EMPTY_SHARE = 0.3


@dataclass(frozen=True)
class Reference:
    """A reference image: `ip` shows a subject, `id` a person, `style` a whole image."""

    task: str
    shows: Subject | Oddment | Person | Contents


@dataclass(frozen=True)
class Example:
    """A request and the contents of its target image.

    Attributes:
        prompt: the words.
        said: the attributes that the words name.
        references: the references.
        contents: what the image shows.
        alone: the one attribute that the prompt names if it is a prompt of the negative pass.
    """

    prompt: str
    said: Said
    references: tuple[Reference, ...]
    contents: Contents
    alone: str = ""


def is_held_out(contents: Contents) -> bool:
    """Whether the combination of place and subject, or place and person, is held out."""
    combinations = []
    if isinstance(contents.subject, Subject):
        combinations.append(f"{contents.subject} {contents.scene}")
    if contents.person is not None:
        person = replace(contents.person, shirt="", wears="")
        combinations.append(f"{person} {contents.scene}")
    return any(zlib.crc32(each.encode()) % HELD_OUT == 0 for each in combinations)


def random_example(
    random: np.random.Generator, tasks: tuple[str, ...], held_out: bool, form: str = ""
) -> Example:
    """A random example.

    Args:
        random: chooses everything.
        tasks: the tasks of its references.
        held_out: whether its combination is a held-out one.
        form: one of the FORMS of the tasks; empty for any.
    """
    while True:
        if tasks in FORMS:
            forms, shares = zip(*FORMS[tasks], strict=True)
            example = _DESCRIBED[tasks](random, form or forms[random.choice(len(forms), p=shares)])
        else:
            example = _EXAMPLES[tasks](random)
        if is_held_out(example.contents) == held_out:
            return example


def _noisy(text: str, random: np.random.Generator) -> str:
    return with_noise(text, random) if random.random() < 0.25 else text


def _said(random: np.random.Generator, form: str, share: float) -> Said:
    """Random attributes for a caption of a form."""
    said = random_said(random, form if form in KINDS else "subject", share)
    said.pop("count", None)
    return said | ({"count": "two"} if form == "two" else {})


def _text(random: np.random.Generator, form: str) -> Example:
    caption = describe(_said(random, form, 0.9), random)
    return Example(_noisy(caption.text, random), caption.said, (), contents_of(caption.said))


def _thing(random: np.random.Generator, said: Said) -> Subject | Oddment:
    """A random thing for a reference; adds to `said` what the prompt says about it."""
    if random.random() < ODD_SHARE:
        if random.random() < PHOTOGRAPHED_SHARE:
            return Oddment(int(random.integers(PHOTOGRAPHS)), photographed=True)
        return Oddment(int(random.integers(ODDMENTS)))
    subject = random_subject(random)
    if random.random() < 0.6:
        said["shape"] = subject.shape
    if random.random() < 0.15:
        said["colour"] = subject.colour
    return subject


def _ip(random: np.random.Generator) -> Example:
    scene = random_scene(random)
    said: Said = {"kind": "subject", "scene": scene}
    subject = _thing(random, said)
    caption = describe(said, random, "ip")
    prompt = _noisy(caption.text, random)
    contents = Contents(scene, subject, copied=True)
    return Example(prompt, caption.said, (Reference("ip", subject),), contents)


def _dressed(person: Person, said: Said, random: np.random.Generator) -> Person:
    """The person of a reference as the image shows it; adds to `said` what the prompt adds."""
    if random.random() < WORN_SHARE:
        said["wears"] = one_of(random, WORN)
    return replace(person, wears=said.get("wears", BARE))


def _id(random: np.random.Generator) -> Example:
    person, scene = random_person(random), random_scene(random)
    said: Said = {"kind": "person", "scene": scene}
    if random.random() < 0.7:
        said["shirt"] = person.shirt
    else:
        person = replace(person, shirt="blue")
    dressed = _dressed(person, said, random)
    caption = describe(said, random, "id")
    prompt = _noisy(caption.text, random)
    contents = Contents(scene, person=dressed)
    return Example(prompt, caption.said, (Reference("id", person),), contents)


def _style(random: np.random.Generator, form: str) -> Example:
    palette = random_palette(random)
    caption = describe(_said(random, form, 0.95), random, style=True)
    shown = Contents(random_scene(random), random_subject(random), palette=palette)
    if random.random() < 0.3:
        shown = Contents(random_scene(random), person=random_person(random), palette=palette)
    contents = contents_of(caption.said, palette)
    return Example(
        _noisy(caption.text, random), caption.said, (Reference("style", shown),), contents
    )


def _id_ip(random: np.random.Generator) -> Example:
    person, scene = random_person(random), random_scene(random)
    said: Said = {"kind": "both", "scene": scene}
    subject = _thing(random, said)
    if random.random() < 0.6:
        said["shirt"] = person.shirt
    else:
        person = replace(person, shirt="blue")
    dressed = _dressed(person, said, random)
    caption = describe(said, random, "both")
    contents = Contents(scene, subject, dressed, copied=True)
    references = (Reference("id", person), Reference("ip", subject))
    return Example(_noisy(caption.text, random), caption.said, references, contents)


def _ip_id(random: np.random.Generator) -> Example:
    example = _id_ip(random)
    prompt = example.prompt.translate(str.maketrans("12", "21"))  # of [ref#1] and [ref#2]
    return replace(example, prompt=prompt, references=example.references[::-1])


def random_partial(random: np.random.Generator, form: str) -> Example:
    """A prompt of the negative pass, which is empty or names one attribute, and a fitting image."""
    whole = random_example(random, (), held_out=False, form=form)
    if random.random() < EMPTY_SHARE:
        return replace(whole, prompt="")
    names = [name for name in whole.said if name != "kind"]
    if not names:
        return replace(whole, prompt="")
    name = names[random.integers(len(names))]
    prompt = fragment(name, whole.said[name], random)
    return replace(whole, prompt=_noisy(prompt, random), alone=name)


def alternatives(example: Example) -> list[Contents]:
    """The contents with every other value of `alone`; without it too, if it is RARE.

    None is held out.
    """
    name = example.alone
    others = [value for value in ATTRIBUTES[name] if value != example.said[name]]
    rest = {each: value for each, value in example.said.items() if each != name}
    whole = [contents_of({**rest, name: value}) for value in others]
    if name in RARE:
        whole.append(contents_of(rest))
    return [each for each in whole if not is_held_out(each)]


_DESCRIBED = {(): _text, ("style",): _style}
_EXAMPLES = {
    ("ip",): _ip,
    ("id",): _id,
    ("id", "ip"): _id_ip,
    ("ip", "id"): _ip_id,
}
TASKS = (*_DESCRIBED, *_EXAMPLES)
