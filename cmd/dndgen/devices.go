package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
)

func devices(*pflag.FlagSet) cli.Run {
	return func(_ context.Context, e *cli.Env, _ []string) error {
		list, err := backends.List()
		if errors.Is(err, backends.ErrNoDevice) {
			e.Message("%v", err)
			list = []backends.Info{}
		} else if err != nil {
			return err
		}
		result := struct {
			Devices []backends.Info `json:"devices"`
		}{list}
		return e.Result(result, func(w io.Writer) {
			for _, d := range list {
				fmt.Fprintf(w, "%d  %s (%s, %s)  %s\n", d.Index, d.Name, d.Backend, d.Type, d.Driver)
				fmt.Fprintf(w, "   buffers up to %s, bindings up to %s, %s of workgroup memory\n", size(d.Limits.MaxBufferSize),
					size(d.Limits.MaxStorageBufferBindingSize), size(int64(d.Limits.MaxComputeWorkgroupStorageSize)))
			}
		})
	}
}
