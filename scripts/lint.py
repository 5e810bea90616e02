"""Annotated posts → what their annotators did not do alike, and spans that break a rule."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import spacy
import typer
from spacy.matcher import PhraseMatcher
from spacy.util import filter_spans
from tqdm import tqdm
from typer import Argument as Arg
from typer import Option as Opt

from scripts.posts import Post, check_posts, find_files, read_posts
from scripts.skill_ner.tokenizer import create_tokenizer  # noqa: F401 (registers it)

# The rules of assets/guidelines.md that can be checked without reading: signs at a border belong
# to the name in ".NET", "C++", "C#"; most last words, as in "distributed systems", need a reader.
FAULTS = {
    "begins or ends with punctuation": r"(?!\w|\.\w).*|.*[^\w+#)]",
    "begins with an article": r"(an?|the)\s.*",
    "generic word alone": r"data|insights|software|systems|solutions|tools|technology|technologies|"
    r"computer|code|research|reports|models|algorithms|requirements|projects|team|"
    r"programming languages|business needs",
    "last word only says skill": r"(.*\W)?(skills?|experience|knowledge|expertise|abilit(y|ies))",
    "begins with a word of level": r"(strong|proven|excellent|solid|extensive|hands-on|basic|"
    r"advanced(?! analytics)|complex|large-scale|various)\s.*",
    "crosses a line break": r".*\n.*",
}
UNMARKED = "unmarked"


@dataclass
class Surface:
    """One wording, over all posts.

    places (dict[str, list[str]]): Where it stands, with the words around, by label or "unmarked".
    """

    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def minority(self) -> int:
        """RETURNS (int): Places that differ from the most frequent treatment."""
        counts = [len(places) for places in self.places.values()]
        return sum(counts) - max(counts)


def lint_cli(
    posts: list[Path] = Arg(..., help="Annotated posts: JSONL files, or folders of them"),
    surface: str = Opt("", help="Show every place of this wording alone"),
    least: int = Opt(1, help="Places that must differ from the rest for a wording to be listed"),
    contexts: int = Opt(4, help="Places shown of each rarer treatment"),
    strict: bool = Opt(False, "--strict", help="Exit with 1 if a span breaks a rule"),
) -> None:
    """List wordings that are marked in some places and not in others, or with several labels.

    They are for settling by assets/guidelines.md: many stand rightly unmarked (titles, teams,
    degrees, the company's own words). Spans that break a rule of boundaries come last.
    """
    try:
        read = [post for path in find_files(posts) for post in read_posts(path)]
        check_posts(read)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    found = find_surfaces(read)
    if surface:
        named = found.get(_key(surface), Surface())
        found, least, contexts = {_key(surface): named}, 0, sys.maxsize
        if not named.places:
            sys.exit(f"{surface!r} is marked nowhere in these posts.")
    uneven = sorted(found.items(), key=lambda item: -item[1].minority())
    for name, each in uneven:
        if each.minority() >= least:
            print(*_describe(name, each, contexts, bool(surface)), sep="\n")
    faults = [line for post in read for line in find_faults(post)] if not surface else []
    print(*faults, sep="\n")
    n_uneven = sum(each.minority() >= least for _, each in uneven)
    print(f"{n_uneven:,} of {len(found):,} wordings treated unevenly, {len(faults)} broken rules.")
    if strict and faults:
        raise typer.Exit(1)


def find_surfaces(posts: list[Post]) -> dict[str, Surface]:
    """Find every wording that is marked somewhere, in all posts.

    An unmarked place is one that no span touches; of two that overlap the longer counts.

    RETURNS (dict[str, Surface]): By the wording's words in lower case.
    """
    nlp = spacy.blank(
        "en", config={"nlp": {"tokenizer": {"@tokenizers": "skill_ner.Tokenizer.v1"}}}
    )
    matcher = PhraseMatcher(nlp.vocab, attr="LOWER")
    names = {_key(post.text[a:b]) for post in posts for a, b, _ in post.spans}
    matcher.add("skill", list(nlp.tokenizer.pipe(sorted(names))))
    surfaces: dict[str, Surface] = {}
    for post in tqdm(posts, "posts", disable=None):
        inside = bytearray(len(post.text))
        for start, end, label in post.spans:
            inside[start:end] = b"x" * (end - start)
            _place(surfaces, post, start, end, label)
        matches = matcher(nlp.make_doc(post.text), as_spans=True)
        free = [m for m in matches if not any(inside[m.start_char : m.end_char])]
        for match in filter_spans(free):
            _place(surfaces, post, match.start_char, match.end_char, UNMARKED)
    return surfaces


def _key(surface: str) -> str:
    return " ".join(surface.casefold().split())


def _place(surfaces: dict[str, Surface], post: Post, start: int, end: int, how: str) -> None:
    name = _key(post.text[start:end])
    surfaces.setdefault(name, Surface()).places[how].append(_where(post, start, end))


def _where(post: Post, start: int, end: int) -> str:
    before = post.text[max(start - 40, 0) : start].rpartition("\n")[2]
    after = post.text[end : end + 40].partition("\n")[0]
    return f"{post.where}: {post.id}: {before}>{post.text[start:end]}<{after}"


def _describe(name: str, surface: Surface, contexts: int, everything: bool) -> Iterator[str]:
    counts = Counter({how: len(places) for how, places in surface.places.items()})
    ((usual, _), *_) = counts.most_common()
    yield f"{name!r}: " + ", ".join(f"{how} {count}" for how, count in counts.most_common())
    for how, places in surface.places.items():
        if how != usual or everything:
            yield from (f"  {how}: {place}" for place in places[:contexts])


def find_faults(post: Post) -> Iterator[str]:
    """YIELDS (str): File, line and id of each span that breaks a rule, and which."""
    for start, end, label in post.spans:
        for fault, pattern in FAULTS.items():
            if re.fullmatch(pattern, post.text[start:end], re.IGNORECASE | re.DOTALL):
                yield f"{_where(post, start, end)}: {label} {fault}"


if __name__ == "__main__":
    typer.run(lint_cli)
