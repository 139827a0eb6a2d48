package weights

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const bgeM3 = "../../testdata/models/bge-m3"

// TestTorchHeads reads files that torch.save wrote. Their numbers are held to torch by the golden case that they belong to.
func TestTorchHeads(t *testing.T) {
	s := open(t, bgeM3)
	for name, shape := range map[string][]int{
		"colbert_linear.weight": {14, 26}, "colbert_linear.bias": {14}, "sparse_linear.weight": {1, 26}, "sparse_linear.bias": {1},
	} {
		tensor, err := s.Tensor(name)
		require.NoError(t, err)
		require.Equal(t, F16, tensor.DType)
		require.Equal(t, shape, tensor.Shape)
	}
	stored, err := os.ReadFile(filepath.Join(bgeM3, "sparse_linear.pt"))
	require.NoError(t, err)
	other := open(t, folder(t, SingleFile, one("w", 1), "sparse_linear.pt", stored))
	require.Equal(t, []string{"sparse_linear.bias", "sparse_linear.weight", "w"}, other.Names())
	require.NotEqual(t, open(t, folder(t, SingleFile, one("w", 1))).Fingerprint(), other.Fingerprint())
}

// TestSafetensorsBeforeTorch: a head that was saved anew counts.
func TestSafetensorsBeforeTorch(t *testing.T) {
	s := open(t, folder(t, SingleFile, one("w", 1), "sparse_linear.pt", "no zip", "sparse_linear.safetensors", one("weight", 7)))
	require.Equal(t, []float32{7}, read(t, s, "sparse_linear.weight"))
}

// part is an entry of a zip file.
type part struct {
	name, content string
	method        uint16
}

