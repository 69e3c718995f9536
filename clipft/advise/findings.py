"""What a look at the data found, in sentences: what is there, and what to look at before training."""

from __future__ import annotations

from collections.abc import Iterator

from clipft.advise.class_names import Wording
from clipft.advise.rules import SHOTS, Goal
from clipft.data.captions import CaptionReport
from clipft.data.sighting import Sighting
from clipft.words import counted, some

UNEQUAL = 10
"""The largest class has so many times the smallest one's images: strongly unequal (ours)."""

MAX_BAD = 0.01
"""The default of data.max_bad_fraction."""


def unequal(seen: Sighting) -> bool:
    """Whether the classes are of very different size."""
    counts = [count for count in seen.counts if count]
    return len(counts) > 1 and max(counts) >= UNEQUAL * min(counts)


def facts(seen: Sighting, goal: Goal, lengths: CaptionReport | str | None) -> Iterator[str]:
    """What is there, and how closely it was looked at.

    Args:
        lengths: of captions that were counted, or why they were not.
    """
    yield _size(seen, goal)
    others = f", {seen.checked:,} more looked at by their first bytes" if seen.checked else ""
    good = "all fine" if not seen.faults else f"all but {len(seen.faults):,} fine"
    looked_at = seen.opened + seen.checked + seen.copies + seen.missing
    rest = "" if looked_at >= seen.rows else "; the rest was not looked into"
    yield f"{seen.opened:,} of {counted(seen.rows, 'image')} were opened{others}: {good}{rest}."
    copies = {0: "no two are the same", 1: "1 is a copy of another"}.get(seen.copies, f"{seen.copies:,} are copies")
    which = some([f"{one} = {other}" for one, other in seen.pairs], len(seen.pairs), seen.copies)
    named = f": {which}" if seen.pairs else ""
    yield f"All files were compared: {copies}, byte for byte{named}. Resized copies would not be seen."
    if isinstance(lengths, CaptionReport):
        few = "" if seen.repeats and lengths.captions == seen.repeats.rows else f" of {lengths.captions:,} looked at"
        yield f"Longest caption{few}: {lengths.longest} tokens; the model reads {lengths.context_length}."
    elif lengths:
        yield f"How long the captions are was not counted: {lengths}"


def _size(seen: Sighting, goal: Goal) -> str:
    size = f"{counted(seen.training, 'image')} to train on, {seen.validation:,} others to measure on"
    if goal == "retrieve":
        return f"{size}, each with a caption."
    there = [count for count in seen.counts if count]
    each = f"{min(there):,}" if min(there) == max(there) else f"{min(there):,} to {max(there):,}"
    held_out = "" if seen.rows == seen.training else ", those to measure on included"
    return f"{size}. {len(there):,} classes of {each} images{held_out}."


def warnings(seen: Sighting, goal: Goal, names: Wording, lengths: CaptionReport | str | None) -> Iterator[str]:
    """What to look at before training, worst first."""
    yield from _files(seen)
    if goal == "classify":
        yield from _classes(seen, names)
    if isinstance(lengths, CaptionReport) and lengths.cut:
        yield (
            f"{lengths.cut:,} of {counted(lengths.captions, 'caption')} "
            f"({100 * lengths.cut / lengths.captions:.1f} %) are cut at {lengths.context_length} tokens. What matters "
            "should stand in the first half."
        )
    if goal == "retrieve" and seen.repeats and seen.repeats.distinct < seen.repeats.rows:
        yield (
            f"Only {seen.repeats.distinct:,} of {counted(seen.repeats.rows, 'caption')} are different. Rows with the "
            "same caption count as right answers for each other; too many of them, and there is little to learn."
        )


def _files(seen: Sighting) -> Iterator[str]:
    if seen.missing > MAX_BAD * seen.rows:
        yield (
            f"{seen.missing:,} of {counted(seen.rows, 'image')} are missing or empty: above 1 % a run does not start. "
            "Mend or remove them, or write max_bad_fraction under data."
        )
    if seen.faults:
        yield (
            f"{counted(len(seen.faults), 'image')} cannot be read: {some(seen.faults, 2)}. Above 1 % of all a run is "
            "refused, or stops where it meets them; mend or remove them."
        )
    if seen.across:
        one, other = seen.across[0]
        times = "One image lies" if len(seen.across) == 1 else f"{len(seen.across):,} images lie"
        yield f"{times} in two classes, byte for byte the same: {one} = {other}. One of the two is wrong."


def _classes(seen: Sighting, names: Wording) -> Iterator[str]:
    by_count = sorted(zip(seen.counts, seen.classes, strict=True))
    few = [f"{name} {count}" for count, name in by_count if 0 < count < SHOTS]
    if few:
        yield (
            f"Fewer than {SHOTS} images: {len(few):,} of {len(seen.classes):,} classes ({some(few, 4)}). "
            "Their figures will jump by chance; more images help most here."
        )
    if unequal(seen):
        (least, small), (most, large) = next(pair for pair in by_count if pair[0]), by_count[-1]
        yield (
            f"The classes are very unequal: {large} has {most:,} images, {small} {least:,}. So the mean over classes "
            "chooses the best epoch. A classifier can weigh the classes too: see loss below."
        )
    if names.why == "numbers":
        yield (
            "The classes are numbers. If they do not mean the numbers zero, one, ... write what they mean into "
            "class_names: CLIP learns from the words."
        )
    if names.codes:
        yield (
            f"Class names such as {some(names.codes, 3)} say nothing to the model. Write what they mean: "
            f'class_names: {{"{names.codes[0]}": golden retriever}}'
        )
    if seen.unlabelled:
        yield f"Without a class: {counted(seen.unlabelled, 'row')}; a classifier would refuse them."
