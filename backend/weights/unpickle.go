package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Data types of torch's storages by class.
var storageTypes = map[string]DType{"torch FloatStorage": F32, "torch HalfStorage": F16, "torch BFloat16Storage": BF16}

// torchTensor is a tensor as the pickle has it: a view of a storage.
type torchTensor struct {
	name           string
	storage        storage
	offset         int64 // in elements, as strides
	shape, strides []int64
}

type storage struct {
	dtype DType
	key   string
}

// Values of the unpickler beside string, int64, bool, nil, torchTensor and storage.
type (
	global string // "module name"
	tuple  []any
	dict   struct {
		keys   []any
		values []any
	}
	mark struct{}
)

// unpickler interprets the pickle of a state dict (protocol 2, https://docs.python.org/3/library/pickletools.html). It calls nothing:
// the three globals that torch writes for tensors have their meaning here, any other is refused, and so is each opcode that torch.save does
// not write. It does not recurse, and what it holds is bounded by the pickle's length.
type unpickler struct {
	rest  []byte
	stack []any
	memo  map[uint32]any
	err   error
}

func unpickle(data []byte) ([]torchTensor, error) {
	u := &unpickler{rest: data, memo: make(map[uint32]any)}
	for u.err == nil {
		op := u.bytes(1)
		if u.err != nil {
			break
		}
		if op[0] == '.' {
			return u.tensors()
		}
		u.step(op[0])
	}
	return nil, fmt.Errorf("byte %d: %w", len(data)-len(u.rest), u.err)
}

func (u *unpickler) fail(format string, args ...any) {
	if u.err == nil {
		u.err = fmt.Errorf(format, args...)
	}
}

// bytes takes the next n bytes; zeros after a failure.
func (u *unpickler) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(u.rest)) {
		u.fail("the pickle ends in the middle of a value")
	}
	if u.err != nil {
		return make([]byte, min(n, 4))
	}
	taken := u.rest[:n]
	u.rest = u.rest[n:]
	return taken
}

func (u *unpickler) uint32() uint32 { return binary.LittleEndian.Uint32(u.bytes(4)) }

