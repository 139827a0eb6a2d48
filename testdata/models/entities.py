"""Writes NAME-entities folders: token classifiers, with entities.json of what transformers' TokenClassificationPipeline names in texts.

    .deps/venv-golden/bin/python testdata/models/entities.py [NAME ...]

Each is generate.py's NAME-token-classifier with another last layer: that one's gives most tokens one label, and with these all labels occur.
Numbers are fp32 on the CPU, one text at a time.

    items[]   text; side: the one that is cut off; input_ids; and for each aggregation the entities in order: [label or group, score, start, end,
              index of the token (none only)], start and end in code points of the text
"""

import json
import os
import pathlib
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
# WordPiece, whose pieces mark what continues a word; byte-level BPE with and without an unknown token; unigrams; labels without B- and I-.
NAMES = ("bert", "roberta", "xlm-roberta", "qwen3", "modernbert")
SHARPER = 6  # by this much logits are larger, so that scores are not all alike
AGGREGATIONS = ("none", "simple", "first", "average", "max")
LONG = "the harbour was quiet when the first boat came in, and nobody minded: " + "tokens of a sequence, models and vectors "
TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "a",
    "Where is the station?",
    "  two  spaces, a\ttab and\na new line ",
    "Café CRÈME, brûlée! naïve",
    "cafe\u0301 combining; ﬁ ligature",
    "быстрая лисица 今天 🙂 embedding",
    "12 for 34 pence (and 5-6)",
    "the token [SEP] and <unk> and [UNK] and </s> are special <|endoftext|>",
    "don't re-embed similar/close texts... see the U.S.",
    LONG * 3,
)


def entity(found: dict) -> list:
    name = found["entity"] if "entity" in found else found["entity_group"]
    index = [found["index"]] if "index" in found else []
    return [name, float(f"{float(found['score']):.9g}"), found["start"], found["end"], *index]


def write_folder(folder: pathlib.Path, source: pathlib.Path) -> None:
    """source, its last layer sharper and without what the logits of all tokens have in common."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("golden.json"))
    model, tokenizer = load(source)
    logits = torch.cat([model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in TEXTS])
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    weight, bias = (next(name for name in tensors if name.endswith((f"classifier.{kind}", f"score.{kind}"))) for kind in ("weight", "bias"))
    centre = tensors[bias].float() - logits.mean(dim=0)
    # Rounded, so that another processor makes the same file.
    tensors[bias] = torch.round(SHARPER * centre, decimals=1).to(tensors[bias].dtype)
    tensors[weight] = SHARPER * tensors[weight]
    safetensors.torch.save_file(tensors, file, {"format": "pt"})


def load(folder: pathlib.Path) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerBase]:
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def make(name: str) -> None:
    folder = HERE / f"{name}-entities"
    write_folder(folder, HERE / f"{name}-token-classifier")
    model, tokenizer = load(folder)
    pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    items, counts = [], dict.fromkeys(AGGREGATIONS, 0)
    for text, side in [(text, "right") for text in TEXTS] + [(TEXTS[-1], "left")]:
        tokenizer.truncation_side = side
        item = {"text": text, "side": side, "input_ids": tokenizer(text, truncation=True)["input_ids"]}
        for aggregation in AGGREGATIONS:
            item[aggregation] = [entity(found) for found in pipe(text, aggregation_strategy=aggregation)]
            counts[aggregation] += len(item[aggregation])
        items.append(item)
    lines = ",\n".join(f"  {json.dumps(item)}" for item in items)
    head = f' "transformers": {json.dumps(transformers.__version__)},\n "items": [\n'
    (folder / "entities.json").write_text("{\n" + head + lines + "\n ]\n}\n", encoding="utf-8")
    labels = sorted({found[0] for item in items for found in item["none"]})
    print(name, counts, labels)


def main() -> None:
    torch.set_num_threads(2)
    for name in sys.argv[1:] or NAMES:
        make(name)


if __name__ == "__main__":
    main()
