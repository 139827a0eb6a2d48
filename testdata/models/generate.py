"""Writes the tiny models of the families' files (bert.py, ...), each with golden.json: what transformers and sentence-transformers make of it.

    .deps/venv-golden/bin/python testdata/models/generate.py [NAME ...]

All numbers are fp32 on the CPU, one item at a time, from the weights as they are stored (f16 and bf16 ones are rounded already).

    items[]              text, pair, prompt_name (null: none given), and the tokens: input_ids, token_type_ids, position_ids
    token_items[]        tokens that no text makes: any id, any type, positions not counted from 0
    pooled[]             one row an item, items first: after all modules; for classifiers the logits; for the masked-LM
                         model max over the tokens of log(1 + relu(logits)), which is SPLADE
    token_vectors        item index -> rows: the last hidden state; for token classifiers (all items) and the masked-LM model logits; for
                         bge-m3 the outputs of its heads' linear maps, side by side
    sparse[], colbert[]  of bge-m3, one an item: weights by token id, and the vectors of its tokens
    spans[]              one a text, in the order of items: [start, end, vector], start and end in code points; of some models
    matryoshka           {dimensions, rows}: normalised vectors of so many columns, one an item; of some models
    bfloat16_cosine      the least cosine of the same model in bfloat16 to pooled and token_vectors (an item's rows joined; single
                         numbers have none). Kernels of bfloat16 differ between processors, so its last digits may, too
"""

import json
import os
import random
import re
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy
import sentence_transformers
import tokenizers
import torch
import transformers

import bert
import decoders
import encoders
import gte
import jina
import modernbert
import nomic
import rerankers
from folders import write_folder
from spec import Spec

SPECS = bert.SPECS + decoders.SPECS + encoders.SPECS + gte.SPECS + jina.SPECS + modernbert.SPECS + nomic.SPECS + rerankers.SPECS

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "a",
    "?",
    "Where is the station?",
    "the harbour was quiet when the first boat came in",
    "Café CRÈME, brûlée!",
    "быстрая лисица 今天 🙂",
    "12 for 34 pence",
    "a token is a piece of a text, and a text is a sequence of tokens; embedding models turn a sequence of tokens into a vector, "
    "and the vectors of similar texts are close",
)
PAIRS = (
    ("Where is the station?", "It is near the river, behind the old market."),
    ("the dog", "a"),
    ("she sells sea shells by the sea shore", "the quick brown fox jumps over the lazy dog and the dog does not mind at all"),
)