func torchFile(t testing.TB, parts ...part) []byte {
	t.Helper()
	var file bytes.Buffer
	z := zip.NewWriter(&file)
	for _, p := range parts {
		w, err := z.CreateHeader(&zip.FileHeader{Name: "archive/" + p.name, Method: p.method})
		require.NoError(t, err)
		_, err = w.Write([]byte(p.content))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return file.Bytes()
}

// Pieces of a pickle of one tensor.
const (
	start    = "\x80\x02}q\x00X\x06\x00\x00\x00weight"
	rebuild  = "ctorch._utils\n_rebuild_tensor_v2\n"
	floats32 = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
	shape23  = "K\x02K\x03\x86K\x03K\x01\x86"
	end      = "\x89ccollections\nOrderedDict\n)RtRs."
	plain    = start + rebuild + "(" + floats32 + "K\x00" + shape23 + end
)

var sixFloats = string(floats(1, 2, 3, 4, 5, 6))

func TestTorchFile(t *testing.T) {
	s := open(t, folder(t, SingleFile, one("w", 1), "sparse_linear.pt", torchFile(t, part{"data.pkl", plain, zip.Store}, part{"data/0", sixFloats, zip.Store})))
	require.Equal(t, []float32{1, 2, 3, 4, 5, 6}, read(t, s, "sparse_linear.weight"))
	shape, ok := s.Shape("sparse_linear.weight")
	require.True(t, ok)
	require.Equal(t, []int{2, 3}, shape)
	// A view within the storage, as nn.Parameter, with the metadata of a state dict.
	view := "\x80\x02ccollections\nOrderedDict\n)Rq\x00(X\x06\x00\x00\x00weightctorch._utils\n_rebuild_parameter\n(" + rebuild + "(" + floats32 +
		"K\x02K\x04\x85K\x01\x85\x89}tR\x88}tRu}b."
	s = open(t, folder(t, SingleFile, one("w", 1), "sparse_linear.pt", torchFile(t, part{"data.pkl", view, zip.Store}, part{"data/0", sixFloats, zip.Store},
		part{"byteorder", "little", zip.Deflate})))
	require.Equal(t, []float32{3, 4, 5, 6}, read(t, s, "sparse_linear.weight"))
}

func TestTorchFileIsRefused(t *testing.T) {
	data := part{"data/0", sixFloats, zip.Store}
	pickled := func(pickle string) []byte { return torchFile(t, part{"data.pkl", pickle, zip.Store}, data) }
	tensor := func(offsetShapeStrides string) []byte {
		return pickled(start + rebuild + "(" + floats32 + offsetShapeStrides + end)
	}
	for want, file := range map[string][]byte{
		"no zip file as torch.save writes it since 1.6":                             []byte("\x80\x02\x8a\nlF\xfc\x9c\x46\xf9"),
		"too short for a torch header":                                              []byte("PK"),
		"zip entry data.pkl is missing: torch.save did not write this file":         torchFile(t, data),
		"is there twice or in no folder":                                            torchFile(t, data, data),
		"zip entry data.pkl exceeds the limit of 1048576 bytes":                     torchFile(t, part{"data.pkl", string(make([]byte, 2<<20)), zip.Deflate}, data),
		`byteorder is "big"; supported: little`:                                     torchFile(t, part{"data.pkl", plain, zip.Store}, data, part{"byteorder", "big", zip.Store}),
		`zip entry data/"0" is compressed`:                                          torchFile(t, part{"data.pkl", plain, zip.Store}, part{"data/0", sixFloats, zip.Deflate}),
		`zip entry data/"0" is missing`:                                             torchFile(t, part{"data.pkl", plain, zip.Store}),
		`global "os system" with 1 arguments is not allowed: only tensors are read`: pickled("\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."),
		`global "builtins eval" with 0 arguments is not allowed`:                    pickled("\x80\x02cbuiltins\neval\n)R."),
		"opcode 0x69 is none that torch.save writes for tensors":                    pickled("\x80\x02(X\x02\x00\x00\x00lsios\nsystem\n."),
		"opcode 0x93 is none":                                                       pickled("\x80\x02X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93."),
		"pickle protocol 4; supported: 2":                                           pickled("\x80\x04."),
		"the pickle ends in the middle of a value":                                  pickled("\x80\x02X\xff\xff\xff\xffabc"),
		"data.pkl: byte 2: the pickle ends":                                         pickled("\x80\x02"),
		"a name has no end":                                                         pickled("\x80\x02ctorch"),
		"the stack is empty":                                                        pickled("\x80\x02q\x00."),
		"memo 7 is not set":                                                         pickled("\x80\x02h\x07."),
		"there is no mark":                                                          pickled("\x80\x02K\x01t."),
		"items of something that is no dict":                                        pickled("\x80\x02K\x01K\x01K\x01s."),
		"3 values are no pairs of a dict":                                           pickled("\x80\x02}(K\x01K\x01K\x01u."),
		"its value is no state dict":                                                pickled("\x80\x02K\x01."),
		"its value is no dict of tensors by name":                                   pickled("\x80\x02}K\x01K\x02s."),
		"a persistent id is no storage of torch":                                    pickled("\x80\x02K\x01Q."),
		"a call of something that is no global":                                     pickled("\x80\x02K\x01)R."),
		`storage of class "torch DoubleStorage"; supported`:                         pickled("\x80\x02(X\x07\x00\x00\x00storagectorch\nDoubleStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ."),
		"arguments of _rebuild_tensor_v2 are no tensor":                             tensor("K\x00K\x02K\x03\x86K\x01\x85"),
		"a shape is no tuple of integers":                                           tensor("K\x00N" + "K\x03K\x01\x86"),
		"has strides [1 2]; it must be contiguous":                                  tensor("K\x00K\x02K\x03\x86K\x01K\x02\x86"),
		"dimension -1 is outside 1 to":                                              tensor("K\x00J\xff\xff\xff\xffK\x03\x86K\x03K\x01\x86"),
		"offset 1 and 6 elements of F32 exceed the 24 bytes":                        tensor("K\x01" + shape23),
		"offset -1 and 6 elements of F32 exceed the 24 bytes":                       tensor("J\xff\xff\xff\xff" + shape23),
		"the number of elements overflows":                                          tensor("K\x00(" + repeat("J\xff\xff\xff\x7f", 3) + "t(" + "J\x01\x00\x00\x00J\xff\xff\xff\x7fK\x01t"),
	} {
		_, err := Open(folder(t, SingleFile, one("w", 1), "sparse_linear.pt", file))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "sparse_linear.pt")
		require.Contains(t, []status.Code{status.Start, status.Unsupported}, status.CodeOf(err))
	}
}

func repeat(s string, n int) string { return string(bytes.Repeat([]byte(s), n)) }

// FuzzTorch: foreign bytes give tensors within the file, or an error.
func FuzzTorch(f *testing.F) {
	f.Add([]byte(plain), []byte(sixFloats), uint16(0))
	stored, err := os.ReadFile(filepath.Join(bgeM3, "colbert_linear.pt"))
	require.NoError(f, err)
	f.Add([]byte(nil), stored, uint16(1))
	f.Fuzz(func(t *testing.T, pickle, data []byte, whole uint16) {
		file := data
		if whole == 0 {
			file = torchFile(t, part{"data.pkl", string(pickle), zip.Store}, part{"data/0", string(data), zip.Store})
		} else if len(file) > 0 { // a byte of a real file changed
			file = bytes.Clone(data)
			file[int(whole)%len(file)] ^= byte(binary.LittleEndian.Uint16([]byte{byte(whole >> 8), byte(whole)}) | 1)
		}
		entries, _, err := parseTorch(file)
		if err != nil {
			return
		}
		for _, e := range entries {
			elements := int64(1)
			for _, d := range e.shape {
				elements *= int64(d)
			}
			require.True(t, e.begin >= 0 && e.end <= int64(len(file)) && (e.end-e.begin)*8 == elements*int64(e.dtype.bits()))
		}
	})
}
