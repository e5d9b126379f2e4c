"""What was found in a data set, in sentences that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loratory import units
from loratory.data.overlap import SIDES
from loratory.data.places import place_said
from loratory.data.profile import KEPT, MULTIPLE, Cut, Group, Profile, Repeats, Rows, Search, Tokens
from loratory.data.seen import Place
from loratory.errors import counted

GROUPS = 3
"""Groups of rows that are shown."""

NAMED = 6
"""Rows of a group, and of a list, that are named."""

ROWS_SAID = "Lines are those of the file, from 1; where data have no lines, rows count from 1."


@dataclass(frozen=True)
class Finding:
    """One question about the data: its answer in sentences, and the rows that it is about, each with its texts."""

    title: str
    sentences: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()


def findings(profile: Profile, sizes: Mapping[str, int]) -> list[Finding]:
    """What to know before training: leakage, repeated texts, conflicts, lengths.

    Args:
        sizes: rows by part.
    """
    found = [
        _equal(profile.equal, sizes),
        *([] if profile.alone is None else [_alone(profile.alone, sizes)]),
        _near(profile.near, profile.search, sizes),
        _conflicts(profile),
    ]
    return found if profile.tokens is None else [*found, _lengths(profile.tokens)]


def _equal(equal: Repeats, sizes: Mapping[str, int]) -> Finding:
    sentences = [
        _within(equal, sizes, "Rows that repeat an earlier one of their split", "No row repeats another of its split."),
        _across(equal, sizes, "Rows whose text stands in another split too", "No text stands in two splits."),
    ]
    return Finding("Equal texts, up to case and spaces", tuple(sentences), _shown(equal.largest))


def _alone(alone: Mapping[str, Mapping[str, int]], sizes: Mapping[str, int]) -> Finding:
    sentences = []
    for column, said in SIDES.items():
        shares = [
            f"{counted(number, 'row')} of {pair.split('-')[1]} ({units.percent(number / sizes[pair.split('-')[1]])}) "
            f"in {pair.split('-')[0]}"
            for pair, number in alone[column].items()
            if number
        ]
        where = f"stands in another split too, beside another text or the same: {', '.join(shares)}."
        sentences.append(f"The {said} text {where}" if shares else f"No {said} text stands in two splits.")
    if any(number for counts in alone.values() for number in counts.values()):
        sentences.append("--group-column with the column of that text keeps its pairs in one split.")
    return Finding("Texts of pairs, each by itself", tuple(sentences))


def _near(repeats: Repeats, search: Search, sizes: Mapping[str, int]) -> Finding:
    how = (
        "Two texts are near duplicates where the Jaccard similarity of their sets of runs of "
        f"{search.shingle} characters is at least {search.threshold:g}. MinHash with LSH ({search.permutations} "
        f"permutations, {search.bands} bands, seed {search.seed}) finds candidates, which are compared exactly; a "
        "group is what such pairs link."
    )
    sentences = [
        _within(repeats, sizes, "Rows with a near duplicate in their split", "No row has one in its split."),
        _across(repeats, sizes, "Rows with a near duplicate in another split", "No row has one in another split."),
    ]
    if repeats.conflicts:
        sentences.append(f"{_of(repeats.conflicts, repeats.groups, 'group')} more than one label.")
    if search.searched < search.distinct:
        sentences.append(
            f"Looked for in a sample of {search.searched:,} of {search.distinct:,} distinct texts (seed "
            f"{search.seed}): a pair is found where both were drawn, so that there are more than these counts say."
        )
    if not search.finished:
        sentences.append("There were too many candidates to compare them all: there may be more.")
    return Finding("Near duplicates", (*sentences, how), _shown(repeats.largest))


def _conflicts(profile: Profile) -> Finding:
    if not profile.equal.conflicts:
        return Finding("Label conflicts", ("No text has two labels.",))
    rows = tuple((_named(group, labels=True), group.texts) for group in profile.conflicting[:GROUPS])
    return Finding("Label conflicts", (f"{counted(profile.equal.conflicts, 'text')} with more than one label.",), rows)


def _lengths(tokens: Tokens) -> Finding:
    sentences = [
        _listed(tokens.empty, "no token but special ones", "No text is empty to the tokenizer."),
        _listed(
            tokens.too_long,
            f"more than the {tokens.takes:,} tokens that {tokens.model} takes",
            f"No text is longer than the {tokens.takes:,} tokens that {tokens.model} takes.",
        ),
        f"--max-length {tokens.given.max_length:,} {_cut(tokens.given)}.",
    ]
    if tokens.suggested != tokens.given:
        sentences.append(f"Suggested: --max-length {tokens.suggested.max_length:,}, which {_cut(tokens.suggested)}.")
    why = (
        f"Suggested is the smallest multiple of {MULTIPLE} that leaves {KEPT:.0%} of the texts and of the tokens "
        "whole. Where batches hold no padding, a longer maximum costs no more than the tokens it keeps."
    )
    return Finding("Maximum length", (*sentences, why))


def _cut(cut: Cut) -> str:
    if not cut.texts:
        return "cuts no text"
    return (
        f"cuts {counted(cut.texts, 'text')} ({units.percent(cut.texts_share)}) and "
        f"{units.percent(cut.tokens_share)} of the tokens"
    )


def _of(number: int, total: int, noun: str) -> str:
    return f"{number:,} of {counted(total, noun)} {'has' if number == 1 else 'have'}"


def _within(repeats: Repeats, sizes: Mapping[str, int], what: str, none: str) -> str:
    said = [
        f"{part} {number:,} ({units.percent(number / sizes[part])})"
        for part, number in repeats.within.items()
        if number
    ]
    return f"{what}: {', '.join(said)}." if said else none


def _across(repeats: Repeats, sizes: Mapping[str, int], what: str, none: str) -> str:
    said = []
    for pair, number in repeats.across.items():
        first, second = pair.split("-")
        if number:
            said.append(f"{second} {number:,} ({units.percent(number / sizes[second])}) in {first}")
    return f"{what}: {', '.join(said)}." if said else none


def _listed(rows: Rows, what: str, none: str) -> str:
    if not rows.count:
        return none
    have = "has" if rows.count == 1 else "have"
    return f"{counted(rows.count, 'text')} {have} {what}: {_names(rows.listed, rows.count)}."


def _shown(groups: Iterable[Group]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((_named(group), group.texts) for group in list(groups)[:GROUPS])


def _named(group: Group, *, labels: bool = False) -> str:
    similarity = "" if group.similarity == 1 else f", least similarity {group.similarity:.2f}"
    distinct = "" if labels or len(group.labels) == 1 else f", labels {' and '.join(group.labels)}"
    return f"{counted(group.rows, 'row')}{similarity}{distinct}: {_names(group.listed, group.rows, labels=labels)}"


def _names(places: Iterable[Place], total: int, *, labels: bool = False) -> str:
    """`train line 3, 17; test line 4 and 12 more`."""
    by_part: dict[str, list[str]] = {}
    named = list(places)[:NAMED]
    for place in named:
        unit, number = place_said(place.row, place.line).split()
        by_part.setdefault(f"{place.part} {unit}", []).append(f"{number} ({place.label})" if labels else number)
    more = f" and {total - len(named):,} more" if total > len(named) else ""
    return "; ".join(f"{part} {', '.join(rows)}" for part, rows in by_part.items()) + more