class Reference:
    """The model as its own library runs it in a dtype: tokens in, (pooled, token rows) out."""

    def __init__(self, spec: Spec, dtype: torch.dtype):
        self.spec = spec
        self.model, self.sentence = spec.load(dtype)
        self.max_length = self.sentence.max_seq_length if self.sentence is not None else spec.max_seq_length
        for name, parameter in self.model.named_parameters():
            stored = spec.value(name, parameter.shape).to(spec.dtype)
            assert torch.equal(parameter, stored.to(dtype)), f"{spec.name}: {name} was not loaded from the file"
        content = json.loads(spec.tokenizer_json()) | {"padding": None, "truncation": None}
        self.tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        self.tokenizer.enable_truncation(self.max_length)

    def run(self, item: dict) -> tuple[numpy.ndarray | None, numpy.ndarray]:
        inputs = self.spec.inputs(item)
        pooled, rows = self.spec.results(self.model, inputs)
        if self.sentence is not None:
            features = {"token_embeddings": rows.unsqueeze(0), "attention_mask": torch.ones_like(inputs["input_ids"])}
            for module in list(self.sentence)[1:]:
                features = module(features)
            pooled = features["sentence_embedding"][0]
        if self.spec.is_embedding:
            rows = self.spec.token_rows(rows)
        return None if pooled is None else pooled.float().numpy(), rows.float().numpy()

    def spans(self, item: dict) -> list:
        """Vectors of parts of an item's text, from one pass over the whole: the pooling sees the tokens whose last code point lies in the part."""
        prompt = self.spec.prompts.get(item["prompt_name"] or self.spec.default_prompt or "", "")
        encoding, text = self.tokenizer.encode(prompt + item["text"]), item["text"]
        assert encoding.ids == item["input_ids"]
        _, rows = self.spec.results(self.model, self.spec.inputs(item))
        words = [word.span() for word in re.finditer(r"\S+", text)]
        parts = [(0, len(text)), (0, len(text) // 2), (len(text) // 2, len(text)), (1, 4), *words[:3], *words[-1:]]
        spans = []
        for start, end in parts:
            within = [start < last - len(prompt) <= end for _, last in encoding.offsets]
            chosen = [k for k, (first, last) in enumerate(encoding.offsets) if first < last and within[k] and not encoding.special_tokens_mask[k]]
            if end > len(text) or not chosen:
                continue
            features = {"token_embeddings": rows[chosen].unsqueeze(0), "attention_mask": torch.ones(1, len(chosen), dtype=torch.long)}
            for module in list(self.sentence)[1:]:
                if self.spec.pooling == ("cls",) and isinstance(module, sentence_transformers.models.Pooling):
                    features["sentence_embedding"] = rows[chosen].mean(dim=0, keepdim=True)
                else:
                    features = module(features)
            spans.append([start, end, numbers(features["sentence_embedding"][0].float().numpy())])
        return spans

    def matryoshka(self, items: list[dict]) -> dict:
        texts = [item for item in items if item["pair"] is None]
        rows = [self.sentence.encode(item["text"], prompt_name=item["prompt_name"], truncate_dim=self.spec.dimensions, normalize_embeddings=True) for item in texts]
        return {"dimensions": self.spec.dimensions, "rows": [numbers(row) for row in rows]}

    def items(self) -> list[dict]:
        singles, prompted = TEXTS + self.spec.texts, (TEXTS[0], None)
        if self.spec.pairs_only:
            singles, prompted = (), PAIRS[0]
        cases = [(text, None, None) for text in singles] + [(text, pair, None) for text, pair in PAIRS]
        cases += [(*prompted, name) for name in self.spec.prompts]
        items = []
        for text, pair, prompt_name in cases:
            # Without a name the model's default prompt is put before single texts, as encode does.
            used = prompt_name or (self.spec.default_prompt if pair is None or self.spec.pairs_only else None)
            ids, types = self.spec.encode(self.tokenizer, text, pair, self.spec.prompts.get(used, ""))
            items.append({
                "text": text, "pair": pair, "prompt_name": prompt_name,
                "input_ids": ids, "token_type_ids": types, "position_ids": self.spec.position_ids(ids),
            })
        return items

    def check(self, items: list[dict], pooled: list) -> None:
        """Our token path must equal the library's own path from text."""
        if self.sentence is None:
            self.spec.check(items, pooled, self.max_length)
            if not self.spec.splade:
                return
            options = {"dtype": torch.float32, "attn_implementation": "eager"}
            self.sentence = sentence_transformers.SparseEncoder(str(self.spec.folder), device="cpu", model_kwargs=options)
        for item, row in zip(items, pooled):
            if item["pair"] is None:
                other = self.sentence.encode(item["text"], prompt_name=item["prompt_name"], show_progress_bar=False)
                other = other.to_dense().numpy() if self.spec.splade else other
                assert numpy.allclose(row, other, atol=1e-6), (self.spec.name, item["text"], abs(row - other).max())


def token_items(spec: Spec) -> list[dict]:
    rng = random.Random(spec.name)
    items = [{"input_ids": [2], "token_type_ids": [0], "position_ids": [0]}]
    for length in spec.lengths:
        items.append({
            "input_ids": [rng.randrange(spec.vocab_size) for _ in range(length)],
            "token_type_ids": [rng.randrange(spec.types) for _ in range(length)],
            "position_ids": rng.sample(range(spec.positions), length),
        })
    return items


def numbers(array: numpy.ndarray) -> list:
    """Floats that print in at most nine digits, enough to restore the float32."""
    return [numbers(row) for row in array] if array.ndim > 1 else [float(f"{x:.7g}") for x in array]


def least_cosine(results: list, others: list, wanted) -> float:
    """Between two runs' pooled rows, and their token rows of the wanted items."""
    pairs = [(a, b) for (a, _), (b, _) in zip(results, others) if a is not None and a.size > 1]
    pairs += [(results[i][1].ravel(), others[i][1].ravel()) for i in wanted]
    pairs = [(a.astype(numpy.float64), b.astype(numpy.float64)) for a, b in pairs]
    return float(min(a @ b / numpy.linalg.norm(a) / numpy.linalg.norm(b) for a, b in pairs))


@torch.inference_mode()
def make(spec: Spec) -> None:
    write_folder(spec)
    reference = Reference(spec, torch.float32)
    items, extra = reference.items(), token_items(spec)
    results = [reference.run(item) for item in items + extra]
    pooled = [row for row, _ in results]
    reference.check(items, pooled)

    has_pooled = pooled[0] is not None
    wanted = [i for i in spec.vector_items if i < len(results)] if has_pooled else range(len(results))
    narrow = Reference(spec, torch.bfloat16)
    bfloat16 = least_cosine(results, [narrow.run(item) for item in items + extra], wanted)
    golden = {
        "name": spec.name,
        "task": spec.task,
        "max_length": reference.max_length,
        "pooling": list(spec.pooling) if spec.is_embedding else None,
        "normalize": spec.normalize if spec.is_embedding else False,
        "dim": len(pooled[0]) if has_pooled else 0,
        "token_dim": results[0][1].shape[1],
        "labels": list(spec.labels),
        "versions": {"sentence_transformers": sentence_transformers.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
        "items": items,
        "token_items": extra,
        "bfloat16_cosine": round(bfloat16, 7),
        "pooled": [numbers(row) for row in pooled] if has_pooled else None,
        "token_vectors": {str(i): numbers(results[i][1]) for i in wanted},
    }
    for item, (_, rows) in zip(items + extra, results):
        for key, value in spec.token_results(item, torch.from_numpy(rows)).items():
            golden.setdefault(key, []).append(numbers(value) if isinstance(value, numpy.ndarray) else value)
    if spec.spans:
        golden["spans"] = [reference.spans(item) for item in items if item["pair"] is None]
    if spec.dimensions:
        golden["matryoshka"] = reference.matryoshka(items)
    lines = [f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in golden.items()]
    (spec.folder / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    sizes = sum(file.stat().st_size for file in spec.folder.rglob("*") if file.is_file())
    spread = numpy.linalg.norm(numpy.std(pooled, axis=0)) if has_pooled else numpy.std(results[0][1])
    print(f"{spec.name}: {len(items)} + {len(extra)} items, max_length {reference.max_length}, spread {spread:.3f}, bfloat16 cosine {bfloat16:.7f}, {sizes} bytes")


def main() -> None:
    torch.set_num_threads(2)
    names = sys.argv[1:]
    for spec in SPECS:
        if not names or spec.name in names:
            make(spec)


if __name__ == "__main__":
    main()
