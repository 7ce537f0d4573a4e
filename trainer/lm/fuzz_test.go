package lm_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/lm"
)

// config.json, tokenizer_config.json and chat template of a base model.
func FuzzFolderConfig(f *testing.F) {
	f.Add([]byte(`{"_name_or_path":"a/b","model_type":"llama","hidden_act":"silu","num_hidden_layers":1,"hidden_size":16,"num_attention_heads":2,`+
		`"num_key_value_heads":1,"intermediate_size":32,"vocab_size":258,"rope_theta":10000,"rms_norm_eps":1e-5,"tie_word_embeddings":true}`),
		[]byte(`{"chat_template":"{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are.<|im_end|>\n' }}{% endif %}"}`))
	f.Add([]byte(`{"model_type":"qwen2","rope_scaling":{},"num_attention_heads":-1}`), []byte(`{"chat_template":[{"name":"default"}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, config, tokenizer []byte) {
		for name, raw := range map[string][]byte{"config.json": config, "tokenizer_config.json": tokenizer} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, tied, err := lm.FolderConfig(dir)
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		c.Base(8, 16)
		for _, shape := range lm.Shapes(c, tied) {
			for _, d := range shape {
				if d < 1 {
					t.Fatalf("a tensor of shape %v in %+v", shape, c)
				}
			}
		}
	})
}
