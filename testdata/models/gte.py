"""GTE in transformers' format, and as "new" in that of the hub's own code (Alibaba-NLP/new-impl)."""

import dataclasses
import math

import torch

from bert import Rotary
from hub import ACTIVATIONS, Hub, HubSpec, frequencies, rotation


@dataclasses.dataclass(frozen=True)
class Gte(Rotary):
    task: str = "GteModel"
    model_type: str = "gte"

    def config(self) -> dict:
        return super().config() | {"model_type": self.model_type, "rope_theta": 150}


class NewCode(Hub):
    """modeling.py of new-impl."""

    prefix = "new."

    def trunk(self, p, ids, kinds, positions):
        c, hidden = self.config, self.hidden
        x = self.table(f"{p}embeddings.word_embeddings", c["vocab_size"], ids)
        if c["type_vocab_size"]:
            x = x + self.table(f"{p}embeddings.token_type_embeddings", c["type_vocab_size"], kinds)
        if c.get("position_embedding_type", "rope") == "absolute":
            x = x + self.table(f"{p}embeddings.position_embeddings", c["max_position_embeddings"], positions)
            turn = lambda x: x  # noqa: E731
        else:
            turn = rotation(positions, self.frequencies())
        x = self.norm(x, f"{p}embeddings.LayerNorm")
        norm = self.rms_norm if c.get("layer_norm_type") == "rms_norm" else self.norm
        for i in range(c["num_hidden_layers"]):
            layer = f"{p}encoder.layer.{i}."
            if c.get("pack_qkv", True):
                q, k, v = self.linear(x, f"{layer}attention.qkv_proj", 3 * hidden).split(hidden, -1)
            else:
                q, k, v = (self.linear(x, f"{layer}attention.{n}_proj", hidden) for n in "qkv")
            y = self.linear(self.attention(q, k, v, turn=turn), f"{layer}attention.o_proj", hidden)
            x = norm(x + y, f"{layer}attn_ln")
            up, gate = self.linear(x, f"{layer}mlp.up_gate_proj", 2 * c["intermediate_size"], False).chunk(2, -1)
            x = norm(x + self.linear(up * ACTIVATIONS[c["hidden_act"]](gate), f"{layer}mlp.down_proj", hidden), f"{layer}mlp_ln")
        return x

    def frequencies(self):
        """With scaling "ntk" as https://kexue.fm/archives/9706 has it: fixed, or mixed where mixed_b is given."""
        c, width = self.config, self.hidden // self.heads
        scaling = c.get("rope_scaling")
        if scaling is None:
            return frequencies(c["rope_theta"], width)
        factor, b = scaling["factor"], scaling.get("mixed_b")
        if b is None:
            return frequencies(c["rope_theta"] * factor, width) / factor ** (2 / width)
        a = math.log(factor) / (width / 2) ** b
        return frequencies(c["rope_theta"], width) / torch.exp(a * torch.arange(1, width // 2 + 1) ** b)

    def masked_lm(self, x, p):
        act, table = ACTIVATIONS[self.config["hidden_act"]], self.weights[f"{p}embeddings.word_embeddings.weight"]
        x = self.norm(act(self.linear(x, "lm_head.dense", self.hidden)), "lm_head.norm")
        return x @ table.T + self.weight("lm_head.decoder.bias", len(table))


@dataclasses.dataclass(frozen=True)
class New(HubSpec, Gte):
    code = NewCode
    task: str = "NewModel"
    model_type: str = "new"

    def native(self):
        """Fixed ntk is linear scaling of rope with another base."""
        config, scaling = self.config() | self.more, self.more.get("rope_scaling")
        own = {"position_embedding_type", "layer_norm_type", "pack_qkv"} & set(config) or "mixed_b" in (scaling or {})
        if own or (self.task.endswith("LM") and self.act != "gelu"):  # the head of transformers has gelu
            return None
        rope = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
        if scaling is not None:
            factor = config.pop("rope_scaling")["factor"]
            rope = {"rope_type": "linear", "rope_theta": rope["rope_theta"] * factor, "factor": factor ** (2 / (self.hidden // self.heads))}
        config |= {"model_type": "gte", "architectures": [self.task.replace("New", "Gte")], "rope_parameters": rope}
        return config, {name.replace("new.", "gte."): tensor for name, tensor in self.file().items()}


SPECS = (
    Gte("gte-mean", hidden=30, heads=3, intermediate=37, act="gelu_new"),
    Gte("gte-no-types", hidden=24, heads=2, intermediate=30, types=1, pooling=("cls",), dtype=torch.float16, prefix="gte.", more={"type_vocab_size": 0}),
    Gte("gte-classifier", hidden=20, heads=2, intermediate=24, task="GteForSequenceClassification", labels=("a", "b", "c")),
    Gte("gte-reranker", hidden=20, heads=2, intermediate=26, act="silu", task="GteForSequenceClassification", labels=("LABEL_0",), dtype=torch.float16),
    Gte("gte-token-classifier", hidden=20, heads=2, intermediate=24, task="GteForTokenClassification", labels=("O", "B", "I")),
    Gte("gte-masked-lm", hidden=16, heads=2, intermediate=20, layers=1, act="silu", task="GteForMaskedLM", vector_items=(1,)),
    New("gte-hub", dtype=torch.float32, hidden=20, heads=2, intermediate=24, task="GteModel", model_type="gte"),
    New("new-ntk", dtype=torch.float32, hidden=30, heads=3, intermediate=37, pooling=("cls",), more={"rope_scaling": {"type": "ntk", "factor": 3.0}}),
    New("new-mixed-ntk", hidden=24, heads=2, intermediate=30, act="silu", types=1, more={"rope_scaling": {"type": "ntk", "factor": 4.0, "mixed_b": 0.625}, "pack_qkv": False, "layer_norm_type": "rms_norm", "type_vocab_size": 0}),
    New("new-positions", hidden=20, heads=2, intermediate=24, normalize=False, more={"position_embedding_type": "absolute"}),
    New("new-reranker", hidden=20, heads=2, intermediate=24, task="NewForSequenceClassification", labels=("LABEL_0",)),
    New("new-token-classifier", hidden=20, heads=2, intermediate=24, task="NewForTokenClassification", labels=("O", "B", "I")),
    New("new-masked-lm", hidden=16, heads=2, intermediate=20, layers=1, act="silu", task="NewForMaskedLM", vector_items=(1,)),
)
