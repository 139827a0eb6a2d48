package hub

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	defaultEndpoint = "https://huggingface.co"
	// defaultTimeout passes without a byte from the hub before a try is given up, as in huggingface_hub.
	defaultTimeout = 10 * time.Second
)

// environment is what the variables of huggingface_hub say.
type environment struct {
	endpoint string
	cache    string // "": there is no home
	token    string
	offline  bool
	timeout  time.Duration
}

func readEnvironment() environment {
	e := environment{endpoint: defaultEndpoint, timeout: defaultTimeout}
	if v := os.Getenv("HF_ENDPOINT"); v != "" {
		e.endpoint = v
	}
	home := firstSet("HF_HOME")
	if v := os.Getenv("XDG_CACHE_HOME"); home == "" && v != "" {
		home = filepath.Join(v, "huggingface")
	}
	if v, err := os.UserHomeDir(); home == "" && err == nil {
		home = filepath.Join(v, ".cache", "huggingface")
	}
	home = expandHome(home)
	if e.cache = expandHome(firstSet("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")); e.cache == "" && home != "" {
		e.cache = filepath.Join(home, "hub")
	}
	e.offline = isTrue("HF_HUB_OFFLINE") || isTrue("TRANSFORMERS_OFFLINE")
	if seconds, err := strconv.ParseFloat(os.Getenv("HF_HUB_DOWNLOAD_TIMEOUT"), 64); err == nil && seconds > 0 && seconds < 1e6 {
		e.timeout = time.Duration(seconds * float64(time.Second))
	}
	if !isTrue("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		e.token = implicitToken(home)
	}
	return e
}

// implicitToken is the token that the user has logged in with.
func implicitToken(home string) string {
	if token := strings.TrimSpace(firstSet("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")); token != "" {
		return token
	}
	path := expandHome(os.Getenv("HF_TOKEN_PATH"))
	if path == "" && home != "" {
		path = filepath.Join(home, "token")
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > 4096 {
		return ""
	}
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

func firstSet(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

func isTrue(name string) bool {
	switch strings.ToUpper(os.Getenv(name)) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

func expandHome(path string) string {
	if home, err := os.UserHomeDir(); err == nil && (path == "~" || strings.HasPrefix(path, "~/")) {
		return filepath.Join(home, path[1:])
	}
	return path
}
