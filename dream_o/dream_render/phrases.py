"""Prompts as comma-separated phrases: finds new phrases and appends them."""

import re


def new_phrases(prompt: str, continuation: str) -> list[str]:
    """The phrases of a continuation that add something to the prompt.

    Leaves out phrases that are already there, phrases without a letter, and phrases that would
    repeat a sequence of three words.
    """
    text = re.sub(r"[^\S ]+|[\x00-\x1f\x7f\ufffd]", " ", continuation)
    said = {each.strip().lower() for each in prompt.split(",")}
    words = _words(prompt)
    phrases = []
    for phrase in (" ".join(each.split()).strip(" .;:") for each in text.split(",")):
        longer = words + _words(phrase)
        if phrase.lower() in said or not re.search(r"[^\W\d_]", phrase):
            continue
        if _repeats(longer, len(words)):
            continue
        phrases.append(phrase)
        said.add(phrase.lower())
        words = longer
    return phrases


def join(prompt: str, addition: str) -> str:
    """The unchanged prompt and the addition, separated by one comma."""
    bare = prompt.rstrip()
    if bare.endswith(","):
        return prompt + ("" if prompt != bare else " ") + addition
    return f"{prompt}, {addition}"


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _repeats(words: list[str], first_new: int) -> bool:
    """Whether a trigram that ends at `first_new` or later occurred earlier."""
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    seen = set(trigrams[: max(first_new - 2, 0)])
    for trigram in trigrams[max(first_new - 2, 0) :]:
        if trigram in seen:
            return True
        seen.add(trigram)
    return False
