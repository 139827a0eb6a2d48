// Package arch says what a model is: it reads config.json and the sentence-transformers files of a folder into one
// declarative Model. Engines lower the Model; they never look at model_type.
//
// Families differ in a few choices, not in kind, so one struct describes them all: a reader per family fills it in. Weights are
// named, not loaded: a Tensor is the name of a tensor in the folder's safetensors files with the shape that it must have.
package arch

// Model is a transformer that maps token sequences to vectors or logits. It is immutable once read.
type Model struct {
	Family       string // model_type of config.json, for people: logs and info
	Architecture string // architectures[0] of config.json
	Format       string // the code on the hub whose format the folder has; "": transformers'
	HiddenSize   int    // columns of the residual stream
	VocabSize    int
	MaxPositions int // position ids are below it, PositionOffset included; 0: no table limits them
	MaxLength    int // longest sequence in tokens, special tokens included: min of tables and sentence-transformers' limit

	Embeddings Embeddings
	Layers     []Layer
	FinalNorm  *Norm // after the last layer of pre-norm models
	Head       Head
	Text       Text
}

// mostTurned is how many positions a rope may have that no sequence needs: a config may claim any number, and tables cost memory.
const mostTurned = 1 << 17

// Positions is what position ids are below in an engine whose sequences have up to longest tokens: the rows of a table that the model
// stores; what rope computes is cut to what anybody needs. 0: nothing limits them.
func (m *Model) Positions(longest int) int {
	if m.MaxPositions == 0 || !m.Embeddings.Position.Absent() {
		return m.MaxPositions
	}
	return min(m.MaxPositions, max(m.Embeddings.PositionOffset+longest, mostTurned))
}

// Tensor names a weight and the shape that it must have. The zero Tensor is "absent".
type Tensor struct {
	Name  string
	Shape []int
}

// Absent reports that the model has no such weight.
func (t Tensor) Absent() bool { return t.Name == "" }

// Absent reports that there is no map: its input is what comes next.
func (l *Linear) Absent() bool { return l.Weight.Absent() }

// Linear is y = x W^T + b with W [Out, In], as torch stores it; Transposed: W is stored [In, Out] (Conv1D).
type Linear struct {
	Weight     Tensor
	Bias       Tensor // may be absent
	In, Out    int
	Transposed bool
	Score      *TokenScore // not nil: W [1, In] is made of rows of Weight [vocabulary, In]
}

// TokenScore is the logit of token True less that of token False, or the logit alone where False is -1: how a language model that
// answers yes or no ranks. Its sigmoid is the softmax over both logits.
type TokenScore struct{ True, False int }

// NormKind is the kind of a normalisation.
type NormKind int

// The kinds of Norm.
const (
	LayerNorm NormKind = iota // (x - mean) / sqrt(var + eps) * weight + bias
	RMSNorm                   // x / sqrt(mean(x^2) + eps) * weight
)

// String returns the name.
func (k NormKind) String() string { return [...]string{"layer norm", "RMS norm"}[k] }

// Norm normalises rows. OnePlusWeight: the stored weight is added to one (Gemma).
type Norm struct {
	Kind          NormKind
	Weight, Bias  Tensor // [width]; each may be absent: ones, zeros
	Eps           float32
	OnePlusWeight bool
}

// Embeddings is the sum of tables that starts the residual stream: norm(scale * word[id] + position[pos] + type[t]).
type Embeddings struct {
	Word     Tensor // [VocabSize, width]; width is HiddenSize unless Projection is set
	Position Tensor // learned table [MaxPositions, width], or absent (rope, alibi, relative)
	// PositionOffset is the position id of a sequence's first token: 0, or one above the padding token's id (roberta). Padding tokens, which a
	// text may name, then have their id as position and do not count.
	PositionOffset int
	Type           Tensor // [TypeVocabSize, width], or absent
	TypeVocabSize  int    // token type ids are below it; 1 where the model ignores types
	Scale          float32
	Norm           *Norm
	Projection     *Linear // factorised embeddings: width -> HiddenSize, after the norm
}

