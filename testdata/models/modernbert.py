"""ModernBERT: windows and two bases of rope, in the keys of older files and of transformers 5; every bias, both poolings of the classifier."""

import dataclasses

import torch

from bert import Rotary

NESTED = {"full_attention": {"rope_type": "default", "rope_theta": 700.0}, "sliding_attention": {"rope_type": "linear", "factor": 1.5, "rope_theta": 40.0}}
BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}


@dataclasses.dataclass(frozen=True)
class ModernBert(Rotary):
    """prefix "model.": as the trunk's names begin in checkpoints of models with a head."""

    task: str = "ModernBertModel"
    types: int = 1
    layers: int = 3
    local: int = 7  # 3 tokens on either side

    def config(self) -> dict:
        config = super().config()
        own = {"model_type": "modernbert", "hidden_activation": config.pop("hidden_act"), "norm_eps": config.pop("layer_norm_eps"), "local_attention": self.local}
        del config["type_vocab_size"]
        return config | own

    def tokenizer_config(self) -> dict:
        return super().tokenizer_config() | {"model_input_names": ["input_ids", "attention_mask"]}

    def inputs(self, item: dict) -> dict[str, torch.Tensor]:
        inputs = super().inputs(item)
        del inputs["token_type_ids"]
        return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"])}


SPECS = (
    ModernBert("modernbert-mean", dtype=torch.float32, hidden=24, heads=2, intermediate=29, more={"global_attn_every_n_layers": 2, "global_rope_theta": 500, "local_rope_theta": 60.5}),
    ModernBert("modernbert-cls-biases", hidden=24, heads=2, intermediate=26, act="gelu_pytorch_tanh", prefix="model.", pooling=("cls",), normalize=False, dtype=torch.bfloat16, more=BIASES | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "rope_parameters": NESTED}),
    ModernBert("modernbert-classifier", hidden=20, heads=2, intermediate=22, task="ModernBertForSequenceClassification", labels=("no", "maybe", "yes"), more={"classifier_activation": "silu"}),
    ModernBert("modernbert-reranker-mean", hidden=20, heads=5, intermediate=31, local=4, task="ModernBertForSequenceClassification", labels=("LABEL_0",), more=BIASES | {"classifier_pooling": "mean"}),
    ModernBert("modernbert-token-classifier", hidden=20, heads=1, intermediate=24, task="ModernBertForTokenClassification", labels=("O", "B", "I"), more={"norm_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ModernBert("modernbert-masked-lm", hidden=16, heads=2, intermediate=20, layers=2, task="ModernBertForMaskedLM", vector_items=(1,)),
)
