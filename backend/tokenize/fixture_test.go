package tokenize

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

const (
	fixtureDir = "../../testdata/tokenizer"
	miniLMDir  = "../../.deps/models/all-MiniLM-L6-v2"
)

// fixture is testdata/tokenizer/fixture.json.gz; its generate.py tells the fields.
type fixture struct {
	MiniLM string       `json:"minilm_sha256"`
	Texts  []string     `json:"texts"`
	Encode []encodeCase `json:"encode"`
	Decode []decodeCase `json:"decode"`
}

type encodeCase struct {
	Tokenizer string   `json:"tokenizer"`
	Text      int      `json:"text"`
	Pair      *int     `json:"pair"`
	MaxLength int      `json:"max_length"`
	Side      string   `json:"side"`
	Special   bool     `json:"special"`
	IDs       []uint32 `json:"ids"`
	TypeIDs   []uint32 `json:"type_ids"`
	Mask      []int    `json:"special_tokens_mask"`
	Sequence  []int    `json:"sequence"`
	Offsets   []uint32 `json:"offsets"`
	Tokens    []string `json:"tokens"`
}

type decodeCase struct {
	Tokenizer   string   `json:"tokenizer"`
	IDs         []uint32 `json:"ids"`
	SkipSpecial bool     `json:"skip_special"`
	Text        string   `json:"text"`
}

func loadFixture(t testing.TB) *fixture {
	file, err := os.Open(filepath.Join(fixtureDir, "fixture.json.gz"))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	data, err := gzip.NewReader(file)
	require.NoError(t, err)
	var f fixture
	require.NoError(t, json.NewDecoder(data).Decode(&f))
	model, err := os.ReadFile(filepath.Join(miniLMDir, FileName))
	require.NoError(t, err, "run make setup")
	sum := sha256.Sum256(model)
	require.Equal(t, f.MiniLM, hex.EncodeToString(sum[:]), "fixture.json.gz was made from another tokenizer.json")
	return &f
}

func kindDir(kind string) string {
	if kind == "minilm" {
		return miniLMDir
	}
	return filepath.Join(fixtureDir, kind)
}

func open(t testing.TB, kind string) *Tokenizer {
	tokenizer, err := Open(kindDir(kind), false, arch.TokenizerConfig{})
	require.NoError(t, err)
	t.Cleanup(tokenizer.Close)
	return tokenizer
}

func (c *encodeCase) input(f *fixture) Input {
	in := Input{Text: f.Texts[c.Text]}
	if c.Pair != nil {
		in.HasPair, in.Pair = true, f.Texts[*c.Pair]
	}
	return in
}

func (c *encodeCase) options() Options {
	o := Options{AddSpecial: c.Special, MaxLength: c.MaxLength, Truncate: true, Offsets: true}
	if c.Side == "left" {
		o.Side = Left
	}
	return o
}

func TestFixtureEncode(t *testing.T) {
	f := loadFixture(t)
	tokenizers := map[string]*Tokenizer{}
	require.Greater(t, len(f.Encode), 1000)
	var out, bare Encoding
	empty := 0
	for _, c := range f.Encode {
		tokenizer := tokenizers[c.Tokenizer]
		if tokenizer == nil {
			tokenizer = open(t, c.Tokenizer)
			tokenizers[c.Tokenizer] = tokenizer
		}
		in, o := c.input(f), c.options()
		name := fmt.Sprintf("%s %.60q pair %.60q %+v", c.Tokenizer, in.Text, in.Pair, o)
		err := tokenizer.Encode(in, o, &out)
		if in.Text == "" && in.Pair == "" {
			require.Error(t, err, name) // upstream gives the special tokens alone
			empty++
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.IDs, append([]uint32{}, out.IDs...), name)
		require.Equal(t, c.TypeIDs, append([]uint32{}, out.TypeIDs...), name)
		offsets := []uint32{}
		for i := range out.IDs {
			require.EqualValues(t, c.Mask[i], out.Special[i], name)
			require.EqualValues(t, c.Sequence[i], int(int8(out.Sequence[i])), name)
			offsets = append(offsets, out.Starts[i], out.Ends[i])
			checkPiece(t, tokenizer, c.Tokens[i], out.IDs[i], name)
		}
		require.Equal(t, c.Offsets, offsets, name)
		require.Len(t, out.Special, len(out.IDs))

		o.Offsets = false
		require.NoError(t, tokenizer.Encode(in, o, &bare))
		require.Equal(t, out.IDs, bare.IDs, name)
		require.Equal(t, out.TypeIDs, bare.TypeIDs, name)
		require.Empty(t, bare.Starts, name)
	}
	require.Equal(t, len(tokenizers), empty)
}

// checkPiece compares with upstream's token string, which for unknown text (Unigram) and for added tokens with the white
// space that they took is the text itself.
func checkPiece(t *testing.T, tokenizer *Tokenizer, token string, id uint32, name string) {
	piece := tokenizer.Piece(id)
	if piece != token && piece != "<unk>" {
		require.Equal(t, strings.TrimSpace(token), piece, name)
	}
	require.NotEmpty(t, piece, name)
}

func TestFixtureDecode(t *testing.T) {
	f := loadFixture(t)
	tokenizers := map[string]*Tokenizer{}
	require.Greater(t, len(f.Decode), 300)
	for _, c := range f.Decode {
		if tokenizers[c.Tokenizer] == nil {
			tokenizers[c.Tokenizer] = open(t, c.Tokenizer)
		}
		text, err := tokenizers[c.Tokenizer].Decode(c.IDs, c.SkipSpecial)
		require.NoError(t, err)
		require.Equal(t, c.Text, text, "%s %v", c.Tokenizer, c.IDs)
	}
}
