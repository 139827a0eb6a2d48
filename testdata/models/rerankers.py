"""Language models as rerankers: a CrossEncoder of Transformer and LogitScore, whose score is made of the logits of one or two tokens."""

import dataclasses
import functools
import json

import sentence_transformers
import tokenizers
import torch
import transformers

from decoders import CAUSAL, IS_QWEN, Decoder, Gemma
from spec import SEQUENCE

SLOT = '{{{{ messages | selectattr("role", "eq", "{}") | map(attribute="content") | first{} }}}}'
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# Of the model cards of Qwen3-Reranker.
PREFIX = (
    '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
    "<|im_end|>\n<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN3_TEMPLATE = (
    PREFIX
    + "<Instruct>: " + SLOT.format("system", f' | default("{INSTRUCTION}")')
    + "\n<Query>: " + SLOT.format("query", "")
    + "\n<Document>: " + SLOT.format("document", "")
    + SUFFIX + "\n"  # Jinja takes one line end away
)
DOCUMENT_FIRST = """<s>A: {{ (messages | selectattr('role', 'equalto', 'document') | first).content }} B:{{ messages
| selectattr('role', 'eq', 'query')
| map(attribute='content')
| first }}</s>Does A answer B?"""


@dataclasses.dataclass(frozen=True)
class Reranker(Decoder):
    """A causal language model with a LogitScore module. template "": the tokenizer joins pairs."""

    task: str = CAUSAL
    true: int = 0
    false: int | None = None
    template: str = ""
    prefix: str = ""

    @property
    def is_embedding(self) -> bool:
        return False

    @property
    def pairs_only(self) -> bool:
        return True

    def extra_files(self) -> dict[str, dict | list | str]:
        forward = {"method": "forward", "method_output_name": "logits"}
        modalities = {"text": forward} | ({"message": forward | {"format": "flat"}} if self.template else {})
        files = {
            "modules.json": [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
                {"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"},
            ],
            "1_LogitScore/config.json": {"true_token_id": self.true, "false_token_id": self.false},
            "sentence_bert_config.json": {
                "transformer_task": "text-generation", "modality_config": modalities, "module_output_name": "causal_logits",
                "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
            },
            "config_sentence_transformers.json": {
                "__version__": {"sentence_transformers": "6.2.0"}, "model_type": "CrossEncoder", "prompts": self.prompts,
                "default_prompt_name": self.default_prompt,
            },
        }
        return files | ({"chat_template.jinja": self.template} if self.template else {})

    @functools.cached_property
    def encoder(self) -> sentence_transformers.CrossEncoder:
        return sentence_transformers.CrossEncoder(str(self.folder), device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"})

    def encode(self, tokenizer: tokenizers.Tokenizer, text: str, pair: str | None, prompt: str) -> tuple[list[int], list[int]]:
        ids = self.encoder.preprocess([(text, pair)], prompt=prompt or None)["input_ids"][0].tolist()
        return ids, [0] * len(ids)

    def results(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor]:
        logits = model(**inputs).logits[0, -1]
        score = logits[self.true] if self.false is None else logits[self.true] - logits[self.false]
        return score.unsqueeze(0), model.model(**inputs).last_hidden_state[0]

    def check(self, items: list[dict], pooled: list, max_length: int) -> None:
        for item, (score,) in zip(items, pooled):
            prompt = self.prompts.get(item["prompt_name"] or self.default_prompt)
            other = self.encoder.predict([(item["text"], item["pair"])], prompt=prompt, activation_fn=torch.nn.Identity(), show_progress_bar=False)
            assert abs(score - other[0]) < 1e-5, (self.name, item["text"], score, other)


@dataclasses.dataclass(frozen=True)
class Qwen3Reranker(Reranker):
    """As Qwen3-Reranker is: it answers yes or no, and its tokenizer adds no special tokens."""

    kind: str = IS_QWEN
    true: int = 401
    false: int | None = 400
    template: str = QWEN3_TEMPLATE
    family, classes = "qwen3", "Qwen3"

    def tokenizer_json(self) -> str:
        """The shared tokenizer with the words no and yes."""
        content = json.loads(super().tokenizer_json())
        content["model"]["vocab"] |= {"no": 400, "yes": 401}
        content["model"]["merges"] += [["n", "o"], ["y", "es"]]
        content["post_processor"] = next(p for p in content["post_processor"]["processors"] if p["type"] == "ByteLevel")
        return json.dumps(content, ensure_ascii=False)

    def check(self, items: list[dict], pooled: list, max_length: int) -> None:
        """As the model card computes it: the softmax over the logits of no and yes is the sigmoid of the score."""
        super().check(items, pooled, max_length)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, padding_side="left")
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, attn_implementation="eager").eval()
        prefix, suffix = (tokenizer.encode(text, add_special_tokens=False) for text in (PREFIX, SUFFIX))
        for item, (score,) in zip(items, pooled):
            instruction = self.prompts.get(item["prompt_name"] or self.default_prompt) or INSTRUCTION
            text = f"<Instruct>: {instruction}\n<Query>: {item['text']}\n<Document>: {item['pair']}"
            ids = tokenizer(text, truncation="longest_first", max_length=max_length - len(prefix) - len(suffix))["input_ids"]
            ids = prefix + ids + suffix
            assert ids == item["input_ids"], (self.name, item["text"], len(ids), len(item["input_ids"]))
            logits = model(torch.tensor([ids])).logits[0, -1]
            stacked = torch.stack([logits[tokenizer.convert_tokens_to_ids("no")], logits[tokenizer.convert_tokens_to_ids("yes")]])
            yes = torch.nn.functional.log_softmax(stacked, dim=0)[1].exp()
            assert abs(yes - torch.sigmoid(torch.tensor(score))) < 1e-6, (self.name, item["text"], yes, score)


