"""The texts of the benchmark: random whole words of the model's vocabulary, so that the number of tokens is known beforehand.

Each word is one token of the uncased WordPiece vocabulary, so n words make n + 2 tokens with [CLS] and [SEP].
"""

import dataclasses
import json
import pathlib
import random
import re

SEED = 20261123
SHORTEST, LONGEST = 8, 256  # tokens, special ones included
LATENCY_TOKENS = 19


@dataclasses.dataclass(frozen=True)
class Workload:
    texts: list[str]
    sequences: list[list[int]]  # token ids of the texts
    latency_text: str

    @property
    def tokens(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


def make(model: str, count: int) -> Workload:
    """count texts in arrival order, lengths uniform in SHORTEST..LONGEST, the same for every caller."""
    content = json.loads((pathlib.Path(model) / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    words = sorted(word for word in vocabulary if re.fullmatch("[a-z]{2,}", word))
    cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
    rng = random.Random(SEED)

    def sample(tokens: int) -> list[str]:
        return rng.choices(words, k=tokens - 2)

    latency_text = " ".join(sample(LATENCY_TOKENS))
    chosen = [sample(rng.randint(SHORTEST, LONGEST)) for _ in range(count)]
    sequences = [[cls, *(vocabulary[word] for word in text), sep] for text in chosen]
    return Workload([" ".join(text) for text in chosen], sequences, latency_text)
