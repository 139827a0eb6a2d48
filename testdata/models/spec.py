"""What a tiny model is: the choices that every family has. A family's file (bert.py, ...) has a subclass of Spec and its SPECS.

Widths are awkward on purpose (head sizes 7, 18, 20, eps up to 0.01, weights of size one), so that a wrong activation, eps,
pooling, scale or name moves the results visibly.
"""

import dataclasses
import itertools
import pathlib
import zlib

import sentence_transformers
import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZERS = HERE.parent / "tokenizer"
CLASSIC, NEW = "classic", "6.x"  # how sentence-transformers wrote its files before and since version 6
# Ends of tasks with a head; the last two are masked language models.
SEQUENCE, TOKEN, MASKED, PRETRAINING = "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForPreTraining"


@dataclasses.dataclass(frozen=True)
class Dense:
    out_features: int
    activation: str = "torch.nn.modules.activation.Tanh"
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """A module of that name, between or after Dense modules."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """One folder. task: a transformers class, as architectures[0] names it; pooling, dense, normalize and prompts are for embedding
    models only, and pooling () means: no sentence-transformers files. more: what config.json has beside what config() says.

    A family says config(), tokenizer_config(), tokenizer and vocab_size, and overrides below what it does in another way.
    """

    name: str
    hidden: int
    heads: int
    intermediate: int
    layers: int = 2
    act: str = "gelu"
    eps: float = 1e-12
    positions: int = 40
    types: int = 1  # token type ids are below it
    max_seq_length: int | None = 24
    texts: tuple[str, ...] = ()  # more than generate.py has for all
    lengths: tuple[int, ...] = (5, 13)  # of the items that no text makes
    vector_items: tuple[int, ...] = (0, 3, 9)  # items whose token rows golden.json has; token classifiers' has all
    task: str = ""
    labels: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[Dense | LayerNorm, ...] = ()
    spans: bool = False  # golden.json has vectors of parts of the texts
    dimensions: int = 0  # golden.json has vectors of so many columns, too
    normalize: bool = True
    splade: bool = False  # a masked-LM model with the files of a SparseEncoder
    prompts: dict = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None
    files: str = CLASSIC
    dtype: torch.dtype = torch.float16  # of the file, for small files; one model or more of each family is stored in float32
    prefix: str = ""  # put before the names of the weights
    shards: int = 1
    more: dict = dataclasses.field(default_factory=dict)

    # The folder.

    @property
    def folder(self) -> pathlib.Path:
        return HERE / self.name

    @property
    def is_embedding(self) -> bool:
        return not self.task.endswith((SEQUENCE, TOKEN, MASKED, PRETRAINING))

    @property
    def tokenizer(self) -> pathlib.Path:
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError

    def config(self) -> dict:
        """config.json, but for labels and more."""
        raise NotImplementedError

    def tokenizer_config(self) -> dict:
        """tokenizer_config.json, but for model_max_length."""
        raise NotImplementedError

    @property
    def transformer_type(self) -> str | None:
        """What modules.json calls the transformer; None: sentence-transformers' own class."""
        return None

    def tokenizer_json(self) -> str:
        return self.tokenizer.read_text(encoding="utf-8")

    def extra_files(self) -> dict[str, dict | list | str | bytes]:
        """Other files of the folder by name: JSON, or text and bytes as they are."""
        return {}

    # The weights.

    @property
    def module_class(self) -> str:
        """The transformers class whose parameters, by its names, are the weights."""
        return self.task

    def module(self) -> torch.nn.Module:
        """A module with those parameters; their values do not count. config.json is written already."""
        return getattr(transformers, self.module_class)(transformers.AutoConfig.from_pretrained(self.folder))

    def value(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Values seeded by the parameter's own name, so that adding a model or a parameter changes no other."""
        return random_tensor(f"{self.name}/{name}", shape)

    def stored_name(self, name: str) -> str:
        return self.prefix + name

    def stored(self, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of the safetensors files, from those of module() in dtype."""
        return {self.stored_name(name): tensor for name, tensor in parameters.items()}

    # The truth.

    def position_ids(self, input_ids: list[int]) -> list[int]:
        """What the model itself makes of a sequence, where it is given none."""
        return list(range(len(input_ids)))

    def load(self, dtype: torch.dtype) -> tuple[torch.nn.Module, sentence_transformers.SentenceTransformer | None]:
        """The transformer, its weights read from the folder as dtype, and for embedding models the SentenceTransformer that it is part of.
        Its parameters have the names of module()."""
        options = {"dtype": dtype, "attn_implementation": "eager"}
        if not self.is_embedding:
            return getattr(transformers, self.task).from_pretrained(self.folder, **options).eval(), None
        sentence = sentence_transformers.SentenceTransformer(str(self.folder), device="cpu", model_kwargs=options).eval()
        for module in list(sentence)[1:]:
            module.to(dtype)  # as the options make the transformer
        return sentence[0].auto_model, sentence

    @property
    def pairs_only(self) -> bool:
        return False

    def encode(self, tokenizer: tokenizers.Tokenizer, text: str, pair: str | None, prompt: str) -> tuple[list[int], list[int]]:
        """(input_ids, token_type_ids) of a text or pair. tokenizer truncates."""
        encoding = tokenizer.encode(prompt + text, pair)
        return encoding.ids, encoding.type_ids

    def check(self, items: list[dict], pooled: list, max_length: int) -> None:
        """Our token path must equal the library's own path from text. For models that are no embedding models."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        for item in items:
            assert tokenizer(item["text"], item["pair"], truncation=True, max_length=max_length)["input_ids"] == item["input_ids"], item

    def inputs(self, item: dict) -> dict[str, torch.Tensor]:
        """What the transformer's forward takes, for one item alone."""
        return {key: torch.tensor([item[key]]) for key in ("input_ids", "token_type_ids", "position_ids")}

    def results(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(pooled, token rows) of one item; pooled is None for token classifiers, and for embedding models: their modules make it of the rows."""
        outputs = model(**inputs)
        if self.is_embedding:
            return None, outputs.last_hidden_state[0]
        logits = outputs.logits[0]
        if self.task.endswith(SEQUENCE):
            return logits, getattr(model, model.base_model_prefix)(**inputs).last_hidden_state[0]
        if self.task.endswith((MASKED, PRETRAINING)):
            return torch.log1p(torch.relu(logits)).max(dim=0).values, logits
        return None, logits

    def token_rows(self, hidden: torch.Tensor) -> torch.Tensor:
        """An embedding model's token vectors [tokens, columns], of its last hidden state."""
        return hidden

    def token_results(self, item: dict, rows: torch.Tensor) -> dict:
        """More entries of golden.json, one an item, of an item's token rows."""
        return {}


def positions_after(pad: int, input_ids: list[int]) -> list[int]:
    """RoBERTa's: they count from pad + 1, and padding tokens have pad and do not count."""
    counted = itertools.accumulate(id != pad for id in input_ids)
    return [pad + (n if id != pad else 0) for id, n in zip(input_ids, counted)]


def random_tensor(key: str, shape: torch.Size) -> torch.Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("weight") and len(shape) == 1:  # a norm's
        return 1 + 0.3 * noise
    if key.endswith("bias"):
        return 0.3 * noise
    if "embeddings" in key or "embed_tokens" in key:
        return 0.7 * noise
    return 1.3 * noise / shape[-1] ** 0.5
