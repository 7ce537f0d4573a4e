package lm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/llama"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/trainer/backend"
	"github.com/drag-and-drop-lora/dnd/trainer/dequant"
	"github.com/drag-and-drop-lora/dnd/trainer/memory"
)

// source delivers float32 tensors by their Hugging Face names.
type source interface {
	has(name string) bool
	read(name string) ([]float32, error)
}

// files is an opened model, of which no weight is read yet.
type files struct {
	config    *Config
	tokenizer *llama.Tokenizer
	source    source
	list      []weight
	close     func()
}

// open opens a Hugging Face folder or a GGUF file, and holds it to its own configuration
// and to the machine's memory, in which there will be so many copies of its weights.
func open(path string, copies int) (*files, error) {
	dir, err := isDir(path)
	if err != nil {
		return nil, err
	}
	f := &files{close: func() {}}
	if dir {
		f.config, f.tokenizer, f.source, f.close, err = openFolder(path)
	} else {
		var g *ggufSource
		if f.config, f.tokenizer, g, err = openGGUF(path); err == nil {
			f.source, f.close = g, g.close
		}
	}
	if err != nil {
		return nil, err
	}
	f.list = weightList(f.config, !f.source.has(headName))
	var all []error
	var missing []string
	values := int64(0)
	for _, w := range f.list {
		values += w.values()
		if !f.source.has(w.name) {
			missing = append(missing, w.name)
		}
	}
	if n := len(missing); n > 0 {
		all = append(all, fmt.Errorf("%s: %d of %d tensors are missing, the first is %s", path, n, len(f.list), missing[0]))
	}
	if err := memory.Check(4 * values * int64(copies)); err != nil {
		all = append(all, fmt.Errorf("%s: %w for its %.3g parameters in float32: take a smaller base, or end other programs", path, err, float64(values)))
	}
	if err := errors.Join(all...); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// Check says what Load would refuse of a base without reading its weights: whether its files
// are whole and of an architecture that is known, and its weights fit into memory.
func Check(path string, b backend.Backend) error {
	f, err := open(path, copies(b))
	if err != nil {
		return fmt.Errorf("lm: %w", err)
	}
	f.close()
	return nil
}

// copies are how often the weights lie in the machine's memory while they are loaded: as
// read, and on the backend's device where that is the processor.
func copies(b backend.Backend) int {
	if b.GPU {
		return 1
	}
	return 2
}

// load reads a model from a Hugging Face folder or a GGUF file.
func load(path string, b backend.Backend) (*Config, *llama.Tokenizer, map[string][]float32, error) {
	f, err := open(path, copies(b))
	if err != nil {
		return nil, nil, nil, err
	}
	defer f.close()
	c, t, s := f.config, f.tokenizer, f.source
	weights := map[string][]float32{}
	for _, w := range f.list {
		v, err := s.read(w.name)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		if int64(len(v)) != w.values() {
			return nil, nil, nil, fmt.Errorf("%s: tensor %s has %d values, expected shape %v", path, w.name, len(v), w.shape)
		}
		weights[w.name] = v
	}
	return c, t, weights, nil
}

// folder is a model.safetensors, or its shards.
type folder struct {
	files []*safetensors.File
	tied  bool
}

func openFolder(dir string) (*Config, *llama.Tokenizer, source, func(), error) {
	c, tied, err := folderConfig(dir)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	t, err := llama.TokenizerFromJSON(raw)
	if err != nil {
		return nil, nil, nil, nil, fmt.Errorf("%s: tokenizer.json: %w", dir, err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "model*.safetensors"))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	s := &folder{tied: tied}
	closeAll := func() {
		for _, f := range s.files {
			f.Close()
		}
	}
	if len(paths) == 0 {
		return nil, nil, nil, nil, fmt.Errorf("%s: no model*.safetensors", dir)
	}
	for _, p := range paths {
		f, err := safetensors.Open(p)
		if err != nil {
			closeAll()
			return nil, nil, nil, nil, err
		}
		s.files = append(s.files, f)
	}
	return c, t, s, closeAll, nil
}

func (s *folder) has(name string) bool {
	if name == headName && s.tied {
		return false
	}
	for _, f := range s.files {
		if _, ok := f.Lookup(name); ok {
			return true
		}
	}
	return false
}

func (s *folder) read(name string) ([]float32, error) {
	for _, f := range s.files {
		if _, ok := f.Lookup(name); ok {
			return f.Float32s(name)
		}
	}
	return nil, fmt.Errorf("tensor %s: %w", name, safetensors.ErrNoTensor)
}

// ggufSource delivers a GGUF file's tensors.
type ggufSource struct {
	checked *gguf.File
	reader  *dequant.Reader
	c       *Config
}

func openGGUF(path string) (*Config, *llama.Tokenizer, *ggufSource, error) {
	checked, err := gguf.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	s := &ggufSource{checked: checked}
	c, err := llama.FromGGUF(checked)
	if err != nil {
		s.close()
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	s.c = c
	if s.reader, err = dequant.Open(checked); err != nil {
		s.close()
		return nil, nil, nil, err
	}
	if _, scaled := checked.Tensor(llama.RopeFactorsTensor); scaled {
		v, err := s.reader.Float32s(llama.RopeFactorsTensor)
		if err == nil {
			c.RopeFactors = nil
			for _, f := range v {
				c.RopeFactors = append(c.RopeFactors, float64(f))
			}
			err = c.Validate()
		}
		if err != nil {
			s.close()
			return nil, nil, nil, fmt.Errorf("%s: tensor %s: %w", path, llama.RopeFactorsTensor, err)
		}
	}
	t, err := llama.TokenizerFromGGUF(checked)
	if err != nil {
		s.close()
		return nil, nil, nil, fmt.Errorf("%s: tokenizer: %w", path, err)
	}
	return c, t, s, nil
}

func (s *ggufSource) close() {
	if s.reader != nil {
		s.reader.Close()
	}
	s.checked.Close()
}

// ggufNames are GGUF's names of a block's tensors.
var ggufNames = strings.NewReplacer("model.embed_tokens.", "token_embd.", "model.norm.", "output_norm.", "lm_head.", "output.",
	"model.layers.", "blk.", "input_layernorm.", "attn_norm.", "post_attention_layernorm.", "ffn_norm.",
	"self_attn.q_proj.", "attn_q.", "self_attn.k_proj.", "attn_k.", "self_attn.v_proj.", "attn_v.", "self_attn.o_proj.", "attn_output.",
	"mlp.up_proj.", "ffn_up.", "mlp.gate_proj.", "ffn_gate.", "mlp.down_proj.", "ffn_down.")

func (s *ggufSource) has(name string) bool {
	_, ok := s.checked.Tensor(ggufNames.Replace(name))
	return ok
}

func (s *ggufSource) read(name string) ([]float32, error) {
	inFile := ggufNames.Replace(name)
	v, err := s.reader.Float32s(inFile)
	if err != nil {
		return nil, err
	}
	if s.c.Architecture == "llama" {
		switch {
		case strings.HasSuffix(inFile, "attn_q.weight"):
			v = unpermute(v, s.c.Hidden, s.c.Heads)
		case strings.HasSuffix(inFile, "attn_k.weight"):
			v = unpermute(v, s.c.Hidden, s.c.KVHeads)
		}
	}
	return v, nil
}

// unpermute undoes the order that llama.cpp gives the rows of the query and key
// matrices of llama models: within a head, row 2i+h there is row h·half+i here.
func unpermute(v []float32, in, heads int) []float32 {
	out := make([]float32, len(v))
	width := len(v) / in / heads
	half := width / 2
	for head := range heads {
		for i := range half {
			for h := range 2 {
				from, to := head*width+2*i+h, head*width+h*half+i
				copy(out[to*in:(to+1)*in], v[from*in:(from+1)*in])
			}
		}
	}
	return out
}
