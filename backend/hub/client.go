package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	maxTries     = 5
	impatient    = 2 // tries where the cache has an answer, too
	maxRetryWait = time.Minute
	maxJSON      = 64 << 20 // bytes of an answer of the API: a repository may have many files
	maxRedirects = 10
)

// firstRetryWait passes after a first failure; tests shorten it.
var firstRetryWait = 500 * time.Millisecond

// client asks a hub.
type client struct {
	http     *http.Client
	endpoint string
	token    string
	timeout  time.Duration // without a byte
	tries    uint
	retrying func(err error, wait time.Duration)
}

func newClient(endpoint, token string, timeout time.Duration) (*client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, errors.New("the hub's endpoint (HF_ENDPOINT) must be a URL such as " + defaultEndpoint)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the token (HF_TOKEN) has characters that no token has")
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: timeout}).DialContext
	t.TLSHandshakeTimeout, t.ResponseHeaderTimeout, t.DisableCompression = timeout, timeout, true
	return &client{http: &http.Client{Transport: t, CheckRedirect: checkRedirect}, endpoint: strings.TrimRight(endpoint, "/"), token: token, timeout: timeout, tries: maxTries}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// checkRedirect follows the hub to where the bytes are, without the token there. A HEAD stays: the answer that tells of a file is the
// hub's own.
func checkRedirect(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case first.Scheme == "https" && r.URL.Scheme != "https":
		return &failure{text: "it redirects from https to " + r.URL.Scheme}
	case len(via) >= maxRedirects:
		return &failure{text: fmt.Sprintf("it redirects more than %d times", maxRedirects)}
	case r.URL.Host == first.Host:
		return nil
	case r.Method == http.MethodHead:
		return http.ErrUseLastResponse
	}
	r.Header.Del("Authorization")
	return nil
}

// failure is what kept the hub from an answer. Its text has no URL: those of storage carry signatures.
type failure struct {
	text      string
	transient bool // a later try may succeed
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

// send makes one request. The answer has a status of 200 to 299, or of a redirect that was not followed. Errors are *failure.
func (c *client) send(ctx context.Context, method, address string, header http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, &failure{text: "no valid address: " + address}
	}
	if header != nil {
		r.Header = header
	}
	r.Header.Set("User-Agent", "bei-runtime")
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, networkFailure(ctx, err)
	}
	if answer.StatusCode < 400 {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, c.refusal(answer)
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
	return &failure{transient: true, text: fmt.Sprintf("it cannot be reached: %v; check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, or "+
		"set HF_HUB_OFFLINE=1 to use the cache alone", err)}
}

// refusal says what a hub means by an error.
func (c *client) refusal(answer *http.Response) *failure {
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
		return &failure{text: "the model is gated, and the token's account has no access: " + told + "; accept its terms on its page with that account"}
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

// again calls try until it succeeds, fails for good, or has failed c.tries times.
func (c *client) again(ctx context.Context, try func() error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = firstRetryWait
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := try()
		var f *failure
		if err != nil && !(errors.As(err, &f) && f.transient) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxTries(c.tries), backoff.WithMaxElapsedTime(0), backoff.WithNotify(c.retrying))
	return err
}

// repo is what a hub tells of a model at a revision.
type repo struct {
	Commit   string `json:"sha"`
	Siblings []struct {
		Name string `json:"rfilename"`
	} `json:"siblings"`

	files map[string]bool // their names, as the hub sends them: none may become a path
}

func (c *client) repo(ctx context.Context, id, revision string) (r repo, err error) {
	address := c.endpoint + "/api/models/" + id + "/revision/" + url.PathEscape(revision)
	err = c.again(ctx, func() error {
		// The list of files is small beside them: it has to be there in whole in some times the time of a first byte.
		ctx, cancel := context.WithTimeoutCause(ctx, 3*c.timeout, &failure{transient: true, text: "its list of files does not come to an end"})
		defer cancel()
		answer, err := c.send(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxJSON+1))
		if err != nil {
			return networkFailure(ctx, err)
		}
		return r.decode(body, answer.Header.Get("Content-Type"))
	})
	return r, err
}

func (r *repo) decode(body []byte, contentType string) error {
	*r = repo{}
	const hint = "is HF_ENDPOINT a hub, and does a proxy or a login page stand between?"
	if len(body) > maxJSON {
		return &failure{text: fmt.Sprintf("its list of files exceeds the limit of %d bytes", maxJSON)}
	}
	if text := bytes.TrimSpace(body); len(text) == 0 || text[0] != '{' {
		return &failure{text: fmt.Sprintf("it answers with %q where JSON belongs, and begins %q; %s", shortened(contentType, 80), shortened(string(text), 40), hint)}
	}
	if err := json.Unmarshal(body, r); err != nil {
		return &failure{text: fmt.Sprintf("its list of files is no valid JSON: %v; %s", err, hint)}
	}
	if !commitPattern.MatchString(r.Commit) {
		return &failure{text: fmt.Sprintf("it names no commit but %q; %s", shortened(r.Commit, 80), hint)}
	}
	r.files = make(map[string]bool, len(r.Siblings))
	for _, s := range r.Siblings {
		r.files[s.Name] = true
	}
	return nil
}

// resolve is the address of a file. commit and file are plain.
func (c *client) resolve(id, commit, file string) string {
	parts := strings.Split(file, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return c.endpoint + "/" + id + "/resolve/" + commit + "/" + strings.Join(parts, "/")
}

// head is what a hub tells of a file.
type head struct {
	etag string // the content's hash
	size int64
}

func (c *client) head(ctx context.Context, id, commit, file string) (h head, err error) {
	err = c.again(ctx, func() error {
		answer, err := c.send(ctx, http.MethodHead, c.resolve(id, commit, file), nil)
		if err != nil {
			return err
		}
		answer.Body.Close()
		h, err = readHead(answer.Header, answer.ContentLength)
		return err
	})
	return h, err
}

// readHead reads an answer to HEAD. Files of large file storage have X-Linked- headers beside a redirect.
func readHead(header http.Header, length int64) (head, error) {
	etag := header.Get("X-Linked-Etag")
	if etag == "" {
		etag = header.Get("ETag")
	}
	h := head{etag: strings.Trim(strings.TrimPrefix(etag, "W/"), `"`), size: length}
	if linked := header.Get("X-Linked-Size"); linked != "" {
		var err error
		if h.size, err = strconv.ParseInt(linked, 10, 64); err != nil {
			h.size = -1
		}
	}
	if newHash(h) == nil {
		return h, &failure{text: fmt.Sprintf("its ETag %q is no hash (SHA-256, or git's SHA-1), so that the content could not be checked; "+
			"HF_ENDPOINT must be a hub, or a mirror that keeps its headers", shortened(etag, 100))}
	}
	if h.size < 0 {
		return h, &failure{text: "it does not tell the size; HF_ENDPOINT must be a hub, or a mirror that keeps its headers"}
	}
	return h, nil
}
