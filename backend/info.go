package backend

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/device"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// ModelType is what a model computes: the numbers of BEI_MODEL_*.
type ModelType uint32

// The model types. A reranker is a classifier with one label.
const (
	ModelEmbedding       ModelType = 1
	ModelClassifier      ModelType = 2
	ModelTokenClassifier ModelType = 3
)

// String returns the name in info's JSON.
func (t ModelType) String() string {
	return [...]string{"", "embedding", "classifier", "token_classifier"}[t]
}

// Pooling is how a sequence becomes one vector: the numbers of BEI_POOLING_*.
type Pooling uint32

// The poolings.
const (
	PoolingNone      Pooling = 0
	PoolingCLS       Pooling = 1
	PoolingMean      Pooling = 2
	PoolingSplade    Pooling = 3
	PoolingLastToken Pooling = 4
	PoolingOther     Pooling = 255
)

// Info is what a router needs to know of an open backend: bei_info. It does not change.
type Info struct {
	ModelType       ModelType
	Pooling         Pooling
	Dimensions      uint32
	TokenDimensions uint32
	Labels          uint32
	VocabSize       uint32
	TypeVocabSize   uint32
	PositionOffset  uint32
	MaxLength       uint32
	MaxTokens       uint32
	MaxSequences    uint32
	BestTokens      uint32
	Slots           uint32
	Padded          bool
	HasTokenizer    bool
	Normalizes      bool

	maxPositions uint32 // position ids are below it; 0: any
	ignoresTypes bool   // no table of token types: tokenizers may give any, as pairs have them
}

// Info returns the backend's Info.
func (b *Backend) Info() Info { return b.info }

// describe derives Info from the model and the engine.
func (b *Backend) describe() Info {
	e := b.engine.Info()
	i := Info{
		ModelType: ModelEmbedding, TypeVocabSize: 1, HasTokenizer: b.tokenizer != nil,
		MaxLength: uint32(e.Limits.MaxLength), MaxTokens: uint32(e.Limits.MaxTokens), MaxSequences: uint32(e.Limits.MaxSequences),
		BestTokens: uint32(e.Limits.BestTokens), Slots: uint32(len(b.engine.Slots())), Padded: e.Limits.Padded,
	}
	var labels int
	if b.model != nil {
		m := b.model
		i.Pooling = poolingOf(m.Head)
		i.Normalizes = m.Head.Normalize
		i.VocabSize, i.TypeVocabSize = uint32(m.VocabSize), uint32(max(m.Embeddings.TypeVocabSize, 1))
		i.PositionOffset, i.maxPositions = uint32(m.Embeddings.PositionOffset), uint32(m.Positions(e.Limits.MaxLength))
		i.ignoresTypes = m.Embeddings.Type.Absent()
		labels = len(m.Head.Labels)
		switch m.Head.Kind {
		case arch.HeadClassifier:
			i.ModelType = ModelClassifier
		case arch.HeadTokenClassifier:
			i.ModelType = ModelTokenClassifier
		}
	} else {
		c := b.engine.(*mock.Engine).Config()
		i.Pooling, i.Normalizes = PoolingMean, true
		i.VocabSize, i.TypeVocabSize = uint32(c.VocabSize), uint32(c.TypeVocab)
		labels = c.Labels
		switch c.Kind {
		case mock.Classifier:
			i.ModelType, i.Pooling = ModelClassifier, PoolingNone
		case mock.TokenClassifier:
			i.ModelType, i.Pooling = ModelTokenClassifier, PoolingNone
		}
	}
	i.TokenDimensions = uint32(b.tokenColumns())
	if i.ModelType == ModelEmbedding {
		if e.Outputs&engine.Pooled != 0 {
			i.Dimensions = uint32(e.PooledWidth)
		}
	} else {
		i.Labels, i.Normalizes = uint32(labels), false
	}
	return i
}

func poolingOf(h arch.Head) Pooling {
	switch {
	case h.Kind == arch.HeadSparse:
		return PoolingSplade
	case len(h.Pooling.Modes) == 0:
		return PoolingNone
	case len(h.Pooling.Modes) > 1:
		return PoolingOther
	}
	switch h.Pooling.Modes[0] {
	case arch.PoolCLS:
		return PoolingCLS
	case arch.PoolMean:
		return PoolingMean
	case arch.PoolLastToken:
		return PoolingLastToken
	}
	return PoolingOther
}

