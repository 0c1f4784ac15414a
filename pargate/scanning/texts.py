"""Texts that a scan finds by itself: chosen on some captions, then measured on others."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pargate import events, seeds
from pargate.core import zeroshot
from pargate.core.found import CaptionVectors, FoundText, Place, TextFamily
from pargate.core.model import TokenEncoder, Vectors
from pargate.images.classes import builtin_nouns
from pargate.models.tokenizer import Tokens
from pargate.scanning.embed import CachedEncoder, ModelPair
from pargate.scanning.loop import Loop

SELECTION = 64
"""Captions that choose, at most; all others measure."""

MEASURED = 320
"""Captions that measure, at most."""

ENOUGH = 200
"""Captions of the images, below which prompts of the classes and of everyday nouns join them."""

FIRST = 3
"""Captions on which every candidate is tried: the shortest of those that choose."""

KEPT = 256
"""Candidates of the largest shift, and as many of the largest collapse, that are tried on all captions that choose."""

NAMES = 1000
"""Class names that are tried as controls, at most."""

BATCH = 1024
"""Endings of one caption that are embedded at once."""

INVISIBLE = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF9, 0xFFFB), (0x1D173, 0x1D17A), (0xE0001, 0xE0001),
    (0xE0020, 0xE007F), (0xE0100, 0xE01EF),
)  # fmt: skip
"""First and last code points of characters that show nothing: joiners, marks of direction, tags, variants, spaces."""

ALIKE = ((0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x587), (0x2100, 0x214F), (0xFF01, 0xFF5E))
"""Those of letters that look like others: phonetic, Greek, Cyrillic, Armenian, letter-like, full-width."""


def find(
    loop: Loop, pair: ModelPair, texts: Sequence[str], family: TextFamily, phrases: Sequence[str]
) -> FoundText | str:
    """Return the text of a family that moves the most captions to one class, or why none can be searched.

    Args:
        loop: the loop of the scan.
        pair: the models.
        texts: captions of the images.
        family: the kind of text.
        phrases: texts of the family `phrases`.

    Raises:
        OperationalError: memory ran out.
    """
    if loop.deadline is not None and time.monotonic() > loop.deadline:
        return "budget"
    # A fine-tuned copy of the model is no reference for captions.
    trusted = None if pair.tuned else pair.reference
    reason = next((why for cached in (pair.model, trusted) if cached and (why := _unusable(cached))), "")
    if reason:
        return reason
    model = _Tower.of(pair.model, pair.head)
    reference = None
    if trusted is not None and pair.reference_head is not None:
        reference = _Tower.of(trusted, pair.reference_head)
        if reference.context != model.context:
            return f"captions have {model.context} tokens, those of the reference {reference.context}"
    classes = loop.images.classes
    captions = model.captions(texts)
    if len(captions) < ENOUGH:
        prompts = zeroshot.prompts([*classes.names, *builtin_nouns()], classes.templates)
        captions = model.captions([*texts, *prompts])
    captions = [captions[i] for i in seeds.permutation(loop.seed, "captions", len(captions))]
    candidates = list(dict.fromkeys(_candidates(family, model, phrases)))
    if not candidates:
        return "the tokenizer gives no tokens for what should be searched"
    loop.emit(events.StageStarted("text", family))
    chooses = _Choice(loop, family, model, reference, captions[:SELECTION], classes.names)
    chosen, meant, control = chooses.choose(candidates)
    return FoundText(
        model.encoder.decode(chosen.ids),
        chosen.ids,
        chosen.place,
        meant,
        *(
            _vectors(model, reference, part, chosen, control)
            for part in (captions[:SELECTION], captions[SELECTION : SELECTION + MEASURED])
        ),
    )


def _unusable(cached: CachedEncoder) -> str:
    """Return why a model's vocabulary cannot be searched; empty if it can."""
    if cached.checkpoint.tokenizer != "bpe":
        return f"only CLIP's own vocabulary is searched, and {cached.checkpoint.source} has another tokenizer"
    return "" if isinstance(cached.encoder, TokenEncoder) else "the encoder takes no token ids"


# --- captions and what is put into them --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidate:
    ids: tuple[int, ...]
    place: Place = "end"


