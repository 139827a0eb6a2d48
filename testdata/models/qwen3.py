"""Qwen3 as embedding models. Widths are awkward but for qwen3-multiples-of-16, which is for products in FP8."""

import dataclasses
import pathlib

import torch

from spec import NEW, TOKENIZERS, Dense, Spec


@dataclasses.dataclass(frozen=True)
class Qwen3(Spec):
    """A Qwen3 as an embedding model. prefix "model.": as the names of Qwen3ForCausalLM begin."""

    kv_heads: int = 1
    head_dim: int = 8
    act: str = "silu"
    eps: float = 1e-2
    task: str = "Qwen3Model"

    @property
    def module_class(self) -> str:
        return "Qwen3Model"

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / "qwen" / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return 402

    def config(self) -> dict:
        return {
            "architectures": [self.task],
            "model_type": "qwen3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "hidden_act": self.act,
            "rms_norm_eps": self.eps,
            "max_position_embeddings": self.positions,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def tokenizer_config(self) -> dict:
        special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"} | special

    def inputs(self, item: dict) -> dict[str, torch.Tensor]:
        """Without a mask transformers takes positions that do not count up for several sequences in one row."""
        inputs = super().inputs(item)
        del inputs["token_type_ids"]
        return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"])}


SPECS = (
    # As Qwen3-Embedding is: a language model's class, without its head and without its prefix.
    Qwen3("qwen3-lasttoken", hidden=40, heads=6, kv_heads=2, head_dim=10, intermediate=52, task="Qwen3ForCausalLM", pooling=("lasttoken",), prompts={"query": "Where is: ", "document": ""}, more={"rope_theta": 5000, "rope_scaling": None, "sliding_window": None, "max_window_layers": 2, "tie_word_embeddings": True}),
    Qwen3("qwen3-bidirectional", hidden=36, heads=3, kv_heads=3, head_dim=14, intermediate=41, eps=1e-3, files=NEW, more={"is_causal": False, "use_bidirectional_attention": True, "rope_theta": 100.5}),
    Qwen3("qwen3-sliding-window", hidden=28, heads=4, kv_heads=1, head_dim=6, intermediate=30, layers=3, task="Qwen3ForCausalLM", prefix="model.", pooling=("weightedmean",), normalize=False, more={"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "rope_theta": 300}),
    Qwen3("qwen3-bidirectional-window", hidden=20, heads=2, intermediate=24, dtype=torch.float16, more={"is_causal": False, "use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    Qwen3("qwen3-bf16-bias", hidden=24, heads=5, kv_heads=5, head_dim=12, intermediate=33, dtype=torch.bfloat16, pooling=("lasttoken", "mean"), dense=(Dense(17),), prefix="model.", shards=2, more={"rope_parameters": {"rope_type": "default", "rope_theta": 2000.0}, "attention_bias": True}),
    Qwen3("qwen3-multiples-of-16", hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, dtype=torch.bfloat16, eps=1e-6, pooling=("lasttoken",), more={"rope_theta": 1000000}),
    Qwen3("qwen3-plain-folder", hidden=20, heads=2, intermediate=24, layers=1, task="Qwen3ForCausalLM", dtype=torch.bfloat16, prefix="model.", pooling=(), normalize=False),
    Qwen3("qwen3-rope-linear", hidden=20, heads=2, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_theta": 100, "rope_scaling": {"type": "linear", "factor": 2.5}}),
    Qwen3("qwen3-rope-llama3", hidden=20, heads=2, head_dim=16, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_parameters": {"rope_theta": 100, "rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 30}}),
    Qwen3("qwen3-rope-yarn", hidden=20, heads=2, head_dim=16, intermediate=24, layers=1, dtype=torch.bfloat16, more={"rope_theta": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 3, "original_max_position_embeddings": 30}}),
)
