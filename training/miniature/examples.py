"""Training examples: a task with its prompt, its references and the target image."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from training.miniature.captions import Said, contents_of, describe, random_said
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
from training.world.words import with_noise

# One combination in this many is held out.
HELD_OUT = 10
# The share of references that show a thing without a name, which can only be copied.
ODD_SHARE, ODDMENTS = 0.35, 1_000_000
# The share of these that are photographed; it is small because each must be encoded in advance.
PHOTOGRAPHED_SHARE, PHOTOGRAPHS = 0.4, 240


@dataclass(frozen=True)
class Reference:
    """A reference image: `ip` shows a subject, `id` a person, `style` a whole image."""

    task: str
    shows: Subject | Oddment | Person | Contents


@dataclass(frozen=True)
class Example:
    """A request and the contents of its target image."""

    prompt: str
    said: Said
    references: tuple[Reference, ...]
    contents: Contents


def is_held_out(contents: Contents) -> bool:
    """Whether the combination of place and subject, or place and person, is held out."""
    combinations = []
    if isinstance(contents.subject, Subject):
        combinations.append(f"{contents.subject} {contents.scene}")
    if contents.person is not None:
        person = replace(contents.person, shirt="")
        combinations.append(f"{person} {contents.scene}")
    return any(zlib.crc32(each.encode()) % HELD_OUT == 0 for each in combinations)


def random_example(random: np.random.Generator, tasks: tuple[str, ...], held_out: bool) -> Example:
    """A random example with these reference tasks, with a held-out combination or another one."""
    while True:
        example = _EXAMPLES[tasks](random)
        if is_held_out(example.contents) == held_out:
            return example


def _noisy(text: str, random: np.random.Generator) -> str:
    return with_noise(text, random) if random.random() < 0.25 else text


def _text(random: np.random.Generator) -> Example:
    kind = ("subject", "person", "both")[random.choice(3, p=(0.5, 0.3, 0.2))]
    caption = describe(random_said(random, kind, 0.9), random)
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


def _id(random: np.random.Generator) -> Example:
    person, scene = random_person(random), random_scene(random)
    said: Said = {"kind": "person", "scene": scene}
    if random.random() < 0.7:
        said["shirt"] = person.shirt
    else:
        person = replace(person, shirt="blue")
    caption = describe(said, random, "id")
    prompt = _noisy(caption.text, random)
    return Example(prompt, caption.said, (Reference("id", person),), Contents(scene, person=person))


def _style(random: np.random.Generator) -> Example:
    palette = random_palette(random)
    caption = describe(
        random_said(random, ("subject", "person")[random.integers(2)], 0.95), random, style=True
    )
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
    caption = describe(said, random, "both")
    contents = Contents(scene, subject, person, copied=True)
    references = (Reference("id", person), Reference("ip", subject))
    return Example(_noisy(caption.text, random), caption.said, references, contents)


def _ip_id(random: np.random.Generator) -> Example:
    example = _id_ip(random)
    prompt = example.prompt.translate(str.maketrans("12", "21"))  # of [ref#1] and [ref#2]
    return replace(example, prompt=prompt, references=example.references[::-1])


def random_partial(random: np.random.Generator) -> Example:
    """A prompt that says little or nothing, and an image that fits it, as for plain FLUX."""
    whole = random_example(random, (), held_out=False)
    full = {**whole.said}
    said = {name: value for name, value in full.items() if random.random() < 0.4}
    if random.random() < 0.3:
        return replace(whole, prompt="", said={})
    words = [value for name, value in said.items() if name not in ("kind", "scene", "length")]
    if random.random() < 0.5 and words:
        return replace(whole, prompt=words[0], said=said)
    caption = describe({**said, "kind": full["kind"]}, random)
    return replace(whole, prompt=caption.text, said=said)


_EXAMPLES = {
    (): _text,
    ("ip",): _ip,
    ("id",): _id,
    ("style",): _style,
    ("id", "ip"): _id_ip,
    ("ip", "id"): _ip_id,
}
TASKS = tuple(_EXAMPLES)
