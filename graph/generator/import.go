package generator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/pth"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// ImportOptions say what Import makes a package of.
type ImportOptions struct {
	Checkpoint string // .pth as the reference saves it, or the same state dict as .safetensors
	Layout     string // layout file, see ParseLayout
	Donor      string // adapter (PEFT) with the base model's names and shapes, "" for none
	Encoder    string // folder of the text encoder in Hugging Face layout, "" for none
	EncoderID  string // its id on the Hugging Face hub, "" for the folder's name
	Out        string // the package
	Name       string // the generator's name, "" for the checkpoint's file name
	// WriteOptions.Progress counts the checkpoint's bytes twice: it is hashed, then copied.
	WriteOptions
}

// Import turns an official checkpoint into a package. Names, shapes and types of all its
// tensors must be those of the layout's decoder, and one error lists all that are not;
// criterion_weight is kept, condition_module.* ignored, and a prefix "module." dropped.
// Values go from file to file in pieces. Without a donor or an encoder the package
// decodes only. It returns the manifest of what it wrote.
func Import(ctx context.Context, o ImportOptions) (*Manifest, error) {
	if err := checkTarget(o.Out, o.Replace); err != nil {
		return nil, err
	}
	layout, err := ReadLayout(o.Layout)
	if err != nil {
		return nil, err
	}
	m := Manifest{Name: o.Name, Tiling: layout.Tiling, Decoder: layout.Decoder}
	condition := layout.Decoder.Condition()
	m.Condition = Condition{Texts: condition[0], Length: condition[1], Width: condition[2], Pads: PadsEncoded}
	if o.Encoder != "" {
		m.Encoder = &Encoder{ID: o.EncoderID}
	}
	if o.Donor != "" {
		if m.Base, err = donorBase(o.Donor, layout); err != nil {
			return nil, err
		}
	}
	src, have, err := openCheckpoint(o.Checkpoint)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	tensors, err := stateDict(src, have, decoderSpecs(layout.Decoder))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Checkpoint, err)
	}
	size := int64(0)
	sum, err := hashFile(ctx, o.Checkpoint, func(done, total int64) {
		size = total
		if o.Progress != nil {
			o.Progress(done, 2*total)
		}
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Base(o.Checkpoint)
	if m.Name == "" {
		m.Name = strings.TrimSuffix(file, filepath.Ext(file))
	}
	m.Provenance.Source = fmt.Sprintf("imported from %s, SHA-256 %s", file, sum)
	w := o.WriteOptions
	if o.Progress != nil {
		w.Progress = func(done, total int64) {
			if total > 0 {
				o.Progress(size+int64(float64(size)*float64(done)/float64(total)), 2*size)
			}
		}
	}
	if err := Write(ctx, o.Out, m, tensors, o.Encoder, w); err != nil {
		return nil, err
	}
	raw, err := readSmall(filepath.Join(o.Out, ManifestName), maxManifest)
	if err != nil {
		return nil, err
	}
	return ParseManifest(raw)
}

// donorBase is the base model of an adapter, if its matrices make the layout's tokens.
func donorBase(donor string, l Layout) (*lora.Base, error) {
	base, err := lora.DescribeBase(donor)
	if err != nil {
		return nil, err
	}
	if l.Tiling.Kind == "" {
		return nil, fmt.Errorf("the layout names no tokenizer, so the donor %s cannot be cut into tokens: add \"tokenizer\"", donor)
	}
	if err := checkBase(base, l.Tiling, l.Decoder.Output()); err != nil {
		return nil, fmt.Errorf("donor %s: %w", donor, err)
	}
	return &base, nil
}

// checkpoint is an open state dict.
type checkpoint interface {
	ranges
	io.Closer
}

func openCheckpoint(path string) (checkpoint, []safetensors.Info, error) {
	if strings.EqualFold(filepath.Ext(path), ".safetensors") {
		f, err := safetensors.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return f, f.Tensors, nil
	}
	f, err := pth.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Tensors, nil
}

// stateDict lists a checkpoint's tensors under the names that a package has, in the
// order of the reference's state dict.
func stateDict(src checkpoint, have []safetensors.Info, want []spec) ([]safetensors.Tensor, error) {
	stored := map[string]string{}
	byName := map[string]safetensors.Info{}
	var infos []safetensors.Info
	for _, t := range have {
		name := strings.TrimPrefix(t.Name, "module.")
		if strings.HasPrefix(name, "condition_module.") {
			continue
		}
		if _, twice := byName[name]; twice {
			return nil, fmt.Errorf("tensor %q: occurs twice, with and without the prefix \"module.\"", clip(name))
		}
		stored[name], t.Name = t.Name, name
		byName[name] = t
		infos = append(infos, t)
	}
	if err := checkTensors(infos, want); err != nil {
		return nil, err
	}
	var list []safetensors.Tensor
	for _, w := range want {
		if t, ok := byName[w.name]; ok {
			list = append(list, stream(t, stored[w.name], src))
		}
	}
	return list, nil
}

// hashFile is the SHA-256 of a file, lower-case hex.
func hashFile(ctx context.Context, path string, progress func(done, total int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for done := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		done += int64(n)
		progress(done, st.Size())
		if err == io.EOF {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
}
