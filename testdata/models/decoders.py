"""The decoder families, as embedding models, classifiers and token classifiers. Widths are awkward but for qwen3-multiples-of-16, which is
for products in FP8. rerankers.py has their language models as rerankers."""

import dataclasses
import pathlib

import torch

from spec import NEW, SEQUENCE, TOKENIZERS, Dense, Spec

CAUSAL = "ForCausalLM"
IS_QWEN = "qwen"


@dataclasses.dataclass(frozen=True)
class Decoder(Spec):
    """A decoder. task: Model, ForCausalLM, ... or a whole class; prefix "model.": as the names of ForCausalLM begin."""

    kv_heads: int = 1
    head_dim: int | None = 8
    act: str = "silu"
    eps: float = 1e-2
    task: str = "Model"
    kind: str = "byte_fallback"  # of the tokenizer

    family = ""  # model_type
    classes = ""  # what the names of its transformers classes begin with
    trunk = ""  # the class without a head, where it is not classes + Model
    act_key = "hidden_act"

    def __post_init__(self):
        if not self.task.startswith(self.classes):
            object.__setattr__(self, "task", self.classes + self.task)

    @property
    def module_class(self) -> str:
        return self.trunk or self.classes + "Model" if self.is_embedding else self.task

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / self.kind / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return 402

    def config(self) -> dict:
        config = {
            "architectures": [self.task],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            self.act_key: self.act,
            "rms_norm_eps": self.eps,
            "max_position_embeddings": self.positions,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return config if self.head_dim is not None else {key: value for key, value in config.items() if key != "head_dim"}

    def tokenizer_config(self) -> dict:
        special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} if self.kind == IS_QWEN else {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"} | special

    def inputs(self, item: dict) -> dict[str, torch.Tensor]:
        """Without a mask transformers takes positions that do not count up for several sequences in one row."""
        inputs = super().inputs(item)
        del inputs["token_type_ids"]
        return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"])}


class Llama(Decoder):
    family, classes = "llama", "Llama"


class Mistral(Decoder):
    family, classes = "mistral", "Mistral"


@dataclasses.dataclass(frozen=True)
class Qwen2(Decoder):
    kind: str = IS_QWEN
    family, classes = "qwen2", "Qwen2"


@dataclasses.dataclass(frozen=True)
class Qwen3(Decoder):
    kind: str = IS_QWEN
    family, classes = "qwen3", "Qwen3"


@dataclasses.dataclass(frozen=True)
class Gemma(Decoder):
    act: str = "gelu_pytorch_tanh"
    family, classes = "gemma", "Gemma"

    def value(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Norms are times one plus their weight."""
        return super().value(name, shape) - (1 if name.endswith("norm.weight") else 0)


class Gemma2(Gemma):
    family, classes, act_key = "gemma2", "Gemma2", "hidden_activation"


class Gemma3(Gemma):
    family, classes, act_key = "gemma3_text", "Gemma3", "hidden_activation"
    trunk = "Gemma3TextModel"


# A config of the years before transformers 5 has rope_theta and rope_scaling; rope_parameters came with it.
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
LABELS = ("O", "B-PER", "I-PER")

SPECS = (
    Llama("llama-lasttoken", hidden=40, heads=4, kv_heads=2, head_dim=None, intermediate=29, task=CAUSAL, prefix="model.", shards=3, dtype=torch.bfloat16, pooling=("lasttoken",), more={"attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3, "rope_theta": 500}),
    Llama("llama-bidirectional", hidden=27, heads=3, kv_heads=3, head_dim=6, intermediate=35, act="gelu", dtype=torch.float16, more={"is_causal": False, "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}}),
    # Its tokenizer ends texts with what pad_token_id calls padding: the token before is the last one that counts.
    Llama("llama-classifier", dtype=torch.float32, hidden=24, heads=3, head_dim=10, intermediate=30, task=SEQUENCE, labels=("no", "maybe", "yes"), kind=IS_QWEN, more={"pad_token_id": 0, "rope_theta": 50.0}),
    Llama("llama-token-classifier", hidden=20, heads=2, intermediate=26, task="ForTokenClassification", labels=LABELS, dtype=torch.float16),
    Mistral("mistral-window", hidden=26, heads=4, kv_heads=2, head_dim=10, intermediate=31, pooling=("lasttoken",), normalize=False, dtype=torch.bfloat16, more={"sliding_window": 5, "rope_theta": 200}),
    Mistral("mistral-bidirectional-window", hidden=24, heads=2, head_dim=6, intermediate=28, dtype=torch.float16, more={"is_causal": False, "sliding_window": 3}),
    Mistral("mistral-classifier", dtype=torch.float32, hidden=20, heads=2, head_dim=None, intermediate=22, task=SEQUENCE, labels=("LABEL_0",), more={"sliding_window": None, "pad_token_id": None, "rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 10}}),
    Mistral("mistral-token-classifier", hidden=20, heads=2, intermediate=26, task="ForTokenClassification", labels=LABELS, more={"sliding_window": 4, "token_classification_bias": False}),
    Qwen2("qwen2-window", hidden=24, heads=4, kv_heads=2, head_dim=None, intermediate=30, layers=3, pooling=("lasttoken",), dtype=torch.bfloat16, more={"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "rope_theta": 300}),
    # As gte-Qwen2 is.
    Qwen2("qwen2-bidirectional", hidden=28, heads=2, kv_heads=2, head_dim=None, intermediate=26, task=CAUSAL, pooling=("lasttoken",), dtype=torch.float16, more={"is_causal": False, "use_sliding_window": False, "sliding_window": 4}),
    Qwen2("qwen2-classifier", hidden=20, heads=2, head_dim=12, intermediate=24, task=SEQUENCE, labels=("bad", "good"), dtype=torch.bfloat16, more={"pad_token_id": 1, "rope_theta": 100.0}),
    Qwen2("qwen2-reranker", hidden=22, heads=2, kv_heads=2, head_dim=6, intermediate=26, task=SEQUENCE, labels=("LABEL_0",), dtype=torch.float16, more={"pad_token_id": 0, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    Qwen2("qwen2-token-classifier", hidden=20, heads=2, intermediate=24, task="ForTokenClassification", labels=LABELS, dtype=torch.bfloat16),
    # As Qwen3-Embedding is: a language model's class, without its head and without its prefix.
    Qwen3("qwen3-lasttoken", dtype=torch.float32, hidden=40, heads=6, kv_heads=2, head_dim=10, intermediate=52, task="Qwen3ForCausalLM", pooling=("lasttoken",), prompts={"query": "Where is: ", "document": ""}, more={"rope_theta": 5000, "rope_scaling": None, "sliding_window": None, "max_window_layers": 2, "tie_word_embeddings": True}),
    Qwen3("qwen3-bidirectional", hidden=36, heads=3, kv_heads=3, head_dim=14, intermediate=41, eps=1e-3, files=NEW, more={"is_causal": False, "use_bidirectional_attention": True, "rope_theta": 100.5}),
    Qwen3("qwen3-sliding-window", hidden=28, heads=4, kv_heads=1, head_dim=6, intermediate=30, layers=3, task="Qwen3ForCausalLM", prefix="model.", pooling=("weightedmean",), normalize=False, more={"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "rope_theta": 300}),
    Qwen3("qwen3-bidirectional-window", hidden=20, heads=2, intermediate=24, dtype=torch.float16, more={"is_causal": False, "use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    Qwen3("qwen3-bf16-bias", hidden=24, heads=5, kv_heads=5, head_dim=12, intermediate=33, dtype=torch.bfloat16, pooling=("lasttoken", "mean"), dense=(Dense(17),), prefix="model.", shards=2, more={"rope_parameters": {"rope_type": "default", "rope_theta": 2000.0}, "attention_bias": True}),
    Qwen3("qwen3-multiples-of-16", hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, dtype=torch.bfloat16, eps=1e-6, pooling=("lasttoken",), more={"rope_theta": 1000000}),
    Qwen3("qwen3-plain-folder", hidden=20, heads=2, intermediate=24, layers=1, task="Qwen3ForCausalLM", dtype=torch.bfloat16, prefix="model.", pooling=(), normalize=False),
    Qwen3("qwen3-rope-linear", hidden=20, heads=2, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    Qwen3("qwen3-rope-llama3", hidden=20, heads=2, head_dim=16, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_parameters": {"rope_theta": 100, "rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 30}}),
    Qwen3("qwen3-rope-yarn", hidden=20, heads=2, head_dim=16, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_theta": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 3, "original_max_position_embeddings": 30}}),
    Qwen3("qwen3-classifier", hidden=20, heads=3, head_dim=6, intermediate=24, task=SEQUENCE, labels=("bad", "fair", "good"), dtype=torch.float16, more={"pad_token_id": 0, "rope_theta": 200}),
    Qwen3("qwen3-token-classifier", hidden=20, heads=2, intermediate=24, task="ForTokenClassification", labels=LABELS, dtype=torch.bfloat16),
    # Its first release wrote "gelu" and meant the tanh form.
    Gemma("gemma-lasttoken", hidden=26, heads=3, head_dim=6, intermediate=30, act="gelu", task=CAUSAL, prefix="model.", pooling=("lasttoken",), dtype=torch.float16, more={"hidden_activation": None, "rope_theta": 300.0, "attention_bias": True}),
    Gemma("gemma-bidirectional", hidden=22, heads=2, kv_heads=2, head_dim=10, intermediate=27, dtype=torch.bfloat16, more={"is_causal": False, "use_bidirectional_attention": True}),
    Gemma("gemma-classifier", hidden=20, heads=2, intermediate=24, task=SEQUENCE, labels=("bad", "good"), dtype=torch.bfloat16, more={"pad_token_id": 2}),
    Gemma("gemma-token-classifier", hidden=20, heads=2, intermediate=24, task="ForTokenClassification", labels=LABELS, dtype=torch.bfloat16),
    Gemma2("gemma2-softcap", hidden=28, heads=4, kv_heads=2, head_dim=6, intermediate=33, layers=3, pooling=("lasttoken",), dtype=torch.float16, more={"sliding_window": 5, "attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 3, "rope_theta": 300.0}),
    Gemma2("gemma2-bidirectional", hidden=20, heads=2, kv_heads=2, intermediate=26, dtype=torch.bfloat16, more={"is_causal": False, "sliding_window": 3, "attn_logit_softcapping": None, "query_pre_attn_scalar": 11, "layer_types": ["full_attention", "sliding_attention"]}),
    Gemma2("gemma2-classifier", hidden=20, heads=2, intermediate=24, task=SEQUENCE, labels=("bad", "good"), dtype=torch.bfloat16, more={"sliding_window": 6, "query_pre_attn_scalar": 5}),
    Gemma2("gemma2-reranker", hidden=21, heads=3, head_dim=6, intermediate=26, task=SEQUENCE, labels=("LABEL_0",), dtype=torch.float16, more={"sliding_window": 4, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0, "pad_token_id": 2}),
    Gemma2("gemma2-token-classifier", hidden=20, heads=2, intermediate=24, task="ForTokenClassification", labels=LABELS, dtype=torch.bfloat16, more={"sliding_window": 7, "query_pre_attn_scalar": 9}),
    # As EmbeddingGemma is: attention both ways, a window on all layers but each sliding_window_pattern-th, two dense modules.
    Gemma3("gemma3-embedding", hidden=24, heads=3, head_dim=10, intermediate=34, layers=3, task="TextModel", dtype=torch.bfloat16, files=NEW, prompts={"query": "Where is: ", "document": ""}, dense=(Dense(40, "torch.nn.modules.linear.Identity", bias=False), Dense(18, "torch.nn.modules.linear.Identity", bias=False)), more={"use_bidirectional_attention": True, "sliding_window": 6, "sliding_window_pattern": 3, "query_pre_attn_scalar": 10, "rope_theta": 2000.0, "rope_local_base_freq": 50.0, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    Gemma3("gemma3-rope-by-layer", hidden=20, heads=2, kv_heads=2, intermediate=26, task=CAUSAL, prefix="model.", pooling=("lasttoken",), dtype=torch.float16, more={"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"], "query_pre_attn_scalar": 7, "rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}}}),
    Gemma3("gemma3-bidirectional", hidden=20, heads=2, intermediate=26, task="TextModel", dtype=torch.float16, more={"is_causal": False, "use_bidirectional_attention": True, "sliding_window": 4, "sliding_window_pattern": 2, "query_pre_attn_scalar": 6, "rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    Gemma3("gemma3-classifier", hidden=20, heads=2, intermediate=24, task="Text" + SEQUENCE, labels=("bad", "good"), dtype=torch.bfloat16, more={"sliding_window": 6, "sliding_window_pattern": 2, "query_pre_attn_scalar": 5, "pad_token_id": 2}),
    Gemma3("gemma3-reranker", hidden=21, heads=3, head_dim=6, intermediate=26, task="Text" + SEQUENCE, labels=("LABEL_0",), dtype=torch.float16, more={"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"], "query_pre_attn_scalar": 7, "rope_theta": 300.0, "rope_local_base_freq": 40.0, "pad_token_id": 2}),
)
