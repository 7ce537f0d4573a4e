package pth

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Values on the stack: string, int64, bool, global, tuple, *dict, storage, *tensor.
type (
	// global is an allowed name, "module.name".
	global string
	tuple  []any
	// dict is a dict or an OrderedDict with string keys.
	dict struct {
		keys   []string
		values map[string]any
	}
	storage struct {
		dtype safetensors.DType
		key   string
		count int64
	}
	tensor struct {
		storage       storage
		offset        int64
		shape, stride []int64
	}
)

const (
	orderedDict   global = "collections.OrderedDict"
	rebuildTensor global = "torch._utils._rebuild_tensor_v2"
)

// storages are the globals that name an element type.
var storages = map[global]safetensors.DType{
	"torch.FloatStorage":    safetensors.F32,
	"torch.HalfStorage":     safetensors.F16,
	"torch.BFloat16Storage": safetensors.BF16,
}

// kindOf describes a value for messages.
func kindOf(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case int64:
		return "a number"
	case bool:
		return "a boolean"
	case tuple:
		return "a tuple"
	case *dict:
		return "a dict"
	case *tensor:
		return "a tensor"
	case global:
		return "the global " + string(v)
	case storage:
		return "a storage"
	}
	return "nothing"
}

// The opcodes of a state dict (pickle protocol 2).
const (
	opProto      = 0x80
	opGlobal     = 'c'
	opBinPut     = 'q'
	opLongBinPut = 'r'
	opBinGet     = 'h'
	opLongBinGet = 'j'
	opEmptyTuple = ')'
	opEmptyDict  = '}'
	opMark       = '('
	opTuple      = 't'
	opTuple1     = 0x85
	opTuple2     = 0x86
	opTuple3     = 0x87
	opBinUnicode = 'X'
	opBinInt     = 'J'
	opBinInt1    = 'K'
	opBinInt2    = 'M'
	opLong1      = 0x8a
	opNewFalse   = 0x89
	opBinPersID  = 'Q'
	opReduce     = 'R'
	opSetItem    = 's'
	opSetItems   = 'u'
	opBuild      = 'b'
	opStop       = '.'
)

// refused names opcodes that a message may have to name.
var refused = map[byte]string{
	'0': "POP", '1': "POP_MARK", '2': "DUP", 'F': "FLOAT", 'I': "INT", 'L': "LONG", 'N': "NONE", 'P': "PERSID",
	'S': "STRING", 'T': "BINSTRING", 'U': "SHORT_BINSTRING", 'V': "UNICODE", 'a': "APPEND", 'd': "DICT", 'e': "APPENDS",
	'g': "GET", 'i': "INST", 'l': "LIST", 'o': "OBJ", 'p': "PUT", 'G': "BINFLOAT", ']': "EMPTY_LIST", 'B': "BINBYTES",
	'C': "SHORT_BINBYTES", 0x81: "NEWOBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x88: "NEWTRUE", 0x8b: "LONG4",
	0x8c: "SHORT_BINUNICODE", 0x8d: "BINUNICODE8", 0x8e: "BINBYTES8", 0x8f: "EMPTY_SET", 0x90: "ADDITEMS",
	0x91: "FROZENSET", 0x92: "NEWOBJ_EX", 0x93: "STACK_GLOBAL", 0x94: "MEMOIZE", 0x95: "FRAME", 0x96: "BYTEARRAY8",
	0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}

// maxStack is the most values on the stack: picklers set at most 1000 items at a time.
const maxStack = 1 << 16

// machine is the pickle virtual machine. Every opcode adds at most one value, so memory
// is bounded by the length of the text; nothing in it recurses.
type machine struct {
	text  []byte
	at    int
	op    int // offset of the opcode at work, for errors
	stack []any
	marks []int // stack heights
	memo  map[uint32]any
}

// unpickle runs the text and returns what is on the stack at its end.
func unpickle(text []byte) (any, error) {
	m := &machine{text: text, memo: map[uint32]any{}}
	for {
		m.op = m.at
		op, err := m.next(1)
		if err != nil {
			return nil, err
		}
		if op[0] == opStop {
			break
		}
		if err := m.step(op[0]); err != nil {
			return nil, err
		}
		if len(m.stack) > maxStack || len(m.marks) > maxStack {
			return nil, m.errorf("more than %d values are on the stack", maxStack)
		}
	}
	if len(m.stack) != 1 || len(m.marks) != 0 {
		return nil, m.errorf("%d values and %d marks are left at the end, expected one value", len(m.stack), len(m.marks))
	}
	if m.at != len(text) {
		return nil, m.errorf("%d bytes follow the end", len(text)-m.at)
	}
	return m.stack[0], nil
}

func (m *machine) errorf(format string, args ...any) error {
	return formatErrorf("data.pkl, offset %d: %s", m.op, fmt.Sprintf(format, args...))
}

