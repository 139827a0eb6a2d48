"""Makes settings.json: the tokens that transformers' AutoTokenizer gives of folders of testdata/models/ whose files are edited.

    .deps/venv-golden/bin/python testdata/tokenizer/settings.py

    base       a folder of ../models
    edits      by file, a merge patch (RFC 7396): null removes a key; a file that is not there is made
    side       the tokenizer's truncation_side
    ids        of each of texts
"""

import json
import os
import pathlib
import shutil
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
TEXTS = ["Hello WORLD, naïve café", "a [MASK] b <mask> c", "x<s>y 猫 the [SEP]", "  the  sea "]


def added(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True, **flags}


def normalizer(**flags):
    return {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True, **flags}}


CASES = [
    ("bert-mean", {}),
    ("bert-mean", {CONFIG: {"do_lower_case": False}}),
    ("bert-mean", {CONFIG: {"do_lower_case": None}, TOKENIZER: normalizer(lowercase=False)}),
    ("bert-mean", {CONFIG: {"tokenizer_class": "BertTokenizerFast"}, TOKENIZER: normalizer(lowercase=False)}),
    ("bert-mean", {CONFIG: {"tokenizer_class": None}, TOKENIZER: normalizer(lowercase=False, strip_accents=True)}),
    ("bert-mean", {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}, TOKENIZER: normalizer(lowercase=False)}),
    ("bert-mean", {CONFIG: {"strip_accents": False, "tokenize_chinese_chars": False}}),
    ("bert-mean", {TOKENIZER: {"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None}}),
    ("bert-mean", {CONFIG: {"cls_token": "[MASK]", "sep_token": {"__type": "AddedToken", **added("[UNK]")}}}),
    ("bert-mean", {CONFIG: {"truncation_side": "left"}}),
    ("bert-mean", {TOKENIZER: {"truncation": {"max_length": 512, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}}}),
    ("bert-mean", {CONFIG: {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}}),
    ("bert-mean", {CONFIG: {"extra_special_tokens": ["the"]}}),
    ("bert-mean", {"special_tokens_map.json": {"additional_special_tokens": ["the"], "mask_token": "[MASK]"}}),
    ("bert-mean", {CONFIG: {"added_tokens_decoder": {"4": added("[MASK]"), "0": added("[PAD]")}}}),
    ("roberta-mean", {CONFIG: {"tokenizer_class": "RobertaTokenizer"}}),
    ("roberta-mean", {CONFIG: {"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True}}),
    ("roberta-mean", {CONFIG: {"add_prefix_space": True}}),
    ("roberta-mean", {CONFIG: {"added_tokens_decoder": {"4": added("<mask>")}}}),
    ("roberta-mean", {CONFIG: {"added_tokens_decoder": {"4": added("<mask>", special=False, normalized=True)}}}),
    ("mpnet-mean", {}),
    ("xlm-roberta-cls", {CONFIG: {"tokenizer_class": "XLMRobertaTokenizer"}}),
    ("qwen3-lasttoken", {CONFIG: {"tokenizer_class": "Qwen2Tokenizer"}}),
    ("llama-lasttoken", {CONFIG: {"add_bos_token": False, "add_eos_token": True}}),
]


def merged(value, patch):
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, inner in patch.items():
        if inner is None:
            value.pop(key, None)
        else:
            value[key] = merged(value.get(key), inner)
    return value


def case(base, edits):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HERE.parent / "models" / base, folder, dirs_exist_ok=True)
        for name, patch in edits.items():
            path = pathlib.Path(folder, name)
            old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps(merged(old, patch)), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return {"base": base, "edits": edits, "side": tokenizer.truncation_side, "ids": [tokenizer(text)["input_ids"] for text in TEXTS]}


def main():
    cases = ",\n".join(json.dumps(case(base, edits), ensure_ascii=True, separators=(",", ":")) for base, edits in CASES)
    path = HERE / "settings.json"
    path.write_text('{"texts":' + json.dumps(TEXTS, ensure_ascii=True) + ',"cases":[\n' + cases + "\n]}\n", encoding="utf-8")
    print(f"{len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
