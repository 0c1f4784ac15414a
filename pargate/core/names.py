"""Names of classes: which spellings are one name.

A class is named in lists, folders, tables, tars, rules and captions, by people and by programs that spell it in
their own ways. Whatever compares two names compares their keys.
"""

import html
import unicodedata
from functools import lru_cache

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Characters that show nothing and join nothing. Those that join letters stay in a name: scripts need them."""


def repaired(text: str) -> str:
    """Return a text as open_clip's tokenizers read it: characters mended, quotes made straight, HTML resolved."""
    import ftfy  # open_clip's own dependency

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def tidy(name: str) -> str:
    """Return a name without invisible characters, each white space one space, none at its ends."""
    return " ".join(name.translate(_INVISIBLE).split())


@lru_cache(maxsize=1 << 16)
def class_key(name: str) -> str:
    """Return what all spellings of one class name share.

    Quotes and broken characters are repaired as the tokenizer does it, underscores are spaces, white space counts
    once, upper and lower case are one, composed and decomposed letters too, and invisible characters do not count.
    """
    shown = "".join(c for c in repaired(name).replace("_", " ") if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFC", shown.casefold()).split())