// infoDocument is the JSON of InfoJSON.
type infoDocument struct {
	Version         string            `json:"version"`
	Model           string            `json:"model"`
	Folder          string            `json:"folder,omitempty"`
	Commit          string            `json:"commit,omitempty"` // of a hub's model
	ModelType       string            `json:"model_type"`
	Family          string            `json:"family,omitempty"`
	Architecture    string            `json:"architecture,omitempty"`
	Pooling         []string          `json:"pooling,omitempty"`
	Normalizes      bool              `json:"normalizes"`
	Dimensions      uint32            `json:"dimensions,omitempty"`
	TokenDimensions uint32            `json:"token_dimensions"`
	Layers          int               `json:"layers,omitempty"`
	HiddenSize      int               `json:"hidden_size,omitempty"`
	VocabSize       uint32            `json:"vocab_size"`
	TypeVocabSize   uint32            `json:"type_vocab_size"`
	PositionOffset  uint32            `json:"position_offset"`
	Labels          []string          `json:"labels,omitempty"`
	EntityGroups    []string          `json:"entity_groups,omitempty"` // by label: what joined entities are called
	Prompts         map[string]string `json:"prompts,omitempty"`
	DefaultPrompt   string            `json:"default_prompt,omitempty"`
	MaxLength       uint32            `json:"max_length"`
	MaxTokens       uint32            `json:"max_tokens"`
	MaxSequences    uint32            `json:"max_sequences"`
	BestTokens      uint32            `json:"best_tokens"`
	Slots           uint32            `json:"slots"`
	IsPadded        bool              `json:"is_padded"`
	HasTokenizer    bool              `json:"has_tokenizer"`
	MaxItems        int               `json:"max_items"`
	Engine          string            `json:"engine"`
	EngineVersion   string            `json:"engine_version"`
	EngineChoice    string            `json:"engine_choice"`
	EngineDetails   map[string]string `json:"engine_details,omitempty"`
	Device          string            `json:"device"`
	DeviceUUIDs     []string          `json:"device_uuids,omitempty"` // those of gpus that the engine uses
	DType           string            `json:"dtype"`
	Outputs         []string          `json:"outputs"`
	WeightsBytes    int64             `json:"weights_bytes,omitempty"`
	Fingerprint     string            `json:"weights_fingerprint,omitempty"`
	Devices         []gpu             `json:"gpus,omitempty"`
	OpenSeconds     float64           `json:"open_seconds"`
	Parity          parity            `json:"parity"`
	Decisions       []arch.Decision   `json:"decisions,omitempty"` // of the model's files
}

// gpu is what of a device.Device does not change, or only when somebody sets it.
type gpu struct {
	Index             int     `json:"index"`
	UUID              string  `json:"uuid"`
	Parent            string  `json:"parent_uuid,omitempty"` // of a MIG device: its GPU
	Name              string  `json:"name"`
	Driver            string  `json:"driver"`
	CUDA              string  `json:"cuda"`
	PCIBusID          string  `json:"pci_bus_id,omitempty"`
	ComputeCapability string  `json:"compute_capability,omitempty"`
	MemoryTotal       uint64  `json:"memory_total_bytes"`
	PowerLimit        float64 `json:"power_limit_watts,omitempty"`
}

func newGPU(d device.Device) gpu {
	g := gpu{Index: d.Index, UUID: d.UUID, Parent: d.Parent, Name: d.Name, Driver: d.Driver, CUDA: d.CUDA, PCIBusID: d.PCIBusID,
		ComputeCapability: d.ComputeCapability, MemoryTotal: d.MemoryTotal}
	if !math.IsNaN(d.PowerLimitW) {
		g.PowerLimit = d.PowerLimitW
	}
	return g
}

// InfoJSON tells everything known of the backend as one JSON object.
func (b *Backend) InfoJSON() ([]byte, error) {
	e, i := b.engine.Info(), b.info
	d := infoDocument{
		Version: Version, Model: b.config.Model, Folder: b.folder, Commit: b.commit, ModelType: i.ModelType.String(), Normalizes: i.Normalizes,
		Dimensions: i.Dimensions, TokenDimensions: i.TokenDimensions, VocabSize: i.VocabSize, TypeVocabSize: i.TypeVocabSize,
		PositionOffset: i.PositionOffset, DefaultPrompt: b.prompt, MaxLength: i.MaxLength, MaxTokens: i.MaxTokens,
		MaxSequences: i.MaxSequences, BestTokens: i.BestTokens, Slots: i.Slots, IsPadded: i.Padded, HasTokenizer: i.HasTokenizer,
		MaxItems: b.queue.MaxItems, Engine: e.Name, EngineVersion: e.Version, EngineChoice: b.choice, EngineDetails: e.Details, Device: e.Device,
		DeviceUUIDs: e.DeviceUUIDs, DType: e.Precision, OpenSeconds: b.opened.Seconds(), Parity: b.parity,
	}
	for _, o := range []struct {
		bit  engine.Outputs
		name string
	}{{engine.Pooled, "pooled"}, {engine.TokenVectors, "token_vectors"}, {engine.Sparse, "sparse"}} {
		if b.outputs()&o.bit != 0 {
			d.Outputs = append(d.Outputs, o.name)
		}
	}
	for _, g := range b.monitor.Devices() {
		d.Devices = append(d.Devices, newGPU(g))
	}
	if d.Labels = b.labels(); b.tagger != nil {
		d.EntityGroups = b.tagger.groups()
	}
	if m := b.model; m != nil {
		d.Family, d.Architecture, d.Layers, d.HiddenSize = m.Family, m.Architecture, len(m.Layers), m.HiddenSize
		d.Prompts = m.Text.Prompts
		for _, mode := range m.Head.Pooling.Modes {
			d.Pooling = append(d.Pooling, mode.String())
		}
		d.WeightsBytes, d.Fingerprint = b.weights.TotalBytes(), b.weights.Fingerprint()
		d.Decisions = b.allDecisions()
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, status.Errorf(status.Internal, "info: %w", err)
	}
	return text, nil
}

// labels are the names of a classifier's labels, by index; those of the mock engine are as transformers names them by default.
func (b *Backend) labels() []string {
	if b.model != nil {
		return b.model.Head.Labels
	}
	var names []string
	for i := range b.info.Labels {
		names = append(names, fmt.Sprintf("LABEL_%d", i))
	}
	return names
}

// promptNames lists prompts for a message.
func promptNames(prompts map[string]string) string {
	if len(prompts) == 0 {
		return "it has none"
	}
	return fmt.Sprintf("it has %s", strings.Join(slices.Sorted(maps.Keys(prompts)), ", "))
}
