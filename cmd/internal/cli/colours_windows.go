package cli

import (
	"os"

	"golang.org/x/sys/windows"
)

// enableColours lets the console understand escapes, and says whether it does.
func enableColours(f *os.File) bool {
	console := windows.Handle(f.Fd())
	var mode uint32
	if windows.GetConsoleMode(console, &mode) != nil {
		return false
	}
	return windows.SetConsoleMode(console, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
