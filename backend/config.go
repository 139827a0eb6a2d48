package backend

import (
	_ "embed" // the schema
	"encoding/json"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/document"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/hub"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Config is what Open needs to know. The zero value of a field means its default; options.schema.json tells them all.
type Config struct {
	Model             string            `json:"model"`
	Revision          string            `json:"revision"`
	Hub               HubConfig         `json:"hub"`
	Engine            string            `json:"engine"`
	Device            string            `json:"device"`
	DType             string            `json:"dtype"`
	Threads           int               `json:"threads"`
	Slots             int               `json:"slots"`
	MaxLength         int               `json:"max_length"`
	MaxTokens         int               `json:"max_tokens"`
	MaxSequences      int               `json:"max_sequences"`
	BestTokens        int               `json:"best_tokens"`
	Pooling           string            `json:"pooling"`
	Reranker          string            `json:"reranker"`
	Truncate          *bool             `json:"truncate,omitempty"` // nil: true
	TruncationSide    string            `json:"truncation_side"`
	DefaultPromptName string            `json:"default_prompt_name"`
	DefaultPrompt     string            `json:"default_prompt"`
	RunTimeoutMS      int               `json:"run_timeout_ms"`
	Verify            string            `json:"verify"`
	RerunMaxBytes     *int64            `json:"rerun_max_bytes,omitempty"` // nil: the default; 0: nothing is run again
	Tokenizer         TokenizerConfig   `json:"tokenizer"`
	Queue             QueueConfig       `json:"queue"`
	Log               LogConfig         `json:"log"`
	Go                GoConfig          `json:"go"`
	Devices           []int             `json:"devices,omitempty"`
	ONNXRuntime       ONNXRuntimeConfig `json:"onnxruntime"`
	TensorRT          TensorRTConfig    `json:"tensorrt"`
	Mock              mock.Config       `json:"mock"`
}

// HubConfig is Config.Hub.
type HubConfig struct {
	Endpoint string `json:"endpoint"`
	Token    string `json:"token"`
	Cache    string `json:"cache"`
	Offline  bool   `json:"offline"`
	// Progress is told how far the fetching of a hub's model is, from one goroutine at a time; nil: the log is.
	Progress func(hub.Progress) `json:"-"`
}

// TokenizerConfig is Config.Tokenizer.
type TokenizerConfig struct {
	Workers int `json:"workers"`
}

// QueueConfig is Config.Queue.
type QueueConfig struct {
	MaxItems       int   `json:"max_items"`
	MaxResultBytes int64 `json:"max_result_bytes"`
	MaxWaitUS      *int  `json:"max_wait_us,omitempty"` // nil: the default; 0: no wait
	TimeoutMS      int   `json:"timeout_ms"`
}

// LogConfig is Config.Log.
type LogConfig struct {
	Level  string `json:"level"`
	Format string `json:"format"`
}

// GoConfig is Config.Go.
type GoConfig struct {
	MaxProcs         int   `json:"max_procs"`
	GCPercent        int   `json:"gc_percent"`
	MemoryLimitBytes int64 `json:"memory_limit_bytes"`
}

// ONNXRuntimeConfig is Config.ONNXRuntime.
type ONNXRuntimeConfig struct {
	Library string `json:"library"`
}

// TensorRTConfig is Config.TensorRT.
type TensorRTConfig struct {
	Library     string `json:"library"`
	Flavour     string `json:"flavour"`
	Cache       string `json:"cache"`
	CacheBytes  int64  `json:"cache_bytes"`
	MemoryBytes int64  `json:"memory_bytes"`
}

// Defaults of the queue and the watchdog.
const (
	defaultMaxItems       = 65536
	defaultMaxResultBytes = 1 << 30
	defaultMaxWait        = 2 * time.Millisecond
	defaultRunTimeout     = time.Minute
	defaultRerunMaxBytes  = 4 << 30
)

// maxOptionsBytes bounds the options document.
const maxOptionsBytes = 1 << 20

//go:embed options.schema.json
var schemaText string

// Schema returns the JSON Schema (draft 2020-12) of the options document.
func Schema() string { return schemaText }

var schema = document.NewSchema("options.schema.json", schemaText)

// ParseConfig reads an options document and checks it against the schema. Errors are status.InvalidArgument and name the
// key, its value's fault and the limit.
func ParseConfig(options []byte) (Config, error) {
	var c Config
	if len(options) > maxOptionsBytes {
		return c, status.Errorf(status.InvalidArgument, "options: %d bytes are more than the limit of %d", len(options), maxOptionsBytes)
	}
	if err := validate(options); err != nil {
		return c, err
	}
	if err := json.Unmarshal(options, &c); err != nil {
		return c, status.Errorf(status.InvalidArgument, "options: %w", err)
	}
	return c, nil
}

// validate checks a document against the schema.
func validate(options []byte) error {
	if err := schema.Compile(); err != nil {
		return status.Errorf(status.Internal, "options schema: %w", err)
	}
	if err := schema.Validate(options); err != nil {
		return status.Errorf(status.InvalidArgument, "options: %w", err)
	}
	return nil
}

// check refuses what the schema does, since Go programs fill in Configs themselves, and values that contradict each other.
func (c Config) check() error {
	text, err := json.Marshal(c)
	if err != nil {
		return status.Errorf(status.InvalidArgument, "options: %w", err)
	}
	if err := validate(text); err != nil {
		return err
	}
	if c.Model == "" && c.Engine != "mock" {
		return status.Errorf(status.InvalidArgument, "options: \"model\" is missing: the folder of the model, or its id on a hub")
	}
	if c.DefaultPrompt != "" && c.DefaultPromptName != "" {
		return status.Errorf(status.InvalidArgument, "options: default_prompt and default_prompt_name exclude each other")
	}
	if c.MaxLength > 0 && c.MaxTokens > 0 && c.MaxLength > c.MaxTokens {
		return status.Errorf(status.InvalidArgument, "options: max_length %d is above max_tokens %d: no run could hold such an item", c.MaxLength, c.MaxTokens)
	}
	if c.BestTokens > 0 && c.MaxTokens > 0 && c.BestTokens > c.MaxTokens {
		return status.Errorf(status.InvalidArgument, "options: best_tokens %d is above max_tokens %d", c.BestTokens, c.MaxTokens)
	}
	return nil
}

// apply sets the Go runtime's settings. The environment is read before main in a shared library, so that a host cannot set them
// there any more.
func (c GoConfig) apply() {
	if c.MaxProcs > 0 {
		runtime.GOMAXPROCS(c.MaxProcs)
	}
	if c.GCPercent > 0 {
		debug.SetGCPercent(c.GCPercent)
	}
	if c.MemoryLimitBytes > 0 {
		debug.SetMemoryLimit(c.MemoryLimitBytes)
	}
}

func (c Config) pipeline() pipeline.Config {
	p := pipeline.Config{PrepareWorkers: c.Tokenizer.Workers, MaxItems: c.Queue.MaxItems, MaxWait: defaultMaxWait, RunTimeout: defaultRunTimeout}
	if p.PrepareWorkers == 0 {
		p.PrepareWorkers = runtime.GOMAXPROCS(0)
	}
	if p.MaxItems == 0 {
		p.MaxItems = defaultMaxItems
	}
	if c.Queue.MaxWaitUS != nil {
		p.MaxWait = time.Duration(*c.Queue.MaxWaitUS) * time.Microsecond
	}
	if c.RunTimeoutMS > 0 {
		p.RunTimeout = time.Duration(c.RunTimeoutMS) * time.Millisecond
	}
	return p
}

// maxResultBytes bounds the memory that the result of one call may take.
func (c Config) maxResultBytes() int64 {
	if c.Queue.MaxResultBytes == 0 {
		return defaultMaxResultBytes
	}
	return c.Queue.MaxResultBytes
}

// rerunMaxBytes bounds the float32 weights of the engine that runs items again.
func (c Config) rerunMaxBytes() int64 {
	if c.RerunMaxBytes == nil {
		return defaultRerunMaxBytes
	}
	return *c.RerunMaxBytes
}

// truncates is the effective default of the truncate option.
func (c Config) truncates() bool { return c.Truncate == nil || *c.Truncate }
