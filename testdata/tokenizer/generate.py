"""Makes fixture.json.gz: what Hugging Face tokenizers answers for hundreds of texts and pairs, and for ids to decode.

    .deps/venv-golden/bin/python testdata/tokenizer/generate.py --minilm .deps/models/all-MiniLM-L6-v2/tokenizer.json

Padding and truncation found in a tokenizer.json are dropped first; each case then sets its own truncation with
enable_truncation(max_length, strategy="longest_first", direction=side, stride=0).

    texts                every text once; cases name them by index
    encode[].tokenizer   a folder beside this file, or "minilm"
    encode[].text, pair  indices; no pair: null
    encode[].max_length  tokens with the special ones, or null: no truncation
    encode[].side        which side is cut off: "right", "left"
    encode[].special     add_special_tokens
    encode[].ids, type_ids, special_tokens_mask, tokens
    encode[].sequence    0: of the text, 1: of its pair, -1: of neither
    encode[].offsets     start, end, start, end, ... in Unicode code points of the token's own text
    decode[]             tokenizer, ids, skip_special, text

A max_length below the number of special tokens has no case: upstream's subtraction wraps round and nothing is cut.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import random

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers

from kinds import KINDS

HERE = pathlib.Path(__file__).resolve().parent
SIDES = ("right", "left")

# What the 60 golden texts lack: texts without any token, the special tokens of all kinds, numbers, and text the small tokenizers know.
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "Where is the station?",
    "a token is a piece of a text, and a text is a sequence of tokens",
    "she sells sea shells by the sea shore, and they're not cheap: 12 for 34 pence",
    "  two  spaces   everywhere  ",
    " leading",
    "trailing ",
    "café crème brûlée naïve façade",
    "cafe\u0301 cre\u0300me, de\u0301compose\u0301",
    "ﬁne ligature ½ Ⅷ ℌ ①  full-width ＡＢＣ",
    "İI ıi ẞß ǅ",
    "猫the狗 quick猫",
    "👩🏽‍⚕️ 👨‍👩‍👧‍👦🙂",
    "fill the <mask> in, or the[MASK]here",
    "<s> a </s><s>b</s> <pad>",
    "<bos>[CLS]x[SEP]<|endoftext|><extra> <extra>y",
    "don't we'll I'm they've it's he'd",
    "x" * 19 + " " + "y" * 20 + " " + "z" * 101,
    "1234567890 3.14159 1,000,000 0x1F",
    "tab\tnew\nline\r\nnul-free \u0001\u0002 control",
    "▁already▁ marked ▁",
    "𝔐𝔞𝔱𝔥 𐌰𐍄 outside the BMP \U0010ffff",
]
TOKENLESS = [" ", " \t\n ", "\u200b\u200b", "\u0007", ""]
LENGTHS = (2, 3, 4, 5, 6, 7, 8, 11, 16, 23, 32, 64, 100, 128, 255, 256, 257, 300)


class Fixture:
    def __init__(self, minilm: pathlib.Path):
        self.tokenizers = {kind: self.load(HERE / kind / "tokenizer.json") for kind in KINDS}
        self.tokenizers["minilm"] = self.load(minilm)
        self.texts: list[str] = []
        self.encode_cases: dict[str, dict] = {}
        self.decode_cases: dict[str, dict] = {}

    @staticmethod
    def load(path: pathlib.Path) -> tokenizers.Tokenizer:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["padding"] = content["truncation"] = None
        return tokenizers.Tokenizer.from_str(json.dumps(content))

    def index(self, text: str | None) -> int | None:
        if text is None:
            return None
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

    def encode(self, kind: str, text: str, pair: str | None = None, max_length: int | None = None, side: str = "right", special: bool = True) -> None:
        tokenizer = self.tokenizers[kind]
        if max_length is None:
            tokenizer.no_truncation()
        else:
            if special and max_length < tokenizer.num_special_tokens_to_add(pair is not None):
                return
            tokenizer.enable_truncation(max_length, stride=0, strategy="longest_first", direction=side)
        encoding = tokenizer.encode(text, pair, add_special_tokens=special)
        assert max_length is None or len(encoding.ids) <= max_length
        case = {
            "tokenizer": kind,
            "text": self.index(text),
            "pair": self.index(pair),
            "max_length": max_length,
            "side": side,
            "special": special,
        }
        self.encode_cases[json.dumps(case)] = {
            **case,
            "ids": encoding.ids,
            "type_ids": encoding.type_ids,
            "special_tokens_mask": encoding.special_tokens_mask,
            "sequence": [-1 if s is None else s for s in encoding.sequence_ids],
            "offsets": list(itertools.chain.from_iterable(encoding.offsets)),
            "tokens": encoding.tokens,
        }

    def decode(self, kind: str, ids: list[int], skip_special: bool) -> None:
        case = {"tokenizer": kind, "ids": ids, "skip_special": skip_special}
        self.decode_cases[json.dumps(case)] = {**case, "text": self.tokenizers[kind].decode(ids, skip_special_tokens=skip_special)}

    def add_kind(self, kind: str, texts: list[str], rng: random.Random) -> None:
        """Each text whole; a share of them without special tokens, cut to one or two lengths, and as pairs."""
        tokenizer = self.tokenizers[kind]
        for i, text in enumerate(texts):
            self.encode(kind, text)
            if i % 3 == 0 and len(text) < 1000:  # a long one says nothing more, in 30 KB
                self.encode(kind, text, special=False)
            for max_length in rng.sample(LENGTHS, 1 if i % 2 else 2):
                self.encode(kind, text, max_length=max_length, side=rng.choice(SIDES), special=rng.random() < 0.8)
        short = [text for text in texts if len(text) < 200]
        for i in range(len(texts) * 2 // 3):
            text, pair = rng.sample(short if i % 4 else texts, 2)
            max_length = rng.choice((None, *LENGTHS[1:12]))
            self.encode(kind, text, pair, max_length, rng.choice(SIDES), special=rng.random() < 0.8)
        # Both texts long and short against every small budget: the arithmetic of longest_first.
        long, word = "the quick brown fox jumps over the lazy dog", "fox"
        for text, pair in ((long, word), (word, long), (long, long)):
            for max_length, side in itertools.product((3, 4, 5, 7, 9), SIDES):
                self.encode(kind, text, pair, max_length, side)
        for text in TOKENLESS:
            self.encode(kind, text)
            self.encode(kind, text, "fox")
            self.encode(kind, "fox", text)
        tokenizer.no_truncation()
        for i, text in enumerate(texts):
            ids = tokenizer.encode(text, rng.choice(short) if i % 2 else None).ids[:64]
            if ids and i % 2 == 0 or kind == "minilm":
                self.decode(kind, ids, skip_special=True)
                self.decode(kind, ids, skip_special=False)
        self.decode(kind, [rng.randrange(tokenizer.get_vocab_size()) for _ in range(24)], skip_special=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", required=True, type=pathlib.Path, help="tokenizer.json of all-MiniLM-L6-v2")
    minilm = parser.parse_args().minilm
    golden = [case["text"] for case in json.loads((HERE.parent / "minilm" / "texts.json").read_text(encoding="utf-8"))]

    fixture = Fixture(minilm)
    fixture.add_kind("minilm", golden + TEXTS, random.Random(1))
    for seed, kind in enumerate(KINDS, start=2):
        rng = random.Random(seed)
        fixture.add_kind(kind, TEXTS + rng.sample([text for text in golden if len(text) < 120], 12), rng)

    head = {
        "tokenizers_version": tokenizers.__version__,
        "minilm_sha256": hashlib.sha256(minilm.read_bytes()).hexdigest(),
    }
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    lists = {"texts": fixture.texts, "encode": fixture.encode_cases.values(), "decode": fixture.decode_cases.values()}
    parts = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in head.items()]
    for key, values in lists.items():
        parts.append(f"{json.dumps(key)}:[\n" + ",\n".join(json.dumps(value, **compact) for value in values) + "\n]")
    path = HERE / "fixture.json.gz"
    path.write_bytes(gzip.compress(("{" + ",\n".join(parts) + "}\n").encode(), 9, mtime=0))
    print(f"{len(fixture.texts)} texts, {len(fixture.encode_cases)} to encode, {len(fixture.decode_cases)} to decode, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
