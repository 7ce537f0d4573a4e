package guest_test

import (
	"bytes"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/guest"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// Whatever bytes come, Decode gives a message that encodes to the same bytes, or an error.
func FuzzDecode(f *testing.F) {
	for _, m := range []guest.Message{nil, {{"a", nil}}, {{"manifest", []byte("{}")}, {"options", []byte("{}")}}} {
		f.Add(encode(f, m))
	}
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00a\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := guest.Decode(raw)
		if err != nil {
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x becomes %x, %v", raw, again, err)
		}
	})
}

// answers checks that a call answers with a message, and returns it and its error.
func answers(t *testing.T, call func([]byte) []byte, m guest.Message) (guest.Message, error) {
	t.Helper()
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := guest.Decode(call(raw))
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Err(); err != nil && len(out) != 1 {
		t.Errorf("an error among %d parts", len(out))
	}
	return out, out.Err()
}

// smallManifest is the manifest of a package that is compiled in no time.
func smallManifest(f *testing.F) []byte {
	f.Helper()
	raw, err := madeup.Open(f).Text()
	if err != nil {
		f.Fatal(err)
	}
	return raw
}

// A Program that comes out is valid.
func FuzzCompile(f *testing.F) {
	m := smallManifest(f)
	for _, o := range []string{
		`{"stage":"generate","dtype":"F32"}`, `{"stage":"encode","dtype":"F16","batch":1}`, `{"stage":"decode","dtype":"Q8","batch":2}`,
		`{"stage":"decode","dtype":"F32","limits":{"max_buffer_size":65536,"max_storage_buffer_binding_size":65536,"max_storage_buffers_per_shader_stage":8,"max_compute_workgroups_per_dimension":256,"max_compute_invocations_per_workgroup":256,"max_compute_workgroup_storage_size":16384}}`,
	} {
		f.Add(m, []byte(o))
	}
	f.Fuzz(func(t *testing.T, manifest, options []byte) {
		out, err := answers(t, guest.Compile, guest.Message{{guest.PartManifest, manifest}, {guest.PartOptions, options}})
		if err != nil {
			return
		}
		if _, err := graph.Decode(get(t, out, guest.PartProgram)); err != nil {
			t.Error(err)
		}
	})
}

// Inputs that come out have the sizes that the manifest gives them.
func FuzzFeed(f *testing.F) {
	m := smallManifest(f)
	vocabulary := []byte("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhat\nis\n##s\n")
	f.Add(m, vocabulary, []byte(`{"do_lower_case": false}`), []byte("What is this?\n"), []byte(`{"name":"p.txt"}`))
	f.Add(m, vocabulary, []byte(nil), []byte(`[{"q": "what"}]`), []byte(`{"name":"p.json","field":"q","seed":-1,"draw":-5}`))
	f.Fuzz(func(t *testing.T, manifest, vocabulary, config, prompts, options []byte) {
		out, err := answers(t, guest.Feed, guest.Message{{guest.PartManifest, manifest}, {guest.PartVocab, vocabulary},
			{guest.PartTokenizerConfig, config}, {guest.PartPrompts, prompts}, {guest.PartOptions, options}})
		if err != nil {
			return
		}
		parsed, err := generator.ParseManifest(manifest)
		if err != nil {
			t.Fatal(err)
		}
		want := 4 * parsed.Condition.Texts * parsed.Condition.Length
		if ids, mask := get(t, out, guest.PartIDs), get(t, out, guest.PartMask); len(ids) != want || len(mask) != want {
			t.Errorf("%d and %d bytes, want %d", len(ids), len(mask), want)
		}
	})
}

// An adapter that comes out has files and a report.
func FuzzFinish(f *testing.F) {
	m := smallManifest(f)
	parsed, err := generator.ParseManifest(m)
	if err != nil {
		f.Fatal(err)
	}
	shape := parsed.Decoder.Output()
	values := make([]byte, 4*shape[0]*shape[1]*shape[2])
	f.Add(m, values, []byte(`{"format":"peft"}`))
	f.Add(m, values, []byte(`{"format":"gguf","tool":"a","seed":1,"draw":2,"backend":"b"}`))
	f.Fuzz(func(t *testing.T, manifest, tokens, options []byte) {
		out, err := answers(t, guest.Finish, guest.Message{{guest.PartManifest, manifest}, {guest.PartTokens, tokens}, {guest.PartOptions, options}})
		if err != nil {
			return
		}
		get(t, out, guest.PartReport)
		get(t, out, guest.PartFile+"dnd.json")
	})
}
