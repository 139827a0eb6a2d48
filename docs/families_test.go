package docs

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/trt"
)

// familiesPattern is where the README has the table.
var familiesPattern = regexp.MustCompile(`(?s)(<!-- families: by "go test ./docs -run Families -update" -->\n).*?(<!-- end of families -->\n)`)

// shown is what golden cases hold to transformers, by family and format.
func shown(t *testing.T) map[[2]string]*arch.Support {
	all := make(map[[2]string]*arch.Support)
	for _, c := range suite.Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse) {
		key := [2]string{c.Model.Family, c.Model.Format}
		if all[key] == nil {
			all[key] = &arch.Support{Family: c.Model.Family, Format: c.Model.Format}
		}
		all[key].Show(c.Model)
	}
	return all
}

// familiesTable is the README's table. What has no golden case does not count as supported.
func familiesTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| `model_type` | embed | predict | rerank | predict tokens | sparse | CPU | TensorRT |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	golden := shown(t)
	mark := func(supported, shown bool) string {
		if supported && shown {
			return "yes"
		}
		return "-"
	}
	for _, s := range arch.Supported() {
		name, g := "`"+s.Family+"`", golden[[2]string{s.Family, s.Format}]
		if s.Format != "" {
			name += ", " + s.Format + " as code on the hub"
		}
		require.NotNil(t, g, "%s has no golden case", name)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, mark(s.Embeds, g.Embeds), mark(s.Classifies, g.Classifies),
			mark(s.Reranks, g.Reranks), mark(s.ClassifiesTokens, g.ClassifiesTokens), mark(s.Sparse, g.Sparse), onnx.Float32, strings.Join(trt.Precisions(), ", "))
	}
	return b.String()
}

// TestFamilies: the README's table of families is the code's.
func TestFamilies(t *testing.T) {
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	require.Regexp(t, familiesPattern, string(text))
	updated := familiesPattern.ReplaceAllString(string(text), "${1}"+familiesTable(t)+"$2")
	if *update {
		require.NoError(t, os.WriteFile(readme, []byte(updated), 0o644))
		return
	}
	require.Equal(t, updated, string(text), "run `go test ./docs -run Families -update`")
}
