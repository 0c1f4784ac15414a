"""Class names, and which spellings are the same name.

Lists, folders, tables, tars, rules and captions name classes in different spellings. Code that compares two names
compares their keys.
"""

import html
import unicodedata
from functools import lru_cache

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Invisible characters that join nothing. Characters that join letters stay in a name, since scripts need them."""


def repaired(text: str) -> str:
    """Return a text as open_clip's tokenizers read it: characters repaired, quotes straightened, HTML unescaped."""
    import ftfy  # open_clip's own dependency

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def tidy(name: str) -> str:
    """Return a name without invisible characters, with single spaces, and none at its ends."""
    return " ".join(name.translate(_INVISIBLE).split())


@lru_cache(maxsize=1 << 16)
def class_key(name: str) -> str:
    """Return the key that all spellings of one class name share.

    Text is repaired as the tokenizer does it, underscores become spaces and runs of white space one space; case,
    composition of letters and invisible characters do not count.
    """
    shown = "".join(c for c in repaired(name).replace("_", " ") if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFC", shown.casefold()).split())
