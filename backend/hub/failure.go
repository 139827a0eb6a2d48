package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxRetryWait is the longest that a hub may ask to wait for.
const maxRetryWait = time.Minute

// failure is what kept the hub from an answer. Its text has no URL: those of storage carry signatures.
type failure struct {
	text      string
	transient bool // a later try may succeed
	status    int  // of HTTP; 0: no answer came
	wait      time.Duration
}

func (f *failure) Error() string { return f.text }

// Unwrap gives package backoff the hub's Retry-After.
func (f *failure) Unwrap() error {
	if f.wait == 0 {
		return nil
	}
	return &backoff.RetryAfterError{Duration: f.wait}
}

// networkFailure says what went wrong below HTTP.
func networkFailure(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var own *failure
	if errors.As(err, &own) {
		return own
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	return &failure{transient: true, text: fmt.Sprintf("it cannot be reached: %v; check the network, the proxy (HTTPS_PROXY) and "+
		"HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use the cache alone", err)}
}

// refusal says what a hub means by an error.
func (c *client) refusal(answer *http.Response) *failure {
	f := c.readRefusal(answer)
	f.status = answer.StatusCode
	return f
}

func (c *client) readRefusal(answer *http.Response) *failure {
	told := answer.Header.Get("X-Error-Message")
	if told == "" {
		told = answer.Status
	}
	told = strconv.Quote(shortened(told, 300))
	login := "a token of an account that may read it (--hf-token, HF_TOKEN, or `hf auth login`)"
	switch code, status := answer.Header.Get("X-Error-Code"), answer.StatusCode; {
	case code == "RevisionNotFound":
		return &failure{text: "there is no such revision: " + told + "; name a branch, tag or commit of the model"}
	case code == "EntryNotFound":
		return &failure{text: "there is no such file: " + told}
	case code == "GatedRepo" && c.token == "":
		return &failure{text: "the model is gated: " + told + "; accept its terms on its page, and give " + login}
	case code == "GatedRepo":
		return &failure{text: "the model is gated, and the token's account has no access: " + told +
			"; accept its terms on its page with that account"}
	case status == http.StatusUnauthorized && c.token != "" && code != "RepoNotFound":
		return &failure{text: "the token is not valid: " + told + "; check --hf-token, HF_TOKEN and the token's file"}
	case status == http.StatusUnauthorized || status == http.StatusNotFound || code == "RepoNotFound":
		return &failure{text: "there is no such model, or it is private: " + told + "; check the id, or give " + login}
	case status == http.StatusForbidden:
		return &failure{text: "access is denied: " + told + "; give " + login}
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500:
		f := &failure{text: "it answers " + told + "; try again later", transient: true}
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
			if f.wait = time.Duration(seconds) * time.Second; f.wait > maxRetryWait {
				f.text = fmt.Sprintf("it answers %s and asks to wait for %v", told, f.wait)
				f.transient, f.wait = false, 0
			}
		}
		return f
	}
	return &failure{text: "it answers " + told}
}

func shortened(text string, n int) string {
	if len(text) > n {
		return strings.ToValidUTF8(text[:n], "") + "..."
	}
	return text
}
