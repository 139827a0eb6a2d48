package backend

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// LogSink receives one line: a JSON object, valid during the call only. level: -1 debug, 0 info, 1 warn, 2 error.
type LogSink func(level int32, line []byte)

// logQueueLines wait for a slow sink; further ones are dropped and counted.
const logQueueLines = 1024

type logLine struct {
	level int32
	text  []byte
}

// sinkWorker feeds one sink from one goroutine, so that loggers never wait for it.
type sinkWorker struct {
	sink  LogSink
	lines chan logLine
	done  chan struct{}
	// reported is how much of logDropped the sink has been told of.
	reported uint64
}

var (
	sinkMu     sync.RWMutex // guards currentSink and sends into its channel, against closing it
	sinkChange sync.Mutex   // one SetLogSink at a time
	// currentSink is nil while lines go to stderr.
	currentSink *sinkWorker
	logDropped  atomic.Uint64
)

// SetLogSink sends all log lines of the process to sink; nil sends them to stderr. When it returns, the former sink is not
// running and will not be called again; its waiting lines are dropped and counted. It must not be called from a sink.
func SetLogSink(sink LogSink) {
	sinkChange.Lock()
	defer sinkChange.Unlock()
	var next *sinkWorker
	if sink != nil {
		next = &sinkWorker{sink: sink, lines: make(chan logLine, logQueueLines), done: make(chan struct{}), reported: logDropped.Load()}
		go next.loop()
	}
	sinkMu.Lock()
	former := currentSink
	currentSink = next
	sinkMu.Unlock()
	if former != nil {
		former.stop()
	}
}

// LogDropped is the number of lines that were dropped because a sink was slow.
func LogDropped() uint64 { return logDropped.Load() }

func (w *sinkWorker) loop() {
	defer close(w.done)
	for l := range w.lines {
		w.sink(l.level, l.text)
		if dropped := logDropped.Load(); dropped != w.reported && len(w.lines) == 0 {
			w.sink(int32(zapcore.WarnLevel), droppedLine(dropped-w.reported))
			w.reported = dropped
		}
	}
}

// stop ends the worker. No sender is left: currentSink was replaced under the write lock.
func (w *sinkWorker) stop() {
	for {
		select {
		case <-w.lines:
			logDropped.Add(1)
			continue
		default:
		}
		break
	}
	close(w.lines)
	<-w.done
}

// LogPanic logs a panic that was caught where no backend's log is at hand.
func LogPanic(value any, stack []byte) {
	newLogger(LogConfig{}).Error("panic caught", zap.Any("panic", value), zap.ByteString("stack", stack))
}

func droppedLine(n uint64) []byte {
	entry := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "log lines were dropped: the log callback is slow"}
	buffer, err := jsonEncoder().EncodeEntry(entry, []zapcore.Field{zap.Uint64("dropped", n)})
	if err != nil {
		return nil
	}
	return trimNewline(buffer.Bytes())
}

func jsonEncoder() zapcore.Encoder {
	c := zap.NewProductionEncoderConfig()
	c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zapcore.NewJSONEncoder(c)
}

// logCore writes entries to the sink, or to stderr in the configured form.
type logCore struct {
	zapcore.LevelEnabler
	json   zapcore.Encoder
	stderr zapcore.Core
	fields []zapcore.Field // kept apart, since either encoder may be needed
}

// newLogger makes a backend's logger.
func newLogger(c LogConfig) *zap.Logger {
	if c.Level == "off" {
		return zap.NewNop()
	}
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		level = zapcore.InfoLevel
	}
	encoder := jsonEncoder()
	if c.Format == "console" {
		encoder = zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	}
	stderr := zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), level)
	return zap.New(&logCore{LevelEnabler: level, json: jsonEncoder(), stderr: stderr})
}

// With adds fields to a copy.
func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	clone := *c
	clone.fields = append(append([]zapcore.Field(nil), c.fields...), fields...)
	return &clone
}

// Check adds the core to an entry that is enabled.
func (c *logCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write hands an entry over. It never waits for a sink.
func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	all := append(append([]zapcore.Field(nil), c.fields...), fields...)
	sinkMu.RLock()
	defer sinkMu.RUnlock()
	if currentSink == nil {
		return c.stderr.Write(e, all)
	}
	buffer, err := c.json.EncodeEntry(e, all)
	if err != nil {
		return err
	}
	line := logLine{int32(e.Level), append([]byte(nil), trimNewline(buffer.Bytes())...)}
	buffer.Free()
	select {
	case currentSink.lines <- line:
	default:
		logDropped.Add(1)
	}
	return nil
}

// Sync flushes nothing: stderr is not buffered.
func (c *logCore) Sync() error { return nil }

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}

// logONNXRuntime passes ONNX Runtime's messages on.
func logONNXRuntime(log *zap.Logger) func(ort.Severity, string) {
	return func(s ort.Severity, message string) {
		if s >= ort.Error {
			log.Error("onnxruntime: " + message)
		} else {
			log.Warn("onnxruntime: " + message)
		}
	}
}

// logTensorRT passes TensorRT's messages on.
func logTensorRT(log *zap.Logger) func(nvinfer.Severity, string) {
	return func(s nvinfer.Severity, message string) {
		switch {
		case s <= nvinfer.Error:
			log.Error("tensorrt: " + message)
		case s == nvinfer.Warning:
			log.Warn("tensorrt: " + message)
		default:
			log.Info("tensorrt: " + message)
		}
	}
}
