package backend

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// captured collects lines.
type captured struct {
	mu    sync.Mutex // guards lines
	lines []map[string]any
	level []int32
}

func (c *captured) sink(t *testing.T) LogSink {
	return func(level int32, line []byte) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lines, c.level = append(c.lines, fields), append(c.level, level)
	}
}

// wait returns the lines once there are n of them.
func (c *captured) wait(t *testing.T, n int) []map[string]any {
	t.Helper()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.lines) >= n
	}, time.Minute, time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines
}

func TestSinkGetsTheBackendsLines(t *testing.T) {
	var c captured
	SetLogSink(c.sink(t))
	defer SetLogSink(nil)
	config := mockConfig()
	config.Log.Level = ""
	b, err := Open(background, config)
	require.NoError(t, err)
	require.NoError(t, b.Close(background))
	lines := c.wait(t, 3)
	for i, want := range []string{"open", "closing", "closed"} {
		require.Equal(t, want, lines[i]["msg"])
		require.Equal(t, "info", lines[i]["level"])
		_, err := time.Parse(time.RFC3339Nano, lines[i]["ts"].(string))
		require.NoError(t, err)
	}
	require.Equal(t, "mock", lines[0]["engine"])

	config.Mock.Faults = []mock.Fault{{Kind: mock.Error}}
	_, err = Open(background, config)
	require.Error(t, err)
	lines = c.wait(t, 4)
	require.Equal(t, "open failed", lines[3]["msg"])
	require.Equal(t, "START", lines[3]["code"])
}

func TestLevels(t *testing.T) {
	for level, want := range map[string][]int32{"debug": {-1, 0, 1, 2}, "": {0, 1, 2}, "info": {0, 1, 2}, "warn": {1, 2}, "error": {2}, "off": nil} {
		var c captured
		SetLogSink(c.sink(t))
		log := newLogger(LogConfig{Level: level}).With(zap.String("with", "field"))
		log.Debug("d")
		log.Info("i")
		log.Warn("w")
		log.Error("e", zap.Int("n", 5))
		require.NoError(t, log.Sync())
		lines := c.wait(t, len(want))
		SetLogSink(nil)
		require.Equal(t, want, c.level, level)
		for _, l := range lines {
			require.Equal(t, "field", l["with"])
		}
	}
}

func TestOtherLoggers(t *testing.T) {
	var c captured
	SetLogSink(c.sink(t))
	LogPanic("boom", []byte("stack"))
	onnx := logONNXRuntime(newLogger(LogConfig{}))
	onnx(ort.Warning, "careful")
	onnx(ort.Error, "broken")
	lines := c.wait(t, 3)
	SetLogSink(nil)
	require.Equal(t, "boom", lines[0]["panic"])
	require.Equal(t, []int32{2, 1, 2}, c.level)
	require.Equal(t, "onnxruntime: broken", lines[2]["msg"])
}

// TestSlowSinkDrops: loggers never wait for a sink; what it misses is counted, and it is told.
func TestSlowSinkDrops(t *testing.T) {
	var c captured
	keep := c.sink(t)
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	SetLogSink(func(level int32, line []byte) {
		once.Do(func() { close(entered); <-gate })
		keep(level, line)
	})
	defer SetLogSink(nil)
	before := LogDropped()
	log := newLogger(LogConfig{})
	log.Info("first")
	<-entered
	begun := time.Now()
	for range logQueueLines + 25 {
		log.Info("more")
	}
	require.Less(t, time.Since(begun), 5*time.Second)
	require.EqualValues(t, 25, LogDropped()-before)
	close(gate)
	lines := c.wait(t, 1+logQueueLines+1)
	last := lines[len(lines)-1]
	require.Equal(t, "log lines were dropped: the log callback is slow", last["msg"])
	require.Equal(t, 25.0, last["dropped"])
	require.Equal(t, "warn", last["level"])
}

// TestSetLogSinkWaits: when it returns, the former sink does not run and is not called again.
func TestSetLogSinkWaits(t *testing.T) {
	log := newLogger(LogConfig{})
	for range 20 {
		var running, replaced atomic.Bool
		entered := make(chan struct{})
		var once sync.Once
		SetLogSink(func(int32, []byte) {
			if replaced.Load() {
				t.Error("a replaced sink was called")
			}
			running.Store(true)
			once.Do(func() { close(entered) })
			time.Sleep(time.Millisecond)
			running.Store(false)
		})
		var loggers sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			loggers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						log.Info("line")
					}
				}
			})
		}
		<-entered
		SetLogSink(func(int32, []byte) {})
		replaced.Store(true)
		require.False(t, running.Load())
		close(stop)
		loggers.Wait()
	}
	SetLogSink(nil)
}

func TestStderr(t *testing.T) {
	for format, want := range map[string]func(string){
		"json": func(line string) {
			var fields map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &fields))
			require.Equal(t, "hello", fields["msg"])
		},
		"console": func(line string) {
			require.Contains(t, line, "INFO\thello")
			require.Contains(t, line, `{"n": 5}`)
		},
	} {
		read, write, err := os.Pipe()
		require.NoError(t, err)
		stderr := os.Stderr
		os.Stderr = write
		log := newLogger(LogConfig{Format: format})
		os.Stderr = stderr
		log.With(zap.Int("n", 5)).Info("hello")
		require.NoError(t, write.Close())
		text, err := io.ReadAll(read)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), "\n"))
		want(strings.TrimSpace(string(text)))
	}
	require.Equal(t, []byte("a"), trimNewline([]byte("a\n")))
	require.Equal(t, []byte("a"), trimNewline([]byte("a")))
	require.True(t, bytes.HasSuffix(droppedLine(3), []byte(`"dropped":3}`)))
	require.Equal(t, zapcore.WarnLevel, zapcore.Level(1))
}

// TestReplacedSinkDropsItsLines: lines that wait for a sink that is replaced are counted, too.
func TestReplacedSinkDropsItsLines(t *testing.T) {
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	SetLogSink(func(int32, []byte) { once.Do(func() { close(entered); <-gate }) })
	log := newLogger(LogConfig{})
	log.Info("first")
	<-entered
	before := LogDropped()
	for range 5 {
		log.Info("waits")
	}
	replaced := make(chan struct{})
	go func() { SetLogSink(nil); close(replaced) }()
	require.Eventually(t, func() bool { return LogDropped()-before == 5 }, time.Minute, time.Millisecond)
	close(gate)
	<-replaced
	require.Contains(t, string(droppedLine(5)), `"ts":"20`)
}