// Layer is attention, then MLP. For each of the two blocks f:
//
//	x = Residual(x + After(f(Before(x))))     with absent norms as identity
//
// so post-norm models (bert) set Residual, pre-norm models Before, sandwich models (gemma) Before and After. With Inner (jina-bert's
// second form), which excludes After:
//
//	x = Residual(x + Inner(x + f(Before(x))))
type Layer struct {
	Attention      Attention
	AttentionNorms BlockNorms
	MLP            MLP
	MLPNorms       BlockNorms
}

// BlockNorms places norms round a block; each may be nil.
type BlockNorms struct{ Before, After, Inner, Residual *Norm }

// Attention has the one contract of attention: softmax(scale * q k^T, capped, + bias, masked) v, for each sequence.
type Attention struct {
	Heads, KVHeads int // KVHeads divides Heads
	HeadDim        int // any size; Heads * HeadDim need not be HiddenSize
	Scale          float32
	// QKV are linear maps whose outputs, joined, are the rows [q heads | k heads | v heads]: three maps, or one fused.
	QKV    []Linear
	Out    Linear
	QKNorm *QKNorm
	Rope   *Rope
	Causal bool
	// Query i sees key j iff i-WindowLeft <= j <= i+WindowRight; negative: unlimited.
	WindowLeft, WindowRight int
	Softcap                 float32   // s = cap * tanh(s / cap) after the scale; 0: none
	AlibiSlopes             []float32 // [Heads]: s -= slope * |i - j|; nil: none
	RelativeBias            *RelativeBias
	Disentangled            *Disentangled
}

// QKNorm normalises each head's query and key (width HeadDim) before rope. FullWidth: over all heads at once instead.
type QKNorm struct {
	Q, K      Norm
	FullWidth bool
}

// RopeKind is how rope pairs the numbers of a head.
type RopeKind int

// The kinds of Rope.
const (
	RopeHalf        RopeKind = iota // (x[i], x[i + dim/2]): llama, neox
	RopeInterleaved                 // (x[2i], x[2i + 1]): gptj
)

// String returns the name.
func (k RopeKind) String() string { return [...]string{"half", "interleaved"}[k] }

// Rope rotates the first Dim numbers of each query and key by position * InvFreq.
type Rope struct {
	Kind    RopeKind
	Dim     int       // even, at most HeadDim
	InvFreq []float32 // [Dim / 2]; readers fold scaling variants (linear, llama3, yarn, ...) into it
	// Factor multiplies cos and sin (yarn's attention factor); 1 for others.
	Factor float32
}

// RelativeBias is a learned bias for each head and bucket of j - i (T5, MPNet).
type RelativeBias struct {
	Weight        Tensor // [Buckets, Heads]
	Buckets       int
	MaxDistance   int
	Bidirectional bool
}

// Disentangled is what a query says of a key's place and a key of a query's (DeBERTa, https://arxiv.org/abs/2006.03654): with r the row of
// the distance i - j, and e = Norm(Embeddings),
//
//	s = Scale * (q_i k_j + q_i Key(e_r) + k_j Query(e_r))
//
// Rows are distances themselves up to Buckets / 2 and in logarithmic steps from there on (https://arxiv.org/abs/2111.09543).
type Disentangled struct {
	Embeddings  Tensor  // [2 * Span, HiddenSize]; distance 0 has row Span
	Norm        *Norm   // may be nil
	Key, Query  *Linear // HiddenSize -> Heads * HeadDim; each may be nil: without its term
	Span        int
	Buckets     int // distances have rows of their own up to half of it; 0: all up to Span have
	MaxDistance int // with Buckets, distances from there on share the last row
}

// Activation is an activation function.
type Activation int

// The activations. GELUTanh is gelu_new, gelu_fast and gelu_pytorch_tanh.
const (
	Identity Activation = iota
	GELU
	GELUTanh
	QuickGELU
	ReLU
	SiLU
	Tanh
)

// String returns the name.
func (a Activation) String() string {
	return [...]string{"identity", "gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh"}[a]
}

