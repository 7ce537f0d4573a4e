package lora

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FormatOf tells in which format the adapter at path is, a folder or a file, by the names
// of its files.
func FormatOf(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		switch strings.ToLower(filepath.Ext(path)) {
		case ".gguf":
			return GGUF, nil
		case ".safetensors":
			return PEFT, nil
		}
		return "", fmt.Errorf("%s: expected an adapter: a folder, a .gguf or a .safetensors file", path)
	}
	for _, f := range []struct{ name, format string }{{WeightsName, PEFT}, {"adapter_model.bin", PEFT}, {MLXName, MLX}, {GGUFName, GGUF}} {
		if _, err := os.Stat(filepath.Join(path, f.name)); err == nil {
			return f.format, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("%s: holds none of %s (PEFT), %s (MLX) and %s (GGUF): no adapter", path, WeightsName, MLXName, GGUFName)
}

// Read reads an adapter in any format, and checks it. spec describes its base model as far
// as the caller knows it, nil for not at all; an adapter that does not fit it is refused.
func Read(path string, spec *Spec) (*Adapter, error) {
	format, err := FormatOf(path)
	if err != nil {
		return nil, err
	}
	var a *Adapter
	switch format {
	case GGUF:
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			path = filepath.Join(path, GGUFName)
		}
		a, err = ReadGGUF(path, spec)
	case MLX:
		a, err = ReadMLX(path)
	default:
		a, err = ReadPEFT(path)
	}
	if err != nil {
		return nil, err
	}
	if spec != nil && format != GGUF { // whose reader needs the heads, and has fitted them
		if err := spec.Fit(&a.Base); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return a, nil
}
