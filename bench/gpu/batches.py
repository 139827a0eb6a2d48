"""Token batches by name, the same as `bei bench` makes them (cmd/bei/batches.go): seeded lengths and ids."""

from __future__ import annotations

import re

SHORTEST_MIXED, LONGEST_MIXED = 16, 512
LENGTH_STREAM, ID_STREAM = 1, 2  # streams of mix, one for each thing that is drawn
MASK = (1 << 64) - 1


def mix(stream: int, i: int) -> int:
    """Number i of a stream of seeded numbers (splitmix64)."""
    z = (stream + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def lengths(name: str) -> list[int]:
    """Lengths of the sequences of "32x512", "mixed64", "mixed8:2-16" or "16+40+300"."""
    if match := re.fullmatch(r"(\d+)x(\d+)", name):
        result = [int(match[2])] * int(match[1])
    elif match := re.fullmatch(r"mixed(\d+)(?::(\d+)-(\d+))?", name):
        shortest, longest = (int(match[2]), int(match[3])) if match[2] else (SHORTEST_MIXED, LONGEST_MIXED)
        count = int(match[1]) if 1 <= shortest <= longest else 0
        result = [shortest + mix(LENGTH_STREAM, i) % (longest - shortest + 1) for i in range(count)]
    else:
        result = [int(part) for part in name.split("+")] if re.fullmatch(r"\d+(\+\d+)*", name) else []
    if not result or min(result) < 1:
        raise ValueError(
            f'batch "{name}": it is COUNTxLENGTH, mixedCOUNT, mixedCOUNT:SHORTEST-LONGEST or LENGTH+LENGTH..., each length at least 1'
        )
    return result


def sequences(name: str, vocab: int) -> list[list[int]]:
    """The token ids of each sequence, below vocab."""
    result, first = [], 0
    for length in lengths(name):
        result.append([mix(ID_STREAM, first + i) % vocab for i in range(length)])
        first += length
    return result
