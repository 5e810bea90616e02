"""spaCy's English tokenizer, taught how skills are written in job posts."""

import re
from collections.abc import Callable

import spacy
from spacy.lang.tokenizer_exceptions import URL_PATTERN
from spacy.language import Language
from spacy.tokenizer import Tokenizer
from spacy.util import compile_infix_regex, compile_prefix_regex, compile_suffix_regex, registry

# Posts glue words to signs: "Python/R/SQL", "C++/C#", "AWS(EC2)", "•Python", "skills:SQL|Excel".
# spaCy splits a slash between letters only; here it splits between any two signs, and so do
# brackets, bars, bullets, tags and the like. URLs stay whole: spaCy matches them before it splits.
_JOINERS = (
    r"[/\\|;&(){}\[\]<>•·●▪◦‣∙■►…*~]|(?<=[^\W\d_])[–—,:](?=[^\s])|(?<=[+#])[-–—,:](?=[^\s])|"
    r"(?<=\d),(?=[^\W\d_])|(?<=\w)[.!?](?=[<&])"
)
# "-Python" is a list item and "SQL-" a broken one; digits keep their minus sign.
_BULLETS = r"[-–—•·●▪◦‣∙■►…~|\\/]"
_PREFIXES = [rf"{_BULLETS}(?=[^\W\d_]|\.[^\W\d_])", r"\*+", r"[<>]"]
_SUFFIXES = [rf"(?<=[^\W\d_+#]){_BULLETS}", r"[<>]", r"(?<=-[A-Z])\."]
# spaCy's pattern takes "Node.js/React.js" for an address; no domain ends in "js".
_URL = rf"(?![^/]+\.js/){URL_PATTERN}"
# Names whose signs belong to them and which the rules above or spaCy's own would cut.
_NAMES = ["C#", "F#", "J#", "C++", "c++", "c#", "f#", ".NET", ".Net", ".net"]
# Languages of one letter at the end of a sentence; spaCy takes "R." for an initial.
_LETTERS = ["C", "R"]


@registry.tokenizers("skill_ner.Tokenizer.v1")
def create_tokenizer() -> Callable[[Language], Tokenizer]:
    """Build a tokenizer whose tokens begin and end where skills do.

    RETURNS (Callable[[Language], Tokenizer]): Makes the tokenizer from an English pipeline's
        defaults; its rules are saved with the pipeline, so training and inference agree.
    """
    return _make_tokenizer


def _make_tokenizer(nlp: Language) -> Tokenizer:
    create_default = spacy.registry.get("tokenizers", "spacy.Tokenizer.v1")()
    tokenizer = create_default(nlp)
    defaults = nlp.Defaults
    tokenizer.prefix_search = compile_prefix_regex([*defaults.prefixes, *_PREFIXES]).search
    tokenizer.suffix_search = compile_suffix_regex([*defaults.suffixes, *_SUFFIXES]).search
    tokenizer.infix_finditer = compile_infix_regex([*defaults.infixes, _JOINERS]).finditer
    tokenizer.url_match = re.compile(_URL).match
    for name in _NAMES:
        tokenizer.add_special_case(name, [{"ORTH": name}])
    for name in _LETTERS:
        tokenizer.add_special_case(f"{name}.", [{"ORTH": name}, {"ORTH": "."}])
    return tokenizer
