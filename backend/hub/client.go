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
	impatient    = 2        // tries where the cache has an answer, too
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
	return &client{http: &http.Client{Transport: t, CheckRedirect: checkRedirect}, endpoint: strings.TrimRight(endpoint, "/"), token: token,
		timeout: timeout, tries: maxTries}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// checkRedirect follows the hub to where the bytes are, without the token on another host. A HEAD stops at what tells of a file: the
// hub's own answer, and there the one before its storage.
func checkRedirect(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case first.Scheme == "https" && r.URL.Scheme != "https":
		return &failure{text: "it redirects from https to " + r.URL.Scheme}
	case len(via) >= maxRedirects:
		return &failure{text: fmt.Sprintf("it redirects more than %d times", maxRedirects)}
	case r.Method == http.MethodHead && (r.URL.Host != first.Host || r.Response.Header.Get("X-Linked-Etag") != ""):
		return http.ErrUseLastResponse
	case r.URL.Host == first.Host:
		return nil
	}
	r.Header.Del("Authorization")
	return nil
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
		return &failure{text: fmt.Sprintf("it answers with %q where JSON belongs, and begins %q; %s",
			shortened(contentType, 80), shortened(string(text), 40), hint)}
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
	if h.size > maxFileBytes {
		return h, &failure{text: fmt.Sprintf("it tells a size of %d bytes, the limit is %d; HF_ENDPOINT must be a hub, or a mirror that keeps its headers", h.size, maxFileBytes)}
	}
	return h, nil
}

// maxFileBytes is more than any file of a model has, and so little that no sum of sizes overflows.
const maxFileBytes = 1 << 44