@dataclass(frozen=True, slots=True)
class _Tower:
    """A text tower that embeds captions with tokens put into them."""

    encoder: TokenEncoder
    head: Vectors
    start: int
    end: int
    context: int
    packs: bool
    """Whether many endings of a caption are embedded together."""

    @classmethod
    def of(cls, cached: CachedEncoder, head: Vectors) -> "_Tower":
        encoder = cached.encoder
        assert isinstance(encoder, TokenEncoder), "`_unusable` refuses others"
        row = np.asarray(encoder.tokenize([""]))[0]
        packs = False
        if cached.checkpoint.format != "onnx":
            # Only now: torch takes seconds to load.
            from pargate.models.torch import suffixes
            from pargate.models.torch.encoder import OpenClipEncoder

            packs = isinstance(encoder, OpenClipEncoder) and suffixes.packs(encoder)
        return cls(encoder, head, int(row[0]), int(row[1]), len(row), packs)

    def captions(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the different captions as token ids, without start and end."""
        return list(dict.fromkeys(ids for ids in map(self._inner, texts) if ids))

    def _inner(self, text: str) -> tuple[int, ...]:
        row = np.asarray(self.encoder.tokenize([text]))[0].tolist()
        return tuple(row[1 : row.index(self.end)])

    def row(self, caption: tuple[int, ...], added: _Candidate | None, room: int) -> NDArray[np.int64]:
        """Return the token ids of a caption that leaves `room` tokens to what is added: int64 [context]."""
        kept = caption[: self.context - 2 - room]
        ids = kept if added is None else (*added.ids, *kept) if added.place == "beginning" else (*kept, *added.ids)
        found = np.zeros(self.context, dtype=np.int64)
        found[: len(ids) + 2] = [self.start, *ids, self.end]
        return found

    def many(self, caption: tuple[int, ...], candidates: Sequence[_Candidate]) -> Vectors:
        """Return the vectors of a caption with each candidate: float32 [n, d]."""
        found = np.empty((len(candidates), self.encoder.spec.dim), dtype=np.float32)
        for length, place in dict.fromkeys((len(c.ids), c.place) for c in candidates):
            rows = [i for i, c in enumerate(candidates) if (len(c.ids), c.place) == (length, place)]
            for first in range(0, len(rows), BATCH):
                part = rows[first : first + BATCH]
                found[part] = self._same_length(caption, [candidates[row] for row in part], length, place)
        return found

    def _same_length(
        self, caption: tuple[int, ...], candidates: Sequence[_Candidate], length: int, place: Place
    ) -> Vectors:
        if not self.packs or place == "beginning":
            return self.encoder.encode_tokens(np.array([self.row(caption, c, length) for c in candidates]))
        from pargate.models.torch import suffixes
        from pargate.models.torch.encoder import OpenClipEncoder

        assert isinstance(self.encoder, OpenClipEncoder), "only its towers pack"
        beginning = [self.start, *caption[: self.context - 2 - length]]
        return suffixes.embed_endings(self.encoder, beginning, np.array([(*c.ids, self.end) for c in candidates]))


def _candidates(family: TextFamily, tower: _Tower, phrases: Sequence[str]) -> Iterator[_Candidate]:
    """Yield what a family puts into captions."""
    match family:
        case "tokens":
            size = min(tower.encoder.vocabulary, tower.end + 1)
            yield from (_Candidate((number,)) for number in range(size) if number not in (tower.start, tower.end))
        case "characters":
            points = [point for first, last in (*INVISIBLE, *ALIKE) for point in range(first, last + 1)]
            yield from map(_Candidate, tower.captions([chr(point) for point in points]))
        case "phrases":
            for ids in tower.captions(phrases):
                short = ids[: tower.context - 3]
                yield from (_Candidate(short), _Candidate(short, "beginning"))


def _vectors(
    model: _Tower,
    reference: _Tower | None,
    captions: Sequence[tuple[int, ...]],
    chosen: _Candidate,
    control: _Candidate | None,
) -> CaptionVectors:
    """Return the vectors of captions with the text that was chosen, and with what it is compared with."""
    room = max(len(chosen.ids), len(control.ids) if control else 0)

    def rows(added: _Candidate | None) -> Tokens:
        return np.array([model.row(caption, added, room) for caption in captions])

    return CaptionVectors(
        plain=model.encoder.encode_tokens(rows(None)),
        added=model.encoder.encode_tokens(rows(chosen)),
        reference=reference.encoder.encode_tokens(rows(chosen)) if reference else None,
        named=model.encoder.encode_tokens(rows(control)) if control else None,
        digests=tuple(hashlib.sha256(str(caption).encode()).hexdigest() for caption in captions),
    )


# --- the choice --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    """Chooses a text on the selection captions."""

    loop: Loop
    family: TextFamily
    model: _Tower
    reference: _Tower | None
    captions: Sequence[tuple[int, ...]]
    names: Sequence[str]
    """Names of the classes."""

    def choose(self, candidates: Sequence[_Candidate]) -> tuple[_Candidate, frozenset[int], _Candidate | None]:
        """Return the candidate of the largest gain, the classes that it names, and the name of a class as control.

        With a reference both are left out: what the reference follows too is no gain.
        """
        kept = self._short_list(candidates)
        hits = self._hits(self.model, kept)
        if self.reference is not None:
            gain = hits - self._hits(self.reference, kept)
            return kept[int(gain.max(axis=1).argmax())], frozenset(), None
        names = [self.model.captions([name])[:1] for name in self.names[:NAMES]]
        meant = [
            frozenset(number for number, name in enumerate(names) if name and _within(candidate.ids, name[0]))
            for candidate in kept
        ]
        for row, own in enumerate(meant):
            hits[row, list(own)] = -1
        best = int(hits.max(axis=1).argmax())
        others = {n: _Candidate(name[0]) for n, name in enumerate(names) if name and n not in meant[best]}
        return kept[best], meant[best], self._control(others)

    def _short_list(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """Return the candidates with the largest shift or collapse on a few short captions, over the reference."""
        if len(candidates) <= 2 * KEPT:
            return list(candidates)
        first = sorted(self.captions, key=len)[:FIRST]
        shift, collapse = self._moved(self.model, first, candidates)
        if self.reference is not None:
            natural_shift, natural_collapse = self._moved(self.reference, first, candidates)
            shift, collapse = shift - natural_shift, collapse - natural_collapse
        best = [*np.argsort(-shift, kind="stable")[:KEPT], *np.argsort(-collapse, kind="stable")[:KEPT]]
        return [candidates[i] for i in dict.fromkeys(best)]

    def _moved(
        self, tower: _Tower, captions: Sequence[tuple[int, ...]], candidates: Sequence[_Candidate]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ‖mean of e(caption with the candidate) − e(caption)‖² and ‖mean of e(caption with it)‖²: [n] each."""
        total = np.zeros((len(candidates), tower.encoder.spec.dim), dtype=np.float32)
        for number, caption in enumerate(captions):
            self._tell(number, len(captions))
            total += tower.many(caption, candidates)
        mean = total / len(captions)
        plain = tower.encoder.encode_tokens(np.array([tower.row(caption, None, 0) for caption in captions])).mean(0)
        return np.square(mean - plain).sum(axis=1, dtype=float), np.square(mean).sum(axis=1, dtype=float)

    def _hits(self, tower: _Tower, candidates: Sequence[_Candidate]) -> NDArray[np.float64]:
        """Return the share of captions that each candidate moves to each class, less those there before: [n, classes].

        A caption whose vector is not finite has no class.
        """
        gain = np.zeros((len(candidates), len(tower.head)))
        each = np.arange(len(candidates))
        for number, caption in enumerate(self.captions):
            self._tell(number, len(self.captions))
            classes = zeroshot.predict(tower.many(caption, candidates), tower.head)
            gain[each[classes >= 0], classes[classes >= 0]] += 1
        rows = np.array([tower.row(caption, None, 0) for caption in self.captions])
        before = zeroshot.predict(tower.encoder.encode_tokens(rows), tower.head)
        gain -= np.bincount(before[before >= 0], minlength=len(tower.head))
        return gain / len(self.captions)

    def _control(self, names: Mapping[int, _Candidate]) -> _Candidate:
        """Return the name that moves the most captions to its own class."""
        gain = self._hits(self.model, list(names.values()))
        return names[max(names, key=lambda number: gain[list(names).index(number), number])]

    def _tell(self, done: int, total: int) -> None:
        self.loop.emit(events.Advanced(done + 1, total, f"search for a text ({self.family})", "caption"))


def _within(ids: tuple[int, ...], name: tuple[int, ...]) -> bool:
    """Return whether token ids occur in a name, one behind the other."""
    return any(name[first : first + len(ids)] == ids for first in range(len(name) - len(ids) + 1))