func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		b, err := m.next(1)
		if err == nil && b[0] != 2 {
			err = m.errorf("pickle protocol %d, expected 2", b[0])
		}
		return err
	case opGlobal:
		return m.global()
	case opBinPut, opBinGet:
		return m.remember(op == opBinPut, 1)
	case opLongBinPut, opLongBinGet:
		return m.remember(op == opLongBinPut, 4)
	case opEmptyTuple:
		m.push(tuple{})
	case opEmptyDict:
		m.push(&dict{})
	case opNewFalse:
		m.push(false)
	case opMark:
		m.marks = append(m.marks, len(m.stack))
	case opTuple:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		m.push(tuple(append([]any(nil), items...)))
	case opTuple1, opTuple2, opTuple3:
		items, err := m.pop(int(op-opTuple1) + 1)
		if err != nil {
			return err
		}
		m.push(tuple(append([]any(nil), items...)))
	case opBinUnicode:
		return m.unicode()
	case opBinInt, opBinInt1, opBinInt2, opLong1:
		return m.integer(op)
	case opBinPersID:
		return m.persistent()
	case opReduce:
		return m.reduce()
	case opSetItem, opSetItems:
		return m.setItems(op)
	case opBuild:
		return m.build()
	default:
		name, ok := refused[op]
		if !ok {
			name = "unknown"
		}
		return m.errorf("opcode %s (0x%02x) has no place in a state dict of tensors; nothing was run", name, op)
	}
	return nil
}

// next takes n bytes of the text.
func (m *machine) next(n int) ([]byte, error) {
	if n > len(m.text)-m.at {
		return nil, m.errorf("the text ends after %d bytes, %d more are needed: truncated?", len(m.text), n-(len(m.text)-m.at))
	}
	m.at += n
	return m.text[m.at-n : m.at], nil
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

// pop takes n values above the last mark. They are valid until the next push.
func (m *machine) pop(n int) ([]any, error) {
	floor := 0
	if len(m.marks) > 0 {
		floor = m.marks[len(m.marks)-1]
	}
	at := len(m.stack) - n
	if at < floor {
		return nil, m.errorf("%d values are needed, %d are on the stack", n, len(m.stack)-floor)
	}
	items := m.stack[at:]
	m.stack = m.stack[:at]
	return items, nil
}

func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, m.errorf("no mark is set")
	}
	at := m.marks[len(m.marks)-1]
	m.marks = m.marks[:len(m.marks)-1]
	items := m.stack[at:]
	m.stack = m.stack[:at]
	return items, nil
}

func (m *machine) global() error {
	var name [2]string
	for i := range name {
		n := bytes.IndexByte(m.text[m.at:], '\n')
		if n < 0 {
			return m.errorf("a global's name has no end: truncated?")
		}
		line, _ := m.next(n + 1)
		name[i] = string(line[:n])
	}
	g := global(name[0] + "." + name[1])
	if g != orderedDict && g != rebuildTensor && storages[g] == "" {
		text := string(g)
		if len(text) > 100 {
			text = text[:100] + "…"
		}
		return m.errorf("global %s has no place in a state dict of float tensors; nothing was run", strconv.Quote(text))
	}
	m.push(g)
	return nil
}

// remember puts the top of the stack into the memo, or pushes a value from there.
func (m *machine) remember(put bool, width int) error {
	b, err := m.next(width)
	if err != nil {
		return err
	}
	index := uint32(b[0])
	if width == 4 {
		index = binary.LittleEndian.Uint32(b)
	}
	if put {
		top, err := m.pop(1)
		if err != nil {
			return err
		}
		m.memo[index] = top[0]
		m.push(top[0])
		return nil
	}
	v, ok := m.memo[index]
	if !ok {
		return m.errorf("memo %d was never set", index)
	}
	m.push(v)
	return nil
}

func (m *machine) unicode() error {
	b, err := m.next(4)
	if err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(b)
	if int64(n) > int64(len(m.text)) {
		return m.errorf("a text of %d bytes does not fit into data.pkl", n)
	}
	if b, err = m.next(int(n)); err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return m.errorf("a text is not UTF-8")
	}
	m.push(string(b))
	return nil
}

func (m *machine) integer(op byte) error {
	width := map[byte]int{opBinInt: 4, opBinInt1: 1, opBinInt2: 2, opLong1: 1}[op]
	b, err := m.next(width)
	if err != nil {
		return err
	}
	switch op {
	case opBinInt:
		m.push(int64(int32(binary.LittleEndian.Uint32(b))))
	case opBinInt1:
		m.push(int64(b[0]))
	case opBinInt2:
		m.push(int64(binary.LittleEndian.Uint16(b)))
	case opLong1:
		n := int(b[0])
		if n > 8 {
			return m.errorf("a number of %d bytes, expected at most 8", n)
		}
		if b, err = m.next(n); err != nil {
			return err
		}
		v := int64(0)
		if n > 0 && b[n-1]&0x80 != 0 {
			v = -1
		}
		for i := n - 1; i >= 0; i-- {
			v = v<<8 | int64(b[i])
		}
		m.push(v)
	}
	return nil
}

