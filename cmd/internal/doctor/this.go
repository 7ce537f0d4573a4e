package doctor

import (
	"os"
	"path/filepath"
	"runtime"
)

// This is the machine that the program runs on.
func This() Machine {
	return Machine{
		OS: runtime.GOOS, Root: os.DirFS("/"), Env: os.Getenv,
		Usable: func(path string) bool {
			f, err := os.OpenFile(filepath.Join("/", path), os.O_RDWR, 0)
			if err != nil {
				return false
			}
			return f.Close() == nil
		},
	}
}