// MLP is Down(act(Up(x))), or gated: Down(act(Gate(x)) * Up(x)). GateUp is one stored map that yields gate and up joined
// (up first when UpFirst); then Gate and Up are absent.
type MLP struct {
	Activation     Activation
	Up, Gate, Down Linear // Gate.Out is 0 where not gated
	GateUp         Linear
	UpFirst        bool
	Intermediate   int // columns of up
}

// Gated reports a gated MLP.
func (m MLP) Gated() bool { return m.Gate.Out > 0 || m.GateUp.Out > 0 }

// HeadKind is what a model computes from its last hidden state.
type HeadKind int

// The kinds of Head.
const (
	HeadEmbedding       HeadKind = iota // pooling, then Chain: a vector for each sequence
	HeadClassifier                      // pooling, then Chain: logits for each sequence
	HeadTokenClassifier                 // Chain on every row: logits for each token
	HeadSparse                          // Chain (masked-LM head), log(1 + relu), max over the sequence: SPLADE
)

// String returns the name in info.
func (k HeadKind) String() string {
	return [...]string{"embedding", "classifier", "token_classifier", "sparse"}[k]
}

// Head maps the last hidden state to the outputs.
type Head struct {
	Kind      HeadKind
	Pooling   Pooling
	Chain     []Dense
	Normalize bool     // an embedding's default: L2-normalise
	Labels    []string // of classifiers, by index; from id2label
	Tokens    *TokenHead
}

// TokenHead is what bge-m3 computes of each token beside the pooled vector (https://arxiv.org/abs/2402.03216). A token's row in the engine's
// output is then Vector's columns followed by Weight's, instead of the last hidden state. Callers do the rest, as FlagEmbedding does: they
// leave out the first token's vector, normalise the others, and make of the weights above zero one for each token id, the largest.
type TokenHead struct {
	Vector        Linear   // HiddenSize -> width of token vectors, which late interaction (ColBERT) compares
	Weight        Linear   // HiddenSize -> 1
	SpecialTokens []string // tokens that have no weight
}

// Maps are the linear maps whose outputs, joined, are a token's row.
func (h *TokenHead) Maps() []Linear { return []Linear{h.Vector, h.Weight} }

// Dense is act(linear(x)), then a norm where there is one. sentence-transformers' Dense and LayerNorm, BERT's pooler and the layers of
// classification heads.
type Dense struct {
	Linear     Linear // absent: there is only the norm
	Activation Activation
	Norm       *Norm
}

// PoolMode is how the rows of a sequence become one.
type PoolMode int

// The modes of sentence-transformers' Pooling module.
const (
	PoolCLS PoolMode = iota
	PoolMean
	PoolMax
	PoolMeanSqrtLen
	PoolWeightedMean
	PoolLastToken
)

// String returns the name in sentence-transformers' pooling_mode.
func (m PoolMode) String() string {
	return [...]string{"cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"}[m]
}

// Pooling joins the vectors of its modes, in order. Modes is empty for token classifiers and sparse models.
type Pooling struct {
	Modes []PoolMode
	// ExcludePrompt leaves the prompt's tokens out of the pooling (include_prompt: false).
	ExcludePrompt bool
	// PadToken: a last token is the last one that is not this, or the first where all are. nil: it is the last one. Engines do not look
	// at it: their callers cut sequences off with Pooled, which changes nothing else where attention is causal.
	PadToken *int
}

// Pooled is the number of tokens of a sequence up to the last one that PadToken lets count.
func Pooled[ID int32 | uint32](p Pooling, ids []ID) int {
	n := len(ids)
	if p.PadToken == nil {
		return n
	}
	for n > 0 && int(ids[n-1]) == *p.PadToken {
		n--
	}
	return max(n, min(1, len(ids)))
}

// Text is what sentence-transformers' files say about text: it goes to the tokenizer, no engine reads it.
type Text struct {
	Prompts       map[string]string // by name; config_sentence_transformers.json
	DefaultPrompt string            // name of the prompt used when a call names none; "": none
	LowerCase     bool              // sentence_bert_config.json's do_lower_case: lower the text before tokenizing
	Template      *PairTemplate     // of a reranker that is a language model; nil: the tokenizer joins pairs
}
