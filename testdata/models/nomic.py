"""Nomic's BERT in transformers' format and in that of the hub's own code (nomic-ai/nomic-bert-2048)."""

import dataclasses

import torch

from bert import Rotary
from hub import ACTIVATIONS, Hub, HubSpec, frequencies, rotation
from spec import SEQUENCE


@dataclasses.dataclass(frozen=True)
class Nomic(Rotary):
    task: str = "NomicBertModel"
    act: str = "silu"

    def config(self) -> dict:
        return super().config() | {"model_type": "nomic_bert", "rope_parameters": {"rope_type": "default", "rope_theta": 90.0}}


class NomicCode(Hub):
    """modeling_hf_nomic_bert.py."""

    prefix = "bert."

    def trunk(self, p, ids, kinds, positions):
        c, hidden = self.config, self.hidden
        rows = -(-c["vocab_size"] // c["pad_vocab_size_multiple"]) * c["pad_vocab_size_multiple"]
        x = self.table(f"{p}embeddings.word_embeddings", rows, ids)
        if c["type_vocab_size"]:
            x = x + self.table(f"{p}embeddings.token_type_embeddings", c["type_vocab_size"], kinds)
        width = int(hidden // self.heads * c["rotary_emb_fraction"])
        if width:
            turn = rotation(positions, frequencies(c["rotary_emb_base"], width), c["rotary_emb_interleaved"])
        else:
            x = x + self.table(f"{p}embeddings.position_embeddings", c["n_positions"], positions)
            turn = lambda x: x  # noqa: E731
        x = self.norm(x, f"{p}emb_ln")
        for i in range(c["n_layer"]):
            layer = f"{p}encoder.layers.{i}."
            q, k, v = self.linear(x, f"{layer}attn.Wqkv", 3 * hidden, c["qkv_proj_bias"]).chunk(3, -1)
            y = self.linear(self.attention(q, k, v, turn=turn), f"{layer}attn.out_proj", hidden, c["qkv_proj_bias"])
            x = self.norm(x + y, f"{layer}norm1")
            x = self.norm(x + self.mlp(x, f"{layer}mlp."), f"{layer}norm2")
        return x

    def mlp(self, x, p):
        c = self.config
        if c["activation_function"] == "gelu":
            y = torch.nn.functional.gelu(self.linear(x, f"{p}fc1", c["n_inner"], c["mlp_fc1_bias"]))
        else:
            gate = {"swiglu": torch.nn.functional.silu, "geglu": torch.nn.functional.gelu}[c["activation_function"]]
            wide = -(-c["n_inner"] // 256) * 256
            y = self.linear(x, f"{p}fc11", wide, c["mlp_fc1_bias"]) * gate(self.linear(x, f"{p}fc12", wide, c["mlp_fc1_bias"]))
        return self.linear(y, f"{p}fc2", self.hidden, c["mlp_fc2_bias"])

    def masked_lm(self, x, p):
        c, head = self.config, "cls.predictions."
        act = ACTIVATIONS["silu" if c["activation_function"] == "swiglu" else "gelu"]
        x = self.norm(act(self.linear(x, f"{head}transform.dense", self.hidden, c["mlp_fc1_bias"])), f"{head}transform.layer_norm")
        table = self.weights[f"{p}embeddings.word_embeddings.weight"]
        y = x @ table.T
        return y + self.weight(f"{head}decoder.bias", len(table)) if c["mlp_fc1_bias"] else y


@dataclasses.dataclass(frozen=True)
class NomicHub(HubSpec, Nomic):
    """intermediate is n_inner, which gated MLPs round up to a multiple of 256."""

    code = NomicCode
    act: str = "swiglu"
    bias: bool = False
    fraction: float = 1.0
    padding: int = 64

    def config(self) -> dict:
        return {
            "architectures": [self.task],
            "auto_map": {"AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig"},
            "model_type": "nomic_bert",
            "vocab_size": self.vocab_size - 3,
            "pad_vocab_size_multiple": self.padding,
            "n_embd": self.hidden,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_inner": self.intermediate,
            "n_positions": self.positions,
            "activation_function": self.act,
            "layer_norm_epsilon": self.eps,
            "type_vocab_size": self.types,
            "qkv_proj_bias": self.bias,
            "mlp_fc1_bias": self.bias,
            "mlp_fc2_bias": self.bias,
            "rotary_emb_base": 120,
            "rotary_emb_fraction": self.fraction,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": None,
            "prenorm": False,
            "parallel_block": False,
            "causal": False,
            "use_rms_norm": False,
            "torch_dtype": str(self.dtype).removeprefix("torch."),
        }

    def native(self):
        if self.act != "swiglu" or self.bias or self.more or not self.task.endswith(("Model", SEQUENCE)):
            return None
        config = super().config() | {"rope_parameters": {"rope_type": "default", "rope_theta": 120.0}, "hidden_act": "silu", "intermediate_size": 256}
        return config, {("nomic_" + name if name.startswith("bert.") else name): tensor for name, tensor in self.file().items()}


SPECS = (
    Nomic("nomic-mean", dtype=torch.float32, hidden=24, heads=3, intermediate=37, more={"head_dim": 14}),
    Nomic("nomic-classifier", hidden=20, heads=2, intermediate=24, act="gelu", task="NomicBertForSequenceClassification", labels=("a", "b", "c")),
    Nomic("nomic-token-classifier", hidden=20, heads=2, intermediate=24, task="NomicBertForTokenClassification", labels=("O", "B", "I")),
    Nomic("nomic-masked-lm", hidden=16, heads=2, intermediate=20, layers=1, task="NomicBertForMaskedLM", vector_items=(1,)),
    NomicHub("nomic-hub", dtype=torch.float32, hidden=12, heads=2, intermediate=100),
    NomicHub("nomic-hub-partial", hidden=16, heads=2, intermediate=256, layers=1, act="geglu", bias=True, fraction=0.5, pooling=("cls",), more={"rotary_emb_interleaved": True, "rotary_scaling_factor": 2, "max_trained_positions": 48}),
    NomicHub("nomic-hub-positions", hidden=18, heads=3, intermediate=31, act="gelu", fraction=0.0, types=1, normalize=False, more={"type_vocab_size": 0}),
    NomicHub("nomic-hub-classifier", hidden=12, heads=1, intermediate=20, layers=1, task="NomicBertForSequenceClassification", labels=("LABEL_0",)),
    NomicHub("nomic-hub-masked-lm", hidden=16, heads=2, intermediate=25, layers=1, act="gelu", bias=True, task="NomicBertForPreTraining", vector_items=(1,)),
)