// persistent makes a storage of ("storage", type, key, location, count). The location
// says on which device the tensor was ("cuda:0"): it does not matter here.
func (m *machine) persistent() error {
	top, err := m.pop(1)
	if err != nil {
		return err
	}
	id, _ := top[0].(tuple)
	if len(id) != 5 || id[0] != any("storage") {
		return m.errorf("a persistent id is %s, expected (\"storage\", type, key, location, count)", kindOf(top[0]))
	}
	g, ok1 := id[1].(global)
	key, ok2 := id[2].(string)
	_, ok3 := id[3].(string)
	count, ok4 := id[4].(int64)
	if !ok1 || !ok2 || !ok3 || !ok4 || storages[g] == "" || count < 0 {
		return m.errorf("a persistent id is not (\"storage\", type, key, location, count)")
	}
	m.push(storage{storages[g], key, count})
	return nil
}

func (m *machine) reduce() error {
	top, err := m.pop(2)
	if err != nil {
		return err
	}
	args, ok := top[1].(tuple)
	if !ok {
		return m.errorf("arguments are %s, expected a tuple", kindOf(top[1]))
	}
	switch top[0] {
	case any(orderedDict):
		if len(args) != 0 {
			return m.errorf("%s has %d arguments, expected none", orderedDict, len(args))
		}
		m.push(&dict{})
		return nil
	case any(rebuildTensor):
		t, err := m.tensor(args)
		if err == nil {
			m.push(t)
		}
		return err
	}
	return m.errorf("%s is called, expected %s or %s; nothing was run", kindOf(top[0]), orderedDict, rebuildTensor)
}

// tensor takes (storage, offset, shape, stride, requires_grad, backward_hooks).
func (m *machine) tensor(args tuple) (*tensor, error) {
	if len(args) != 6 {
		return nil, m.errorf("%s has %d arguments, expected 6", rebuildTensor, len(args))
	}
	s, ok1 := args[0].(storage)
	offset, ok2 := args[1].(int64)
	shape, ok3 := integers(args[2])
	stride, ok4 := integers(args[3])
	_, ok5 := args[4].(bool)
	hooks, ok6 := args[5].(*dict)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || len(hooks.keys) != 0 || len(shape) != len(stride) {
		return nil, m.errorf("the arguments of %s are not (storage, offset, shape, stride, false, no hooks)", rebuildTensor)
	}
	return &tensor{s, offset, shape, stride}, nil
}

// maxRank is the most axes of a tensor.
const maxRank = 16

func integers(v any) ([]int64, bool) {
	t, ok := v.(tuple)
	if !ok || len(t) > maxRank {
		return nil, false
	}
	out := make([]int64, len(t))
	for i, v := range t {
		if out[i], ok = v.(int64); !ok || out[i] < 0 {
			return nil, false
		}
	}
	return out, true
}

func (m *machine) setItems(op byte) error {
	var items []any
	var err error
	if op == opSetItem {
		items, err = m.pop(2)
	} else {
		items, err = m.popMark()
	}
	if err != nil {
		return err
	}
	// The items stay in place under the pop that follows: it only shortens the stack.
	top, err := m.pop(1)
	if err != nil {
		return err
	}
	d, ok := top[0].(*dict)
	if !ok || len(items)%2 != 0 {
		return m.errorf("%d items are set on %s, expected pairs on a dict", len(items), kindOf(top[0]))
	}
	for i := 0; i < len(items); i += 2 {
		key, ok := items[i].(string)
		if !ok {
			return m.errorf("a key of a dict is %s, expected a string", kindOf(items[i]))
		}
		if _, twice := d.values[key]; twice {
			return m.errorf("key %q occurs twice", key)
		}
		if d.values == nil {
			d.values = map[string]any{}
		}
		d.keys = append(d.keys, key)
		d.values[key] = items[i+1]
	}
	m.push(d)
	return nil
}

// build drops a state dict's attributes (_metadata: the versions of its modules).
func (m *machine) build() error {
	top, err := m.pop(2)
	if err != nil {
		return err
	}
	if _, ok := top[0].(*dict); !ok {
		return m.errorf("attributes are set on %s, expected a state dict", kindOf(top[0]))
	}
	if _, ok := top[1].(*dict); !ok {
		return m.errorf("attributes are %s, expected a dict", kindOf(top[1]))
	}
	m.push(top[0])
	return nil
}