func (u *unpickler) line() string {
	line, rest, ok := bytes.Cut(u.rest, []byte{'\n'})
	if !ok {
		u.fail("a name has no end")
		return ""
	}
	u.rest = rest
	return string(line)
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

func (u *unpickler) pop() any {
	if len(u.stack) == 0 {
		u.fail("the stack is empty")
		return nil
	}
	v := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return v
}

// popN takes the last n values, in their order.
func (u *unpickler) popN(n int) tuple {
	if n > len(u.stack) {
		u.fail("the stack has %d values of %d", len(u.stack), n)
		return nil
	}
	at := len(u.stack) - n
	values := append(tuple(nil), u.stack[at:]...)
	u.stack = u.stack[:at]
	return values
}

// popMark takes the values after the last mark, and the mark.
func (u *unpickler) popMark() tuple {
	for i := len(u.stack) - 1; i >= 0; i-- {
		if _, ok := u.stack[i].(mark); ok {
			values := u.popN(len(u.stack) - i - 1)
			u.pop()
			return values
		}
	}
	u.fail("there is no mark")
	return nil
}

func (u *unpickler) step(op byte) {
	switch op {
	case 0x80: // PROTO
		if version := u.bytes(1)[0]; version != 2 {
			u.fail("pickle protocol %d; supported: 2, torch.save's default", version)
		}
	case 'c': // GLOBAL
		module := u.line()
		u.push(global(module + " " + u.line()))
	case 'q': // BINPUT
		u.remember(uint32(u.bytes(1)[0]))
	case 'r': // LONG_BINPUT
		u.remember(u.uint32())
	case 'h': // BINGET
		u.recall(uint32(u.bytes(1)[0]))
	case 'j': // LONG_BINGET
		u.recall(u.uint32())
	case 'X': // BINUNICODE
		u.push(string(u.bytes(u.uint32())))
	case 'K': // BININT1
		u.push(int64(u.bytes(1)[0]))
	case 'M': // BININT2
		u.push(int64(binary.LittleEndian.Uint16(u.bytes(2))))
	case 'J': // BININT
		u.push(int64(int32(u.uint32())))
	case 'N':
		u.push(nil)
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		u.push(op == 0x88)
	case '(':
		u.push(mark{})
	case ')': // EMPTY_TUPLE
		u.push(tuple{})
	case 't': // TUPLE
		u.push(u.popMark())
	case 0x85, 0x86, 0x87: // TUPLE1 to TUPLE3
		u.push(u.popN(int(op - 0x84)))
	case '}': // EMPTY_DICT
		u.push(&dict{})
	case 's': // SETITEM
		u.setItems(u.popN(2))
	case 'u': // SETITEMS
		u.setItems(u.popMark())
	case 'Q': // BINPERSID
		u.push(u.storage(u.pop()))
	case 'R': // REDUCE
		arguments := u.pop()
		u.push(u.call(u.pop(), arguments))
	case 'b': // BUILD: a state dict's _metadata, which says nothing of its tensors
		u.pop()
	default:
		u.fail("opcode %#x is none that torch.save writes for tensors", op)
	}
}

func (u *unpickler) remember(i uint32) {
	if len(u.stack) == 0 {
		u.fail("the stack is empty")
		return
	}
	u.memo[i] = u.stack[len(u.stack)-1]
}

func (u *unpickler) recall(i uint32) {
	v, ok := u.memo[i]
	if !ok {
		u.fail("memo %d is not set", i)
	}
	u.push(v)
}

func (u *unpickler) setItems(items tuple) {
	if len(u.stack) == 0 || len(items)%2 != 0 {
		u.fail("%d values are no pairs of a dict", len(items))
		return
	}
	d, ok := u.stack[len(u.stack)-1].(*dict)
	if !ok {
		u.fail("items of something that is no dict")
		return
	}
	for i := 0; i < len(items); i += 2 {
		d.keys, d.values = append(d.keys, items[i]), append(d.values, items[i+1])
	}
}

// storage is ("storage", class, key, device, elements).
func (u *unpickler) storage(id any) storage {
	if t, ok := id.(tuple); ok && len(t) == 5 && t[0] == any("storage") {
		class, ok := t[1].(global)
		key, named := t[2].(string)
		if ok && named {
			dtype, known := storageTypes[string(class)]
			if !known {
				u.fail("storage of class %s; supported: torch FloatStorage, HalfStorage, BFloat16Storage", quote(string(class)))
			}
			return storage{dtype, key}
		}
	}
	u.fail("a persistent id is no storage of torch")
	return storage{}
}

// call is what calling f would give.
func (u *unpickler) call(f, arguments any) any {
	name, ok := f.(global)
	args, tupled := arguments.(tuple)
	switch {
	case !ok || !tupled:
		u.fail("a call of something that is no global")
	case name == "collections OrderedDict" && len(args) == 0:
		return &dict{}
	case name == "torch._utils _rebuild_tensor_v2" && len(args) >= 6:
		return u.tensor(args)
	case name == "torch._utils _rebuild_parameter" && len(args) >= 1:
		return args[0]
	default:
		u.fail("global %s with %d arguments is not allowed: only tensors are read", quote(string(name)), len(args))
	}
	return nil
}

// tensor is _rebuild_tensor_v2(storage, offset, shape, strides, ...).
func (u *unpickler) tensor(args tuple) torchTensor {
	s, ok := args[0].(storage)
	offset, whole := args[1].(int64)
	t := torchTensor{storage: s, offset: offset, shape: u.integers(args[2]), strides: u.integers(args[3])}
	if !ok || !whole || len(t.shape) != len(t.strides) || len(t.shape) > maxRank {
		u.fail("arguments of _rebuild_tensor_v2 are no tensor")
	}
	return t
}

func (u *unpickler) integers(v any) []int64 {
	t, ok := v.(tuple)
	numbers := make([]int64, len(t))
	for i := range t {
		if numbers[i], ok = t[i].(int64); !ok {
			break
		}
	}
	if !ok {
		u.fail("a shape is no tuple of integers")
	}
	return numbers
}

// tensors are those of the dict that is the pickle's value.
func (u *unpickler) tensors() ([]torchTensor, error) {
	d, ok := u.pop().(*dict)
	if !ok || len(u.stack) != 0 {
		return nil, errors.New("its value is no state dict")
	}
	seen := make(map[string]bool, len(d.keys))
	var tensors []torchTensor
	for i := range d.keys {
		name, ok := d.keys[i].(string)
		t, held := d.values[i].(torchTensor)
		if !ok || !held || seen[name] {
			return nil, errors.New("its value is no dict of tensors by name")
		}
		seen[name], t.name = true, name
		tensors = append(tensors, t)
	}
	return tensors, nil
}
