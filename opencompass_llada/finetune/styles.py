"""The styles of retrieval rows and the share of each, relative to the others.

What a style is stands in finetune.retrieval and finetune.ruler_rows. Those of share 0 are for
recipes that ask for them: the tiny models were pretrained without.
"""

STYLES: dict[str, float] = {
    "needlebench": 3,
    "question": 2,
    "prefix": 2,
    "pairs": 1,
    "copy": 2,
    "strings": 2,
    "ruler_niah": 4,
    "ruler_vt": 1,
    "ruler_fwe": 1,
    "ruler_cwe": 1,
    "words": 0,
    "many": 0,
    "text_words": 0,
}
