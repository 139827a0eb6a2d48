"""The small tokenizers of the fixture, one folder each: every shape of post-processor and decoder that served models use.

    python kinds.py        trains them anew and writes <kind>/tokenizer.json

The WordPiece and Unigram trainers do not repeat themselves exactly, so the files change only when this script is run on
purpose; generate.py must follow.
"""

import json
import os
import pathlib

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent

CORPUS = [
    "the quick brown fox jumps over the lazy dog and the dog does not mind at all",
    "a token is a piece of a text, and a text is a sequence of tokens",
    "embedding models turn a sequence of tokens into a vector; the vectors of similar texts are close",
    "Where is the station? It is near the river, behind the old market.",
    "she sells sea shells by the sea shore, and they're not cheap: 12 for 34 pence, don't you think?",
    "the harbour was quiet when the first boat came in and the second boat could be heard",
    "café crème brûlée naïve façade",
    "der schnelle braune Fuchs springt über den faulen Hund",
    "быстрая лисица прыгает через ленивую собаку",
    "今天天气很好 我们去公园散步",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 13 100 2026",
]


def wordpiece() -> Tokenizer:
    """An uncased BERT as models were shipped in 2019: BertProcessing, and padding and truncation left in the file."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=320, special_tokens=specials, show_progress=False))
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    return tokenizer


def byte_level(add_prefix_space: bool, specials: list) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def roberta(add_prefix_space: bool, trim_offsets: bool) -> Tokenizer:
    """RoBERTa: byte-level BPE and RobertaProcessing, whose pair template has two separators and whose type ids are all 0."""
    mask = AddedToken("<mask>", lstrip=True, special=True)
    tokenizer = byte_level(add_prefix_space, ["<s>", "<pad>", "</s>", "<unk>", mask])
    sep, cls = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", sep), ("<s>", cls), trim_offsets, add_prefix_space)
    return tokenizer


def sequence() -> Tokenizer:
    """Decoder models used as encoders: ByteLevel offsets trimmed, then a template that only ends with one token."""
    tokenizer = byte_level(False, ["<|endoftext|>", "<|im_start|>"])
    tokenizer.add_tokens([AddedToken("<extra>", normalized=False)])
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="$A:0 <|endoftext|>:0", pair="$A:0 $B:1 <|endoftext|>:1", special_tokens=[("<|endoftext|>", end)]),
    ])
    return tokenizer


def qwen() -> Tokenizer:
    """Qwen3-Embedding: NFC, then splits by a pattern of its own, digits one by one, and an end token after each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    )
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="$A:0 <|endoftext|>:0", pair="$A:0 $B:1 <|endoftext|>:1", special_tokens=[("<|endoftext|>", end)]),
    ])
    return tokenizer


def template() -> Tokenizer:
    """A template with nothing usual in it: several specials on both sides, B before A, type ids up to 3, a special of two ids."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    specials = ["<unk>", "<bos>", "<lang>", "<sep>", "</s>"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=200, special_tokens=specials, show_progress=False))
    ids = {name: tokenizer.token_to_id(name) for name in specials}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos>:2 <lang>:0 $A:1 <two>:3 </s>:0",
        pair="<bos>:2 $B:1 <two>:3 <lang>:0 $A:0 </s>:1",
        special_tokens=[
            ("<bos>", ids["<bos>"]),
            ("<lang>", ids["<lang>"]),
            ("</s>", ids["</s>"]),
            {"id": "<two>", "ids": [ids["<sep>"], ids["<lang>"]], "tokens": ["<sep>", "<lang>"]},
        ],
    )
    return tokenizer


def unigram() -> Tokenizer:
    """The shape of XLM-RoBERTa: Unigram over Metaspace, TemplateProcessing with </s> </s> between the two texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))],
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """The shape of Llama 2 and Mistral: BPE that falls back to bytes, a normalizer that prepends, <s> before each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    latin = sorted(set("".join(CORPUS[:6]) + "▁"))
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=latin, limit_alphabet=len(latin), max_token_length=8, show_progress=False
    )
    tokenizer.train_from_iterator((word for line in CORPUS[:6] for word in line.split()), trainer)
    # The byte pieces are plain vocabulary entries: trained as special tokens they only get their places.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def plain() -> Tokenizer:
    """No post-processor, no normalizer, no decoder."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False))
    return tokenizer


KINDS = {
    "bert": wordpiece,
    "roberta": lambda: roberta(add_prefix_space=False, trim_offsets=True),
    "roberta_prefix": lambda: roberta(add_prefix_space=True, trim_offsets=True),
    "roberta_untrimmed": lambda: roberta(add_prefix_space=True, trim_offsets=False),
    "sequence": sequence,
    "template": template,
    "unigram": unigram,
    "byte_fallback": byte_fallback,
    "plain": plain,
    "qwen": qwen,
}


def main() -> None:
    for kind, make in KINDS.items():
        path = HERE / kind / "tokenizer.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(make().to_str(pretty=False) + "\n", encoding="utf-8")
        print(f"{kind}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
