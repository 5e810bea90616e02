"""Skills as job posts write them, glued to signs, begin and end where tokens do."""

from pathlib import Path

import pytest
import spacy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from spacy.lang.en import English

from scripts.skill_ner import tokenizer  # noqa: F401 (registers it)

CONFIG = {"nlp": {"tokenizer": {"@tokenizers": "skill_ner.Tokenizer.v1"}}}
NLP = spacy.blank("en", config=CONFIG)
# Tokens are parted by blanks here, for no token of these texts holds one.
TOKENS = {
    "Python/R/SQL": "Python / R / SQL",
    "CI/CD": "CI / CD",
    "<li>SQL</li>": "< li > SQL < / li >",
    "budgeting.<br>Go": "budgeting . < br > Go",
    "statistics.&nbsp;R": "statistics . & nbsp ; R",
    "Microsoft 365,Azure 1,000": "Microsoft 365 , Azure 1,000",
    "Control-M. J. Doe": "Control - M . J. Doe",
    "A/B testing": "A / B testing",
    "24/7": "24 / 7",
    "node.js": "node.js",
    "Node.js/React.js": "Node.js / React.js",
    "Vue.js/Nuxt.js/C#": "Vue.js / Nuxt.js / C#",
    "ASP.NET/C#": "ASP.NET / C#",
    "scikit-learn": "scikit - learn",
    "T-SQL/PL-SQL": "T - SQL / PL - SQL",
    "C++": "C++",
    "C#": "C#",
    ".NET": ".NET",
    "C/C++, C# (.NET).": "C / C++ , C# ( .NET ) .",
    "C++/C#/.NET": "C++ / C# / .NET",
    "C++,C#;F#": "C++ , C# ; F#",
    "C++-based .NET-based": "C++ - based .NET - based",
    "•Python": "• Python",
    "- Python": "- Python",
    "-Python": "- Python",
    "–Python": "– Python",
    "*Python": "* Python",
    "**Python**": "* * Python * *",
    "-C++": "- C++",
    "•.NET": "• .NET",
    "SQL-": "SQL -",
    "Python…": "Python …",
    "Python–SQL": "Python – SQL",
    "AWS(EC2, S3)": "AWS ( EC2 , S3 )",
    "skills:SQL|Excel": "skills : SQL | Excel",
    "SQL,Python;R": "SQL , Python ; R",
    "(SQL)": "( SQL )",
    "“SQL”": "“ SQL ”",
    "Python's": "Python 's",
    "R.": "R .",
    "R and C.": "R and C .",
    "R&D": "R & D",
    "🙂Python🙂": "🙂 Python 🙂",
    "$5.5": "$ 5.5",
    "-5": "-5",
    "5+ years": "5 + years",
    "https://example.com/a/b?c=d|e": "https://example.com/a/b?c=d|e",
    "(https://node.js/React.js)": "( https://node.js/React.js )",
    "see www.example.com/jobs.": "see www.example.com/jobs .",
    "example.net/jobs/data": "example.net/jobs/data",
    "jane.doe@example.com": "jane.doe@example.com",
}


@pytest.mark.parametrize(("text", "tokens"), TOKENS.items())
def test_tokens(text: str, tokens: str) -> None:
    assert [token.text for token in NLP.make_doc(text)] == tokens.split()


@pytest.mark.parametrize(
    ("text", "skills"),
    [
        ("Python/R/SQL", ["Python", "R", "SQL"]),
        ("A/B testing and CI/CD.", ["A/B testing", "CI/CD"]),
        ("T-SQL/PL-SQL, scikit-learn", ["T-SQL", "PL-SQL", "scikit-learn"]),
        ("AWS(EC2, S3)", ["AWS", "EC2", "S3"]),
        ("Node.js/React.js/C#", ["Node.js", "React.js", "C#"]),
        ("(R&D), SAP S/4HANA", ["R&D", "SAP S/4HANA"]),
        ("Amazon Web Services (AWS)/Azure", ["Amazon Web Services", "AWS", "Azure"]),
        ("C++-based,.NET", ["C++", ".NET"]),
    ],
)
def test_skills_fit_the_tokens(text: str, skills: list[str]) -> None:
    doc = NLP.make_doc(text)
    found = [doc.char_span(text.index(s), text.index(s) + len(s)) for s in skills]
    assert [span and span.text for span in found] == skills


GLUE = st.sampled_from([*TOKENS, *"/|•-–—…*~,;:.()[]{}\\+#'\"&@", " ", "\n", "\t", "\u00a0", "é"])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(GLUE, max_size=12).map("".join)))
@example("C++-/.NET…**R.\r\n🙂")
def test_tokens_are_the_text(text: str) -> None:
    doc = NLP.make_doc(text)
    assert "".join(token.text_with_ws for token in doc) == text
    assert all(text[token.idx :].startswith(token.text) for token in doc)


def test_saved_with_the_pipeline(tmp_path: Path) -> None:
    NLP.to_disk(tmp_path / "model")
    plain = English.from_config(NLP.config)
    # What is read must come from the file: these rules are not those of the factory.
    plain.tokenizer.infix_finditer = plain.tokenizer.url_match = None
    plain.tokenizer.prefix_search = plain.tokenizer.suffix_search = None
    plain.tokenizer.rules = {}
    assert len(plain.make_doc("Python/R/SQL,C++.")) == 1
    text = "\n".join(TOKENS)
    expected = [token.text for token in NLP.make_doc(text)]
    for copy in (spacy.load(tmp_path / "model"), plain.from_bytes(NLP.to_bytes())):
        assert [token.text for token in copy.make_doc(text)] == expected
