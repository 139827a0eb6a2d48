"""BERT, with every pooling, dense module, dtype and way of storing that does not depend on the family."""

import dataclasses
import pathlib

import torch

from spec import NEW, TOKENIZERS, Dense, Spec


@dataclasses.dataclass(frozen=True)
class Bert(Spec):
    """A BERT. prefix "bert.": as BertModel's names begin in checkpoints of models with a head."""

    types: int = 2
    task: str = "BertModel"
    gamma_beta: bool = False  # LayerNorm.gamma and .beta, as in checkpoints that came from TensorFlow

    @property
    def tokenizer(self) -> pathlib.Path:
        return TOKENIZERS / "bert" / "tokenizer.json"

    @property
    def vocab_size(self) -> int:
        return 320

    def config(self) -> dict:
        return {
            "architectures": [self.task],
            "model_type": "bert",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
            "hidden_act": self.act,
            "layer_norm_eps": self.eps,
            "max_position_embeddings": self.positions,
            "type_vocab_size": self.types,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "torch_dtype": str(self.dtype).removeprefix("torch."),
        }

    def tokenizer_config(self) -> dict:
        special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
        return {"tokenizer_class": "BertTokenizer", "do_lower_case": True} | special

    def stored_name(self, name: str) -> str:
        name = super().stored_name(name)
        if self.gamma_beta:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return name

    def stored(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """With the int64 buffer that old checkpoints carry."""
        base = "" if self.task == "BertModel" else "bert."
        return super().stored(parameters) | {self.stored_name(base + "embeddings.position_ids"): torch.arange(self.positions).unsqueeze(0)}


@dataclasses.dataclass(frozen=True)
class Rotary(Bert):
    """What later encoders with rope have in common with BERT's files."""

    eps: float = 1e-3

    def config(self) -> dict:
        config = super().config()
        del config["position_embedding_type"]
        return config

    def stored(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return Spec.stored(self, parameters)


SPECS = (
    Bert("bert-mean", dtype=torch.float32, hidden=60, heads=3, intermediate=72, eps=1e-5),
    Bert("bert-cls-dense", dtype=torch.float32, hidden=32, heads=4, intermediate=40, act="gelu_new", pooling=("cls",), dense=(Dense(24),)),
    Bert("bert-sqrt", hidden=36, heads=2, intermediate=50, act="relu", eps=1e-2, pooling=("mean_sqrt_len_tokens",), normalize=False, prefix="bert.", gamma_beta=True),
    Bert("bert-max-sharded", dtype=torch.float32, hidden=24, heads=3, intermediate=33, layers=3, pooling=("max",), normalize=False, shards=3, spans=True),
    Bert("bert-weightedmean-f16", hidden=40, heads=5, intermediate=64, pooling=("weightedmean",), dtype=torch.float16, spans=True),
    Bert("bert-lasttoken-bf16", hidden=40, heads=2, intermediate=44, act="gelu_pytorch_tanh", pooling=("lasttoken",), dtype=torch.bfloat16, max_seq_length=None),
    Bert("bert-one-head", hidden=28, heads=1, intermediate=20, layers=1, act="silu", eps=1e-3),
    Bert("bert-joined-dense", hidden=21, heads=3, intermediate=30, act="quick_gelu", pooling=("cls", "mean"), dense=(Dense(30, bias=False), Dense(10, "torch.nn.modules.linear.Identity")), normalize=False),
    Bert("bert-prompts-new-files", hidden=32, heads=4, intermediate=48, prompts={"query": "Where is: ", "document": ""}, default_prompt="query", files=NEW, spans=True),
    Bert("bert-classifier", hidden=24, heads=3, intermediate=32, task="BertForSequenceClassification", labels=("negative", "positive")),
    Bert("bert-reranker", hidden=24, heads=2, intermediate=32, task="BertForSequenceClassification", labels=("LABEL_0",)),
    Bert("bert-token-classifier", hidden=24, heads=2, intermediate=32, task="BertForTokenClassification", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    Bert("bert-masked-lm", hidden=20, heads=2, intermediate=28, task="BertForMaskedLM"),
)