@dataclasses.dataclass(frozen=True)
class Classifier(Reranker):
    """A sequence classifier that is asked by a chat template, as Qwen3-Reranker is where its two rows were made one of a classifier."""

    task: str = SEQUENCE
    labels: tuple[str, ...] = ("LABEL_0",)
    template: str = "<|im_start|>" + SLOT.format("system", ' | default("Does it answer?")') + "\n" + SLOT.format("query", "") + "\n" + SLOT.format("document", "") + "<|im_end|>"
    kind: str = IS_QWEN
    family, classes = "qwen3", "Qwen3"

    def extra_files(self) -> dict[str, dict | list | str]:
        files = super().extra_files()
        files["modules.json"] = files["modules.json"][:1]
        del files["1_LogitScore/config.json"]
        files["sentence_bert_config.json"] |= {"transformer_task": "sequence-classification", "module_output_name": "scores"}
        return files

    def results(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor]:
        return model(**inputs).logits[0], model.model(**inputs).last_hidden_state[0]


class LlamaReranker(Reranker):
    family, classes = "llama", "Llama"


@dataclasses.dataclass(frozen=True)
class GemmaReranker(Reranker, Gemma):
    act: str = "gelu_pytorch_tanh"


SPECS = (
    Qwen3Reranker("qwen3-reranker", hidden=20, heads=2, head_dim=12, intermediate=28, positions=260, max_seq_length=255, prompts={"web": "Find what answers the question", "none": ""}, dtype=torch.bfloat16, more={"tie_word_embeddings": True, "rope_theta": 1000.0}),
    Classifier("qwen3-classifier-by-template", hidden=20, heads=2, head_dim=12, intermediate=28, positions=80, max_seq_length=60, prompts={"web": "Find what answers the question"}, default_prompt="web", dtype=torch.bfloat16, more={"pad_token_id": 0}),
    LlamaReranker("llama-reranker", hidden=20, heads=2, intermediate=24, positions=80, max_seq_length=60, true=350, template=DOCUMENT_FIRST, dtype=torch.bfloat16, more={"tie_word_embeddings": False}),
    GemmaReranker("gemma-reranker", hidden=20, heads=2, intermediate=24, true=17, false=350, dtype=torch.bfloat16),
)
